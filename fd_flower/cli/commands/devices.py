"""Commands for a federation of devices."""

from pathlib import Path
from typing import Annotated

import typer

from fd_flower.cli.console import Output, console

Federation = Annotated[Path, typer.Argument(metavar="DIR", help="The folder created by `keys`.")]


def keys(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name or address of the server, as seen by devices; can be repeated."),
    ] = None,
    client: Annotated[list[str] | None, typer.Option(metavar="ID", help="A client id; can be repeated.")] = None,
    host_share: Annotated[
        list[str] | None,
        typer.Option(metavar="I/N", help="A share of the simulated clients that a machine hosts; can be repeated."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server.")] = 8443,
    days: Annotated[int, typer.Option(min=1, help="Validity of the server's certificate, in days.")] = 365,
    venv: Annotated[
        Path, typer.Option(metavar="DIR", help="Path of the virtual environment with FD-Flower, on every machine.")
    ] = Path("/opt/fd-flower"),
    bfv: Annotated[
        bool, typer.Option("--bfv", help="Also create DIR/bfv.key, for clients only: docs/privacy.md.")
    ] = False,
) -> None:
    """Create certificates, keys and services for devices or hosts, or add some, and print the next steps."""
    from fd_flower.cli import deploy, keys, steps
    from fd_flower.cli.paths import absolute
    from fd_flower.core.share import Share
    from fd_flower.privacy.bfv import make_key

    place = absolute(folder, Path.cwd())
    output: Output = context.obj
    if bfv:
        make_key(place / "bfv.key")
    shares = [Share.read(text) for text in host_share or []]
    if host or client or shares or not bfv:
        first = not (place / deploy.SETTLED).exists()
        keys.make(place, host or [], client or [], days, shares)
        deploy.write(place, host[0] if host else None, port, venv)
        made = [*(client or []), *(share.name for share in shares)]
        for line in () if output.quiet else steps.after_keys(place, made, hosts=bool(host), first=first):
            typer.echo(line)
    typer.echo(place)


def register(folder: Federation) -> None:
    """Register every client of DIR at its SuperLink, which must be running."""
    from fd_flower.cli import federation
    from fd_flower.cli.paths import absolute

    for line in federation.register(absolute(folder, Path.cwd())):
        typer.echo(line)


def remove(
    folder: Federation,
    client: Annotated[list[str], typer.Option(metavar="ID", help="A client id; can be repeated.")],
) -> None:
    """Remove clients from a federation: their keys are unregistered, taken from the allow-list, and deleted."""
    from fd_flower.cli import federation
    from fd_flower.cli.paths import absolute

    for each in client:
        typer.echo(federation.remove(absolute(folder, Path.cwd()), each))


def status(
    on: Annotated[Path, typer.Option(metavar="DIR", help="The folder created by `keys`.")],
    versions: Annotated[
        bool, typer.Option("--versions", help="Also ask the devices for their versions; takes half a minute.")
    ] = False,
) -> None:
    """Show a federation's devices, when each was last seen, and the newest runs."""
    from fd_flower.cli import overview
    from fd_flower.cli.paths import absolute

    overview.show(absolute(on, Path.cwd()), console(), versions=versions)


def public(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder, as for `data.public`: docs/data.md.")],
    expected: Annotated[
        str | None, typer.Option("--is", metavar="SHA256", help="On a device: compare with the server's checksum.")
    ] = None,
) -> None:
    """Check a folder of public samples and show how to copy it to devices, or verify the copy on a device."""
    from fd_flower.cli import public as samples
    from fd_flower.cli.paths import absolute

    for line in samples.checked(absolute(folder, Path.cwd()), expected):
        typer.echo(line)

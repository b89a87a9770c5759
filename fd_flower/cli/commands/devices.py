"""Commands for a federation of devices."""

from pathlib import Path
from typing import Annotated

import typer


def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name or address of the server, as devices call it.")
    ] = None,
    client: Annotated[list[str] | None, typer.Option(metavar="ID", help="A client id; may be given again.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port.")] = 8443,
    days: Annotated[int, typer.Option(min=1, help="How long the server's certificate is good.")] = 365,
    venv: Annotated[Path, typer.Option(metavar="DIR", help="Where FD-Flower is installed, on every machine.")] = Path(
        "/opt/fd-flower"
    ),
    bfv: Annotated[
        bool, typer.Option("--bfv", help="Also DIR/bfv.key, of all clients and not of the server: docs/privacy.md.")
    ] = False,
) -> None:
    """Make certificates, keys and services of a federation of devices, or add clients to one: docs/deployment.md."""
    from fd_flower.cli import deploy, keys
    from fd_flower.cli.paths import absolute
    from fd_flower.privacy.bfv import make_key

    place = absolute(folder, Path.cwd())
    if bfv:
        make_key(place / "bfv.key")
    if host or client or not bfv:
        keys.make(place, host or [], client or [], days)
        deploy.write(place, host[0] if host else None, port, venv)
    typer.echo(place)


def register(folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `keys` made.")]) -> None:
    """Register every client of DIR at its SuperLink, which must be running."""
    from fd_flower.cli import deploy
    from fd_flower.cli.paths import absolute

    for client in deploy.register(absolute(folder, Path.cwd())):
        typer.echo(client)

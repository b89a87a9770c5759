"""The command line: its commands, and how errors are printed."""

import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence

import click
import typer

from fd_flower import __version__
from fd_flower.cli.commands import analyze, audit, convert, devices, runs, scaffold, show, take
from fd_flower.cli.console import CTRL_C, Interrupted, Output
from fd_flower.core.errors import InvalidInputError

app = typer.Typer(
    name="fd-flower",
    help="Federated distillation for Flower: run methods, compare them, and inspect their results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for each in (
    runs.run,
    runs.compare,
    runs.attack,
    audit.audit,
    analyze.analyze,
    runs.sweep,
    runs.merge,
    runs.reproduce,
    show.methods,
    show.describe,
    show.data,
    show.estimate,
    devices.keys,
    devices.register,
    devices.status,
    devices.remove,
    devices.public,
    show.doctor,
    runs.ask,
    take.export,
    take.classify,
    take.generate,
    runs.report,
):
    app.command()(each)
app.add_typer(convert.app, name="convert")

app.add_typer(scaffold.new, name="new")


def main(arguments: Sequence[str] | None = None, output: Output | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for a failed run, 2 for wrong input, 130 when interrupted.

    A signal to end gives 128 and its number (143 for SIGTERM).
    """
    output = output or Output()
    command = typer.main.get_group(app)
    command.params.append(_version())
    for each in _below(command):
        each.params += _switches(output)
    try:
        return command.main(arguments, prog_name="fd-flower", standalone_mode=False, obj=output) or 0
    except Interrupted as error:
        status = _tell(output.reason(error), error.status)
        if arguments is None and status != CTRL_C:
            _end_by(status - 128)
        return status
    except click.Abort:
        return _tell("interrupted", CTRL_C)
    except click.UsageError as error:
        # Typer and click both suggest the nearest command: once is enough.
        return _tell(" ".join(dict.fromkeys(re.split(r"(?<=[.?]) ", error.format_message()))), 2)
    except InvalidInputError as error:
        return _tell(output.reason(error), 2)
    except Exception as error:
        status = _tell(output.reason(error), 1)
        for note in vars(error).get("__notes__", ()):
            typer.echo(note, err=True)
        return status


def _below(command: click.Command) -> Iterator[click.Command]:
    """Yield a command, and those below it where it is a group of them."""
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from _below(each)


def _version() -> click.Parameter:
    """Return ``--version``, which prints it and ends."""

    def say(context: click.Context, option: click.Parameter, given: bool) -> None:
        if given:
            typer.echo(f"fd-flower {__version__}")
            context.exit()

    return typer.core.TyperOption(
        param_decls=["--version"],
        is_flag=True,
        is_eager=True,
        default=False,
        expose_value=False,
        callback=say,
        help="Show the version.",
    )


def _switches(output: Output) -> list[click.Parameter]:
    """Return ``--quiet`` and ``--debug``, which stand before or after a command's name."""

    def remember(context: click.Context, option: click.Parameter, given: bool) -> None:
        if given:
            setattr(output, str(option.name), True)

    helps = {"quiet": "Results alone, no progress.", "debug": "A traceback with every error."}
    return [
        typer.core.TyperOption(
            param_decls=[f"--{name}"], is_flag=True, default=False, expose_value=False, callback=remember, help=text
        )
        for name, text in helps.items()
    ]


def _end_by(number: int) -> None:
    """End at once, by the signal that asked for it: to unload PyTorch takes seconds, and who sent it may not wait."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _tell(text: str, status: int) -> int:
    typer.echo(f"fd-flower: {' '.join(text.split())}", err=True)
    return status

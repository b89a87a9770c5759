"""Commands that take a model out of a run, and use it."""

from pathlib import Path
from typing import Annotated

import typer

from fd_flower.cli.console import console

Source = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run's folder, on a device its state-dir, or an exported model."),
]
Client = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Whose model: a client's id, or `server`. Without it the only one."),
]


def export(
    run: Source,
    to: Annotated[Path, typer.Option(metavar="FILE|DIR", help="NAME.safetensors, NAME.pt2, NAME.onnx, or a folder.")],
    client: Client = None,
) -> None:
    """Write a model that a run kept (run.keep): its weights, a program for PyTorch or ONNX, or a folder to publish.

    fd-flower export runs/fedmd --client 3 --to model.onnx
    """
    from fd_flower.cli import take

    take.export(run, client, to, console())


def classify(
    run: Source,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...")],
    client: Client = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show of each image, at most.")] = 3,
) -> None:
    """Say which classes a model that a run kept, or one that was exported, takes images for.

    fd-flower classify runs/fedmd digit.png --client 3
    """
    from fd_flower.cli import take

    take.classify(run, client, images, top, console())

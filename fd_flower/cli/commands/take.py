"""Commands that take a model out of a run, and use it."""

from pathlib import Path
from typing import Annotated

import typer

from fd_flower.cli.console import console

Source = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run's folder, a device's state-dir, or an exported model."),
]
Client = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Id of the client, or `server`. Optional if there is only one model."),
]


def export(
    run: Source,
    to: Annotated[Path, typer.Option(metavar="FILE|DIR", help="NAME.safetensors, NAME.pt2, NAME.onnx, or a folder.")],
    client: Client = None,
) -> None:
    """Export a model that a run kept (run.keep): weights, a PyTorch or ONNX program, or a folder to publish.

    fd-flower export runs/fedmd --client 3 --to model.onnx
    """
    from fd_flower.cli import take

    take.export(run, client, to, console())


def classify(
    run: Source,
    inputs: Annotated[list[str], typer.Argument(metavar="IMAGE_OR_TEXT...")],
    client: Client = None,
    top: Annotated[int, typer.Option(min=1, help="Maximum number of classes to show per input.")] = 3,
) -> None:
    """Classify images or texts with a model that a run kept, or with an exported one.

    fd-flower classify runs/fedmd digit.png --client 3
    fd-flower classify runs/reviews "Arrived late, and broken." --client 3
    """
    from fd_flower.cli import take

    take.classify(run, client, inputs, top, console())


def generate(
    run: Source,
    prompt: Annotated[str, typer.Argument(metavar="TEXT", help="What the model continues.")],
    client: Client = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of tokens.")] = 100,
    temperature: Annotated[
        float, typer.Option(min=0, help="0: always the likeliest token. Above: drawn, the more evenly the higher.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Use the chat template of the model's tokenizer.")] = False,
) -> None:
    """Continue TEXT with a language model that a run kept. It may repeat private text that it has learned from.

    fd-flower generate runs/notes "Dear Ann," --client 0 --max-tokens 40
    """
    from fd_flower.cli import take

    take.generate(run, client, prompt, console(), max_tokens=max_tokens, temperature=temperature, seed=seed, chat=chat)

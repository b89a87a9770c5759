"""``fd-flower export`` and ``fd-flower classify``: a model that a run kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fd_flower.cli import paths
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.kept import read_about
from fd_flower.export import KeptModel, forms
from fd_flower.export.card import figures, whose
from fd_flower.tasks import kept
from fd_flower.tasks.language.generate import printable
from fd_flower.tasks.language.kept import KeptLanguageModel

RETRIEVER = "a retriever: `fd-flower ask` searches with it"


def export(source: Path, client: str | None, to: Path, console: Console) -> None:
    """Write a model in the form that a path names, and say whose it is; the last line is the path.

    Parameters
    ----------
    source, client
        As of ``export.load``.
    to : Path
        Where.
    console : Console
        Where it is printed.
    """
    here = Path.cwd()
    source, target = paths.absolute(source, here), paths.absolute(to, here)
    model = _loaded(source, client)
    run = source if (source / "config.yaml").is_file() else None
    forms.write(model, target, run)
    best = next(iter(figures(model.about).items()), None)
    figure = "" if best is None else f"; {best[0]} {best[1]:.4g}"
    console.print(f"{whose(model.about)}{figure}", markup=False, highlight=False, soft_wrap=True)
    console.print(str(target), markup=False, highlight=False, soft_wrap=True)


def classify(source: Path, client: str | None, inputs: Sequence[str], top: int, console: Console) -> None:
    """Print the likeliest classes of images or texts.

    Parameters
    ----------
    source, client
        As of ``export.load``.
    inputs : Sequence[str]
        Their files; of a model of texts what is no file is a text.
    top : int
        Classes of each, at most.
    console : Console
        Where.
    """
    model = _loaded(paths.absolute(source, Path.cwd()), client)
    if not isinstance(model, KeptModel):
        use = "a language model: `fd-flower generate` continues a text" if _writes(model) else RETRIEVER
        raise InvalidInputError(f"this model is {use}")
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("text" if model.takes_texts else "image", overflow="fold")
    shown.add_column("class", overflow="fold")
    shown.add_column("probability", justify="right", no_wrap=True)
    given = [_file_or_text(one) if model.takes_texts else Path(one) for one in inputs]
    for path, guesses in zip(inputs, model.classify(given, top), strict=True):
        for place, guess in enumerate(guesses):
            shown.add_row(Text("" if place else path), Text(guess.name), f"{guess.probability:.3f}")
    console.print(shown)


def generate(
    source: Path,
    client: str | None,
    prompt: str,
    console: Console,
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    chat: bool,
) -> None:
    """Print how a language model continues a prompt, without characters that could steer a terminal.

    Parameters
    ----------
    source, client
        As of ``export.load``.
    prompt : str
        What it continues.
    console : Console
        Where it is printed.
    max_tokens, temperature, seed, chat
        As of ``KeptLanguageModel.generate``.
    """
    model = _loaded(paths.absolute(source, Path.cwd()), client)
    if not _writes(model):
        raise InvalidInputError(
            f"this model is no language model but one for {model.about['task']}: generate needs a run with "
            "data.task=language"
        )
    text = model.generate(prompt, max_tokens=max_tokens, temperature=temperature, seed=seed, chat=chat)
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
    typer.echo(f"{whose(model.about)}; it may repeat private text that it has learned from", err=True)


def _writes(model: Any) -> TypeGuard[KeptLanguageModel]:
    return isinstance(model, KeptLanguageModel)


def _file_or_text(given: str) -> str | Path:
    try:
        return Path(given) if Path(given).is_file() else given
    except OSError:  # a text that is too long for a file's name
        return given


def _loaded(source: Path, client: str | None) -> Any:
    """Return a model; its task or network may be a module in the user's directory."""
    if source.suffix not in (".pt2", ".onnx"):
        about = read_about(kept.find(source, client))
        paths.look_here([about["named"], about["architecture"]])
    return forms.load(source, client)

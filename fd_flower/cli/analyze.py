"""``fd-flower analyze``: what each client of a finished run adds to the others."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor
from torch.nn import Module

from fd_flower.cli.paths import look_here, modules_of
from fd_flower.core.client import natural
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.core.storage import replace_file
from fd_flower.ensemble import contributions
from fd_flower.export import load
from fd_flower.export.model import KeptModel
from fd_flower.results import RunFolder
from fd_flower.results.pictures import Picture
from fd_flower.results.tables import Table
from fd_flower.server import Strategy
from fd_flower.tasks import kept
from fd_flower.tasks.classification import CLASSIFICATION
from fd_flower.tasks.facts import OF_DEVICES
from fd_flower.tasks.world import World
from fd_flower.training import predict
from fd_flower.training.loop import one_thread

FOLDER, PAGE, FIGURES, PLOT = "analysis", "analysis.md", "analysis.json", "externalities"

HARM = -0.01
"""Change of a class's accuracy below which a client is named: one point."""

WIDEST = 4096
"""Features of a sample up to which designs are compared: their matrices grow with the square."""


@dataclass(frozen=True)
class Analysis:
    """What was found.

    Attributes
    ----------
    clients : list[str]
        Client ids [U].
    classes : list[str]
        Names of the classes [C].
    accuracy : float
        Of the mean of all clients' predictions on the test samples, 0 to 1.
    own : Tensor
        Each client's accuracy [U].
    gain : Tensor
        Accuracy of all less that of all others [U].
    loss : Tensor
        Log loss of all others less that of all [U]: above 0 where the client helps.
    effects : Tensor
        As ``contributions.externalities`` [U, C].
    variety, added : Tensor | None
        As ``contributions.design_scores`` [U]; None where samples are not here.
    """

    clients: list[str]
    classes: list[str]
    accuracy: float
    own: Tensor
    gain: Tensor
    loss: Tensor
    effects: Tensor
    variety: Tensor | None
    added: Tensor | None


def analyzed(path: Path) -> Analysis:
    """Return what the kept models of a finished run say about each other.

    Raises
    ------
    InvalidInputError
        For a run without models of two clients, or without a test set of classes.
    """
    run = RunFolder.open(path)
    if not run.finished:
        raise InvalidInputError(f"{path} is no finished run: resume it")
    files = sorted((path / kept.FOLDER).glob("client-*.safetensors"), key=lambda file: natural(file.stem))
    if len(files) < 2:
        raise InvalidInputError(
            f"{path} kept models of {len(files)} clients, and what one adds to others is seen with two or more: run a "
            "method whose clients have models of their own, with run.keep=best or last"
        )
    look_here(modules_of(run.settings))
    simulated = run.summary.get("data", {}).get("source") != OF_DEVICES
    world = Strategy.for_method(run.settings).world if simulated else None
    if world is None or world.kind is not CLASSIFICATION or world.test is None:
        what = "its samples are on devices" if world is None else "it has no test set of classes"
        raise InvalidInputError(f"{path} cannot be analyzed: {what}, and each client's model predicts on one test set")
    with one_thread():
        return _found(world, world.test, files)


def _found(world: World, test: Samples, files: list[Path]) -> Analysis:
    """Return what models in these files say about the test samples, and what their clients' samples are."""
    truth, names, probs = test.labels.cpu(), [], []
    for file in files:
        model = load(file)
        if not isinstance(model, KeptModel):
            raise InvalidInputError(f"{file} is no classifier's")
        names.append(str(model.about["client"]))
        probs.append(predict(cast("Module", model.module), test).double().exp())
    together = torch.stack(probs)
    mean, others = together.mean(0), contributions.without_each(together)
    accuracy = contributions.right(mean, truth).mean()
    gain = accuracy - contributions.right(others, truth).mean(1)
    loss = contributions.log_loss(others, truth) - contributions.log_loss(mean, truth)
    own = contributions.right(together, truth).mean(1)
    effects = contributions.externalities(together, truth)
    classes = list(world.class_names or map(str, range(together.shape[2])))
    seen = [_inputs(world.data(client).train) for client in names]
    variety, added = contributions.design_scores(seen) if seen[0].shape[1] <= WIDEST else (None, None)
    return Analysis(names, classes, float(accuracy), own, gain, loss, effects, variety, added)


def _inputs(samples: Samples) -> Tensor:
    """Return the inputs of all samples [n, D]."""
    x, _ = samples.batch(torch.arange(len(samples), device=samples.x.device))
    return x.flatten(1).float().cpu()


def table(found: Analysis) -> Table:
    """Return a row a client."""
    head = ["client", "own accuracy", "others gain", "log loss saved", "worst class"]
    rows = []
    for place, client in enumerate(found.clients):
        effects = found.effects[place].nan_to_num(math.inf)
        worst = int(effects.argmin())
        row = [client, _percent(found.own[place]), _points(found.gain[place]), f"{found.loss[place]:+.3f}"]
        row.append(f"{found.classes[worst]} {_points(effects[worst])}")
        if found.variety is not None and found.added is not None:
            row += [f"{found.variety[place]:.1f}", f"{found.added[place]:.1f}"]
        rows.append(row)
    if found.variety is not None:
        head += ["variety", "adds"]
    return Table.of(head, rows, texts=(0, 4))


def notes(found: Analysis) -> list[str]:
    """Return what the table says, and who harms whom."""
    said = [
        f"The mean of all clients' predictions has an accuracy of {100 * found.accuracy:.1f} % on the test set. "
        "'others gain' is how many points of it are lost without the client, 'log loss saved' the same in nats.",
    ]
    if found.variety is not None:
        said.append(
            "'variety' is log det(I + X'X) of the client's training samples, standardized, 'adds' that of all clients' "
            "samples less that without the client's."
        )
    places = (found.effects < HARM).nonzero().tolist()
    places.sort(key=lambda place: float(found.effects[place[0], place[1]]))
    harm = [f"client {found.clients[u]}, class {found.classes[c]} ({_points(found.effects[u, c])})" for u, c in places]
    if harm:
        more = f", and {len(harm) - 5} more" if len(harm) > 5 else ""
        said.append(f"Without a client, the mean is a point or more better on a class: {'; '.join(harm[:5])}{more}.")
    return said


def write(found: Analysis, run: Path, console: Console) -> None:
    """Show the table, and write it, a heat map and all figures into the run's folder."""
    console.print(table(found))
    for note in notes(found):
        console.print(note, highlight=False)
    out = run / FOLDER
    out.mkdir(exist_ok=True)
    picture = drawn(found)
    picture.write(out)
    parts = ["# Contributions of clients", table(found).markdown(), *notes(found), f"![{picture.alt}]({PLOT}.png)"]
    replace_file(out / PAGE, "\n\n".join(parts) + "\n")
    figures = {
        "accuracy": found.accuracy,
        "classes": found.classes,
        "clients": {
            client: {
                "accuracy": float(found.own[u]),
                "gain": float(found.gain[u]),
                "log_loss_saved": float(found.loss[u]),
                "by_class": [None if math.isnan(v) else v for v in found.effects[u].tolist()],
                "variety": None if found.variety is None else float(found.variety[u]),
                "adds": None if found.added is None else float(found.added[u]),
            }
            for u, client in enumerate(found.clients)
        },
    }
    replace_file(out / FIGURES, json.dumps(figures, indent=1) + "\n")


def drawn(found: Analysis) -> Picture:
    """Return a heat map: by how many points each client raises the others' accuracy on each class."""
    points = 100 * found.effects
    most = max(float(points.nan_to_num(0.0).abs().max()), 1.0)
    figure = Figure(figsize=(1.6 + 0.5 * len(found.classes), 1.4 + 0.3 * len(found.clients)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(points.numpy(), cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(found.classes)), found.classes, fontsize=8)
    axes.set_yticks(range(len(found.clients)), found.clients, fontsize=8)
    axes.set_xlabel("class", fontsize=9)
    axes.set_ylabel("client", fontsize=9)
    figure.colorbar(shown, ax=axes, label="points of accuracy that a client adds")
    u, c = divmod(int(points.nan_to_num(0.0).argmin()), len(found.classes))
    alt = (
        f"Points of accuracy that each of {len(found.clients)} clients adds to the mean prediction, by class. The "
        f"least is client {found.clients[u]} on class {found.classes[c]}, {_points(found.effects[u, c])}."
    )
    return Picture(PLOT, alt, figure)


def _percent(share: Tensor) -> str:
    return f"{100 * float(share):.1f}"


def _points(change: Tensor) -> str:
    return f"{100 * float(change):+.1f}"

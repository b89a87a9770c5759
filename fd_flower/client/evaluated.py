"""What a round asks a client to measure, and what it has measured of its models."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord
from safetensors import SafetensorError
from torch.nn import Module

from fd_flower.core import judges, kept
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.storage import Memory
from fd_flower.objectives.metrics import BY_RULE
from fd_flower.tasks.kept import about_model, kept_of
from fd_flower.tasks.kind import Figures, Inference, Predictor
from fd_flower.wire.envelope import whole

if TYPE_CHECKING:
    from fd_flower.client.turn import Turn


class Evaluations:
    """What a round asks a client to measure, and what it has measured.

    Parameters
    ----------
    asked : ConfigRecord
        Of the message: the evaluation points (``evaluate``), whether and on how much of the global test set
        (``global``, ``test-limit``) and by which clients (``judge-rank``: not all), and the point at which models are
        offered to ``run.keep`` (``keep``).
    memory : Memory
        The client's, in whose folder offered models lie.

    Attributes
    ----------
    figures : Figures
        By ``point/name``.
    keeps : str
        The evaluation point at which models are offered; "": none.
    """

    def __init__(self, asked: ConfigRecord, memory: Memory) -> None:
        self._points = str(asked.get("evaluate", "")).split(",")
        self._limit = whole(asked, "test-limit", 0) if asked.get("global", False) else None
        self._last = whole(asked, judges.KEY, 0) if judges.KEY in asked else None
        self._memory = memory
        self.keeps = str(asked.get("keep", ""))
        self.figures: Figures = {}

    def asked(self, point: str) -> bool:
        """Whether this point is to be measured in this round."""
        return point in self._points

    def measure(
        self,
        turn: "Turn[Any]",
        point: str,
        model: Predictor | None,
        shared: Predictor | None,
        others: Mapping[str, Predictor],
        inference: Inference,
    ) -> None:
        """Measure at a point that is asked for; parameters are those of ``Turn.evaluate``."""
        here, client, limit = turn.world, turn.client, self._limit_of(turn)
        if not here.has_data:
            self._on_test_set(turn, point, model or turn.model)
            return
        if turn.federated and not len(turn.data.test):
            raise InvalidInputError(f"client {client} has no test samples to evaluate on: see data.split")
        found = here.kind.figures(here, client, model or turn.model, shared, limit, inference)
        for name, other in others.items():
            found |= {f"{name}/{key}": value for key, value in here.kind.accuracies(here, client, other, limit).items()}
        if turn.federated:
            found = _for_all(turn, found)
        self.figures |= {f"{point}/{name}": value for name, value in found.items()}
        if point == self.keeps:
            self._offer(turn, model, found)

    def _limit_of(self, turn: "Turn[Any]") -> int | None:
        """Return the test samples for this client, 0: all, None: it is no judge, and its own samples count alone."""
        if self._last is not None and judges.rank(turn.world.settings.run.seed, turn.client) > self._last:
            return None
        return self._limit

    def enter(self, turn: "Turn[Any]", point: str, figures: Mapping[str, float]) -> None:
        """Take in what the app measured itself at a point that is asked for."""
        self.figures |= {f"{point}/{name}": float(value) for name, value in figures.items()}
        if point == self.keeps:
            self._offer(turn, None, figures)

    def _on_test_set(self, turn: "Turn[Any]", point: str, model: Predictor) -> None:
        """Measure on the task's test set alone, where it has one: a client's own samples are the app's."""
        limit = self._limit_of(turn)
        if isinstance(model, Module) and limit is not None:
            found = turn.world.kind.judged(turn.world, model, limit)
            names = {"accuracy": "global", "nll": "global_nll", "ece": "global_ece"}
            self.figures |= {f"{point}/{names[key]}": value for key, value in found.items() if key in names}

    def _offer(self, turn: "Turn[Any]", model: Predictor | None, figures: Mapping[str, Any]) -> None:
        """Write the model that was just evaluated (of a function, the turn's own), for the run to keep or to drop."""
        module = model if isinstance(model, Module) else turn.model
        samples = turn.data.train if turn.world.has_data else turn.world.sample
        about = about_model(turn.world, turn.architecture, type(module).__qualname__, turn.client, samples, module)
        evaluated = {"evaluated": self.keeps, "figures": dict(figures)}
        folder, when = self._memory.folder, (turn.round, turn.closing)
        try:
            kept.offer(
                folder, when, kept_of(module, about["task"]), {**about, **evaluated}, lasting=self._memory.lasting
            )
        except (OSError, SafetensorError) as error:
            raise self._memory.unwritable(folder, error) from None


def _for_all(turn: "Turn[Any]", found: Figures) -> Figures:
    """Return the figures that every client has, as Flower's strategies want them: numbers on the own test part."""
    needed = [*turn.world.metrics, "macro_f1"] if "accuracy" in found else []
    if undefined := [name for name in needed if name not in found]:
        raise InvalidInputError(
            f"{undefined[0]} is not defined on client {turn.client}'s test samples (a metric that returns None, or "
            "predictions that are NaN), and the strategy averages it over all clients"
        )
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, float) and name not in ("auc", *BY_RULE) and not name.startswith("validation")
    }

"""A client's turn: what it has while it learns, and the Context that carries it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from logging import WARNING
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor
from torch.nn import Module

from fd_flower.client.evaluated import Evaluations
from fd_flower.client.referring import received
from fd_flower.config import ANNEALED, ClientConfig
from fd_flower.core import kept
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.finite import is_finite
from fd_flower.core.flower import log
from fd_flower.core.rng import seed_of, seeded, torch_rng
from fd_flower.core.samples import Data, Samples
from fd_flower.core.storage import Memory, Position
from fd_flower.models.frozen import copied as copy_of
from fd_flower.objectives import Stateful, schedules
from fd_flower.tasks.classification import CLASSIFICATION
from fd_flower.tasks.kind import Figures, Inference, Predictor, predicted
from fd_flower.tasks.world import World
from fd_flower.training import Optimizer, Plan, plan_of, supervised, train, uncounted
from fd_flower.training.scheduled import Scheduled
from fd_flower.wire import PublicIndex, Weights, unpack
from fd_flower.wire.envelope import HEADER, records, whole
from fd_flower.wire.payload import Bounds
from fd_flower.wire.weights import Update

if TYPE_CHECKING:
    from torch.utils.data import Dataset

Own: TypeAlias = "Dataset[Any] | Samples | None"
"""Training samples of an app with a loop of its own; None: those of the task."""

LOSS = "objective/state"
"""Name, in a client's memory, of the state of a loss that has one."""

C = TypeVar("C", bound=ClientConfig)
"""A method's client options."""


class Turn(Generic[C]):
    """What a client has during one message: model, data, public samples, memory, round and options.

    Attributes
    ----------
    client : str
        The client's id.
    round : int
        The round, counted from 1 over the whole run.
    config : ClientConfig
        The method's client options; a loss that has a state is bound to them in its state of this turn.
    server : Any
        The method's server options; their class is in its other half, which this one does not import.
    closing : bool
        Whether this is the message after the last round: learn from what is received and measure, no more.
    federated : bool
        Whether this is federated evaluation by a strategy of Flower's own: the client's test part counts alone.
    loss : Callable[[Module, Tensor, Tensor], Tensor]
        ``(model, x, y)``: the method's loss on a private mini-batch, which its ``receive`` sets; cross-entropy.
    collected : Any
        What the method's ``loss`` has collected for its ``send``.
    optimizer : Optimizer | None
        What steps the turn's model in private training, where a method brings its state; None: a new one.
    """

    def __init__(self, here: World, client: str, model: str, content: RecordDict, memory: Memory) -> None:
        received = records(content, ConfigRecord).get("config", ConfigRecord())
        self.world = here
        self.client = client
        self.architecture = model
        self.config = cast(C, here.settings.client)
        self.server: Any = here.settings.server
        self.round = whole(received, "server-round", 1)
        self.closing = bool(received.get("closing", False))
        self.federated = bool(received.get("federated", False))
        self._evaluations = Evaluations(received, memory)
        self._received = received
        self._moment = (self.round, whole(received, "exchange", 0))
        self._memory = memory
        self._content = content
        self.loss: Callable[..., Tensor] = supervised
        self.collected: Any = None
        self.optimizer: Optimizer | None = None
        self._own: Module | None = None
        self._shared = False
        self._asked = False
        self._module: Module | None = None
        self._modules: dict[str, Module] = {}
        self.scheduled: Scheduled | None = None
        if isinstance(self.config.loss, Stateful):
            done = self.round if self.closing else self.round - 1
            self.scheduled = Scheduled(self.config.loss, self.recall(LOSS), done, here.settings.server.rounds)
            self.config = self.config.bound(self.scheduled)

    @staticmethod
    def of(message: Message, context: Context) -> "Turn[Any]":
        """Return the client's turn, with the message as the app's mods have left it.

        Raises
        ------
        InvalidInputError
            For a context that no ``App`` made.
        """
        if not isinstance(context, ClientContext):
            raise InvalidInputError(
                "this context has no turn: make the app with fd_flower.client.App()"
                if HEADER in message.content
                else "this message is not FD-Flower's, so there is no turn: make the app with "
                "fd_flower.client.App(), and hand a strategy of somebody else fd_flower.server.HostGrid.open(grid, ...)"
            )
        context.turn._content = message.content
        return context.turn

    def decode(self) -> RecordDict:
        """Return what was received, from now on with what was relative to earlier teachers decoded."""
        self._content = received(self, self._content)
        return self._content

    def check(self) -> None:
        """Refuse knowledge about another number of classes than the client's model has; weights are checked on loading.

        Raises
        ------
        InvalidInputError
            With what came, what was expected and whose model it is.
        """
        for payload in unpack(self._content):
            if isinstance(payload, Weights | Update) or self.world.kind is not CLASSIFICATION:
                continue
            # A hard teacher is -inf for all classes but one, which a client's own predictions must not be.
            finite = {k: t.nan_to_num() if t.is_floating_point() else t for k, t in payload.tensors().items()}
            try:
                payload.of(payload.name, finite).check(Bounds(classes=self.classes or None))
            except InvalidInputError as error:
                who = self.world.probe(self.architecture).called
                raise InvalidInputError(
                    f"{error} ({who} tells {self.classes} classes apart: server and clients need the same classes)"
                ) from None

    # --- what the client has

    @cached_property
    def data(self) -> Data:
        """The client's own samples."""
        return self.world.data(self.client)

    @property
    def public(self) -> Samples:
        """The public samples."""
        if self.world.public is None:
            raise InvalidInputError(f"{self.world.settings.method} needs public samples; data.public is none")
        return self.world.public

    @property
    def next_index(self) -> Tensor:
        """The public samples to predict on now, int64 [N], rising."""
        index = PublicIndex.need(self._content).index
        if len(index) and int(index[-1]) >= len(self.public):
            raise InvalidInputError(
                f"the round is about public sample {int(index[-1])}; there are {len(self.public)} here"
            )
        return index

    def encoded(self, samples: Samples) -> Tensor:
        """Return what `data.encoder` sees of samples: float64 [N, D]."""
        return self.world.encoded(self.architecture)(samples)

    def samples(self, own: Own = None) -> Samples:
        """Return the training samples: the app's ``own``, which are read here, or else those of the task."""
        return self.data.train if own is None else Samples.of(own).to(self.world.device)

    @cached_property
    def classes(self) -> int:
        """Number of classes C."""
        return self.world.classes(self.architecture)

    @property
    def model(self) -> Module:
        """The model that the turn trains: the ``personal`` one, unless ``shared`` or the method has set another."""
        if self._module is None:
            self._module = self.personal
        return self._module

    @model.setter
    def model(self, module: Module) -> None:
        self._module = module

    @property
    def personal(self) -> Module:
        """The client's personal model at the end of its last turn; it is kept after this one."""
        if self._own is None:
            self._claim(not self._shared)
            self._own = self._loaded(self.architecture, "model")
        return self._own

    def module(self, name: str, build: Callable[[], Module]) -> Module:
        """Return a further personal module, kept from turn to turn under this name; every client's starts the same.

        Parameters
        ----------
        name : str
            Its name in the client's memory; ``model`` is taken.
        build : Callable[[], Module]
            Makes it, once a process and architecture; what it draws is seeded.
        """
        key = f"{self.architecture} + {name}"
        self.world.module(key, build)
        self._modules[name] = self._loaded(key, name)
        return self._modules[name]

    def _loaded(self, key: str, name: str) -> Module:
        """Return a module as the client remembers it, or as every client's starts.

        It is a copy: to learn in pages of a mapped file costs a fault each.
        """
        own = {k.removeprefix(f"{name}/"): t for k, t in self._tensors.items() if k.startswith(f"{name}/")}
        module = self.world.load(key, own or self.world.initial(key))
        if own:  # in place of what is mapped, which ends with this
            self._tensors.update(_named(name, module))
        return module

    def shared(self, weights: Weights | None) -> Module:
        """Return a model with these weights (None: those that every client starts from); it is not kept."""
        self._claim(self._own is None)
        self._shared = True
        values = self.world.initial(self.architecture) if weights is None else weights.values
        self._module = self.world.load(self.architecture, values)
        return self._module

    def peer(self, architecture: str, weights: Weights | None) -> Module:
        """Return a second model next to the client's own, with these weights (None: the initial ones); it is not kept.

        Parameters
        ----------
        architecture : str
            Its architecture; it may be the client's own.
        weights : Weights | None
            What was received.
        """
        key = f"{architecture} + peer"
        self.world.module(key, like=architecture)
        return self.world.load(key, self.world.initial(architecture) if weights is None else weights.values)

    def _claim(self, free: bool) -> None:
        """Refuse a second use of the one resident module, which would be kept, or trained, as the first."""
        if not free:
            raise InvalidInputError(
                "a turn has one module of an architecture: for the personal model or for shared weights"
            )

    def recall(self, name: str) -> Tensor | None:
        """Return what the client remembers under this name, or None."""
        return self._tensors.get(name)

    def remember(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor for the client's next turn."""
        self._tensors[name] = tensor

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        self._asked = True
        found = self._memory.read(None if self.closing else self._moment)
        if not found and self.round > 1 and not self.world.hosted:
            log(
                WARNING,
                "client %s has no saved state of this run (no file in %s): it takes part in round %s as a new client, "
                "with initial weights and without what it learned or received before",
                self.client,
                self._memory.folder,
                self.round,
            )
        return found

    @property
    def newcomer(self) -> bool:
        """Whether this is the client's first turn (round one, for a method that keeps nothing at the client)."""
        return not any(k.startswith("model/") for k in self._tensors) if self._own is not None else self.round == 1

    def rng(self, purpose: str) -> torch.Generator:
        """Return the client's random numbers for a purpose in this round."""
        return torch_rng(self.world.settings.run.seed, purpose, self.client, self.round)

    @property
    def lr(self) -> float:
        """The round's learning rate: the server's, or the schedule's where the server sends none.

        Where an app trains in its own loop, the server's values are for that loop, and the schedule is distillation's.
        """
        received = self._received.get("lr")
        if isinstance(received, int | float) and self.world.has_data:
            return float(received)
        return self.config.lr_at(self.round, self.world.settings.server.rounds)

    @property
    def plan(self) -> Plan:
        """How the client trains on private data in this round."""
        return plan_of(self.config, self.lr, self.precision)

    @property
    def precision(self) -> str:
        """`run.precision`."""
        return self.world.settings.run.precision

    # --- what is measured

    def evaluate(
        self,
        point: str,
        model: Predictor | None = None,
        *,
        shared: Predictor | None = None,
        others: Mapping[str, Predictor] | None = None,
        inference: Inference = Inference(),
    ) -> None:
        """Measure, where this point is asked for in this round.

        Parameters
        ----------
        point : str
            ``received``, ``trained`` or ``annealed``.
        model : Predictor | None
            A model, or a function that returns a model's log-probabilities [N, C] on samples; None: the turn's model.
        shared : Predictor | None
            The predictor for all classes, where that is not the same.
        others : Mapping[str, Predictor] | None
            What else to measure (heads, say), by name: accuracies alone.
        inference : Inference
            How the client predicts on its own samples: among which classes, and what its own head would say.
        """
        if self._evaluations.asked(point):
            self._evaluations.measure(self, point, model, shared, others or {}, inference)

    def enter(self, point: str, **figures: float) -> None:
        """Enter what the app measured itself, where this point is asked for: it counts as what ``evaluate`` measures.

        Parameters
        ----------
        point : str
            ``received`` (in the closing message) or ``trained``.
        **figures : float
            ``accuracy``, ``nll``, ``ece`` on the client's own test samples, ``validation`` accuracy.
        """
        if self._evaluations.asked(point):
            self._evaluations.enter(self, point, figures)

    @property
    def evaluations(self) -> Figures:
        """What was measured so far, by ``point/name``."""
        return self._evaluations.figures

    def anneal(self) -> None:
        """Where the round asks for it, measure a copy of the model that private training anneals; the model stays.

        The copy learns as in ``client.anneal_rounds`` further rounds without any knowledge: by cross-entropy on the
        client's own samples, while the learning rate falls. The run is the same, bit for bit, with and without it.
        """
        if not self._evaluations.asked(ANNEALED):
            return
        count, to = self.config.anneal_rounds, self.config.anneal_to
        copied = copy_of(self.model)
        seed = seed_of(self.world.settings.run.seed, "anneal", self.client, self.round)
        with uncounted(), seeded(seed, self.world.device):
            for number in range(1, count + 1):
                plan = replace(self.plan, lr=self.lr * schedules.anneal(number, count, to=to))
                train(copied, supervised, self.data.train, plan=plan, rng=self.rng(f"anneal {number}"))
        self.evaluate(ANNEALED, copied)

    def predict(self, samples: Samples, model: Predictor | None = None) -> Tensor:
        """Return log-probabilities [N, C] float32, on the CPU, of a model (None: the turn's)."""
        return predicted(model or self.model, samples, self.precision)

    # --- what is kept

    def close(self) -> Position | None:
        """Write the memory, where the turn asked for it, and return the turn that is in it then; else None.

        A closing message writes none. Where the disk is not the server's, the model that was evaluated is taken or
        dropped here, as ``run.keep`` says; else the server decides.

        Raises
        ------
        RunError
            If something of it is not finite. Nothing is written: the client's next turn begins where this one did.
        """
        position = self._write() if self._asked else None
        if self._evaluations.keeps and self._memory.lasting:
            kept.take_alone(self._memory.folder, self.world.settings.run.keep, higher=self.world.kind.higher_is_better)
        return position

    def _write(self) -> Position | None:
        if self._own is not None:
            self._tensors.update(_named("model", self._own))
        for name, module in self._modules.items():
            self._tensors.update(_named(name, module))
        if self.scheduled is not None:
            self.scheduled.move()
            if self.scheduled.state is not None:
                self.remember(LOSS, self.scheduled.state)
        for name, tensor in self._tensors.items():
            if not is_finite(tensor):
                raise RunError(
                    f"this turn ended with {name} not finite, and the client keeps its state from before it: "
                    "look at its samples, or lower client.lr"
                )
        if self.closing:
            return None
        self._memory.write(self._moment, self._tensors)
        return self._moment


def _named(name: str, module: Module) -> dict[str, Tensor]:
    """Return a module's tensors as a client's memory calls them."""
    return {f"{name}/{key}": tensor for key, tensor in module.state_dict().items()}


class ClientContext(Context):
    """Flower's context as one client's mods and functions see it, with the client's turn.

    A hosted client's ``node_config`` says which partition it is, and of how many, in place of the node that hosts it.
    """

    def __init__(self, node: Context, state: RecordDict, turn: Turn) -> None:
        config = {**node.node_config, "client-id": turn.client}
        if turn.world.hosted:
            config |= {"partition-id": int(turn.client), "num-partitions": turn.world.settings.data.clients}
        super().__init__(node.run_id, node.node_id, config, state, node.run_config)
        self.turn = turn

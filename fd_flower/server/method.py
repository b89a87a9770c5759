"""What a method's server half fills in: the hooks, and what they find around them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import torch

from fd_flower.config import ClientConfig, ServerConfig, Settings, registry
from fd_flower.core.client import Client, share
from fd_flower.core.clients import kinds
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng, torch_rng
from fd_flower.results.callback import Callback
from fd_flower.server.diagnostics import Diagnostics, Figure
from fd_flower.server.judging import first_heard
from fd_flower.server.requirements import Requirements
from fd_flower.server.run import Run
from fd_flower.server.status import UNSTATED, Status
from fd_flower.tasks.architectures import like
from fd_flower.tasks.built import built
from fd_flower.tasks.described import described, for_devices, load_task
from fd_flower.tasks.task import Task
from fd_flower.tasks.transform import with_transform
from fd_flower.tasks.world import World
from fd_flower.wire import Adapter, Knowledge, Payload, Private, Weights
from fd_flower.wire.replies import Reply

C = TypeVar("C", bound=ServerConfig)


class Method(ABC, Generic[C]):
    """A federated distillation method as its server sees it.

    A method is final and fills in ``aggregate``, and where it needs to ``initial_knowledge`` and ``knowledge_for``.

    Parameters
    ----------
    config : ServerConfig | None
        The method's options; None means the recipe's values.
    task : Task | str | None
        The user's task; the server uses its model, public samples and test set. By name (``package.module:name``) it is
        the clients' task, too: they are sent the name.
    run : Run | None
        Seed, clients, folder and device of the run.
    settings : Settings | None
        Merged settings in place of ``config`` and ``run``; without a task, it is what they describe.
    """

    client_app: ClassVar[str] = ""
    """Where the ClientApp of a method outside of FD-Flower lies, ``package.module:name``; "": ``app`` of its module."""

    config_class: ClassVar[type[ServerConfig]] = ServerConfig
    """The options of its section ``server``; a built-in method has a class ``Config`` in its module instead."""

    client_config_class: ClassVar[type[ClientConfig]] = ClientConfig
    """The options of its section ``client``; a built-in method has a class ``Config`` in its client's module."""

    recipe: ClassVar[str | None] = None
    """Its recipe, a YAML file's path from the folder of its module; None: the defaults."""

    status: ClassVar[Status] = UNSTATED
    """What its code follows: the authors' code, their paper, or neither (a reconstruction)."""

    requires: ClassVar[Requirements] = Requirements()
    """What the method cannot work without, by its recipe; a run's options may say otherwise (``requirements``)."""

    evaluated: ClassVar[str] = "trained"
    """Where its accuracy is evaluated: ``received``, ``trained``, or, of a server's model, ``aggregated``."""

    evaluates_clients: ClassVar[bool] = False
    """Whether clients' own models are evaluated on all classes in addition to the server's model."""

    exchanges: ClassVar[tuple[str, ...]] = ("train",)
    """Message types of a round, in order; the last is ``train``."""

    reply_kinds: ClassVar[tuple[type[Payload], ...]] = ()
    """Kinds without which a client's reply cannot be used, in addition to those of ``summable``."""

    asked_kinds: ClassVar[tuple[type[Payload], ...]] = ()
    """Kinds that a client sends when it is asked for them, not in every round."""

    summable: ClassVar[tuple[type[Payload], ...]] = ()
    """Kinds of which a sum will do: under ``privacy.sum`` ``aggregate`` gets one reply for all, ``Summable.summed``."""

    sums: ClassVar[bool] = False
    """Whether ``aggregate`` gets that one reply in every run, so that hosts send sums of their clients' replies."""

    predicts: ClassVar[bool] = False
    """Whether clients predict on public samples, which a round's message then names."""

    trains_on_own: ClassVar[bool] = True
    """Whether clients train on their own samples as such, which a training transform can vary."""

    distills_public: ClassVar[bool] = False
    """Whether clients distill on public samples by ``public_distillation``, so that exits can learn there, too."""

    def __init__(
        self,
        config: C | None = None,
        task: Task | str | None = None,
        run: Run | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or (run or Run()).settings(registry.name_of(type(self)), config)
        self.callbacks: tuple[Callback, ...] = tuple(run.callbacks) if run else ()
        """Callbacks of the run, in addition to the trackers of ``run.track``."""
        if isinstance(task, str):
            self.settings, task = replace(self.settings, task=task), load_task(task)
        own = settings is None and (run is None or (run.clients is None and run.data is None and not run.resume))
        self.each_node = own and task is not None and task.data is None and task.rows is None
        """Whether there is one hosted client a node, however many nodes there are."""
        self.plain = run is not None and run.plain
        """Whether the nodes are known to run a ClientApp that knows nothing of FD-Flower."""
        self.knowledge = Knowledge()
        self.clients: Sequence[Client] = ()
        self.hosted = True
        """Whether the clients are hosted (a simulation), so that the experimenter sees all of their data."""
        self.asks_judges_first = False
        """Whether the samples of the first evaluated rounds begin with the judges (``server.judges``)."""
        self.round_index = torch.empty(0, dtype=torch.int64)
        """The public samples that the round is about, int64 [N], where clients predict on them."""
        self.waiting_examples = 0
        """Training samples of the clients under way, where ``server.staleness`` counts them."""
        self.on_line: Callable[[dict[str, Any]], None] | None = None
        """Gets every line of ``rounds.jsonl`` when it is written."""
        self.on_replies: Callable[[int, Sequence[Reply]], None] | None = None
        """Gets each round's number and usable replies before ``aggregate``, single ones where no secure sum hides them;
        it changes nothing."""
        self.diagnostics = Diagnostics()
        self._initial: dict[str, torch.Tensor] | None = None
        self._described = settings is not None and task is None and not settings.task
        if task is None and settings is not None:
            # Whose the classes' names are is known with the clients: devices have others than `data.source`.
            unnamed = replace(settings, data=replace(settings.data, class_names=None))
            task = load_task(settings.task) if settings.task else described(unnamed, alone=True)
        self._task = with_transform(task or Task(_no_model), self.settings)

    def start_from(self, arrays: dict[str, torch.Tensor]) -> None:
        """Let models start from a user's weights, by plain state-dict keys."""
        self._initial = arrays

    @classmethod
    def options(cls, settings: Settings) -> C:
        """Return the method's own options of a run."""
        return cast("C", settings.server)

    @property
    def config(self) -> C:
        """The method's options."""
        return self.options(self.settings)

    @config.setter
    def config(self, config: C) -> None:
        self.settings = replace(self.settings, server=config)

    @cached_property
    def world(self) -> World:
        """The server's view of the task: model, public samples, test set."""
        task = self._task
        if self._described and not self.hosted:
            task = for_devices(task, self.settings, self.clients)
        elif not self.hosted:
            task = replace(task, model=partial(built, task.model))
        elif self._described and self.settings.data.class_names:
            task = described(self.settings)
        labels = self.requirements(self.settings).labels
        return World(self.settings, task, hosted=self.hosted, public_labels=labels)

    @property
    def describes_models(self) -> bool:
        """Whether `model.*` describes the clients' models, rather than a user's task."""
        rows = self._task.rows
        return self._described or (rows is not None and rows.model is None)

    @property
    def brings_samples(self) -> bool:
        """Whether samples are those of a user's task, rather than what `data.source` names."""
        return not self._described

    # --- what the options decide

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return what a run cannot work without: ``requires``, but for a method whose options decide."""
        return cls.requires

    @classmethod
    def evaluation_point(cls, settings: Settings) -> str:
        """Return the evaluation point of a run's accuracy: ``evaluated``, but for a method whose options decide."""
        return cls.evaluated

    def expected_kinds(self, round: int) -> Sequence[type[Payload]]:
        """Return the kinds without which a reply is of no use: by default those of ``reply_kinds`` and ``summable``."""
        return (*self.reply_kinds, *self.summable)

    @classmethod
    def sums_replies(cls, settings: Settings) -> bool:
        """Whether a run's replies are added up before ``aggregate``: as ``sums`` says, but for options that decide."""
        privacy = settings.privacy
        alone = privacy.sum != "none" or privacy.dp != "none" or settings.wire.encodes_replies
        return cls.sums and not alone and not cls.requirements(settings).single_replies

    @property
    def one_teacher(self) -> bool:
        """Whether all clients receive the same predictions on public samples, if any."""
        return True

    def takes_sum(self) -> bool:
        """Whether the round's replies are added up before ``aggregate``."""
        return self.sums_replies(self.settings)

    def known_weights(self) -> Sequence[Weights]:
        """Return the weights of each architecture as clients send them, for checks of replies."""
        return Weights.all(self.knowledge)

    def known_adapters(self) -> Mapping[str, Adapter]:
        """Return an adapter of each architecture as clients send it, for checks of replies; {} for none."""
        return {}

    def known_directions(self) -> int | None:
        """Return how many directions clients' steps can take, for checks of replies; None: no step is sent as one."""
        return None

    def known_guide(self) -> int | None:
        """Return the size D of a class's guide, for checks of replies; None: there are no guides."""
        return None

    def known_generator(self) -> Mapping[str, torch.Tensor] | None:
        """Return the state dict of the generator that clients train; None where they send none."""
        return None

    def resolved(self) -> Mapping[str, str]:
        """Return what the run's ``auto`` options came to, by option, for the summary."""
        return {}

    # --- a round

    def sample(self, round: int) -> Sequence[Client]:
        """Draw whom a round asks, seeded, from those in natural order: by default a share of ``server.fraction``.

        Where judges are evaluated and few of the clients are judges, the first evaluated rounds take them first.
        """
        count = share(len(self.clients), self.config.fraction)
        rng = numpy_rng(self.settings.run.seed, "sample", "server", round)
        order = rng.permutation(len(self.clients))
        first = first_heard(self.clients, self.settings, round, count) if self.asks_judges_first else []
        if first:
            order = np.concatenate([first, order[~np.isin(order, first)]])
        return [self.clients[i] for i in sorted(order[:count].tolist())]

    def public_index(self, round: int) -> torch.Tensor:
        """Return which public samples a round is about, int64 [N], rising: by default a fresh seeded subset."""
        return self.world.public_index(round)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload | Private]:
        """Return the server's state before round one, given who answered the handshake."""
        return ()

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return what one client receives: by default what is public, and its own architecture's weights alone."""
        own = Weights.all(knowledge)
        return [p for p in knowledge.public if len(own) < 2 or not isinstance(p, Weights) or p.model == client.model]

    def between(
        self, exchange: str, replies: Sequence[Reply], knowledge: Knowledge, round: int
    ) -> Sequence[Payload | Private]:
        """Return the server's state after an exchange that is not the round's last."""
        return [*knowledge.public, *map(Private, knowledge.private)]

    @abstractmethod
    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Return the server's state after a round, from the usable replies (sorted by client) and the last state."""

    # --- what the hooks use

    def rng(self, purpose: str, round: int = 0) -> torch.Generator:
        """Return the server's random numbers for a purpose in a round."""
        return torch_rng(self.settings.run.seed, purpose, "server", round)

    def first_weights(self, model: str, name: str = "") -> Weights:
        """Return the weights of an architecture before round one: the user's ``initial_arrays``, or the seeded ones."""
        if self._initial is None:
            return Weights(self.world.initial(model), name)
        if self._task.model is _no_model:
            return Weights(self._initial, name)
        own = self.world.initial(model)
        frozen, learns = sorted(self._initial.keys() - own.keys()), self.settings.client.trainable
        if frozen and learns != "all":
            raise InvalidInputError(
                f"initial_arrays has '{frozen[0]}', which does not learn under client.trainable={learns}, so that no "
                "client would get it: leave it out, or put it where the task's model is made"
            )
        return Weights({k: like(t, own[k]) if k in own else t for k, t in self._initial.items()}, name)

    def first_of_each(self, clients: Sequence[Client]) -> list[Weights]:
        """Return the weights before round one of each architecture among these clients, named if there are several."""
        names = list(dict.fromkeys(c.model for c in kinds(clients)))
        return [self.first_weights(name, name if len(names) > 1 else "") for name in names]

    def log_diagnostics(self, figures: Mapping[str, Figure], client: str = "") -> None:
        """Write figures into the round's line, or into a client's: what the method saw, which changes nothing."""
        self.diagnostics.add(figures, client)

    def log_votes(self, logprobs: torch.Tensor, mask: torch.Tensor, teacher: torch.Tensor, valid: torch.Tensor) -> None:
        """Log who was trusted where: the votes [U, N, C] and their mask [U, N], the teacher [N, C] and validity [N].

        Where each client has a teacher of its own, these are [U, N, C] and [U, N].

        What is written is ``tally`` of them, by true class where the experimenter knows the classes.
        """
        self.diagnostics.votes = (logprobs, mask, teacher, valid)


def _no_model(name: str) -> torch.nn.Module:
    raise InvalidInputError("this strategy needs a model on the server: give task=Task(model=...)")

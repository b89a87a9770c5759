"""What one process holds of a run: its task's samples, resident on its device, and one module an architecture."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fd_flower.config import Settings
from fd_flower.core import judges
from fd_flower.core.classes import difference, listed, order
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.core.rows import declared
from fd_flower.core.samples import Counts, Data, Samples, join
from fd_flower.data.public import checksum
from fd_flower.tasks.architectures import Architectures
from fd_flower.tasks.backdoor import Backdoor
from fd_flower.tasks.candidates import candidates
from fd_flower.tasks.classification import CLASSIFICATION
from fd_flower.tasks.dealt import dealt
from fd_flower.tasks.described import described, load_task
from fd_flower.tasks.kind import Kind
from fd_flower.tasks.metric import Metric
from fd_flower.tasks.relabeled import Relabeled
from fd_flower.tasks.task import Task
from fd_flower.tasks.transform import augmented, with_transform

PUBLIC_BATCH = 512
"""Public samples that a round is about, where ``data.public_batch`` does not say: so many, or all that there are."""


@final
class World(Architectures):
    """A run's task as one process sees it.

    Parameters
    ----------
    settings : Settings
        The run.
    task : Task
        The user's, or the one that ``data.*`` and ``model.*`` describe.
    hosted : bool
        Whether this process can see all clients' data (a simulation), or one device's alone.
    public_labels : bool
        Whether the method may see the public samples' labels.
    class_names : tuple[str, ...]
        The run's classes, in the order of their numbers, where a device's own task has them in another order.
    client : str
        The device's client id; "" where there is none.
    named : str
        Where the user's task is, ``package.module:name``; "" if not given.
    """

    def __init__(
        self,
        settings: Settings,
        task: Task,
        *,
        hosted: bool = True,
        public_labels: bool = False,
        class_names: tuple[str, ...] = (),
        client: str = "",
        named: str = "",
    ) -> None:
        super().__init__()
        self.named = named
        self._client = client
        own, self.settings = dealt(task, settings, hosted=hosted, client=client)
        self.task = with_transform(own, settings)
        self.hosted = hosted
        self._public_labels = public_labels
        self._class_names = class_names
        self.device = device(settings.run.device)
        self._relabeled = Relabeled(settings, hosted=hosted)
        self._backdoor = Backdoor(settings, hosted=hosted)
        self._data: dict[str, Data] = {}
        self._test_parts: dict[int, Samples] = {}

    @property
    def kind(self) -> Kind:
        """What is asked of models here, and how they are measured at it."""
        return self.task.kind or CLASSIFICATION

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The task's own metrics by name."""
        return self.task.own_metrics

    # --- samples

    @property
    def has_data(self) -> bool:
        """Whether the task has the clients' samples; if not, their app trains and evaluates on its own."""
        return self.task.data is not None

    def data(self, client: str) -> Data:
        """Return a client's samples."""
        if client not in self._data:
            if self.task.data is None:
                raise InvalidInputError(
                    f"the task has no data function, so client {client} has no samples: give Task(data=...), or hand "
                    "the app's own to the calls in its loop (send(..., own=...))"
                )
            parts = self.task.data(client)
            read = {part: getattr(parts, part) for part in ("train", "validation", "test")}
            own = Data(*(self._resident(s, f"client {client}, {part}") for part, s in read.items()))
            own = self._relabeled.data(client, own, len(self.class_names))
            own = self._backdoor.data(client, own, len(self.class_names))
            self._check_counts(client, own)
            self._data[client] = augmented(own, self.task.transform)
        return self._data[client]

    @cached_property
    def counts(self) -> Counts | None:
        """How many samples each hosted client has, where the task says so and nothing else is asked of each client.

        A task's own metrics are tried on each client's samples before round one.
        """
        if not self.hosted or self.task.counts is None or self.metrics:
            return None
        known, clients = self.task.counts(), self.settings.data.clients
        if len(known.train) != clients:
            raise InvalidInputError(
                f"the task's counts are of {len(known.train)} clients, data.clients is {clients}: give one row a client"
            )
        if self._own_names and self._own_names != self.class_names:
            numbers = order(self._own_names, self.class_names, "the task", "the run", lacking=True)
            train = np.zeros((clients, len(self.class_names)), dtype=known.train.dtype)
            train[:, numbers] = known.train
            known = replace(known, train=train)
        classes = known.train.shape[1]
        return self._backdoor.counts(self._relabeled.counts(known, classes), classes)

    def _check_counts(self, client: str, own: Data) -> None:
        """Refuse samples that are others than the task's counts say: the server goes by these."""
        if self.counts is None:
            return
        said = self.counts.train[int(client)]
        has = np.bincount(own.train.labels.cpu().numpy(), minlength=len(said))
        if len(has) != len(said) or (has != said).any():
            raise InvalidInputError(
                f"client {client} has {has.tolist()} training samples of each class, the task's counts say "
                f"{said.tolist()}: let Task(counts=...) count what Task(data=...) returns"
            )

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The run's classes in the order of their numbers; () if they have no names.

        Those of the settings, else of the task, else of its first set that has names: the test set, a client's. Public
        samples may have other classes.
        """
        listed = tuple(self.settings.data.class_names or ())
        if self.settings.data.adds_classes:  # which has those of the private samples alone
            listed = self.task.classes or listed
        named = self._class_names or listed or self.task.classes
        return named or next(filter(None, map(declared, self._first_sets())), ())

    def _first_sets(self) -> "Iterator[Dataset[Any] | Samples]":
        if self.task.test is not None:
            yield self.task.test
        if self.task.data is not None and (client := self._first_client):
            yield self.task.data(client).train

    @property
    def _first_client(self) -> str:
        """A client whose samples are here: the first hosted one, or a device's own; "" on a server of devices."""
        return "0" if self.hosted else self._client

    @cached_property
    def public(self) -> Samples | None:
        """The public samples, or None; without their labels, unless the method asks for them."""
        return self._public if self._public_labels or self._public is None else replace(self._public, y=None)

    @property
    def public_labels(self) -> Tensor | None:
        """The public samples' classes [N], on the CPU, where they are known: for the experimenter's figures alone."""
        return None if self._public is None or self._public.y is None else self._public.labels.cpu()

    @cached_property
    def _public(self) -> Samples | None:
        if self.task.public is None:
            return None
        given = self.task.public()
        samples = _read(given, (), "the public set")
        if samples.classes and not declared(given) and set(samples.classes) < set(self.class_names):
            samples = _read(given, self.class_names, "the public set")  # text names the classes of its rows alone
        if self._are_others(samples):
            samples = replace(samples, y=None).to(self.device)  # another set's classes are not labels here
        else:
            samples = self._resident(samples, "the public set")
        return self._injected(samples)

    def _injected(self, samples: Samples) -> Samples:
        """Return public samples with the candidates behind them that a curious server adds (``attack.inject``)."""
        count = self.settings.attack.inject
        if not count:
            return samples
        if not self.hosted:
            raise InvalidInputError(
                f"attack.inject={count} is for simulated clients, and these are devices: leave it out"
            )
        if self._public_labels:
            raise InvalidInputError(
                f"attack.inject={count} adds training samples to the public ones, from whose labels clients learn: "
                "leave it out, or set client.label_epochs=0"
            )
        added = [part for client in self.clients for part in candidates(self.data, client, count, self.settings).parts]
        return replace(join([samples, *added]), classes=samples.classes)

    def _are_others(self, samples: Samples) -> bool:
        """Whether samples have other classes than the run's, or unknown ones."""
        if samples.classes and self.settings.data.adds_classes:
            return not set(samples.classes) <= set(self.class_names)
        if samples.classes:
            return not self.class_names or bool(difference(samples.classes, self.class_names))
        if samples.y is None or not self._own_names:
            return samples.y is not None and bool(self.class_names)
        return int(samples.labels.max()) >= len(self._own_names)

    @property
    def public_difference(self) -> str:
        """How the public samples' classes differ from the private ones: "lacks cat"; "" for samples without classes."""
        if self._public is None:
            return ""
        if bool(self._public.classes) != bool(self.class_names):
            return "and the private samples do not both have names for them: Task(classes=...) lists them"
        return difference(self._public.classes, self.class_names)

    @cached_property
    def test(self) -> Samples | None:
        """The global test set, or None."""
        return None if self.task.test is None else self._resident(self.task.test, "the test set")

    def triggered(self, limit: int) -> Samples | None:
        """Return ``test_part`` with a back door's trigger, without its class; None where there is no such attack."""
        return self._backdoor.tests(self.test_part(limit)) if self._backdoor.asked else None

    def test_part(self, limit: int) -> Samples | None:
        """Return a class-balanced, seeded part of the test set with at most ``limit`` samples; 0: all of it."""
        if self.test is None or not 0 < limit < len(self.test):
            return self.test
        if limit not in self._test_parts:
            labels = torch.zeros(len(self.test)) if self.test.y is None else self.test.labels.cpu()
            order = torch.randperm(len(labels), generator=torch_rng(self.settings.run.seed, "test part"))
            by_class = [order[labels[order] == c] for c in labels.unique()]
            turn = [(place, i) for rows in by_class for place, i in enumerate(rows.tolist())]
            rows = torch.tensor(sorted(i for _, i in sorted(turn)[:limit])).to(self.device)
            self._test_parts[limit] = self.test[rows]
        return self._test_parts[limit]

    @cached_property
    def clients(self) -> tuple[str, ...]:
        """The hosted clients' ids."""
        return tuple(str(i) for i in range(self.settings.data.clients))

    @cached_property
    def pooled(self) -> dict[str, Samples]:
        """All hosted clients' ``validation`` and ``test`` parts together, in the clients' order; empty on a device."""
        if not self.hosted or self.task.data is None:
            return {}
        if self.counts is not None and self.counts.pooled is not None:
            found = {part: self.counts.pooled(part) for part in ("validation", "test")}
            return {part: replace(self._resident(whole, part), classes=()) for part, whole in found.items()}
        every = [self.data(c) for c in self.clients]
        return {part: join([getattr(d, part) for d in every]) for part in ("validation", "test")}

    def pool(self, limit: int) -> dict[str, Samples]:
        """Return what a judge predicts on of ``pooled``: all of it where all clients are judges.

        Else it is a seeded part of at most ``judges.SAMPLES``, and where ``limit`` is 0, in the last evaluation, all
        test samples.
        """
        config = self.settings
        if judges.count(config.server.judges, config.data.clients) == config.data.clients:
            return self.pooled
        return {
            part: whole if part == "test" and not limit else self._sampled[part] for part, whole in self.pooled.items()
        }

    @cached_property
    def _sampled(self) -> dict[str, Samples]:
        """The seeded part of each pooled part."""
        found = {}
        for part, whole in self.pooled.items():
            order = torch.randperm(len(whole), generator=torch_rng(self.settings.run.seed, "pool", part))
            found[part] = whole[order[: judges.SAMPLES].sort().values.to(self.device)]
        return found

    def pooled_rows(self, client: str, part: str) -> slice:
        """Return where a client's own part lies in the pooled one."""
        place = int(client)
        return slice(self._ends[part][place], self._ends[part][place + 1])

    @cached_property
    def _ends(self) -> dict[str, list[int]]:
        """Where each client's part ends in the pooled one, after a 0."""
        if self.counts is not None and self.counts.sizes is not None:
            ends = self.counts.sizes.cumsum(0)
            return {part: [0, *ends[:, place].tolist()] for place, part in ((1, "validation"), (2, "test"))}
        every = [self.data(c) for c in self.clients]
        return {part: [0, *accumulate(len(getattr(d, part)) for d in every)] for part in ("validation", "test")}

    @cached_property
    def public_checksum(self) -> str:
        """SHA-256 of the public samples, so that two machines cannot disagree silently; "" where there is none."""
        return "" if self.public is None else checksum(self.public)

    def public_index(self, round: int) -> Tensor:
        """Return which public samples a round is about: a fresh seeded subset, int64 [N], sorted."""
        if self.public is None:
            raise InvalidInputError(f"{self.settings.method} needs public samples; data.public is none")
        order = torch.randperm(len(self.public), generator=torch_rng(self.settings.run.seed, "public", round))
        return order[: self.public_batch].sort().values

    @property
    def public_batch(self) -> int:
        """How many public samples a round is about, at most."""
        return self.settings.data.public_batch or PUBLIC_BATCH

    def _resident(self, samples: "Dataset[Any] | Samples", who: str) -> Samples:
        """Read samples, give their classes the run's numbers, and move them to the device; ``who`` is for errors."""
        read = _read(samples, self._own_names, who)
        if not read.classes and self._own_names and self._own_names != self.class_names:
            read = replace(read, classes=self._own_names)
        if not read.classes and read.y is not None and self.class_names and not self._own_names:
            raise InvalidInputError(
                f"{who} has numbers for its classes, other sets of the task have names ({listed(self.class_names)}): "
                "Task(classes=...) lists the names in the order of these numbers"
            )
        if not read.classes:
            return read.to(self.device)
        if not self.class_names:
            self.class_names = read.classes
        hint = "" if self.task.classes else "; Task(classes=...) names them all"
        # Text in a client's rows names the classes that it has: it may lack some where somebody lists them all.
        return read.renumbered(self.class_names, who, "the run", hint, lacking=bool(self._own_names)).to(self.device)

    @property
    def _own_names(self) -> tuple[str, ...]:
        """The classes' names in the order of the task's own numbers."""
        return self.task.classes or tuple(self.settings.data.class_names or ())

    # --- what models take

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: an image's (channels, height, width)."""
        return tuple(self._any_input().shape[1:])

    def _any_input(self) -> Tensor:
        """Return one sample as a model takes it [1, ...]."""
        sample = self.sample
        if sample is None:
            raise InvalidInputError(
                "the task has no sample to try its model on: give it a test set (data.test) or public samples"
            )
        return sample.batch(torch.zeros(1, dtype=torch.int64, device=self.device))[0]

    @property
    def sample(self) -> Samples | None:
        """Some samples that a model takes; None where this process has none."""
        return next((s for s in self._any_samples() if len(s)), None)

    def _any_samples(self) -> Iterator[Samples]:
        yield from (d.train for d in self._data.values())
        if self.test is not None:
            yield self.test
        if self.public is not None:
            yield self.public
        if self.task.data is not None and (client := self._first_client):
            yield self.data(client).train


def _read(samples: "Dataset[Any] | Samples", classes: Sequence[str], who: str) -> Samples:
    try:
        return Samples.of(samples, classes=classes)
    except InvalidInputError as error:
        raise InvalidInputError(f"{who}: {error}") from None


def device(name: str) -> torch.device:
    """Return the device that ``run.device`` means here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(name)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError(f"run.device is '{name}' and there is no GPU here; use run.device=auto")
    return chosen


@lru_cache(maxsize=4)
def world(
    text: str,
    task: str = "",
    folder: str | None = None,
    client: str = "",
    *,
    public_labels: bool = False,
    class_names: tuple[str, ...] = (),
) -> World:
    """Return this process's world of a run, made once for a run's settings.

    Parameters
    ----------
    text : str
        ``Settings.text``.
    task : str
        ``package.module:name`` of the user's Task, or a function without arguments that returns one.
    folder : str | None
        A device's own data.
    client : str
        The device's client id; "" in a simulation.
    public_labels, class_names
        As ``World`` has them.

    Raises
    ------
    InvalidInputError
        Where the run is about a task that this process cannot find.
    """
    settings = Settings.read(text)
    if not task and not settings.model.name:
        raise InvalidInputError(
            "the server's task has no name that clients could import: give the strategy task='package.module:name' in "
            "place of the object, or say task='package.module:name' in the run config"
        )
    chosen = load_task(task) if task else described(settings, folder, client)
    hosted = not client
    return World(
        settings,
        chosen,
        hosted=hosted,
        public_labels=public_labels,
        class_names=class_names,
        client=client,
        named=task,
    )

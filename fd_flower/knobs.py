"""The knobs that every method has, section by section, with their defaults and ranges."""

import copy
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from torch import Tensor

from fd_flower import objectives, schedules
from fd_flower.errors import WrongInput, nearest
from fd_flower.privacy.config import PrivacyConfig


def _need(holds: bool, key: str, value: object, expected: str) -> None:
    """Refuse a value outside its range."""
    if not holds:
        raise WrongInput(f"{key} is {value!r}; expected {expected}")


PARTITIONS = (
    "iid",
    "dirichlet",
    "embedding",
    "fedgen",
    "classes",
    "overlap",
    "primary",
    "quantity",
    "column",
    "domain",
)
ALLOCATIONS = ("per_cluster", "per_client")


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and who holds which (section ``data``)."""

    source: Any = "digits"
    """`digits`, a hub name, a folder of Parquet files or class folders, a list of these (`data.partition=domain`)."""
    clients: int = 10
    """Number of hosted clients; on devices all that answer the roll call take part."""
    split: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    """Shares of a client's rows for training, validation and test."""
    test_limit: int | None = None
    """Test pictures used between the first and the last evaluation (class-balanced); None: all."""
    size: str | None = None
    """Bring pictures to this size, grey or RGB: `28x28x1`."""
    picture: str | None = None
    """The picture column; None: found by its type."""
    label: str | None = None
    """The label column; None: found by its type."""
    column: str | None = None
    """With `data.partition=column`: the column that says who is the client."""
    partition: str = "dirichlet"
    """`iid`, `dirichlet`, `embedding`, `fedgen`, `classes`, `overlap`, `primary`, `quantity`, `column` or `domain`."""
    alpha: float = 0.3
    """Concentration of `dirichlet` and `fedgen` (over labels), `embedding` (over clusters), `quantity` (over sizes)."""
    clusters: int = 10
    """Clusters that `data.partition=embedding` and its report make of what `data.encoder` sees."""
    allocation: str = "per_cluster"
    """With `data.partition=embedding`: `per_cluster` (shares of each cluster) or `per_client` (the paper's code)."""
    ratio: float = 0.5
    """With `data.partition=fedgen`: the share of a class's rows that are dealt out, at most."""
    classes: int = 2
    """With `data.partition=classes`: classes a client holds; with `overlap`: beside those that all hold."""
    shared: int = 2
    """With `data.partition=overlap`: classes that every client holds."""
    skew: float = 100.0
    """With `data.partition=primary`: a row is 1 + skew times as likely with a primary client of its class; 0: IID."""
    primaries: int = 1
    """With `data.partition=primary`: primary clients of a class."""
    public: str = "held-out"
    """`held-out`, a Hugging Face name, a folder, `noise` or `none`."""
    public_size: int = 2000
    """Public samples, at most; `held-out` takes at most a third of the training rows."""
    public_batch: int = 512
    """Public samples that a round is about: a fresh seeded subset each."""
    encoder: str = "pixels"
    """What votes and `embedding` see: `pixels`, a torchvision weight, `/path.safetensors`, or `train:<source>`."""
    limit: int | None = None
    """Use at most this many training rows in all."""
    per_client: int | None = None
    """Use at most this many rows of each client."""
    min_rows: int = 10
    """The smallest client."""
    folds: int = 3
    """Questions without training judgements: in this many parts, of which `run.seed` says which one tests."""
    unseen: str | None = None
    """A collection that no client holds, to measure retrievers on."""
    test: str | None = None
    """On devices: the balanced test set (a name or folder); without it `global` figures are null."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _need(self.clients >= 1, "data.clients", self.clients, "at least 1")
        shares = self.split
        right = len(shares) == 3 and all(s >= 0 for s in shares) and shares[0] > 0 and math.isclose(sum(shares), 1)
        _need(right, "data.split", list(shares), "three shares (train, validation, test) that add up to 1")
        for key, known in (("partition", PARTITIONS), ("allocation", ALLOCATIONS)):
            if getattr(self, key) not in known:
                raise WrongInput(f"data.{key} is '{getattr(self, key)}'{nearest(getattr(self, key), known)}")
        _need(self.folds >= 2, "data.folds", self.folds, "at least 2")
        _need(self.alpha > 0, "data.alpha", self.alpha, "a number above 0")
        _need(0 < self.ratio <= 1, "data.ratio", self.ratio, "a share above 0 and at most 1")
        for key in ("classes", "shared", "clusters"):
            _need(getattr(self, key) >= 1, f"data.{key}", getattr(self, key), "at least 1")
        _need(0 <= self.skew < math.inf, "data.skew", self.skew, "a number, 0 or more")
        _need(self.primaries >= 1, "data.primaries", self.primaries, "at least 1")
        for key in ("test_limit", "limit", "per_client"):
            value = getattr(self, key)
            _need(value is None or value >= 1, f"data.{key}", value, "at least 1, or nothing for all")
        for key in ("public_size", "public_batch", "min_rows"):
            _need(getattr(self, key) >= 1, f"data.{key}", getattr(self, key), "at least 1")
        seen = self.encoder == "pixels" or self.encoder.startswith("train:") or "." in self.encoder
        _need(seen, "data.encoder", self.encoder, "pixels, train:<source>, a torchvision weight or /path.safetensors")
        _need(self.partition != "column" or bool(self.column), "data.column", self.column, "a column's name")


@dataclass(frozen=True)
class ModelConfig:
    """Which architecture a client has (section ``model``)."""

    name: Any = "cnn"
    """One architecture (`resnet8:0.5` for half the width), a named group or a list, cycled over the clients."""
    features: int | None = None
    """A common feature size, by projection; None: as the architecture has it."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _need(self.features is None or self.features >= 1, "model.features", self.features, "at least 1")


MOMENTS = ("heard", "trained", "aggregated")
ANNEALED = "annealed"  # the moment of an annealed copy, which `server.anneal_every` asks for


@dataclass(frozen=True)
class ServerConfig:
    """The round (section ``server``)."""

    rounds: int = 10
    """Rounds in all."""
    fraction: float = 1.0
    """Share of the clients that a round asks."""
    min_replies: int = 1
    """With this many replies the round goes on after `server.grace` seconds."""
    grace: float | None = None
    """Seconds to wait for stragglers once `server.min_replies` have come; None: until `server.timeout`."""
    timeout: float = 3600.0
    """Seconds after which a round goes on with the replies that have come."""
    evaluate_every: int = 1
    """Measure after every n-th round, and always after the last; 0: after the last alone."""
    evaluate: str | None = None
    """Moments to measure, of `heard`, `trained`, `aggregated`, with commas between; None: the method's own."""
    anneal_every: int = 0
    """After every n-th round also measure a copy of each client's model, trained on as the rate falls; 0: never."""
    nodes: int = 1
    """Start once this many nodes are there."""
    wait: float = 120.0
    """Give up when the nodes are not there after this many seconds."""
    allow: str | None = None
    """YAML file client id -> public key: only that key's node speaks for the client. None: first come, while there."""
    max_reply_mb: float = 512.0
    """A client's reply of more than this is left out."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _need(self.rounds >= 1, "server.rounds", self.rounds, "at least 1")
        _need(0 < self.fraction <= 1, "server.fraction", self.fraction, "a share above 0 and at most 1")
        _need(self.min_replies >= 1, "server.min_replies", self.min_replies, "at least 1")
        _need(self.grace is None or self.grace >= 0, "server.grace", self.grace, "seconds, 0 or more")
        _need(self.timeout > 0, "server.timeout", self.timeout, "seconds above 0")
        _need(self.evaluate_every >= 0, "server.evaluate_every", self.evaluate_every, "0 or more")
        _need(self.anneal_every >= 0, "server.anneal_every", self.anneal_every, "0 or more")
        _need(self.nodes >= 1, "server.nodes", self.nodes, "at least 1")
        _need(self.wait > 0, "server.wait", self.wait, "seconds above 0")
        _need(self.max_reply_mb > 0, "server.max_reply_mb", self.max_reply_mb, "MB (of 2^20 bytes) above 0")
        for moment in self.moments or ():
            if moment not in MOMENTS:
                raise WrongInput(f"server.evaluate has '{moment}'{nearest(moment, MOMENTS)}")

    @property
    def moments(self) -> tuple[str, ...] | None:
        """`server.evaluate` as moments; None: the method's own."""
        return None if self.evaluate is None else tuple(m.strip() for m in self.evaluate.split(",") if m.strip())


OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "exponential", "cosine", "infinite")
TRAINABLE = ("head", "lora", "last_layer", "all")
POOLS = ("model", "mean", "cls", "mean_all")


@dataclass(frozen=True)
class ClientConfig:
    """A client's learning (section ``client``)."""

    epochs: int = 1
    """Passes over the private data in a round."""
    steps: int | None = None
    """Mini-batches in a round instead; wins over `client.epochs`."""
    batch: int = 32
    """Samples a mini-batch."""
    lr: float = 0.01
    """Learning rate."""
    optimizer: str = "sgd"
    """`sgd`, `adam` or `adamw`."""
    momentum: float = 0.0
    """Momentum of `sgd`."""
    weight_decay: float = 0.0
    """Weight decay."""
    schedule: str = "constant"
    """Of the learning rate over rounds: `constant`, `exponential`, `cosine` (to 0 over the run) or `infinite`."""
    decay: float = 0.99
    """Factor a round of the `exponential` schedule."""
    warm_rounds: int = 2
    """Rounds in which `infinite` rises to `client.lr`, linearly."""
    cool_rounds: int = 10
    """Rounds after these in which `infinite` falls along a cosine."""
    plateau: float = 0.3
    """Share of `client.lr` at which `infinite` then stays."""
    anneal_rounds: int = 10
    """Rounds' worth of private training that an annealed copy (`server.anneal_every`) gets."""
    anneal_to: float = 0.01
    """Share of the round's learning rate that this ends with."""
    warmup: int = 0
    """Steps on private data before round one."""
    public_epochs: int = 1
    """Passes over the round's public samples when learning from what the server says."""
    public_steps: int | None = None
    """Mini-batches instead; wins over `client.public_epochs`."""
    public_batch: int = 64
    """Public samples a mini-batch."""
    objective: str = "kl"
    """The distillation loss, by name."""
    objective_args: dict[str, Any] = field(default_factory=dict)
    """Its arguments."""
    kd_weight: float = 1.0
    """Weight of the distilling term; 0 turns it off."""
    trainable: str = "head"
    """What of a retriever learns: `head` (a residual linear map), `lora`, `last_layer` or `all`."""
    pool: str = "model"
    """How a retriever pools tokens: `model` (as it says), `mean`, `cls`, or `mean_all` (padding, too)."""
    tau: float = 0.05
    """Temperature of a retriever's similarities in its loss."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for key in ("epochs", "public_epochs", "warmup", "momentum", "weight_decay", "kd_weight"):
            _need(getattr(self, key) >= 0, f"client.{key}", getattr(self, key), "0 or more")
        for key in ("steps", "public_steps"):
            value = getattr(self, key)
            _need(value is None or value >= 0, f"client.{key}", value, "0 or more, or nothing")
        for key in ("warm_rounds", "cool_rounds"):
            _need(getattr(self, key) >= 0, f"client.{key}", getattr(self, key), "0 or more")
        for key in ("plateau", "anneal_to"):
            _need(0 < getattr(self, key) <= 1, f"client.{key}", getattr(self, key), "a share above 0 and at most 1")
        for key in ("batch", "public_batch", "anneal_rounds"):
            _need(getattr(self, key) >= 1, f"client.{key}", getattr(self, key), "at least 1")
        _need(self.lr > 0, "client.lr", self.lr, "a number above 0")
        _need(0 < self.decay <= 1, "client.decay", self.decay, "a factor above 0 and at most 1")
        _need(self.tau > 0, "client.tau", self.tau, "a number above 0")
        kinds = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "trainable": TRAINABLE, "pool": POOLS}
        for key, known in kinds.items():
            if getattr(self, key) not in known:
                raise WrongInput(f"client.{key} is '{getattr(self, key)}'{nearest(getattr(self, key), known)}")
        objectives.named(self.objective, **self.objective_args)  # refuses unknown names and arguments

    @cached_property
    def loss(self) -> objectives.Objective:
        """The loss that `client.objective` names."""
        return objectives.named(self.objective, **self.objective_args)

    def bound(self, loss: objectives.Objective) -> Self:
        """Return these knobs with this loss in place of the one that they name; `dataclasses.replace` undoes it."""
        same = copy.copy(self)
        same.__dict__["loss"] = loss
        return same

    def distil(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return what ``loss`` makes of student and teacher [B, C], labels and weight [B]: a scalar."""
        return self.loss(student_logits, teacher_logprobs, labels, weight)

    def lr_at(self, round: int, rounds: int | None) -> float:
        """Return the learning rate of a round, counted from 1, of so many; None: nobody knows of how many.

        Raises
        ------
        WrongInput
            For `cosine` without a number of rounds.
        """
        if self.schedule == "exponential":
            share = schedules.exponential(round, rounds, decay=self.decay)
        elif self.schedule == "cosine":
            share = schedules.cosine(round, rounds)
        elif self.schedule == "infinite":
            share = schedules.infinite(
                round, rounds, warm=self.warm_rounds, cool=self.cool_rounds, plateau=self.plateau
            )
        else:
            share = schedules.constant(round, rounds)
        return self.lr * share


DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class RunConfig:
    """The run (section ``run``)."""

    seed: int = 0
    """Every random number is a function of it."""
    out: str | None = None
    """The folder that the run leaves behind."""
    resume: str | None = None
    """The folder of a run to go on with."""
    keep: bool = False
    """Keep the hosted clients' memory after the end."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:1`."""
    precision: str = "fp32"
    """`fp32`, or `bf16` (autocast)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.device.split(":")[0] not in DEVICES:
            raise WrongInput(f"run.device is '{self.device}'{nearest(self.device, DEVICES)}")
        if self.precision not in PRECISIONS:
            raise WrongInput(f"run.precision is '{self.precision}'{nearest(self.precision, PRECISIONS)}")


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "server": ServerConfig,
    "client": ClientConfig,
    "privacy": PrivacyConfig,
    "run": RunConfig,
}

"""Every knob: a dataclass default, the recipe's value over it, the user's ``set`` over that."""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError
from torch import Tensor
from yaml import YAMLError

from fd_flower.errors import WrongInput, nearest

T = TypeVar("T")


def _need(holds: bool, key: str, value: object, expected: str) -> None:
    """Refuse a value outside its range."""
    if not holds:
        raise WrongInput(f"{key} is {value!r}; expected {expected}")


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and who holds which (section ``data``)."""

    source: Any = "digits"
    """`digits`, a Hugging Face name, a folder of Parquet files, or a list of these with `data.partition=domain`."""
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
    """`iid`, `dirichlet`, `classes`, `quantity`, `column` or `domain`."""
    alpha: float = 0.3
    """Concentration of `dirichlet` (over labels) and `quantity` (over sizes)."""
    classes: int = 2
    """With `data.partition=classes`: classes a client holds."""
    public: str = "held-out"
    """`held-out`, a Hugging Face name, a folder, `noise` or `none`."""
    public_size: int = 2000
    """Public samples, at most; `held-out` takes at most a third of the training rows."""
    public_batch: int = 512
    """Public samples that a round is about: a fresh seeded subset each."""
    limit: int | None = None
    """Use at most this many training rows in all."""
    per_client: int | None = None
    """Use at most this many rows of each client."""
    min_rows: int = 10
    """The smallest client."""
    test: str | None = None
    """On devices: the balanced test set (a name or folder); without it `global` figures are null."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _need(self.clients >= 1, "data.clients", self.clients, "at least 1")
        shares = self.split
        right = len(shares) == 3 and all(s >= 0 for s in shares) and shares[0] > 0 and math.isclose(sum(shares), 1)
        _need(right, "data.split", list(shares), "three shares (train, validation, test) that add up to 1")
        kinds = ("iid", "dirichlet", "classes", "quantity", "column", "domain")
        if self.partition not in kinds:
            raise WrongInput(f"data.partition is '{self.partition}'{nearest(self.partition, kinds)}")
        _need(self.alpha > 0, "data.alpha", self.alpha, "a number above 0")
        _need(self.classes >= 1, "data.classes", self.classes, "at least 1")
        for key in ("test_limit", "limit", "per_client"):
            value = getattr(self, key)
            _need(value is None or value >= 1, f"data.{key}", value, "at least 1, or nothing for all")
        for key in ("public_size", "public_batch", "min_rows"):
            _need(getattr(self, key) >= 1, f"data.{key}", getattr(self, key), "at least 1")
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
    nodes: int = 1
    """Start once this many nodes are there."""
    wait: float = 120.0
    """Give up when the nodes are not there after this many seconds."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _need(self.rounds >= 1, "server.rounds", self.rounds, "at least 1")
        _need(0 < self.fraction <= 1, "server.fraction", self.fraction, "a share above 0 and at most 1")
        _need(self.min_replies >= 1, "server.min_replies", self.min_replies, "at least 1")
        _need(self.grace is None or self.grace >= 0, "server.grace", self.grace, "seconds, 0 or more")
        _need(self.timeout > 0, "server.timeout", self.timeout, "seconds above 0")
        _need(self.evaluate_every >= 0, "server.evaluate_every", self.evaluate_every, "0 or more")
        _need(self.nodes >= 1, "server.nodes", self.nodes, "at least 1")
        _need(self.wait > 0, "server.wait", self.wait, "seconds above 0")
        for moment in self.moments or ():
            if moment not in MOMENTS:
                raise WrongInput(f"server.evaluate has '{moment}'{nearest(moment, MOMENTS)}")

    @property
    def moments(self) -> tuple[str, ...] | None:
        """`server.evaluate` as moments; None: the method's own."""
        return None if self.evaluate is None else tuple(m.strip() for m in self.evaluate.split(",") if m.strip())


OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "exponential", "cosine")


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
    """Of the learning rate over rounds: `constant`, `exponential` (times `client.decay` a round), `cosine`."""
    decay: float = 0.99
    """Factor a round of the `exponential` schedule."""
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

    def __post_init__(self) -> None:
        """Check the ranges."""
        from fd_flower import objectives

        for key in ("epochs", "public_epochs", "warmup", "momentum", "weight_decay", "kd_weight"):
            _need(getattr(self, key) >= 0, f"client.{key}", getattr(self, key), "0 or more")
        for key in ("steps", "public_steps"):
            value = getattr(self, key)
            _need(value is None or value >= 0, f"client.{key}", value, "0 or more, or nothing")
        for key in ("batch", "public_batch"):
            _need(getattr(self, key) >= 1, f"client.{key}", getattr(self, key), "at least 1")
        _need(self.lr > 0, "client.lr", self.lr, "a number above 0")
        _need(0 < self.decay <= 1, "client.decay", self.decay, "a factor above 0 and at most 1")
        for key, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, key) not in known:
                raise WrongInput(f"client.{key} is '{getattr(self, key)}'{nearest(getattr(self, key), known)}")
        objectives.named(self.objective, **self.objective_args)  # refuses unknown names and arguments

    @cached_property
    def _distil(self) -> Any:
        from fd_flower import objectives

        return objectives.named(self.objective, **self.objective_args)

    def distil(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss that `client.objective` names, a scalar: student and teacher [B, C], weight [B]."""
        return self._distil(student_logits, teacher_logprobs, labels, weight)

    def lr_at(self, round: int, rounds: int) -> float:
        """Return the learning rate of a round, counted from 1."""
        if self.schedule == "exponential":
            return self.lr * self.decay ** (round - 1)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * (round - 1) / max(rounds, 1)))
        return self.lr


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


SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "server": ServerConfig,
    "client": ClientConfig,
    "run": RunConfig,
}


@dataclass(frozen=True)
class Settings:
    """A method and all of its knobs, merged."""

    method: str
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    client: ClientConfig = field(default_factory=ClientConfig)
    run: RunConfig = field(default_factory=RunConfig)
    task: str = ""

    def tree(self) -> dict[str, Any]:
        """Return everything as plain values, as ``config.yaml`` and the wire have it."""
        return asdict(self)

    @cached_property
    def text(self) -> str:
        """Everything as one line of JSON."""
        return json.dumps(self.tree(), sort_keys=True)

    @staticmethod
    @lru_cache(maxsize=64)
    def read(text: str) -> "Settings":
        """Read what ``text`` says back (the same object for the same text in one process)."""
        tree = json.loads(text)
        return _settings(tree.pop("method"), tree.pop("task"), tree)


def settings(method: str, changes: str | Sequence[str] = "", *, task: str = "", recipe: str | None = None) -> Settings:
    """Merge a method's knobs: defaults, then its recipe, then ``changes``.

    Parameters
    ----------
    method : str
        A file's stem in ``strategies`` and ``client_apps``.
    changes : str | Sequence[str]
        ``"data.alpha=0.1 server.rounds=20"`` or its words; a value with blanks takes double quotes.
    task : str
        ``package.module:name`` of the user's own task, if any.
    recipe : str | None
        Stem of another recipe, or a file, in place of the method's own.

    Raises
    ------
    WrongInput
        For an unknown method or key (names the nearest), a wrong type, or a value outside its range.
    """
    from fd_flower import methods

    try:
        words = shlex.split(changes) if isinstance(changes, str) else list(changes)
    except ValueError as error:
        raise WrongInput(f"set '{changes}' cannot be read: {error}") from None
    dotted = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise WrongInput(f"'{word}' says nothing: expected key=value, like server.rounds=20")
        if key == "recipe":
            recipe = value
        else:
            dotted.append(word)
    methods.check(method)
    resumed = next((_value(word) for word in dotted if word.startswith("run.resume=")), None)
    if resumed and recipe:
        raise WrongInput("recipe cannot be changed on resume; only server.rounds and run.device can")
    base = OmegaConf.create(read_resumed(resumed, method, dotted) if resumed else read_recipe(recipe or method))
    try:
        chosen = OmegaConf.from_dotlist(dotted)
        loss = OmegaConf.select(chosen, "client.objective")
        if loss is not None and loss != OmegaConf.select(base, "client.objective"):
            # The recipe's arguments are another loss's.
            OmegaConf.update(base, "client.objective_args", {}, merge=False, force_add=True)
        tree = OmegaConf.to_container(OmegaConf.merge(base, chosen), resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise WrongInput(f"set '{' '.join(dotted)}' cannot be read: {_first_line(error)}") from None
    if resumed:
        task = tree.pop("task")  # type: ignore[union-attr, call-overload, arg-type]
        tree["run"]["out"] = resumed  # type: ignore[index, call-overload]
    return _settings(method, str(task), tree)  # type: ignore[arg-type]


def _value(word: str) -> str:
    """Return what ``key=value`` says, its YAML quotes taken off."""
    return str(next(iter(OmegaConf.to_container(OmegaConf.from_dotlist([f"x={word.partition('=')[2]}"])).values())))  # type: ignore[union-attr]


def read_resumed(folder: str, method: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the run in a folder, of which only a few may be changed on resume.

    Raises
    ------
    WrongInput
        For a folder without a run, a run of another method, or a change of anything but `server.rounds` and
        `run.device`.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise WrongInput(f"run.resume: {folder} holds no run; expected the folder that a run left behind")
    tree = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(tree, dict) or tree.pop("method", None) != method:
        raise WrongInput(f"run.resume: {folder} holds a run of another method than '{method}'")
    tree.pop("run_key", None)
    for word in words:
        key = word.partition("=")[0]
        if key not in ("run.resume", "run.out", "server.rounds", "run.device"):
            raise WrongInput(f"{key} cannot be changed on resume; only server.rounds and run.device can")
    return tree  # type: ignore[return-value]


def read_recipe(name: str) -> dict[str, Any]:
    """Return a recipe's values: a stem in ``fd_flower/recipes`` or a YAML file."""
    folder = Path(__file__).with_name("recipes")
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = nearest(name, (p.stem for p in folder.glob("*.yaml")))
        raise WrongInput(f"there is no recipe '{name}'{known}")
    tree = OmegaConf.to_container(OmegaConf.load(path)) or {}
    if not isinstance(tree, dict):
        raise WrongInput(f"{path} holds {type(tree).__name__}; expected sections like 'client:' and 'server:'")
    return tree  # type: ignore[return-value]


def section(cls: type[T], name: str, values: dict[str, Any]) -> T:
    """Return the dataclass of one section with these values, types checked.

    Raises
    ------
    WrongInput
        For an unknown key (names the nearest), a wrong type, or a value outside its range.
    """
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    node = OmegaConf.structured(cls)
    OmegaConf.set_readonly(node, False)
    for key, value in values.items():
        try:
            OmegaConf.update(node, key, value)
        except (ConfigAttributeError, ConfigKeyError):
            raise WrongInput(f"there is no key '{name}.{key}'{nearest(key, known)}") from None
        except ValidationError as error:
            raise WrongInput(f"{name}.{key} is {value!r}: {_first_line(error)}") from None
    return cls(**OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]


def _settings(method: str, task: str, tree: dict[str, Any]) -> Settings:
    """Check a merged tree section by section."""
    from fd_flower import methods

    for name, values in tree.items():
        if name not in SECTIONS:
            raise WrongInput(f"there is no section '{name}'{nearest(name, SECTIONS)}")
        if values is not None and not isinstance(values, dict):
            raise WrongInput(f"'{name}' is {values!r}; expected keys like {name}.<key>=<value>")
    classes: dict[str, type] = {**SECTIONS, **{s: methods.config_class(method, s) for s in ("server", "client")}}
    return Settings(
        method, task=task, **{name: section(cls, name, tree.get(name) or {}) for name, cls in classes.items()}
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]

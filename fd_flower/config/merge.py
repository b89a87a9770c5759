"""A run's settings: a default (that of the data's kind), the recipe's value over it, the user's ``set`` over that."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from fd_flower import attacks, objectives
from fd_flower.config import registry
from fd_flower.config.attack import AttackConfig
from fd_flower.config.by_kind import usual
from fd_flower.config.client import ClientConfig
from fd_flower.config.data import DataConfig
from fd_flower.config.model import ModelConfig
from fd_flower.config.privacy import PrivacyConfig
from fd_flower.config.registry import read_recipe
from fd_flower.config.run import RunConfig
from fd_flower.config.sections import SECTIONS
from fd_flower.config.server import ServerConfig
from fd_flower.config.wire import WireConfig
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import section
from fd_flower.core.trees import check_plain, laid, read_file, read_words, within

CHANGEABLE = ("server.rounds", "server.patience", "server.min_delta", "run.device", "run.track")
"""Options that may be others in a resumed run."""


@dataclass(frozen=True)
class Settings:
    """A method and all of its options, merged."""

    method: str
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    client: ClientConfig = field(default_factory=ClientConfig)
    run: RunConfig = field(default_factory=RunConfig)
    task: str = ""
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    wire: WireConfig = field(default_factory=WireConfig)
    kinds: Mapping[str, Any] = field(default_factory=dict)
    """The sections of those kinds of task that the method can learn, by the kind's name."""

    def tree(self) -> dict[str, Any]:
        """Return everything as plain values, as ``config.yaml`` and the wire have it."""
        tree = asdict(self)
        return tree | tree.pop("kinds")

    def section(self, name: str) -> Any:
        """Return a section by its name."""
        return self.kinds[name] if name in self.kinds else getattr(self, name)

    @property
    def attackers(self) -> frozenset[str]:
        """Which simulated clients attack."""
        if self.attack.name == attacks.NONE:
            return frozenset()
        return attacks.chosen(self.data.clients, self.attack.fraction, self.run.seed)

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
    """Merge a method's options: defaults, those of the data's kind, then its recipe, then ``changes``.

    Parameters
    ----------
    method : str
        A file's stem in ``strategies`` and ``client_apps``, or of another package ``package.module:Class``, or the name
        that an entry point gives it; the settings have the full name.
    changes : str | Sequence[str]
        ``"data.alpha=0.1 server.rounds=20"`` or its words; a value with blanks takes double quotes.
    task : str
        ``package.module:name`` of the user's own task, if any.
    recipe : str | None
        Stem of another recipe, or a file, in place of the method's own.

    Raises
    ------
    InvalidInputError
        For an unknown method or key (names the nearest), a wrong type, or a value outside its range.
    """
    try:
        words = shlex.split(changes) if isinstance(changes, str) else list(changes)
    except ValueError as error:
        raise InvalidInputError(f"set '{changes}' cannot be read: {error}") from None
    dotted = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidInputError(f"'{word}' says nothing: expected key=value, like server.rounds=20")
        if key == "recipe":
            recipe = value
        else:
            dotted.append(word)
    method = registry.full_name(method)
    resumed = next((_value(word) for word in dotted if word.startswith("run.resume=")), None)
    if resumed and recipe:
        raise _unchangeable("recipe")
    base = read_resumed(resumed, method, dotted) if resumed else read_recipe(recipe or method)
    chosen = read_words(dotted)
    check_plain(chosen)
    loss = within(chosen, "client").get("objective")
    if loss is not None and loss != within(base, "client").get("objective"):
        client = {**within(base, "client"), "objective_args": {}}  # the recipe's arguments are another loss's
        base = {**base, "client": client}
    tree = laid(base, chosen)
    if not resumed:
        tree = laid(usual(tree, task), tree)
    else:
        task = str(tree.pop("task", ""))
        tree = laid(tree, {"run": {"out": resumed}})
    try:
        found = _settings(method, task, tree)
    except InvalidInputError as error:
        owner = registry.RECIPES_OF.get(recipe, recipe) if recipe else method
        if owner == method or owner not in registry.names():
            raise
        raise InvalidInputError(f"{error}; the recipe '{recipe}' is of {owner}, not of {method}") from None
    if found.data.task == "language" and loss in objectives.names():
        raise InvalidInputError(
            f"client.objective is {loss}, which compares classes, and language models have none: leave it out"
        )
    return found


def _value(word: str) -> str:
    """Return what ``key=value`` says, its YAML quotes taken off."""
    return str(read_words([f"x={word.partition('=')[2]}"])["x"])


def read_resumed(folder: str, method: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the run in a folder, of which only a few may be changed on resume.

    Raises
    ------
    InvalidInputError
        For a folder without a run, a run of another method, or a change of anything but ``CHANGEABLE``.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise InvalidInputError(f"run.resume: {folder} holds no run; expected the folder of a run")
    tree = read_file(path)
    if tree.pop("method", None) != method:
        raise InvalidInputError(f"run.resume: {folder} holds a run of another method than '{method}'")
    tree.pop("run_key", None)
    for word in words:
        key = word.partition("=")[0]
        if key not in ("run.resume", "run.out", *CHANGEABLE):
            raise _unchangeable(key)
    return tree


def _unchangeable(key: str) -> InvalidInputError:
    able = f"{', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]}"
    return InvalidInputError(f"{key} cannot be changed on resume; only {able} can")


def _settings(method: str, task: str, tree: dict[str, Any]) -> Settings:
    """Check a merged tree section by section."""
    kinds = registry.kind_configs(method)
    classes = {**SECTIONS, **{s: registry.config_class(method, s) for s in ("server", "client")}, **kinds}
    for name, values in tree.items():
        if name not in classes and name in registry.kinds():
            raise InvalidInputError(f"{method} cannot learn {name}: leave the options of '{name}' out")
        if name not in classes:
            raise InvalidInputError(f"there is no section '{name}'{nearest(name, classes)}")
        if values is not None and not isinstance(values, dict):
            raise InvalidInputError(f"'{name}' is {values!r}; expected keys like {name}.<key>=<value>")
    made: dict[str, Any] = {name: section(cls, name, tree.get(name) or {}) for name, cls in classes.items()}
    return Settings(method, task=task, kinds={name: made.pop(name) for name in kinds}, **made)

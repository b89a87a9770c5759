"""The command that repeats a run."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from fd_flower import config
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.trees import reads_back

HERE_ALONE = ("run.out", "run.resume", "run.keep", "run.track")  # say where a run lives, not what it computes


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"data.alpha": 0.3, ...}``: every value of a tree by its dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def changes(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from the method's recipe: all of them where the method is not installed here."""
    try:
        usual = flatten(config.settings(tree["method"], task=tree.get("task") or "").tree())
    except InvalidInputError:
        usual = {}
    flat = {key: value for key, value in flatten(tree).items() if key not in ("method", "task", *HERE_ALONE)}
    return {key: value for key, value in flat.items() if key not in usual or usual[key] != value}


def command(tree: Mapping[str, Any], engine: str = "local") -> str:
    """Return the command line that repeats a run of these settings in ``local``, ``simulation`` or ``deployment``.

    It is given in the directory that a user's own task is imported from. What nodes with an app of their own hold has
    no name: the user's ServerApp repeats such a run, and this is stated in place of a command.
    """
    unnamed = not tree["task"] and "source" not in tree["data"]
    changed = {key: value for key, value in changes(tree).items() if not (unnamed and key.startswith("model."))}
    words = " ".join(_word(key, value) for key, value in changed.items())
    if unnamed:
        return f"# The data are the nodes' own: run your ServerApp again, {tree['method']} with {words or 'its recipe'}"
    if engine == "deployment":
        keys = {"method": tree["method"], "set": words, "task": tree["task"]}
        pairs = " ".join(f"{key}='{value}'" for key, value in keys.items() if value)
        return f"flwr run . --run-config {_in_double_quotes(pairs)}"
    task = ["--task", tree["task"]] if tree["task"] else []
    parts = ["fd-flower", "run", tree["method"], *task, *(["--set", shlex.quote(words)] if words else [])]
    return " ".join(parts if engine == "local" else [*parts, "--engine", "flower"])


def _word(key: str, value: Any) -> str:
    """Return ``key=value`` as `config.settings` reads it; double quotes keep blanks together."""
    if not isinstance(value, str):
        return f"{key}={json.dumps(value, separators=(',', ':'))}"
    text = value if reads_back(value) else "'" + value.replace("'", "''") + "'"
    return f'{key}="{text}"' if shlex.quote(text) != text else f"{key}={text}"


def _in_double_quotes(text: str) -> str:
    """Quote for a shell text that has single quotes of its own."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'

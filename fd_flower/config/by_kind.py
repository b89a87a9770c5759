"""Defaults that follow the kind of the data: they stand over the dataclasses' own, below recipe and user."""

from collections.abc import Mapping
from typing import Any

from fd_flower.config import registry
from fd_flower.core.trees import laid, within
from fd_flower.models import is_text


def usual(tree: Mapping[str, Any], task: str = "") -> dict[str, Any]:
    """Return the defaults of ``data`` and ``model`` that follow from what is chosen.

    A list of sources is partitioned by source, rows with ``data.column`` by it, questions and documents as their
    kind says; a user's own task has its own model. ``data.task`` names a kind that no source tells.

    Parameters
    ----------
    tree : Mapping[str, Any]
        What recipe and user choose.
    task : str
        The user's own task; "": there is none.
    """
    data = within(tree, "data")
    source = None if task else data.get("source")
    listed = isinstance(source, list)
    sources = source if isinstance(source, list) else [source]
    named = data.get("task")
    kind = registry.kind_of([name for name in sources if isinstance(name, str)])
    if named in registry.kinds():
        kind = registry.kind_config(named)
    if data.get("features") or data.get("categories"):
        kind = registry.kind_config("tabular")
    elif kind is None and (data.get("text") or _reads_texts(within(tree, "model").get("name"))):
        kind = registry.kind_config("text")  # of devices, on the hub, or of a task of the user's own
    found: Mapping[str, Any] = {"model": {"name": ""}} if task else {}
    if kind is not None:
        found = laid(found, kind.usual(tree) if callable(kind.usual) else kind.usual)
    partition = "domain" if listed else "column" if data.get("column") else None
    return laid(found, {"data": {"partition": partition}} if partition else {})


def _reads_texts(name: Any) -> bool:
    names = name if isinstance(name, list) else [name]
    return bool(name) and all(isinstance(one, str) and is_text(one) for one in names)

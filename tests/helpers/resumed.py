"""Runs that are cut off and resumed, and what they come to."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fd_flower.config import Settings, settings
from fd_flower.results import RunFolder
from fd_flower.server.checkpoint import FILE

from .tiny import figures, toy_settings

STEADY = {"fedkd": "server.energy_start=0.95 server.energy_end=0.95"}
"""A schedule that ends with the run would make one with more rounds another from its start on."""


def started(method: str, folder: Path, rounds: int, changes: str = "") -> Settings:
    steady = f"client.schedule=constant {STEADY.get(method, '')}"
    return toy_settings(method, f"{steady} run.out={folder} server.rounds={rounds} {changes}")


def again(method: str, folder: Path, changes: str = "") -> Settings:
    return settings(method, f"run.resume={folder} {changes}")


def outcome(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, torch.Tensor]]:
    """Return a run's figures, what its summary says of them, and its checkpoint."""
    run = RunFolder.open(folder)
    summary = {key: run.summary[key] for key in ("accuracy", "retrieval", "calibration", "bytes") if key in run.summary}
    summary["bytes"].pop("wire", None)
    return figures(run.lines()), summary, load_file(folder / FILE)


def assert_same(folder: Path, other: Path) -> None:
    lines, summary, knowledge = outcome(folder)
    lines_of_other, summary_of_other, knowledge_of_other = outcome(other)
    assert lines == lines_of_other
    assert summary == summary_of_other
    assert knowledge.keys() == knowledge_of_other.keys()
    assert all(torch.equal(knowledge[key], knowledge_of_other[key]) for key in knowledge)

"""The folder that a run leaves behind."""

import json
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from filelock import FileLock
from omegaconf import OmegaConf

from fd_flower.config import DataConfig, Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.lock import locked
from fd_flower.core.storage import flush, reason, replace_file
from fd_flower.core.trees import read_file
from fd_flower.results.summary import summarize

RUN_KEY = re.compile("[0-9a-f]{16}")
CONFIG, LINES, SUMMARY, CURVES, REPORT = "config.yaml", "rounds.jsonl", "summary.json", "curves.png", "report.html"


class RunFolder:
    """A run's ``config.yaml`` and ``rounds.jsonl`` as it goes; summary, curves and report at its end.

    Made by `create` for a new run, by `open` for one that exists.

    Attributes
    ----------
    path : Path
        The folder.
    config : dict[str, Any]
        The merged settings as plain values.
    run_key : str
        The key of the clients' memory.
    left_out : frozenset[str]
        Options of ``data`` that say nothing of this run's data, which are a user's own: they are not written.
    """

    def __init__(self, path: Path, config: dict[str, Any], run_key: str, left_out: Collection[str] = ()):
        self.path = path
        self.left_out = frozenset(left_out)
        self.config = self._of_its_data(config)
        self.run_key = run_key
        self._lock: FileLock | None = None

    @classmethod
    def create(cls, path: str | Path, settings: Settings, run_key: str, left_out: Collection[str] = ()) -> "RunFolder":
        """Begin a run in a folder of its own, which is locked until its release; ``left_out`` as the attribute.

        Raises
        ------
        InvalidInputError
            Where the folder already holds a run, or cannot be written.
        """
        folder = cls(Path(path), settings.tree(), run_key, left_out)
        writable(folder.path)
        folder.lock()
        try:
            need_no_run(folder.path)
            folder._write_config()
        except BaseException:
            folder.release()
            raise
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open the folder of a run, finished or not.

        Raises
        ------
        InvalidInputError
            Where the folder holds no run.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            raise InvalidInputError(f"{path} holds no run (it has no {CONFIG}): expected the folder of a run")
        config = read_file(path / CONFIG)
        if not {"run_key", "method"} <= config.keys():
            raise InvalidInputError(
                f"{path / CONFIG} is no run's: expected 'method', 'run_key' and the sections of the options"
            )
        run_key = config.pop("run_key")
        if not (isinstance(run_key, str) and RUN_KEY.fullmatch(run_key)):
            raise InvalidInputError(f"{path / CONFIG} has the run_key {run_key!r}; expected 16 hexadecimal digits")
        written = config.get("data") or {}
        return cls(path, config, run_key, {f.name for f in fields(DataConfig)} - written.keys())

    def lock(self) -> None:
        """Keep other runs out of the folder; InvalidInputError where one is in it."""
        self._lock = locked(self.path)

    def release(self) -> None:
        """Let other runs in."""
        if self._lock is not None:
            self._lock.release()

    @cached_property
    def settings(self) -> Settings:
        """The merged settings, checked against the method's options."""
        return Settings.read(json.dumps(self.config, sort_keys=True))

    def update(self, settings: Settings) -> None:
        """Write the settings again: a resumed run may have more rounds, or another device."""
        self.config = self._of_its_data(settings.tree())
        self.settings = settings
        self._write_config()

    def _of_its_data(self, config: dict[str, Any]) -> dict[str, Any]:
        data = {key: value for key, value in (config.get("data") or {}).items() if key not in self.left_out}
        return {**config, "data": data}

    def _write_config(self) -> None:
        replace_file(self.path / CONFIG, OmegaConf.to_yaml(OmegaConf.create({"run_key": self.run_key, **self.config})))

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines to ``rounds.jsonl``: one write, after which they are on the disk."""
        new = not (self.path / LINES).exists()
        with (self.path / LINES).open("a+b") as file:
            end = file.tell()
            file.seek(max(end - 1, 0))
            if file.read(1) not in (b"\n", b""):  # what a killed process left must not run into what comes now
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write("".join(map(as_line, lines)).encode())
            file.flush()
            os.fsync(file.fileno())
        if new:
            flush(self.path)

    def lines(self) -> list[dict[str, Any]]:
        """Read ``rounds.jsonl``; a last line without its end is what a killed process left and does not count.

        Raises
        ------
        InvalidInputError
            Where another line cannot be read.
        """
        path = self.path / LINES
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise InvalidInputError(f"{path} cannot be read: {reason(error)}") from None
        lines = []
        for number, line in enumerate(text.split("\n")[:-1], start=1):
            try:
                read = json.loads(line)
            except (ValueError, RecursionError):
                read = None
            if not isinstance(read, dict) or type(read.get("round")) is not int:
                raise InvalidInputError(
                    f"{path} line {number} is no line of a run, JSON with a round: the file was changed, mend it"
                )
            lines.append(read)
        return lines

    def cut(self, after_round: int, *, ended: bool = False) -> None:
        """Drop the lines of later rounds and what was made at the end; closing lines too, unless the run has ended."""
        kept = [line for line in self.lines() if line["round"] <= after_round and (ended or not line.get("closing"))]
        replace_file(self.path / LINES, "".join(map(as_line, kept)))
        for name in (SUMMARY, CURVES, REPORT):
            (self.path / name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete a run without a finished round from its folder."""
        (self.path / CONFIG).unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: one that was interrupted has a summary and continues."""
        return (self.path / SUMMARY).is_file() and not self.summary.get("interrupted")

    @property
    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says.

        Raises
        ------
        InvalidInputError
            Where the run is not finished, unless it was interrupted.
        """
        if not (self.path / SUMMARY).is_file():
            raise InvalidInputError(
                f"{self.path} has no {SUMMARY}: the run is not finished, resume it with run.resume={self.path}"
            )
        try:
            summary = json.loads((self.path / SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidInputError(f"{self.path / SUMMARY} cannot be read: {reason(error)}") from None
        if not isinstance(summary, dict):
            raise InvalidInputError(f"{self.path / SUMMARY} holds {type(summary).__name__}; expected a run's summary")
        return summary

    def finish(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``summary.json`` and return the summary; ``facts`` are those of ``summarize``."""
        summary = finite(summarize(self.lines(), facts))
        replace_file(self.path / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
        return summary


def need_no_run(path: Path) -> None:
    """Refuse a folder that holds a run."""
    if any((path / name).exists() for name in (CONFIG, LINES)):
        raise InvalidInputError(
            f"{path} already holds a run: resume it with run.resume={path}, or name another run.out"
        )


def writable(path: Path) -> None:
    """Make a folder where there is none; InvalidInputError where nothing can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path, prefix=".", suffix=".try"):
            pass
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be written ({reason(error)}): name another folder by run.out") from None


def as_line(values: Mapping[str, Any]) -> str:
    """Return a line of ``rounds.jsonl``; one that was read makes the same text again."""
    return json.dumps(finite(values), allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Put None where a number is not finite: JSON has no word for it, and a figure that diverged is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value

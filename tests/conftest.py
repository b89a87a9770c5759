"""What several test files need."""

import gc
import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.drawing import draw, undrawn

from fd_flower import engine
from fd_flower.client import steps, turn
from fd_flower.data import clients, images
from fd_flower.results import report
from fd_flower.server import host_grid
from fd_flower.server.method import Method
from fd_flower.training import Plan, loop


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return the folder of a real data set by its name; skip the test where there is none."""
    root = Path(os.environ.get("FD_FLOWER_DATA") or Path(__file__).parents[2] / "shared" / "data")

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"needs the data set {name} in {root} (or in $FD_FLOWER_DATA)")
        return (root / name).resolve()

    return find


@pytest.fixture
def single_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let methods that need no more than the sum of their clients' replies get each of them, too."""
    monkeypatch.setattr(Method, "takes_sum", lambda self: False)


@pytest.fixture(scope="module")
def fresh_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decode and partition anew, whatever earlier versions of the code left in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FD_FLOWER_CACHE", str(folder))
        clients._federation.cache_clear()
        images._load.cache_clear()
        yield folder


@pytest.fixture(scope="session")
def write_parquet() -> Callable[..., Path]:
    """Write images [N, height, width(, 3)] and labels as Parquet in the hub's manner."""
    from datasets import ClassLabel, Dataset, Features, Image, Value
    from PIL import Image as Pil

    def write(
        folder: Path,
        images: np.ndarray | list[np.ndarray],
        labels: list[int] | np.ndarray,
        *,
        split: str = "train",
        classes: int = 10,
        image: str = "image",
        writer: list[str] | None = None,
    ) -> Path:
        files = []
        for pixels in images:
            file = io.BytesIO()
            Pil.fromarray(pixels).save(file, "PNG")
            files.append({"bytes": file.getvalue(), "path": None})
        columns: dict[str, object] = {image: files, "label": [int(label) for label in labels]}
        features = {image: Image(), "label": ClassLabel(names=[str(number) for number in range(classes)])}
        if writer is not None:
            columns["writer"], features["writer"] = writer, Value("string")
        folder.mkdir(parents=True, exist_ok=True)
        rows = Dataset.from_dict(columns, features=Features(features))
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        return folder

    return write


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log nothing: a thousand refusals that are expected are a thousand warnings."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def _undrawn() -> Iterator[None]:
    with undrawn():
        yield


@pytest.fixture(scope="session", autouse=True)
def _unhurried() -> Iterator[None]:
    """Take what saves time and changes nothing: a thousand waits for nodes that are all here, and looks for garbage
    among the modules that were imported.
    """
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_grid, "PAUSE", 0.001)
        yield
    gc.unfreeze()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw at the end of every run."""
    monkeypatch.setattr(report, "draw", draw)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write down which folders runs are played in."""
    played, folders = engine.run, []

    def noted(settings, *, out, on_line):
        folders.append(Path(out).name)
        return played(settings, out=out, on_line=on_line)

    monkeypatch.setattr(engine, "run", noted)
    return folders


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Note how turns train."""
    seen: list[Plan] = []

    def train(*args: Any, plan: Plan, **more: Any) -> float:
        seen.append(plan)
        return loop.train(*args, plan=plan, **more)

    for module in (steps, turn):
        monkeypatch.setattr(module, "train", train)
    return seen

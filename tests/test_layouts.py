"""Layouts of folders and files: what is read as what, and what is refused with what was found."""

import io
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.data import device_data, federation, read
from fd_flower.data.source import locate

pytestmark = pytest.mark.usefixtures("fresh_cache")


def images(folder: Path, count: int = 3, ending: str = "png") -> None:
    """Write gray images of the value of their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", (4, 4), number).save(folder / f"{number}.{ending}")


def rows(labels: list[int], names: tuple[str, ...] = ("cat", "dog")) -> "object":
    """Return rows of ``datasets`` with an image and a ClassLabel."""
    import datasets

    datasets.disable_progress_bars()
    files = []
    for number in range(len(labels)):
        file = io.BytesIO()
        Image.new("L", (4, 4), number).save(file, "PNG")
        files.append({"bytes": file.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_dict({"image": files, "label": labels}, features=features)


def parquet(path: Path, labels: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows(labels).to_parquet(path)


# --- class folders


@pytest.mark.parametrize(
    ("train", "test"), [("Training", "Testing"), ("train", "test"), ("TRAIN", "eval"), ("training", "Evaluation")]
)
def test_spellings_of_splits_are_understood_in_any_case(tmp_path, train, test):
    for split, count in ((train, 3), (test, 1)):
        images(tmp_path / split / "cat", count)
        images(tmp_path / split / "dog", count)
    for split, labels in (("train", [0, 0, 0, 1, 1, 1]), ("test", [0, 1])):
        found = read(str(tmp_path), DataConfig(), split)
        assert (found.class_names, found.labels.tolist()) == (("cat", "dog"), labels)


@pytest.mark.parametrize("spelling", ["val", "valid", "Validation", "dev"])
def test_validation_rows_are_said_to_be_unused(tmp_path, spelling, caplog):
    for split in ("train", spelling, "test"):
        images(tmp_path / split / "cat", 12)
        images(tmp_path / split / "dog", 12)
    assert locate(str(tmp_path)).splits() == ("train", "validation", "test")
    with caplog.at_level(logging.WARNING, logger="flwr"):
        federation(DataConfig(source=str(tmp_path), clients=2, partition="iid", public="none"), 0)
    assert f"{tmp_path}: validation rows are not used" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="flwr"):
        device_data(str(tmp_path), DataConfig(), 0, "a")
    assert f"{tmp_path}: validation and test rows are not used, a device's parts are cut" in caplog.text


def test_a_class_may_be_called_like_a_split(tmp_path):
    images(tmp_path / "train")
    images(tmp_path / "bus")
    assert read(str(tmp_path), DataConfig()).class_names == ("bus", "train")


def test_what_systems_and_tools_leave_behind_is_skipped(tmp_path):
    for name in ("cat", "dog"):
        images(tmp_path / name)
    for folder in (tmp_path, tmp_path / "cat"):
        for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", "cat.dvc", "dvc.lock", ".gitkeep", "0.png~"):
            (folder / name).write_text("left behind")
        for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
            images(folder / name)
    found = read(str(tmp_path), DataConfig())
    assert (found.class_names, len(found.x)) == (("cat", "dog"), 6)


def _hospitals(folder: Path) -> None:
    for hospital in ("north", "south"):
        for name in ("cat", "dog"):
            images(folder / hospital / name)


def _unread(folder: Path) -> None:
    images(folder / "cat", 30)
    images(folder / "dog", 30, "gif")
    (folder / "dog" / "scan").write_text("")


def _broken(folder: Path) -> None:
    images(folder / "cat")
    (folder / "cat" / "2.png").write_text("no image")


def _truncated(folder: Path) -> None:
    images(folder / "cat")
    whole = (folder / "cat" / "2.png").read_bytes()
    (folder / "cat" / "2.png").write_bytes(whole[:-20])


def _sixteen_bit(folder: Path) -> None:
    images(folder / "cat")
    Image.fromarray(np.full((4, 4), 4000, dtype=np.uint16)).save(folder / "cat" / "2.png")


def _wrapped(folder: Path) -> None:
    for split in ("train", "test"):
        images(folder / "archive" / split / "cat")


def _flat_test(folder: Path) -> None:
    images(folder / "train" / "cat")
    images(folder / "test")


def _split_and_class(folder: Path) -> None:
    images(folder / "train" / "cat")
    images(folder / "dog")


def _twice(folder: Path) -> None:
    images(folder / "train" / "cat")
    images(folder / "Training" / "cat")


def _beside(folder: Path) -> None:
    images(folder)
    images(folder / "cat")


def _inside(folder: Path) -> None:
    images(folder / "cat")
    images(folder / "cat" / "more")
    images(folder / "dog")


def _arrays(folder: Path) -> None:
    for name in ("a.npz", "b.npz", "README.md"):
        (folder / name).write_text("")


def _several(folder: Path) -> None:
    parquet(folder / "fine" / "train" / "0000.parquet", [0, 1])
    parquet(folder / "coarse" / "train" / "0000.parquet", [0, 1])


def _unnamed(folder: Path) -> None:
    parquet(folder / "train.parquet", [0, 1])
    parquet(folder / "more.parquet", [0, 1])


def _no_split(folder: Path) -> None:
    parquet(folder / "more.parquet", [0, 1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            _hospitals,
            "holds north/, south/ with folders in them (cat/, dog/), not images alone: expected <class>/<image>",
        ),
        (_hospitals, "data.source=[HERE/north,HERE/south] data.partition=domain"),
        (_wrapped, "holds archive/ with folders in them (test/, train/), not images alone: give HERE/archive"),
        (_inside, "holds cat/ with folders in them (more/), not images alone"),
        (_flat_test, "holds train/ with folders in them next to test/ with 3 .png"),
        (_split_and_class, "holds train/ with folders in them next to dog/ with 3 .png"),
        (_twice, "holds Training/ and train/: expected one train/"),
        (_beside, "holds 3 .png next to its class folders"),
        (images, "holds 3 images and no folder a class"),
        (_unread, "holds 31 files that are not read as images next to 30 that are: 30 .gif, 1 without an ending (like"),
        (_broken, "HERE/cat/2.png: cannot identify image file"),
        (_truncated, "has an image that cannot be read, HERE/cat/2.png"),
        (_sixteen_bit, "has an image of mode I;16, HERE/cat/2.png: expected 8 bits"),
        (_arrays, "but 2 .npz, 1 .md: expected train-*.parquet, or class folders"),
        (_several, "holds several sets of Parquet files (HERE/coarse, HERE/fine): give the folder of one"),
        (_unnamed, "HERE/more.parquet names no split, like train.parquet"),
        (_no_split, "holds more.parquet, whose name is no split's"),
    ],
)
def test_a_layout_that_is_not_read_is_refused_with_what_was_found(tmp_path, make: Callable[[Path], None], words):
    make(tmp_path)
    with pytest.raises(InvalidInputError, match=re.escape(words.replace("HERE", str(tmp_path)))) as caught:
        read(str(tmp_path), DataConfig())
    assert "\n" not in str(caught.value)


def test_hospitals_are_read_as_domains(tmp_path):
    for hospital in ("north", "south"):
        for name in ("cat", "dog"):
            images(tmp_path / hospital / name, 15)
    sources = [str(tmp_path / "north"), str(tmp_path / "south")]
    fed = federation(DataConfig(source=sources, partition="domain", clients=2, public="none"), 0)
    assert fed.class_names == ("cat", "dog")


# --- what the hub and `datasets` write


@pytest.mark.parametrize("where", ["data/{}-00000-of-00001", "default/{}/0000", "{}/0000", "{}", "{}-part1"])
def test_the_hubs_layouts_of_parquet_are_read(tmp_path, where):
    parquet(tmp_path / f"{where.format('train')}.parquet", [0, 1, 1])
    parquet(tmp_path / f"{where.format('test')}.parquet", [1])
    parquet(tmp_path / "data" / "unsupervised-00000-of-00001.parquet", [0])  # a split of another name
    assert locate(str(tmp_path)).splits() == ("train", "test")
    assert read(str(tmp_path), DataConfig()).labels.tolist() == [0, 1, 1]
    assert read(str(tmp_path), DataConfig(), "test").labels.tolist() == [1]


def test_saved_data_sets_are_read(tmp_path):
    import datasets

    rows([0, 1, 1]).save_to_disk(str(tmp_path / "one"))
    both = datasets.DatasetDict(training=rows([0, 1]), valid=rows([1]), test=rows([1, 1]))
    both.save_to_disk(str(tmp_path / "several"))
    one = read(str(tmp_path / "one"), DataConfig())
    assert (one.labels.tolist(), one.class_names, one.x[:, 0, 0, 0].tolist()) == ([0, 1, 1], ("cat", "dog"), [0, 1, 2])
    assert locate(str(tmp_path / "several")).splits() == ("train", "validation", "test")
    assert read(str(tmp_path / "several"), DataConfig(), "test").labels.tolist() == [1, 1]


def test_a_saved_data_set_that_is_written_anew_is_read_anew(tmp_path):
    rows([0, 1, 1]).save_to_disk(str(tmp_path))
    assert read(str(tmp_path), DataConfig()).labels.tolist() == [0, 1, 1]
    rows([1, 0]).save_to_disk(str(tmp_path))
    assert read(str(tmp_path), DataConfig()).labels.tolist() == [1, 0]


def test_a_saved_data_set_that_is_broken_is_one_line(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="cannot be read as what save_to_disk wrote") as caught:
        read(str(tmp_path), DataConfig())
    assert "\n" not in str(caught.value)


# --- CSV


def test_the_line_that_converts_tables_of_paths_converts_them(tmp_path):
    folder = tmp_path / "own"
    images(folder)
    (folder / "train.csv").write_text("file,label\n0.png,cat\n1.png,dog\n2.png,cat\n")
    (folder / "test.csv").write_text("file,label\n1.png,dog\n")
    with pytest.raises(InvalidInputError, match=f"cannot be read directly; give {folder}-images, which") as caught:
        read(str(folder), DataConfig())
    assert "\n" not in str(caught.value)
    line = re.search(r'python -c "(.*)"', str(caught.value)).group(1)
    subprocess.run([sys.executable, "-c", line], cwd=folder, check=True, capture_output=True)
    for split, labels, values in (("train", [0, 1, 0], [0, 1, 2]), ("test", [0], [1])):
        found = read(f"{folder}-images", DataConfig(label="label"), split)
        assert (found.labels.tolist(), found.x[:, 0, 0, 0].tolist()) == (labels, values)


def test_a_table_in_a_folder_names_a_split(tmp_path):
    (tmp_path / "patients.csv").write_text("f1,f2,label\n0.1,2,cat\n")
    with pytest.raises(InvalidInputError, match=r"names no split: call it train.csv or test.csv, or give the file"):
        read(str(tmp_path), DataConfig())


# --- the column of clients


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_a_row_without_a_value_in_the_column_of_clients_is_refused(tmp_path, missing):
    values = [1.5, missing, 2.5, missing] if isinstance(missing, float) else ["ann", missing, "bob", missing]
    held = rows([0, 1, 0, 1]).add_column("writer", values)
    held.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InvalidInputError, match=r"2 rows without a value in data.column=writer \(the first is row 1\)"):
        read(str(tmp_path), DataConfig(), column="writer")

"""``fd-flower convert htfllib``: what HtFLlib and PFLlib wrote becomes a source, and no pickle runs, here or as one."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fd_flower.cli import main
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.data import federation, htfllib

SIZES = {"0": (12, 4), "1": (20, 5), "10": (15, 3)}
"""Client -> rows for training and for testing."""


def rows(client: str, count: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([int(client), count])
    x = rng.integers(0, 256, (count, *shape))
    return {"x": (x / 127.5 - 1).astype(np.float32), "y": np.arange(count) % 3}


def written(folder: Path, shape: tuple[int, ...] = (1, 4, 4)) -> Path:
    """Write a data set as their ``save_file`` does."""
    for split, place in (("train", 0), ("test", 1)):
        (folder / split).mkdir(parents=True)
        for client, sizes in SIZES.items():
            with (folder / split / f"{client}.npz").open("wb") as file:
                np.savez_compressed(file, data=rows(client, sizes[place], shape))
    (folder / "config.json").write_text(json.dumps({"num_clients": 3, "num_classes": 4, "partition": "dir"}))
    return folder


def test_the_files_become_images_with_their_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    written(tmp_path / "mnist")
    assert main(["convert", "htfllib", str(tmp_path / "mnist"), str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "these files are pickles, which can run programs" in said.err
    assert "3 clients, 47 train, 12 test rows, images [1, 4, 4]" in said.out
    assert said.out.splitlines()[-1] == str(tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "train.parquet")
    assert table["client"].to_pylist() == ["0"] * 12 + ["1"] * 20 + ["10"] * 15
    first = np.asarray(Image.open(io.BytesIO(table["image"][0].as_py()["bytes"])))
    assert (first == ((rows("0", 12, (1, 4, 4))["x"][0, 0] + 1) * 127.5).round()).all()
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"] == list("0123")


def test_a_run_has_the_clients_and_their_own_test_rows(tmp_path: Path):
    htfllib.convert(written(tmp_path / "mnist"), tmp_path / "out")
    words = f"data.source={tmp_path / 'out'} data.column=client data.clients=3 data.own_test=true data.public=none"
    held = federation(settings("fd", words).data, 0)
    found = [(len(d.train) + len(d.validation), len(d.test)) for d in map(held.data, held.clients)]
    assert sorted(found) == sorted(SIZES.values())
    assert len(held.test) == 12


def test_what_is_no_image_keeps_its_numbers(tmp_path: Path):
    made = htfllib.convert(written(tmp_path / "har", (5,)), tmp_path / "out")
    assert (made.images, made.clients, made.smallest) == (False, 3, 12)
    table = pq.read_table(tmp_path / "out" / "test.parquet")
    np.testing.assert_array_equal(table["x"].to_pylist()[:4], rows("0", 4, (5,))["x"])


# --- files that are not what they say


class Evil:
    """What a file's author may put into a pickle: a program."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


def evil(path: Path, proof: Path, *, whole: bool = False) -> Path:
    """Write an archive whose pickle runs a program: as the array itself, or as what ``x`` is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not whole:
        np.savez_compressed(path, data={"x": Evil(proof), "y": np.zeros(1, dtype=np.int64)})
        return path
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    pickle.dump(Evil(proof), buffer)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.npy", buffer.getvalue())
    return path


@pytest.mark.parametrize("whole", [True, False])
def test_a_program_in_a_file_is_refused_and_does_not_run(tmp_path: Path, whole: bool):
    written(tmp_path / "mnist")
    path = evil(tmp_path / "mnist" / "train" / "1.npz", tmp_path / "proof", whole=whole)
    with pytest.raises(
        InvalidInputError, match=rf"{path} is not read: it names \w+.system, and not only numpy's arrays"
    ):
        htfllib.convert(tmp_path / "mnist", tmp_path / "out")
    assert not (tmp_path / "proof").exists()
    assert not (tmp_path / "out").exists()
    np.load(path, allow_pickle=True)["data"]  # it would have, where it is read as they read it
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["train.npz", "train.pkl", "train.npy", "data.pt", "train/0.npz", "cat/0.pkl"])
def test_a_source_runs_no_pickle(tmp_path: Path, name: str):
    proof, path = tmp_path / "proof", tmp_path / "source" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickle.dump(Evil(proof), file)
    for source in (tmp_path / "source", path):
        with pytest.raises(InvalidInputError) as caught:
            federation(settings("fd", f"data.source={source}").data, 0)
        assert "\n" not in str(caught.value)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"x": np.zeros((2, 1, 4, 4))}, "no dictionary with x and y"),
        ({"x": np.zeros((2, 1, 4, 4)), "y": np.zeros(3)}, "2 inputs and 3 labels"),
        ({"x": np.zeros((2, 1, 4, 4)), "y": np.array([0.5, 1])}, "its labels are float64; expected whole numbers"),
        ({"x": np.full((2, 1, 4, 4), np.nan), "y": np.zeros(2)}, "inputs that are not finite"),
        ({"x": np.array(["a", "b"]), "y": np.zeros(2)}, "its inputs are <U1; expected numbers"),
        ({"x": np.zeros((2, 9)), "y": np.zeros(2)}, r"1.npz has inputs of shape \[9\], 0.npz of \[1, 4, 4\]"),
    ],
)
def test_files_that_hold_no_rows_are_one_line(tmp_path: Path, data: dict[str, np.ndarray], words: str):
    written(tmp_path / "mnist")
    np.savez_compressed(tmp_path / "mnist" / "train" / "1.npz", data=data)
    with pytest.raises(InvalidInputError, match=words) as caught:
        htfllib.convert(tmp_path / "mnist", tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_folders_of_another_layout_and_full_ones_are_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"holds no train/<client>.npz; expected a data set that"):
        htfllib.convert(tmp_path, tmp_path / "out")
    written(tmp_path / "mnist")
    htfllib.convert(tmp_path / "mnist", tmp_path / "out")
    with pytest.raises(InvalidInputError, match="already holds Parquet files"):
        htfllib.convert(tmp_path / "mnist", tmp_path / "out")

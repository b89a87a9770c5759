"""Sources: what is found, what is decoded, what is refused."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.data import images, labeled, read, source

pytestmark = pytest.mark.usefixtures("fresh_cache")
GREY = np.random.default_rng(0).integers(0, 256, (12, 6, 5), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def test_digits_fill_a_byte():
    digits = read("digits", DataConfig())
    assert digits.x.shape == (1797, 1, 8, 8)
    assert digits.x.dtype == torch.uint8
    assert digits.class_names == tuple("0123456789")
    assert (digits.x.min(), digits.x.max()) == (0, 255)
    assert digits.x[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0 of 16
    assert digits.labels[:5].tolist() == [0, 1, 2, 3, 4]


def test_grey_and_rgb_rows_come_back_in_order(tmp_path, write_parquet):
    gray = read(str(write_parquet(tmp_path / "gray", GREY, LABELS)), DataConfig())
    rgb = read(str(write_parquet(tmp_path / "rgb", RGB, LABELS, image="img")), DataConfig())
    assert np.array_equal(gray.x[:, 0], GREY)
    assert np.array_equal(rgb.x.permute(0, 2, 3, 1), RGB)
    assert rgb.labels.tolist() == LABELS.tolist()
    assert rgb.shape == (3, 6, 5)


def test_size_resizes_and_greys(tmp_path, write_parquet):
    folder = str(write_parquet(tmp_path, RGB, LABELS))
    small = read(folder, DataConfig(size="3x4x1"))
    assert small.x.shape == (12, 1, 3, 4)
    image = Image.fromarray(RGB[0]).convert("L").resize((4, 3), Image.Resampling.BILINEAR)
    assert np.array_equal(small.x[0, 0], np.asarray(image))


def test_several_files_are_one_split(tmp_path, write_parquet):
    write_parquet(tmp_path, GREY[:5], LABELS[:5])
    (tmp_path / "train-00000-of-00001.parquet").rename(tmp_path / "train-00000-of-00002.parquet")
    write_parquet(tmp_path / "b", GREY[5:], LABELS[5:])
    (tmp_path / "b" / "train-00000-of-00001.parquet").rename(tmp_path / "train-00001-of-00002.parquet")
    assert np.array_equal(read(str(tmp_path), DataConfig()).x[:, 0], GREY)


@pytest.mark.parametrize(
    ("name", "shape", "mean"),
    [("mnist", (1, 28, 28), 0.1325), ("cifar10", (3, 32, 32), 0.4766), ("usps", (1, 16, 16), None)],
)
def test_real_images(shared_data, name, shape, mean):
    """Rows equal a decoding of their own; means of the test images are those of the official files."""
    folder = shared_data(name)
    test = labeled(str(folder), DataConfig())
    assert tuple(test.x.shape[1:]) == shape
    table = pq.read_table(folder / "test-00000-of-00001.parquet")
    assert len(test) == len(table)
    assert test.labels.tolist() == table["label"].to_pylist()
    for row in (0, 1, 777, len(table) - 1):
        image = np.asarray(Image.open(io.BytesIO(table["img"][row]["bytes"].as_py())))
        ours = test.x[row].permute(1, 2, 0).squeeze(-1).numpy()
        assert np.array_equal(ours, image)
        x, _ = test.batch(torch.tensor([row]))
        assert torch.equal(x, test.x[row].float()[None] / 127.5 - 1)
    if mean is not None:
        assert test.x.double().mean().item() / 255 == pytest.approx(mean, abs=1e-4)


def test_the_finer_of_two_label_columns_is_taken(shared_data):
    features = source.Folder(shared_data("cifar100")).features("test")
    assert source.label_column("cifar100", features, None) == "label"
    assert source.label_column("cifar100", features, "coarse_label") == "coarse_label"


def test_images_are_decoded_once(tmp_path, write_parquet, fresh_cache, monkeypatch):
    folder = str(write_parquet(tmp_path, GREY, LABELS))
    first = read(folder, DataConfig())
    written = {file: file.stat().st_mtime_ns for file in fresh_cache.rglob("*")}
    monkeypatch.setattr(images, "_decode", lambda *_: pytest.fail("decoded again"))
    images._load.cache_clear()  # as another process would find it
    again = read(folder, DataConfig())
    assert torch.equal(again.x, first.x)
    assert {file: file.stat().st_mtime_ns for file in fresh_cache.rglob("*")} == written


def test_changed_files_are_decoded_again(tmp_path, write_parquet):
    folder = str(write_parquet(tmp_path, GREY, LABELS))
    read(folder, DataConfig())
    write_parquet(tmp_path, 255 - GREY[:7], LABELS[:7])
    assert np.array_equal(read(folder, DataConfig()).x[:, 0], 255 - GREY[:7])


def test_a_failed_decoding_leaves_nothing(tmp_path, write_parquet, fresh_cache):
    before = set((fresh_cache / "images").iterdir()) if (fresh_cache / "images").is_dir() else set()
    folder = write_parquet(tmp_path, [GREY[0], GREY[0][:3]], [0, 1])
    with pytest.raises(InvalidInputError, match="6x5x1 and 3x5x1: bring them to one size"):
        read(str(folder), DataConfig())
    assert set((fresh_cache / "images").iterdir()) == before


def test_the_cache_cannot_be_changed_through_a_tensor(tmp_path, write_parquet):
    folder = str(write_parquet(tmp_path, GREY, LABELS))
    read(folder, DataConfig()).x.zero_()
    images._load.cache_clear()
    assert np.array_equal(read(folder, DataConfig()).x[:, 0], GREY)


def test_the_hub_is_read_like_a_folder(tmp_path, write_parquet, monkeypatch):
    import datasets

    write_parquet(tmp_path, GREY, LABELS)
    files = {"train": str(tmp_path / "train-00000-of-00001.parquet")}
    downloaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "kept"))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: downloaded)
    source._download.cache_clear()
    hub = read("somebody/grays", DataConfig())
    source._download.cache_clear()
    assert np.array_equal(hub.x[:, 0], GREY)
    assert hub.labels.tolist() == LABELS.tolist()


def test_an_unreachable_hub_is_one_line(monkeypatch):
    import datasets

    def unreachable(name: str) -> None:
        raise ConnectionError("Couldn't reach it\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        InvalidInputError, match=r"'ylecun/mnist' is no folder here and cannot be had .* \(Couldn't reach it\): check"
    ) as raised:
        read("ylecun/mnist", DataConfig())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("relative", ["./mnist", "../mnist", "~/mnist", "a/b/c"])
def test_relative_folders_are_refused(relative):
    with pytest.raises(InvalidInputError, match="is a relative path: give an absolute one"):
        read(relative, DataConfig())


def test_a_relative_folder_that_exists_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=f"give an absolute one, like {tmp_path / 'mnist'}"):
        read("mnist", DataConfig())


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"there is no folder .*/nowhere"):
        read(str(tmp_path / "nowhere"), DataConfig())
    with pytest.raises(InvalidInputError, match=r"holds no train-\*.parquet"):
        read(str(tmp_path), DataConfig())


def test_a_folder_without_images_and_texts_is_refused(tmp_path):
    pq.write_table(pa.table({"label": [0, 1]}), tmp_path / "test.parquet")
    with pytest.raises(InvalidInputError, match=r"has no image column \(columns: label\)"):
        labeled(str(tmp_path), DataConfig())


def test_a_missing_split_is_refused(tmp_path, write_parquet):
    with pytest.raises(InvalidInputError, match="has no test rows"):
        labeled(str(write_parquet(tmp_path, GREY, LABELS)), DataConfig())


def test_a_misspelled_column_is_refused(tmp_path, write_parquet):
    folder = str(write_parquet(tmp_path, GREY, LABELS))
    with pytest.raises(InvalidInputError, match=r"data.image is 'imagee'.*did you mean 'image'"):
        read(folder, DataConfig(image="imagee"))
    with pytest.raises(InvalidInputError, match=r"data.label is 'labels'.*did you mean 'label'"):
        read(folder, DataConfig(label="labels"))


def test_a_image_column_can_be_plain_bytes(tmp_path):

    file = io.BytesIO()
    Image.fromarray(GREY[0]).save(file, "PNG")
    pq.write_table(pa.table({"png": [file.getvalue()] * 2, "digit": [0, 4]}), tmp_path / "train.parquet")
    plain = read(str(tmp_path), DataConfig(image="png", label="digit"))
    assert np.array_equal(plain.x[1, 0], GREY[0])
    assert plain.class_names == ("0", "4")
    assert plain.labels.tolist() == [0, 1]


def test_broken_rows_are_refused(tmp_path, write_parquet):

    pq.write_table(pa.table({"png": [b"no image"], "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(InvalidInputError, match="has an image that cannot be read"):
        read(str(tmp_path), DataConfig(image="png", label="label"))
    (tmp_path / "train.parquet").write_bytes(b"not Parquet at all")
    with pytest.raises(InvalidInputError, match="cannot be read as Parquet"):
        read(str(tmp_path), DataConfig())
    folder = str(write_parquet(tmp_path / "hidden", GREY, LABELS - 1))
    with pytest.raises(InvalidInputError, match="has the label -1 in 'label', row 0 of train: expected 0 to 9"):
        read(folder, DataConfig())


def test_sixteen_bit_images_are_refused(tmp_path, write_parquet):
    folder = str(write_parquet(tmp_path, GREY.astype(np.uint16) * 256, LABELS))
    with pytest.raises(InvalidInputError, match="expected 8 bits"):
        read(folder, DataConfig())


@pytest.mark.parametrize("size", ["28", "28x28", "28x28x2", "0x28x1", "big"])
def test_a_wrong_size_is_refused(size):
    with pytest.raises(InvalidInputError, match=rf"data.size is '{size}': expected height x width x channels"):
        read("digits", DataConfig(size=size))


def test_an_unwritable_cache_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FD_FLOWER_CACHE", str(tmp_path / "file"))
    with pytest.raises(InvalidInputError, match=r"cannot be written .*: name another folder in FD_FLOWER_CACHE"):
        read("digits", DataConfig(size="9x9x1"))


def test_names_are_told_apart():
    assert source.locate("digits") == source.Digits()
    assert source.locate("ylecun/mnist") == source.Hub("ylecun/mnist")

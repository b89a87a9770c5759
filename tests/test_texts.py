"""Texts as samples: reading them, their hashes, and what is refused."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from helpers.tables import table

from fd_flower import config, data
from fd_flower.core import library
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.library import Texts
from fd_flower.data.texts import cleaned, holds

ROWS = [("the cat sat", "pets"), ("stocks fell", "money"), ("a dog barked", "pets"), ("banks rose", "money")] * 15


def parquet(folder: Path, columns: dict, features: Features, split: str = "train") -> Path:
    found = pa.table(columns).replace_schema_metadata({})
    found = found.cast(features.arrow_schema)
    folder.mkdir(exist_ok=True)
    pq.write_table(found, folder / f"{split}.parquet")
    return folder


def options(**own) -> config.DataConfig:
    return config.DataConfig(**{"encoder": "model", "test_limit": None, **own})


# --- hashes


def test_a_hash_is_the_start_of_the_texts_sha_256():
    (row,) = Texts.of(["grüße"]).hashes.tolist()
    assert (
        b"".join(word.to_bytes(8, "little", signed=True) for word in row)
        == (hashlib.sha256("grüße".encode()).digest()[:16])
    )


def test_texts_come_back_from_their_hashes_in_any_order_and_from_several_sets():
    first, second = library.put(["one", "", "zwei äöü"]), library.put(["three", "one"])
    x = torch.cat([second, first])[[3, 0, 4, 1, 2]]
    assert library.texts_of(x) == ["", "three", "zwei äöü", "one", "one"]


def test_hashes_of_texts_that_this_process_has_not_read_are_refused():
    library.put(["known"])
    with pytest.raises(InvalidInputError, match=r"1 of 2 texts are not known in this process"):
        library.texts_of(torch.cat([library.put(["known"]), torch.tensor([[1, 2]])]))


def test_numbers_are_not_taken_for_texts():
    library.put(["some"])
    assert library.is_text(library.put(["other"]))
    assert not library.is_text(torch.tensor([[1, 2]]))
    assert not library.is_text(torch.zeros(3, 2))


def test_a_hash_that_shares_its_first_half_is_another_text():
    texts = Texts.of(["a"])
    other = texts.hashes.copy()
    other[0, 1] += 1
    assert texts.rows_of(other).tolist() == [-1]


# --- reading


def test_a_csv_file_is_a_source_with_its_classes_in_the_order_of_their_names(tmp_path):
    images = data.read(str(table(tmp_path / "reviews.csv", ROWS)), options())
    assert library.texts_of(images.x[:2]) == ["the cat sat", "stocks fell"]
    assert images.class_names == ("money", "pets")
    assert images.labels[:2].tolist() == [1, 0]


@pytest.mark.parametrize(("name", "delimiter"), [("train.csv", ","), ("train.tsv", "\t")])
def test_a_folder_has_a_table_a_split(tmp_path, name, delimiter):
    table(tmp_path / name, ROWS, delimiter=delimiter)
    table(tmp_path / name.replace("train", "test"), ROWS[:2], delimiter=delimiter)
    assert len(data.read(str(tmp_path), options()).x) == 60
    assert len(data.read(str(tmp_path), options(), "test").x) == 2


def test_lines_of_json_are_a_table(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"content": text, "label": label}) + "\n" for text, label in ROWS))
    assert library.texts_of(data.read(str(tmp_path), options()).x[:1]) == ["the cat sat"]


def test_line_breaks_commas_and_empty_texts_in_quotes_are_read(tmp_path):
    path = table(tmp_path / "t.csv", [("two\nlines, and a comma", 0), ("", 1)])
    assert library.texts_of(data.read(str(path), options()).x) == ["two\nlines, and a comma", ""]


def test_a_table_that_was_written_again_is_read_again(tmp_path):
    path = table(tmp_path / "t.csv", [("old text", 0), ("x y", 1)])
    assert library.texts_of(data.read(str(path), options()).x[:1]) == ["old text"]
    table(path, [("another text", 0), ("x y", 1)])
    assert library.texts_of(data.read(str(path), options()).x[:1]) == ["another text"]


def test_parquet_with_class_names_keeps_their_order(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["z", "a"])})
    images = data.read(str(parquet(tmp_path / "p", {"text": ["x", "y"], "label": [1, 0]}, features)), options())
    assert images.class_names == ("z", "a")
    assert images.labels.tolist() == [1, 0]


def test_a_table_of_numbers_or_paths_is_no_source_of_texts(tmp_path):
    numbers = table(tmp_path / "numbers.csv", [(1, 2.5)], ("a", "label"))
    paths = table(tmp_path / "paths.csv", [("a b.png", "cat")], ("text", "label"))
    assert not holds(str(numbers))
    assert not holds(str(paths))


@pytest.mark.parametrize("saved", [False, True])
def test_an_image_beside_a_text_is_no_source_of_texts_and_other_facts_beside_it_are(tmp_path, saved):
    kinds = {"facts": {"pages": Value("int64")}, "picture": Image()}
    values = {"facts": {"pages": 3}, "picture": {"bytes": b"x", "path": None}}
    for name, kind in kinds.items():
        rows = Dataset.from_list([{"text": "a b", name: values[name]}], Features({"text": Value("string"), name: kind}))
        folder = tmp_path / name
        folder.mkdir()
        DatasetDict({"train": rows}).save_to_disk(folder) if saved else rows.to_parquet(folder / "train.parquet")
        assert holds(str(folder)) == (name == "facts")


def test_two_columns_of_strings_without_a_usual_name_are_refused_until_one_is_named(tmp_path):
    features = Features({"title": Value("string"), "body": Value("string"), "label": ClassLabel(names=["a", "b"])})
    folder = parquet(tmp_path / "p", {"title": ["t"], "body": ["b"], "label": [0]}, features)
    with pytest.raises(
        InvalidInputError, match=r"several columns of strings \(title, body\): name the column of texts"
    ):
        data.read(str(folder), options())
    assert library.texts_of(data.read(str(folder), options(text="body")).x) == ["b"]


def test_a_missing_text_column_is_named_with_the_nearest(tmp_path):
    path = table(tmp_path / "t.csv", ROWS)
    with pytest.raises(InvalidInputError, match=r"data.text is 'texts', but .* has no such column.*text"):
        data.read(str(path), options(text="texts"))


@pytest.mark.parametrize(("option", "value"), [("size", "8x8x1"), ("image", "img"), ("transform", "RandomRotation")])
def test_options_of_images_are_refused_for_texts(tmp_path, option, value):
    with pytest.raises(InvalidInputError, match=f"data.{option} is '{value}', which is about images"):
        data.read(str(table(tmp_path / "t.csv", ROWS)), options(**{option: value}))


@pytest.mark.parametrize(("option", "value"), [("text", "text"), ("clean", "newsgroups"), ("length", 16)])
def test_options_of_texts_are_refused_for_images(option, value):
    with pytest.raises(InvalidInputError, match=f"data.{option} is {value!r}, which is about texts"):
        data.read("digits", config.DataConfig(**{option: value}))


# --- cleaning


MESSAGES = (
    "From: a@b.c\nSubject: stars\n\nIn article <1@x> b@c.d writes:\n> quoted line\n>> older\nThe first real line,\n"
    "and a second one.\n\n--\nMy Name\nMy phone\n",
    "Subject: one paragraph\n\nAll in one.",
    "Subject: hyphens\n\nText\n  ----  \nName",
    "no header at all",
    "Subject: a signature of nothing\n\n\n\nText\n\n",
    "Subject: x\n\n| quoted too\nA. Person said: nothing\nMine\n\nlast paragraph",
)


def test_a_message_loses_header_quotes_and_signature():
    assert cleaned("newsgroups", MESSAGES[:1]) == ["The first real line, and a second one."]


def test_messages_are_stripped_as_by_scikit_learn():
    from sklearn.datasets import _twenty_newsgroups as sklearn

    stripped = [
        sklearn.strip_newsgroup_quoting(sklearn.strip_newsgroup_footer(sklearn.strip_newsgroup_header(message)))
        for message in MESSAGES
    ]
    assert cleaned("newsgroups", MESSAGES) == [" ".join(message.split()) for message in stripped]


def test_without_a_rule_texts_keep_their_lines():
    assert cleaned(None, [" a\n b "]) == ["a\n b"]


# --- a federation of texts


def federation(tmp_path, **own) -> data.Federation:
    return data.federation(options(source=str(table(tmp_path / "t.csv", ROWS)), clients=3, min_rows=1, **own), 0)


def test_texts_are_dealt_out_as_images_are(tmp_path):
    whole = federation(tmp_path, public_size=9)
    held = np.concatenate([*whole.rows, whole.known.samples.index.numpy(), whole.test.index.numpy()])
    assert sorted(held.tolist()) == list(range(60))
    assert whole.shape == (2,)


def test_public_texts_of_another_set_are_unlabeled_where_classes_differ(tmp_path):
    other = table(tmp_path / "other.csv", [("far away", "here"), ("so near", "there")] * 9)
    whole = federation(tmp_path, public=str(other))
    assert whole.public_labeled is None
    assert sorted(set(library.texts_of(whole.public.x))) == ["far away", "so near"]


def test_noise_and_images_are_no_public_texts(tmp_path):
    with pytest.raises(InvalidInputError, match=r"data.public is 'noise', which is images"):
        federation(tmp_path, public="noise")
    with pytest.raises(InvalidInputError, match=r"data.public=digits holds images, and the private samples are texts"):
        federation(tmp_path, public="digits")


def test_clusters_of_texts_are_refused_in_one_line(tmp_path):
    with pytest.raises(InvalidInputError, match=r"data.encoder=model is each client's own, and clusters need one"):
        federation(tmp_path, partition="embedding")


def test_options_of_images_and_digits_import_no_library_of_data_sets(tmp_path):
    code = (
        "import sys; from fd_flower.config import settings; "
        f"settings('fd', 'data.source=digits'); settings('fd', 'data.source={table(tmp_path / 't.csv', ROWS)}'); "
        "print(*{'datasets', 'torchvision'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == []

"""Tables of numbers and windows of sensors as a source: what becomes of columns, and what stops a run before it is one.

The table is scikit-learn's wine; the windows are made up.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from helpers import tiny
from sklearn.datasets import load_wine

from fd_flower import Task, engine, settings
from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.data import Federation, federation
from fd_flower.data.reading import kind, read
from fd_flower.tasks.described import described

COLUMNS = ["alcohol", "ash", "hue"]
DEAL: dict[str, Any] = {"clients": 3, "partition": "iid", "public_size": 30}


def wine(**more: Any) -> pandas.DataFrame:
    found = load_wine(as_frame=True).frame[[*COLUMNS, "target"]].sample(frac=1, random_state=0, ignore_index=True)
    return found.assign(**more)


def table(folder: Path, rows: pandas.DataFrame, name: str = "train.csv") -> str:
    rows.to_csv(folder / name, index=False)
    return str(folder)


def of(source: str, **more: Any) -> Federation:
    return federation(DataConfig(source=source, **{**DEAL, **more}), 0)


def windows(rows: int = 60) -> dict[str, np.ndarray]:
    """Made-up windows of two channels and sixteen steps: waves of a class's frequency, of five persons."""
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (rows, 2, 1))
    y = np.arange(rows) % 3
    x = np.sin((y[:, None, None] + 1) * np.linspace(0, 2 * np.pi, 16) + phase).astype(np.float32)
    return {"x": x, "y": y, "person": np.array([f"p{number}" for number in np.arange(rows) // 12])}


# --- what columns become


def test_numbers_come_first_and_categories_are_one_hot(tmp_path):
    rows = pandas.DataFrame({"color": ["red", "white"], "age": [3, 4], "well": [True, False], "label": ["b", "a"]})
    found = read(table(tmp_path, rows), DataConfig(categories={"color": ["white", "red", "pink"]}))
    assert found.x.tolist() == [[3, 1, 0, 1, 0], [4, 0, 1, 0, 0]]
    assert found.x.dtype == torch.float32
    assert found.inputs == ("age", "well", "color=white", "color=red", "color=pink")
    assert (found.labels.tolist(), found.class_names) == ([1, 0], ("a", "b"))


def test_numbers_can_be_categories(tmp_path):
    rows = pandas.DataFrame({"ward": [7, 9, 7], "label": [0, 1, 1]})
    assert read(table(tmp_path, rows), DataConfig(categories={"ward": [7, 9]})).x.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_parquet_names_categories_by_its_types(tmp_path):
    import datasets

    features = datasets.Features(
        {"sex": datasets.ClassLabel(names=["f", "m"]), "age": datasets.Value("float64"), "y": datasets.Value("int64")}
    )
    rows = datasets.Dataset.from_dict({"sex": [1, 0], "age": [0.5, 2.5], "y": [0, 1]}, features=features)
    rows.to_parquet(tmp_path / "train.parquet")
    assert read(str(tmp_path), DataConfig()).x.tolist() == [[0.5, 0, 1], [2.5, 1, 0]]


def test_the_column_of_clients_is_no_input_of_any_set(tmp_path):
    site = ["north", "south"] * 89
    table(tmp_path, wine(site=site)[:120])
    found = of(table(tmp_path, wine(site=site)[120:], "test.csv"), column="site", partition="column", clients=2)
    assert found.base.columns == tuple(COLUMNS)
    assert found.test.x.shape == (58, 3)


def test_columns_of_other_sets_are_found_by_name(tmp_path):
    table(tmp_path, wine()[:120])
    (tmp_path / "other").mkdir()
    public = table(tmp_path / "other", wine()[["ash", "hue", "alcohol"]][:40])
    found = of(table(tmp_path, wine()[["target", "hue", "ash", "alcohol"]][120:], "test.csv"), public=public)
    np.testing.assert_allclose(found.test.x, wine()[COLUMNS].to_numpy()[120:], rtol=1e-6)
    assert found.public is not None
    expected = {tuple(row) for row in wine()[COLUMNS].to_numpy(np.float32)[:40].tolist()}
    assert {tuple(row) for row in found.public.x[found.public.index].tolist()} <= expected


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"age": [1, 2], "label": [0, 1]}, "numbers"),
        ({"text": ["a", "b"], "label": [0, 1]}, "texts"),
        ({"note": ["some words here", "more words"], "age": [1, 2]}, "texts"),
        ({"site": ["a", "b"], "age": [1, 2]}, "numbers"),
    ],
)
def test_a_table_is_of_numbers_unless_a_column_holds_texts(tmp_path, columns, expected):
    pandas.DataFrame(columns).to_parquet(tmp_path / "train.parquet")
    assert kind(str(tmp_path), DataConfig()) == expected
    assert kind(str(tmp_path), DataConfig(features=["age"])) == "numbers"


# --- standardized by what is chosen


def test_constants_standardize_the_columns_that_they_name(tmp_path):
    color = ["red", "white"] * 89
    options: dict[str, Any] = {
        "constants": {"ash": [2.0, 0.5], "hue": [1.0, 2.0]},
        "categories": {"color": ["red", "white"]},
    }
    found = read(table(tmp_path, wine(color=color)), DataConfig(**options))
    expected = (wine()[COLUMNS].to_numpy() - [0, 2, 1]) / [1, 0.5, 2]
    np.testing.assert_allclose(found.x[:, :3], expected, rtol=1e-5, atol=1e-6)
    assert found.x[:2, 3:].tolist() == [[1, 0], [0, 1]]


def test_public_samples_standardize_without_a_look_at_private_rows(tmp_path):
    table(tmp_path, wine(color=["red", "white"] * 89))
    more: dict[str, Any] = {"categories": {"color": ["red", "white"]}}
    bare, found = of(str(tmp_path), **more), of(str(tmp_path), standardize="public", **more)
    assert bare.public is not None
    public = bare.base.x[bare.public.index].double().numpy()
    for one, other in ((bare.base.x, found.base.x), (bare.test.x, found.test.x)):
        expected = (one[:, :3].double().numpy() - public[:, :3].mean(0)) / public[:, :3].std(0)
        np.testing.assert_allclose(other[:, :3], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(one[:, 3:], other[:, 3:])  # categories


def test_tables_of_several_sites_are_standardized_together(tmp_path):
    rows, sites = wine(color=["red", "white"] * 89), [tmp_path / "north", tmp_path / "south"]
    for site, part in zip(sites, (rows[:90], rows[90:][["color", "target", "hue", "ash", "alcohol"]]), strict=True):
        site.mkdir()
        table(site, part)
    more: dict[str, Any] = {"partition": "domain", "clients": 2, "categories": {"color": ["red", "white"]}}
    bare, found = (
        federation(DataConfig(source=list(map(str, sites)), public_size=30, standardize=by, **more), 0)
        for by in (None, "public")
    )
    np.testing.assert_allclose(bare.base.x[:, :3], rows[COLUMNS].to_numpy(), rtol=1e-6)
    assert torch.equal(found.base.x[:, 3:], bare.base.x[:, 3:])
    assert found.public is not None
    assert float(found.public.x[found.public.index][:, :3].mean(0).abs().max()) < 1e-5


def test_training_parts_alone_standardize(tmp_path):
    table(tmp_path, wine())
    bare, found = of(str(tmp_path)), of(str(tmp_path), standardize="train")
    parts = [bare.data(client).train for client in bare.clients]
    rows = np.concatenate([part.x[part.index].double().numpy() for part in parts])
    expected = (bare.base.x.double().numpy() - rows.mean(0)) / rows.std(0)
    np.testing.assert_allclose(found.base.x, expected, rtol=1e-4, atol=1e-5)


def test_a_device_standardizes_as_the_simulation_does(tmp_path):
    for name in ("public", "mine"):
        (tmp_path / name).mkdir()
    public, mine = table(tmp_path / "public", wine()[:60]), table(tmp_path / "mine", wine()[60:])
    changes = f"data.source={mine} data.public={public} data.standardize=public data.features=[hue,ash] data.clients=1"
    chosen = settings("fd", f"{changes} data.partition=iid")
    there = described(chosen, folder=mine, client="0").data
    assert there is not None
    public_rows = wine()[["hue", "ash"]][:60].to_numpy()
    expected = (wine()[["hue", "ash"]].to_numpy() - public_rows.mean(0)) / public_rows.std(0)
    np.testing.assert_allclose(there("0").train.x, expected[60:], rtol=1e-4, atol=1e-5)
    assert torch.equal(federation(chosen.data, 0).base.x, there("0").train.x)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ("", "devices may have other columns, or in another order: name the inputs in data.features"),
        ("data.features=[ash] data.standardize=train", "is 'train', and a device has its own rows alone"),
        ("data.features=[ash] data.standardize=public", "is 'public', and a device has its own rows alone"),
    ],
)
def test_a_device_says_which_columns_and_constants(tmp_path, changes, reason):
    source = table(tmp_path, wine())
    with pytest.raises(InvalidInputError, match=reason):
        described(settings("fd", f"data.source={source} {changes}"), folder=source, client="0")


# --- arrays


def test_windows_are_the_same_in_files_of_arrays_and_in_lists(tmp_path):
    made = windows()
    np.savez(tmp_path / "made.npz", **made)
    rows = {**made, "x": made["x"].tolist()}
    (tmp_path / "lists").mkdir()
    pandas.DataFrame({name: list(values) for name, values in rows.items()}).to_parquet(
        tmp_path / "lists" / "train.parquet"
    )
    for source in (tmp_path / "made.npz", tmp_path / "lists"):
        found = of(str(source), column="person", partition="column", clients=5, min_rows=3, public="none")
        assert found.shape == (2, 16)
        assert torch.equal(found.base.x, torch.from_numpy(made["x"]))
        assert found.base.groups is not None
        assert [len({str(name) for name in found.base.groups[own]}) for own in found.rows] == [1] * 5


def test_a_channel_is_standardized_over_rows_and_time(tmp_path):
    made = windows()
    np.savez(tmp_path / "made.npz", **made)
    found = of(str(tmp_path / "made.npz"), standardize="public")
    bare = of(str(tmp_path / "made.npz"))
    assert bare.public is not None
    public = made["x"][bare.public.index].astype(np.float64)
    expected = (made["x"] - public.mean((0, 2))[:, None]) / public.std((0, 2))[:, None]
    np.testing.assert_allclose(found.base.x, expected, rtol=1e-4, atol=1e-5)
    given = read(str(tmp_path / "made.npz"), DataConfig(constants={"1": [0.5, 2.0]}))
    np.testing.assert_allclose(given.x[:, 1], (made["x"][:, 1] - 0.5) / 2, rtol=1e-5, atol=1e-6)
    assert torch.equal(given.x[:, 0], torch.from_numpy(made["x"][:, 0]))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.array([{}], dtype=object)}, "Object arrays cannot be loaded .* convert htfllib"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, r"different numbers of rows \(4 in 'x', 3 in 'y'\)"),
        ({"x": np.zeros((4, 2)), "z": np.zeros((4, 2)), "y": np.zeros(4)}, "arrays in 'x' next to 1 other inputs"),
        ({"x": np.full((4, 2), np.nan), "y": np.zeros(4)}, r"no number in 'x' in 4 rows \(the first is row 0\)"),
        ({"x": np.zeros((4, 2))}, "which is the label is not known"),
        ({}, "holds no arrays"),
    ],
)
def test_arrays_that_are_no_samples_raise_one_line(tmp_path, arrays, reason):
    np.savez(tmp_path / "made.npz", **arrays)
    with pytest.raises(InvalidInputError, match=reason) as caught:
        read(str(tmp_path / "made.npz"), DataConfig())
    assert "\n" not in str(caught.value)


# --- what stops a run


@pytest.mark.parametrize(
    ("changed", "options", "reason"),
    [
        ({"ash": [None] * 2 + [2.0] * 176}, {}, r"no number in 'ash' in 2 rows \(the first is row 0\)"),
        ({"ash": ["much"] + ["2"] * 177}, {}, "'much' in 'ash', row 0; expected a number"),
        ({"color": ["red", "white"] * 89}, {}, r"words in the column 'color' \(red, white\): declare"),
        ({"color": ["red"] * 177 + ["pink"]}, {"categories": {"color": ["red"]}}, "'pink' in 'color', row 177"),
        ({"target": [0.5] * 178}, {}, "has the label 0.5; expected one class"),
        ({"": range(178)}, {}, "has a column of row numbers"),
        ({"day": [pandas.Timestamp("2020-01-01")] * 178}, {}, "date32.* in the column 'day'; expected numbers"),
        ({}, {"features": ["alcohl"]}, "no such column .did you mean 'alcohol'"),
        ({}, {"features": ["ash", "target"]}, "names 'target', which is the label"),
        ({}, {"label": "kind"}, "data.label is 'kind', but .* has no such column"),
        ({}, {"size": "8x8x1"}, "which is about images, and .* holds numbers"),
        ({}, {"constants": {"hues": [0, 1]}}, "data.constants is about 'hues', .* .did you mean 'hue'"),
        ({}, {"public": "noise"}, "for numbers one of numbers"),
        ({}, {"public": "none", "standardize": "public"}, "there are no public samples: give data.constants"),
    ],
)
def test_a_wrong_table_raises_one_line(tmp_path, changed, options, reason):
    with pytest.raises(InvalidInputError, match=reason) as caught:
        of(table(tmp_path, wine(**changed)), **options)
    assert "\n" not in str(caught.value)


def test_a_label_of_the_test_part_alone_raises_one_line(tmp_path):
    rows = wine()
    table(tmp_path, rows[rows.target < 2])
    with pytest.raises(InvalidInputError, match=r"\(test\) has other classes than .* \(train\): it has 2 besides"):
        of(table(tmp_path, rows, "test.csv"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"categories": {"sex": "f"}}, "data.categories.sex is 'f'; expected one or more categories"),
        ({"categories": {"sex": ["f", "f"]}}, "each once"),
        ({"constants": {"age": [3]}}, r"data.constants.age is \[3\]; expected its mean and its deviation"),
        ({"constants": {"age": [3, 0]}}, "which is above 0"),
        ({"constants": {"age": [3, 1]}, "standardize": "public"}, "leave one of them out"),
        ({"standardize": "all"}, "data.standardize is 'all'"),
    ],
)
def test_wrong_options_of_tables_raise_an_error(options, reason):
    with pytest.raises(InvalidInputError, match=reason):
        DataConfig(**options)


def test_options_of_numbers_are_about_no_images():
    with pytest.raises(InvalidInputError, match=r"data.standardize is 'public', which is about numbers"):
        of("digits", standardize="public")


# --- runs


def rows_of_mine() -> Task:
    return Task.from_dataset(wine(), y="target")


def test_a_table_trains_as_the_same_rows_of_a_task_do(tmp_path):
    """The figures of a source and of rows in memory are the same, bit for bit."""
    source = table(tmp_path, wine())
    changes = f"{tiny.TINY} data.public_size=30"
    named = tiny.run("feddf", f"{changes} data.source={source} server.distill_steps=2")
    own = tiny.run("feddf", f"{changes} server.distill_steps=2", task=rows_of_mine)
    assert tiny.figures(named) == tiny.figures(own)


@pytest.mark.parametrize(("name", "source"), [("tabular_resnet:0.1", "table"), ("cnn1d", "windows")])
def test_a_run_keeps_a_model_of_numbers(tmp_path, name, source):
    from fd_flower import load

    np.savez(tmp_path / "windows.npz", **windows(120))
    table(tmp_path, wine(), "table.csv")
    path = next(tmp_path.glob(f"{source}.*"))
    changes = f"{tiny.BRIEF} data.source={path} model.name={name} data.standardize=public client.lr=0.05"
    engine.run(settings("fedavg", changes), out=tmp_path / "run")
    model = load(tmp_path / "run", client="server")
    assert model(federation(settings("fedavg", changes).data, 0).test.x[:2]).shape == (2, 3)

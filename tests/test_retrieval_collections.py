"""Collections as they are read, and who is given which questions of them: every trap of the real ones has a test."""

import logging
import re
from collections import Counter

import datasets
import numpy as np
import pytest
from helpers.library_inputs import animals, judgment, write

from fd_flower.config import DataConfig, RunConfig, Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.retrieval import beir
from fd_flower.tasks.retrieval.config import Config
from fd_flower.tasks.retrieval.library import library, pairs


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.INFO, "flwr")
    return caplog


# --- what is read


def test_ids_are_texts(tmp_path):
    corpus = [{"_id": "7", "title": "", "text": "seven"}, {"_id": "007", "title": "", "text": "agent"}]
    folder = write(tmp_path, corpus, [{"_id": "1", "text": "who"}], test=[judgment("1", "007")])
    assert beir.read(str(folder)).judged == {"test": {0: {1: 1}}}


def test_numbers_as_ids_are_read_as_texts(tmp_path):
    folder = write(
        tmp_path, [{"_id": 7, "title": "", "text": "x"}], [{"_id": 1, "text": "y"}], test=[judgment("1", "7")]
    )
    assert beir.read(str(folder)).documents == ("7",)


def test_only_scores_above_0_answer(tmp_path):
    corpus = [{"_id": name, "title": "", "text": name} for name in "abc"]
    rows = [judgment("q", "a", 2), judgment("q", "b", 0), judgment("p", "c", 0)]
    folder = write(tmp_path, corpus, [{"_id": "q", "text": "?"}, {"_id": "p", "text": "?"}], train=rows)
    found = beir.read(str(folder))
    assert found.judged == {"train": {0: {0: 2}}}
    assert not found.hidden
    assert pairs(found, found.judged["train"], [0]).tolist() == [[0, 0]]


@pytest.mark.parametrize("row", [{"score": -1}, {"score": 0, "code": -1}, {"score": 1, "code": -1}])
def test_a_question_is_ranked_without_the_paper_that_it_was_taken_from(tmp_path, told, row):
    corpus = [{"_id": name, "title": "", "text": name} for name in "ab"]
    rows = [judgment("q", "a", 1, code=3), judgment("q", "b", **row)]
    found = beir.read(str(write(tmp_path, corpus, [{"_id": "q", "text": "?"}], test=rows)))
    assert found.hidden == {0: frozenset({1})}
    assert found.judged == {"test": {0: {0: 1}}}
    assert "1 questions are ranked without the document that they were taken from" in told.text


def test_empty_documents_are_told_and_teach_nothing(tmp_path, told):
    corpus = [{"_id": "a", "title": "", "text": ""}, {"_id": "b", "title": None, "text": "b"}]
    rows = [judgment("q", "a"), judgment("q", "b")]
    found = beir.read(str(write(tmp_path, corpus, [{"_id": "q", "text": "?"}], test=rows)))
    assert found.passages == ("", "b")
    assert pairs(found, found.judged["test"], [0]).tolist() == [[0, 1]]
    assert "1 documents are empty and come last in every ranking" in told.text


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([judgment("q", "z")], "the corpus-id 'z', which is not there"),
        ([judgment("x", "a")], "the query-id 'x', which is not there"),
        ([{"query": "q"}], "expected query-id, corpus-id and score"),
    ],
)
def test_judgments_that_cannot_be_used(tmp_path, rows, reason):
    folder = write(tmp_path, [{"_id": "a", "title": "", "text": "a"}], [{"_id": "q", "text": "?"}], test=rows)
    with pytest.raises(InvalidInputError, match=reason):
        beir.read(str(folder))


def test_an_id_twice_and_a_part_that_is_missing(tmp_path):
    twice = write(
        tmp_path / "twice", [{"_id": "a", "text": ""}] * 2, [{"_id": "q", "text": "?"}], test=[judgment("q", "a")]
    )
    with pytest.raises(InvalidInputError, match="the id 'a' twice"):
        beir.read(str(twice))
    none = write(tmp_path / "none", [{"_id": "a", "text": ""}], [{"_id": "q", "text": "?"}])
    with pytest.raises(InvalidInputError, match=r"holds no qrels\*-\*\.parquet"):
        beir.read(str(none))


@pytest.mark.parametrize("home", ["default", "qrels"])
def test_a_name_on_the_hub(monkeypatch, home):
    """Judgments are the default configuration, or in a set of their own beside it."""
    name = f"some/{home}"
    rows = {
        (name, "corpus"): {"corpus": [{"_id": "a", "title": "t", "text": "x"}]},
        (name, "queries"): {"queries": [{"_id": "q", "text": "?"}]},
        ((name, "default") if home == "default" else (f"{name}-qrels", None)): {"test": [judgment("q", "a")]},
    }
    parts = ["corpus", "queries", *(["default"] if home == "default" else [])]
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: parts)
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, part: {split: datasets.Dataset.from_list(own) for split, own in rows[name, part].items()},
    )
    assert beir.holds(name)
    assert beir.read(name).judged == {"test": {0: {0: 1}}}


def test_images_are_no_collection(shared_data):
    assert not beir.holds(str(shared_data("usps")))
    assert not beir.holds("digits")


# --- who holds which


def dealt(**about):
    seed, folds = about.pop("seed", 0), about.pop("folds", 3)
    data = DataConfig(**{"source": "companies", "partition": "iid", **about})
    return library(Settings("local", data=data, run=RunConfig(seed=seed), kinds={"retrieval": Config(folds=folds)}))


def test_the_training_questions_of_one_collection_are_split_at_random():
    held = dealt(clients=4)
    train = [set(own.train) | set(own.validation) for own in held.holdings]
    known = held.collections[0].judged
    assert set.union(*train) == set(known["train"])
    assert sum(map(len, train)) == len(known["train"])
    assert all(set(own.test) == set(known["test"]) for own in held.holdings)
    for own in held.holdings:  # a tenth beside seven tenths
        assert abs(len(own.validation) - 0.125 * (len(own.train) + len(own.validation))) <= 0.5001


def test_a_question_that_is_judged_in_both_splits_is_for_tests(tmp_path):
    corpus = [{"_id": str(i), "title": "", "text": f"t{i}"} for i in range(9)]
    queries = [{"_id": f"q{i}", "text": "?"} for i in range(9)]
    both = {
        "train": [judgment(f"q{i}", str(i)) for i in range(7)],
        "test": [judgment(f"q{i}", str(i)) for i in (6, 7, 8)],
    }
    held = dealt(source=str(write(tmp_path, corpus, queries, **both)), clients=1, min_rows=1)
    own = held.holdings[0]
    assert own.test.tolist() == [6, 7, 8]
    assert sorted([*own.train, *own.validation]) == [0, 1, 2, 3, 4, 5]


def test_a_collection_without_training_judgments_is_cross_validated(tmp_path, told):
    folder = str(animals(tmp_path, 13))
    folds = []
    for seed in range(4):
        own = dealt(source=[folder], partition="domain", clients=1, min_rows=1, folds=3, seed=seed).holdings[0]
        assert sorted([*own.train, *own.validation, *own.test]) == list(range(13))
        folds.append(set(own.test.tolist()))
    assert sorted(map(len, folds[:3])) == [4, 4, 5]
    assert set.union(*folds[:3]) == set(range(13))
    assert folds[3] not in folds[:3]  # another cut
    assert "5 questions are tested on, fold 1 of 3" in told.text


def test_the_cut_of_a_collection_does_not_depend_on_what_stands_beside_it(tmp_path):
    first, second = str(animals(tmp_path / "a")), str(animals(tmp_path / "b", shift=50))
    cuts = []
    for sources in ([first, second], [second, first]):
        held = dealt(source=sources, partition="domain", clients=2, min_rows=1)
        cuts.append({one.name: own.test.tolist() for one, own in zip(*_held(held), strict=True)})
    assert cuts[0] == cuts[1]


def _held(held):
    return held.collections, held.holdings


def test_a_collection_each():
    held = dealt(partition="column", column="company", clients=10, min_rows=5)
    assert sorted(one.name for one in held.collections) == sorted(set(beir.read("companies", "company").groups))
    assert Counter(len(one.documents) for one in held.collections) == {48: 10}
    for one in held.collections:
        assert all(one.name in title for title in one.titles)
        assert all(one.name in text for text in one.asked)


def test_the_largest_clients_of_a_column_that_will_do(tmp_path):
    corpus = [{"_id": str(i), "title": "", "text": f"t{i}", "owner": "big" if i < 9 else "small"} for i in range(11)]
    queries = [{"_id": f"q{i}", "text": "?"} for i in range(11)]
    folder = write(tmp_path, corpus, queries, test=[judgment(f"q{i}", str(i)) for i in range(11)])
    data = {"source": str(folder), "partition": "column", "column": "owner", "min_rows": 5}
    assert [one.name for one in dealt(**data, clients=1).collections] == ["big"]
    words = r"has 1 values with at least 5 training questions .* take at most 1 clients or data.min_rows=1"
    with pytest.raises(InvalidInputError, match=words):
        dealt(**data, clients=2)


def test_a_hint_for_a_column_counts_the_questions_that_are_left_to_learn_from(tmp_path):
    """Of 9, 7 and 6 questions a third tests, rounded up: 6, 4 and 4 are left to learn from."""
    owners = [*"a" * 9, *"b" * 7, *"c" * 6]
    corpus = [{"_id": str(i), "title": "", "text": f"t{i}", "owner": owner} for i, owner in enumerate(owners)]
    queries = [{"_id": f"q{i}", "text": "?"} for i in range(len(owners))]
    folder = write(tmp_path, corpus, queries, test=[judgment(f"q{i}", str(i)) for i in range(len(owners))])
    data = {"source": str(folder), "partition": "column", "column": "owner", "clients": 3}
    with pytest.raises(InvalidInputError, match=r"data.clients is 3: take at most 1 clients or data.min_rows=4$"):
        dealt(**data, min_rows=5)
    held = dealt(**data, min_rows=4)
    assert sorted(len(own.train) + len(own.validation) for own in held.holdings) == [4, 4, 6]


@pytest.mark.parametrize("clients", [100, 40])
def test_a_hint_for_clients_that_share_a_collection_is_of_the_smallest(clients):
    with pytest.raises(InvalidInputError) as caught:
        dealt(clients=clients, min_rows=20)
    line = str(caught.value)
    assert line.startswith("the smallest client has ")
    for option, number in re.findall(r"data.(clients|min_rows)=(\d+)", line):
        dealt(**{"clients": clients, "min_rows": 20, option: int(number)})
    assert line.count("=") == 2


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"partition": "dirichlet"}, "data.partition is 'dirichlet', which is for labeled samples"),
        ({"partition": "domain"}, "a list of sources goes with data.partition=domain"),
        ({"partition": "column", "column": "compny"}, "data.column is 'compny'.*did you mean 'company'"),
        ({"test_limit": 5}, "data.test_limit is 5; it is about images"),
        ({"clients": 100}, "training questions, data.min_rows is 10"),
    ],
)
def test_federations_that_cannot_be(about, reason):
    with pytest.raises(InvalidInputError, match=reason):
        dealt(**about)


# --- the real ones


def test_scifact_says_what_is_for_training_and_what_for_tests(shared_data):
    held = dealt(source=str(shared_data("scifact")), clients=10, split=[1.0, 0.0, 0.0])
    assert [len(own.train) for own in held.holdings] == [81] * 9 + [80]
    assert {len(own.test) for own in held.holdings} == {300}
    assert len(held.collections[0].documents) == 5183


def test_cranfields_questions_have_a_paper_of_their_own_and_two_documents_are_empty(shared_data):
    found = beir.read(str(shared_data("cranfield")))
    assert len(found.hidden) == 225
    assert [found.documents[d] for d, passage in enumerate(found.passages) if not passage] == ["471", "995"]


def test_of_cisis_questions_76_are_judged(shared_data):
    own = dealt(source=[str(shared_data("cisi"))], partition="domain", clients=1).holdings[0]
    assert sum(map(len, (own.train, own.validation, own.test))) == 76
    assert len(np.unique([*own.train, *own.validation, *own.test])) == 76

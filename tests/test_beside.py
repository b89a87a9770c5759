"""Rows that stand beside methods: FedAvg on one of several models, and what public labels alone teach."""

import json
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.tiny import TINY

from fd_flower.cli import compare, main
from fd_flower.config import DataConfig, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.methods import config
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World

SMALL = f"{TINY} data.limit=300 "


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(path: str) -> dict[str, dict[str, str]]:
    """Return the first table of a comparison by the names of its rows."""
    table = (Path(path) / "compare.md").read_text().partition("\n\n")[0]
    head, _, *lines = ([cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table.splitlines())
    return {row[0]: dict(zip(head, row, strict=True)) for row in lines}


# --- fedavg among mixed models


def test_fedavg_stands_beside_mixed_models_on_the_smallest():
    words = f"{SMALL} server.rounds=1 model.name=[cnn,mlp,lenet]"
    assert main(["compare", "local", "fedavg", "--quiet", "--out", "here", "--set", words]) == 0
    chosen = settings("local", words)
    world = World(chosen, described(chosen))
    sizes = {name: sum(p.numel() for p in world.module(name).parameters()) for name in ("cnn", "mlp", "lenet")}
    smallest = min(sizes, key=sizes.__getitem__)
    assert list(rows("here")) == ["local", f"fedavg on {smallest}"]
    text = Path("here/compare.md").read_text()
    assert "which is FedAvg fine-tuned; one model for all, the smallest of the others'." in text


def test_fedavg_beside_one_model_is_called_what_it_is():
    assert main(["compare", "local", "fedavg", "--quiet", "--out", "here", "--set", f"{SMALL} server.rounds=1"]) == 0
    assert list(rows("here")) == ["local", "fedavg"]
    assert rows("here")["fedavg"]["evaluated"] == "aggregated / trained"


# --- public labels


@pytest.mark.parametrize(("public", "passes"), [("held-out", 0), ("noise", 0), ("none", 0), ("somewhere", 20)])
def test_labels_are_learned_by_themselves_where_another_set_has_them(public, passes):
    data = DataConfig(public=public)
    assert config("fedmd", "client").label_passes(data) == passes
    assert config("fedmd", "client", label_epochs=3).label_passes(data) == 3
    assert config("local", "client").label_passes(data) == 0


def test_a_client_learns_public_labels_once_before_all_else():
    """Sixty samples in batches of 64 are one step a pass: three passes in round one, two digesting steps later."""
    words = f"{SMALL} client.public_batch=64 client.label_epochs=3 server.rounds=3"
    lines = tiny.run("fedmd", words)
    found = {number: line["steps"] for (number, _), line in tiny.of_clients(lines).items()}
    assert found == {1: {"local": 3, "public": 3}, 2: {"local": 3, "public": 2}, 3: {"local": 3, "public": 2}}


def test_without_the_exchange_it_is_local_training_after_the_same_labels(tmp_path):
    words = f"{SMALL} client.label_epochs=2 client.kd_weight=0 run.keep=last"
    for method in ("fedmd", "local"):
        tiny.run(method, words, out=tmp_path / method)
    tiny.run("local", f"{SMALL} run.keep=last", out=tmp_path / "bare")
    tiny.assert_same_bits(tiny.models(tmp_path / "fedmd"), tiny.models(tmp_path / "local"))
    taught, bare = (next(iter(tiny.models(tmp_path / name).values())) for name in ("local", "bare"))
    assert not all(torch.equal(tensor, bare[key]) for key, tensor in taught.items())


@pytest.mark.parametrize("method", ["fedmd", "local"])
def test_public_samples_without_labels_are_refused_with_what_to_do(method):
    why = rf"{method} needs labeled public samples; these have .*; client\.label_epochs=0 does without"
    with pytest.raises(InvalidInputError, match=why):
        tiny.run(method, f"{SMALL} data.public=noise client.label_epochs=1")


def test_wherever_labels_are_learned_what_they_teach_alone_stands_beside_it():
    words = f"{SMALL} fedmd.client.label_epochs=2 fedmd.client.steps=4 server.rounds=1"
    assert main(["compare", "local", "fedmd", "--quiet", "--out", "here", "--set", words]) == 0
    assert list(rows("here")) == ["local", "fedmd", "public labels alone"]
    alone, fedmd = rows("here")["public labels alone"], rows("here")["fedmd"]
    assert [alone[f"{kind} steps"] for kind in ("local", "public")] == [
        fedmd[f"{kind} steps"] for kind in ("local", "public")
    ]
    # In round one nothing has been exchanged yet, so the figures are the same, too.
    assert (alone["global final"], alone["personal final"]) == (fedmd["global final"], fedmd["personal final"])
    assert json.loads(Path("here/public-labels-alone-seed0/summary.json").read_text())["method"] == "local"


@pytest.mark.parametrize(
    ("method", "words", "added"),
    [
        ("feddf", "server.stop=validation", True),
        ("feddf", "server.teachers=drop_worst", True),
        ("dsfl", "server.receivers=greedy", True),
        ("dsfl", "server.receivers=clusters", False),
        ("feddf", "", False),
    ],
)
def test_where_the_server_uses_labels_what_they_teach_alone_stands_beside_it(method: str, words: str, added: bool):
    plan = compare.ordered(
        ["local", method], [SMALL, *(f"{method}.{w}" for w in words.split())], None, "local", None, "", 1
    )
    assert list(plan.orders) == ["local-seed0", f"{method}-seed0", *(["public-labels-alone-seed0"] if added else [])]
    if added:
        client = plan.orders["public-labels-alone-seed0"].settings.client
        assert (client.label_epochs, client.lr) == (20, 0.1)


def test_without_labels_nothing_is_added():
    assert list(compare.ordered(["local", "fedmd"], [SMALL], None, "local", None, "", 1).orders) == [
        "local-seed0",
        "fedmd-seed0",
    ]


def test_fedavg_of_the_heads_alone_keeps_its_clients_models():
    changes = "model.name=[mlp,lenet] model.features=16 fedavg.client.share=head"
    plan = compare.ordered(["local", "fedavg"], [changes], None, "local", None, "", 1)
    assert plan.orders["fedavg-seed0"].settings.model.name == ["mlp", "lenet"]


def test_labels_for_all_methods_would_be_locals_too():
    with pytest.raises(InvalidInputError, match="would be of local, too"):
        compare.ordered(["local", "fedmd"], ["client.label_epochs=3"], None, "local", None, "", 1)

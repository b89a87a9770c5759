"""Who listens to whom: [j, i] is True where i listens to j."""

import pytest
import torch

from fd_flower.core.errors import InvalidInputError
from fd_flower.server.graph import check_graph, neighbors, senders

SIX = tuple("012345")


def received(spec, clients=SIX, seed=0):
    """Return whom each client listens to, by id."""
    graph = neighbors(spec, clients, seed)
    assert graph.shape == (len(clients), len(clients))
    assert graph.dtype is torch.bool
    assert not graph.diagonal().any()
    return {c: "".join(clients[j] for j in graph[:, i].nonzero().flatten()) for i, c in enumerate(clients)}


def test_complete():
    assert received("complete", SIX[:3]) == {"0": "12", "1": "02", "2": "01"}


def test_ring():
    assert received("ring", SIX[:5]) == {"0": "14", "1": "02", "2": "13", "3": "24", "4": "03"}
    assert received("ring", SIX[:2]) == {"0": "1", "1": "0"}


def test_islands_are_neighbors_and_the_last_may_be_smaller():
    assert received("islands:2", SIX[:5]) == {"0": "1", "1": "0", "2": "3", "3": "2", "4": ""}
    assert received("islands:4") == {"0": "123", "1": "023", "2": "013", "3": "012", "4": "5", "5": "4"}
    assert set(received("islands:1").values()) == {""}


def test_one_client_listens_to_nobody():
    for spec in ("complete", "ring", "islands:3"):
        assert received(spec, ("0",)) == {"0": ""}


def test_random_draws_so_many_for_each_by_the_seed():
    drawn = received("random:2")
    assert [len(voices) for voices in drawn.values()] == [2] * 6
    assert drawn == received("random:2")
    assert any(drawn != received("random:2", seed=seed) for seed in (1, 2))
    assert received("random:5") == received("complete")


def test_random_draws_everybody_equally_often():
    """Each of 30 pairs is drawn with probability 2 / 5: over 500 seeds 200 times, with a standard deviation of 11."""
    counts = sum(neighbors("random:2", SIX, seed).int() for seed in range(500))
    pairs = counts[~torch.eye(6, dtype=torch.bool)]
    assert ((pairs - 200).abs() < 55).all()


def test_one_who_joins_takes_at_most_one_place_with_each():
    many = tuple(map(str, range(12)))
    before, after = received("random:3", many[:-1]), received("random:3", many)
    assert all(len(set(before[c]) - set(after[c])) <= 1 for c in before)


def test_a_graph_is_nobodys_to_change():
    neighbors("ring", SIX, 0).fill_(True)
    assert received("ring")["0"] == "15"


def test_a_file(tmp_path):
    path = tmp_path / "graph.yaml"
    path.write_text("0: [1, 2]\nlab-b: ['0', lab-b]\n2: []\n")
    assert received(str(path), ("0", "1", "2", "lab-b")) == {"0": "12", "1": "", "2": "", "lab-b": "0"}
    path.write_text("1: [0]")  # corrected between two runs of one process
    assert received(str(path), ("0", "1")) == {"0": "", "1": "0"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0: [1, 7]\n9: [0]", "names 7, 9; the clients here are 0, 1, 2, 3, 4, 5: correct the file"),
        ("0: 1", "holds no graph; expected lines like"),
        ("[0, 1]", "holds no graph"),
        ("", "holds no graph"),
        ("0: [1", "cannot be read"),
    ],
)
def test_a_file_that_is_no_graph_of_these_clients(tmp_path, text, said):
    path = tmp_path / "graph.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=said) as refusal:
        neighbors(str(path), SIX, 0)
    assert "\n" not in str(refusal.value)


def test_words_that_are_no_graph(tmp_path):
    with pytest.raises(InvalidInputError, match=r"server.graph is 'rings' \(did you mean 'ring'\?\)"):
        check_graph("rings")
    for spec in ("islands", "islands:0", "random:-1", "random:1.5", ""):
        with pytest.raises(InvalidInputError, match=f"server.graph is '{spec}'"):
            check_graph(spec)
    with pytest.raises(InvalidInputError, match=r"the relative path 'graph.yaml'; give an absolute one"):
        check_graph("graph.yaml")
    with pytest.raises(InvalidInputError, match="'random:6' among 6 clients; take at most 5"):
        neighbors("random:6", SIX, 0)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        neighbors(str(tmp_path / "none.yaml"), SIX, 0)


@pytest.mark.parametrize("spec", ["complete", "ring", "islands:4", "random:2"])
def test_whom_one_client_listens_to_is_its_column_of_the_graph(spec: str):
    graph = neighbors(spec, SIX, 3)
    for place, client in enumerate(SIX):
        assert senders(spec, SIX, client, 3) == [name for j, name in enumerate(SIX) if graph[j, place]]

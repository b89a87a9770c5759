"""FedLEx: how far clients move each weight guides later steps; AutoFLIP and Federated Pruning: masks of weights."""

from pathlib import Path

import pytest
import torch
from fd_flower.client_apps.fedlex import objective, squared_distances
from helpers import tiny
from helpers.grids import hosts
from helpers.replies import client, reply_of, strategy
from helpers.resumed import again, assert_same, started
from helpers.tiny import TINY, figures, start
from torch import nn
from torch.nn.functional import cross_entropy

from fd_flower import config, methods, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.guidance import guidance, kept_of_all, kept_rows, ramp
from fd_flower.server import Strategy
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.wire import Bounds, Correction, Knowledge, Mask, ServerModel, Weights

SHORT = TINY + "client.explore_epochs=2 run.keep=last "
GUIDANCES = ("scale", "prune", "rows")
ROWS = "server.guidance=rows server.refresh=1 server.ramp_rounds=0 "


def state(folder: Path, method: str = "fedlex") -> Knowledge:
    return Checkpoint.read(folder, method).knowledge


# --- the rules, by hand


def test_the_guidance_of_two_clients_by_hand():
    """Squared moves (1, 9) and (3, 5) of `w` have means (2, 7): scaled to (0, 1). With 4.5 between, it is 1/2."""
    found = guidance([{"w": torch.tensor([1.0, 9.0, 4.0])}, {"w": torch.tensor([3.0, 5.0, 5.0])}])
    torch.testing.assert_close(found["w"], torch.tensor([0.0, 1.0, 0.5]))


def test_numbers_that_move_equally_far_are_not_scaled():
    found = guidance([{"b": torch.full((2,), 3.0), "none": torch.zeros(2, 2), "empty": torch.zeros(0)}])
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in found.values())


def test_a_squared_distance_by_hand():
    """Statistics of batch normalization and counts of batches do not learn, so they have none."""
    start = {"w": torch.tensor([1.0, 2.0]), "norm.running_mean": torch.zeros(1), "batches": torch.tensor(1)}
    end = {"w": torch.tensor([3.0, 1.5]), "norm.running_mean": torch.ones(1), "batches": torch.tensor(2)}
    found = squared_distances(start, end)
    assert found.keys() == {"w"}
    torch.testing.assert_close(found["w"], torch.tensor([4.0, 0.25]))


def test_the_lowest_share_over_all_tensors_is_pruned():
    """0.5 of five numbers is two of them; of the two that are 0.1, the first by key goes."""
    kept = kept_of_all({"b": torch.tensor([0.1, 0.9]), "a": torch.tensor([[0.1], [0.0], [0.5]])}, 0.5)
    assert kept["a"].tolist() == [[False], [False], [True]]
    assert kept["b"].tolist() == [True, True]


@pytest.mark.parametrize(("share", "kept"), [(0.0, [1, 1, 1]), (0.4, [1, 0, 1]), (0.7, [1, 0, 0]), (0.99, [1, 0, 0])])
def test_rows_of_the_smallest_norm_are_pruned_and_never_all(share: float, kept: list[int]):
    """Norms are 5, 1 and 4."""
    rows = kept_rows({"w": torch.tensor([[3.0, 4.0], [0.0, 1.0], [4.0, 0.0]])}, share)["w"]
    assert rows.int().tolist() == [[each, each] for each in kept]


def test_the_ramp_by_hand():
    """Half of the way is 1 - 1/8 of the share."""
    assert [ramp(0.8, step, 10) for step in (0, 5, 10, 20)] == pytest.approx([0.0, 0.7, 0.8, 0.8])
    assert ramp(0.8, 1, 0) == 0.8


def test_the_objectives_gradient_is_scaled_and_its_value_is_not():
    """Logits are (0, 0): the loss is ln 2, and the bias's gradient, softmax less one-hot, is (-1/2, 1/2)."""
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)})
    x, y = torch.zeros(1, 2), torch.tensor([0])
    scales = [torch.ones(2, 2), torch.tensor([0.5, 0.0])]
    loss = objective(model, x, y, scales, methods.config("fedlex", "client"))
    loss.backward()
    assert torch.equal(loss, cross_entropy(model(x), y))
    torch.testing.assert_close(model.bias.grad, torch.tensor([-0.25, 0.0]))


def test_a_state_without_pruned_numbers_and_back():
    values = {"w": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "b": torch.tensor([7.0]), "n": torch.tensor(3)}
    mask = Mask.of_kept({"w": torch.tensor([[1, 0, 1], [0, 0, 1]]).bool(), "b": torch.ones(1).bool()})
    assert mask.bits.keys() == {"w"}
    assert mask.bits["w"].tolist() == [0b10100100]
    assert int(mask.pruned) == 3
    reduced = mask.reduced(values)
    assert reduced["w"].tolist() == [1.0, 3.0, 6.0]
    restored = mask.restored(reduced, values)
    assert restored["w"].tolist() == [[1.0, 0.0, 3.0], [0.0, 0.0, 6.0]]
    assert restored["b"].tolist() == [7.0]


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ({"w": torch.zeros(2, dtype=torch.uint8)}, "2 bytes of bits for 'w', which do not fit the model"),
        ({"v": torch.zeros(1, dtype=torch.uint8)}, "1 bytes of bits for 'v', which do not fit the model"),
    ],
)
def test_a_mask_of_another_model_is_refused(found, fault):
    with pytest.raises(InvalidInputError, match=fault):
        Mask(found, torch.tensor(3)).kept({"w": torch.zeros(4)})


def test_weights_of_another_mask_are_refused():
    mask = Mask.of_kept({"w": torch.tensor([True, False, True])})
    with pytest.raises(InvalidInputError, match="have no 2 numbers of 'w', which mask keeps"):
        mask.restored({"w": torch.zeros(3)}, {"w": torch.zeros(3)})
    with pytest.raises(InvalidInputError, match=r"mask has 'w' of torch\.int64; expected bits"):
        Mask({"w": torch.tensor([1])}, torch.tensor(1)).check(Bounds())
    with pytest.raises(InvalidInputError, match=r"mask has the fields .*; expected bits/KEY and pruned"):
        Mask.of("mask", {"bits/w": torch.zeros(1)})


# --- the server


def explored(name: str, weights: list[float], moved: list[float], examples: int):
    payloads = Weights({"w": torch.tensor(weights)}), Correction({"w": torch.tensor(moved)})
    return reply_of(name, *payloads, examples=examples)


REPLIES = [explored("0", [4.0, 0.0, 1.0], [1.0, 9.0, 4.0], 3), explored("1", [0.0, 8.0, 1.0], [3.0, 5.0, 5.0], 1)]
FIRST = Knowledge([Weights({"w": torch.zeros(3)})])


def test_the_first_round_leaves_a_guide_and_the_others_keep_it():
    """Weights count by examples, (3 * 4 + 0) / 4 = 3; deviations count equally, as in the guidance by hand."""
    server = strategy("fedlex")
    server.knowledge = FIRST
    assert set(server.expected_kinds(1)) == {Weights, Correction}
    server.knowledge = Knowledge(server.aggregate(REPLIES, FIRST, 1))
    assert server.expected_kinds(2) == (Weights,)
    assert Weights.need(server.knowledge).values["w"].tolist() == [3.0, 2.0, 1.0]
    assert Correction.need(server.knowledge).values["w"].tolist() == [0.0, 1.0, 0.5]
    later = server.aggregate([reply_of("0", Weights({"w": torch.ones(3)}))], server.knowledge, 2)
    assert Correction.need(later) is Correction.need(server.knowledge)


def test_the_first_round_prunes_what_moved_least():
    """A third of three is the number with guidance 0; replies and messages lack it from then on."""
    server = strategy("fedlex", guidance="prune", prune_share=0.34)
    server.knowledge = Knowledge(server.aggregate(REPLIES, FIRST, 1))
    assert Weights.need(server.knowledge).values["w"].tolist() == [0.0, 2.0, 1.0]
    sent = server.knowledge_for(client("2"), server.knowledge)
    assert Weights.need(sent).values["w"].tolist() == [2.0, 1.0]
    assert server.known_weights()[0].values["w"].tolist() == [2.0, 1.0]
    later = server.aggregate([reply_of("0", Weights({"w": torch.tensor([5.0, 6.0])}))], server.knowledge, 2)
    assert Weights.need(later).values["w"].tolist() == [0.0, 5.0, 6.0]


def test_a_pruned_row_comes_back_when_others_shrink(monkeypatch: pytest.MonkeyPatch):
    """Half of two rows is the one of norm 1. The other falls to 0.5, so the first returns as it was and replaces it."""
    server = strategy("fedlex", guidance="rows", prune_share=0.5, refresh=1, ramp_rounds=0)
    monkeypatch.setattr(type(server), "_layers", lambda self, model: ["w"])
    server.clients = [client("0")]
    first = Knowledge([Weights({"w": torch.zeros(2, 1)})])
    now = Knowledge(server.aggregate([reply_of("0", Weights({"w": torch.tensor([[1.0], [3.0]])}))], first, 1))
    assert Weights.need(now).values["w"].tolist() == [[0.0], [3.0]]
    assert ServerModel.need(now).values["w"].tolist() == [[1.0], [3.0]]
    now = Knowledge(server.aggregate([reply_of("0", Weights({"w": torch.tensor([0.5])}))], now, 2))
    assert Weights.need(now).values["w"].tolist() == [[1.0], [0.0]]
    assert ServerModel.need(now).values["w"].tolist() == [[1.0], [0.5]]


# --- runs


def test_the_first_round_is_fedavgs_and_the_second_is_not(tmp_path: Path):
    for rounds in (1, 2):
        plain = averaged(f"server.rounds={rounds}")
        tiny.run("fedlex", f"{SHORT} client.schedule=constant server.rounds={rounds}", out=tmp_path / str(rounds))
        found = Weights.need(state(tmp_path / str(rounds))).values
        same = [torch.equal(tensor, plain[key]) for key, tensor in found.items()]
        assert all(same) if rounds == 1 else not any(same)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("mlp", "server.guidance=scale client.explore_epochs=0"),  # nothing moves, so that the guidance is all ones
        ("mlp", "server.guidance=prune server.prune_share=0"),
        ("mlp", "server.guidance=rows server.prune_share=0 server.refresh=1"),
        pytest.param("resnet8:0.25", "server.guidance=scale client.explore_epochs=0", marks=pytest.mark.slow),
    ],
)
def test_a_guide_of_ones_is_fedavg_bit_for_bit(tmp_path: Path, model: str, words: str):
    steady = f"model.name={model} client.schedule=constant server.rounds=3 "
    plain = averaged(steady)
    tiny.run("fedlex", f"{SHORT} {steady} {words}", out=tmp_path / "run")
    tiny.assert_same_bits({0: plain}, {0: Weights.need(state(tmp_path / "run")).values})


def averaged(words: str) -> dict[str, torch.Tensor]:
    """Return what fedavg ends with; whoever observes single replies gets their plain mean, and no exact sum."""
    made = settings("fedavg", f"{TINY} client.schedule=constant {words}")
    server = Strategy.for_method(made)
    server.on_replies = lambda round, replies: None
    server.start(hosts("fedavg"))
    return dict(Weights.need(server.knowledge).values)


def test_steps_with_momentum_stay_inside_the_mask(tmp_path: Path):
    """Pruned weights are 0 after every round, and every other one of a layer that learns has moved."""
    lines = tiny.run(
        "fedlex", f"{SHORT} server.guidance=prune client.momentum=0.9 server.rounds=3", out=tmp_path / "run"
    )
    weights, mask = Weights.need(state(tmp_path / "run")).values, Mask.need(state(tmp_path / "run"))
    total = sum(tensor.numel() for tensor in weights.values())
    assert int(mask.pruned) == int(0.3 * total) == tiny.rounds(lines)[0]["diagnostics"]["pruned"]
    for key, kept in mask.kept(weights).items():
        assert not bool(weights[key][~kept].any())
        assert bool(weights[key][kept].any())


def test_messages_of_pruned_models_are_smaller():
    """By the pruned numbers, 4 bytes each, both ways; the mask is a bit for each number, and some names."""
    lines = tiny.rounds(tiny.run("fedlex", f"{SHORT} server.guidance=prune data.clients=2"))
    first, second = (line["bytes"] for line in lines)
    pruned = 2 * 4 * lines[0]["diagnostics"]["pruned"]
    for way in ("up", "down"):
        assert first[way]["arrays"] - second[way]["arrays"] == pytest.approx(pruned, rel=0.01)
    assert "correction" not in second["up"]
    assert second["down"]["mask"] < first["down"]["arrays"] / 20


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_hosts_and_one_process_have_the_same_figures(guidance: str):
    made = settings("fedlex", f"{SHORT} {ROWS} server.guidance={guidance}")
    (_, _, one), (_, _, two) = start(made, hosts("fedlex")), start(made, hosts("fedlex", 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in tiny.rounds(one))


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_a_run_resumes_with_its_guide_and_clients_that_did_not_explore(tmp_path: Path, guidance: str):
    """With a share of the clients in each round, some take part for the first time after round one."""
    options = f"{ROWS} server.guidance={guidance} server.fraction=0.4 client.explore_epochs=2 data.clients=4"
    start(started("fedlex", tmp_path / "whole", 3, options), hosts("fedlex"))
    start(started("fedlex", tmp_path / "cut", 2, options), hosts("fedlex"))
    start(again("fedlex", tmp_path / "cut", "server.rounds=3"), hosts("fedlex", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_the_exploration_ends_without_a_lower_loss(monkeypatch: pytest.MonkeyPatch):
    """Losses 3, 2, 2, 2: patience 2 is over after the fourth epoch of ten."""
    losses = iter([3.0, 2.0, 2.0, 2.0, 1.0])
    monkeypatch.setattr("fd_flower.client_apps.fedlex.train_model", lambda *_, **__: next(losses))
    words = f"{TINY} server.rounds=1 data.clients=1 client.explore_epochs=10 client.explore_patience=2"
    tiny.run("fedlex", words)
    assert list(losses) == [1.0]


# --- what does not go


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("model.name=[mlp,cnn]", "fedlex needs one architecture for all clients; got cnn, mlp"),
        ("privacy.sum=masks", "privacy.sum"),
        (
            "privacy.dp=central privacy.clip=1 privacy.epsilon=1",
            r"privacy\.dp=central: fedlex needs individual replies",
        ),
        ("server.guidance=rows wire.up=sparse", r"wire\.up=sparse remembers what it left out by place"),
        ("server.guidance=rows client.trainable=head", "prunes all layers but the last, and 'mlp' has one that learns"),
    ],
)
def test_what_it_cannot_serve_is_refused_before_round_one(words: str, fault: str):
    lines: list[tiny.Line] = []
    with pytest.raises(InvalidInputError, match=fault):
        tiny.run("fedlex", f"{SHORT} {words}", on_line=lines.append)
    assert not tiny.rounds(lines)


@pytest.mark.parametrize(
    ("side", "changes", "fault"),
    [
        ("server", {"guidance": "columns"}, r"server\.guidance.*scale"),
        ("server", {"prune_share": 1.0}, r"server\.prune_share is 1\.0; expected"),
        ("server", {"refresh": 0}, r"server\.refresh is 0; expected"),
        ("client", {"explore_patience": 0}, r"client\.explore_patience is 0; expected"),
    ],
)
def test_values_out_of_range_are_refused(side: str, changes: dict[str, object], fault: str):
    with pytest.raises(InvalidInputError, match=fault):
        methods.config("fedlex", side, **changes)


@pytest.mark.parametrize(("recipe", "guidance"), [("autoflip", "prune"), ("federated-pruning", "rows")])
def test_its_other_recipes_choose_the_guidance(recipe: str, guidance: str):
    assert methods.strategy("fedlex").options(config.settings("fedlex", f"recipe={recipe}")).guidance == guidance

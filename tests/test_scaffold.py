"""SCAFFOLD: control variates of server and clients, and what their differences do to steps."""

import logging
import math

import pytest
import torch
from fd_flower.client_apps.scaffold import mean_gradients, objective
from helpers import tiny
from helpers.replies import client, strategy
from helpers.tiny import TINY
from torch import nn
from torch.nn.functional import cross_entropy

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.proximal import with_gradient
from fd_flower.server import replied
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.training import LOCAL, counted, taken
from fd_flower.wire import Bounds, Correction, Knowledge, Weights, pack
from fd_flower.wire.replies import Reply

SKEWED = TINY + "data.alpha=0.1 data.limit=300 client.steps=4 client.weight_decay=0 server.evaluate_every=0 "


def test_different_numbers_of_steps_are_warned_about(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, logger="flwr")
    for words, warned in (("client.steps=null client.epochs=1", True), ("client.steps=2", False)):
        caplog.clear()
        tiny.run("scaffold", TINY + f"data.partition=quantity data.alpha=0.5 server.rounds=1 {words}")
        assert ("client.steps gives all clients the same number" in caplog.text) == warned


def state(folder, method="scaffold") -> Knowledge:
    return Checkpoint.read(folder, method).knowledge


def test_the_objectives_gradient_has_the_correction_added_and_its_value_has_not():
    """Logits are (0, 0): the loss is ln 2, and the bias's gradient, softmax less one-hot, is (-1/2, 1/2)."""
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)})
    x, y = torch.zeros(1, 2), torch.tensor([0])
    added = [torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([0.25, 3.0])]
    loss = objective(model, x, y, added, methods.config("scaffold", "client"))
    loss.backward()
    assert torch.equal(loss, cross_entropy(model(x), y))
    torch.testing.assert_close(model.bias.grad, torch.tensor([-0.25, 3.5]))
    torch.testing.assert_close(model.weight.grad, added[0])


def test_the_mean_gradient_of_three_steps_by_hand():
    """With learning rate 0.5 and gradients 1, 2 and 6 a weight falls by 4.5, from 5 to 0.5; their mean is 3."""
    found = mean_gradients({"w": torch.tensor([5.0])}, {"w": torch.tensor([0.5]), "n": torch.tensor(3)}, 0.5, 3)
    assert found.keys() == {"w"}
    torch.testing.assert_close(found["w"], torch.tensor([3.0]))


def test_steps_taken_are_those_counted_so_far():
    assert taken(LOCAL) == 0
    with counted(LOCAL) as steps:
        steps[LOCAL] += 2
        assert taken(LOCAL) == 2


def server(lr: float = 1.0, examples: tuple[int, ...] = (3, 1, 4)):
    made = strategy("scaffold", lr=lr)
    made.clients = [client(str(n), examples=count) for n, count in enumerate(examples)]
    return made


def sent(name: str, weight: float, gradient: float, examples: int) -> Reply:
    payloads = Weights({"w": torch.tensor([weight])}), Correction({"w": torch.tensor([gradient])})
    return Reply(client(name, examples=examples), pack(*payloads), examples)


REPLIES = [sent("0", 4.0, 2.0, 3), sent("1", 0.0, -2.0, 1)]
KNOWN = Knowledge([Weights({"w": torch.tensor([1.0])}), Correction({"w": torch.tensor([3.0])})])


@pytest.mark.parametrize(("lr", "weight"), [(1.0, 3.0), (0.5, 2.0), (2.0, 5.0)])
def test_the_server_by_hand(lr, weight):
    """The weights' mean is (3 * 4 + 1 * 0) / 4 = 3, from 1 on. The gradients' mean is (3 * 2 - 2) / 4 = 1.

    Clients with 4 of all 8 examples replied, so the variate moves half of the way from 3 to 1.
    """
    weights, variate = server(lr).aggregate(REPLIES, KNOWN, 1)
    torch.testing.assert_close(weights.values["w"], torch.tensor([weight]))
    torch.testing.assert_close(variate.values["w"], torch.tensor([2.0]))


def test_where_no_examples_are_known_a_reply_counts_as_one_client_of_all():
    """|S| / N of the paper: two of three, also where both are behind one sum."""
    members = [client("0"), client("1")]
    made = server(examples=(0, 0, 0))
    assert replied(made, REPLIES) == pytest.approx(2 / 3)
    assert replied(made, [Reply.of_sum(members, pack(), 2)]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("model", ["mlp", pytest.param("resnet8:0.25", marks=pytest.mark.slow)])
def test_the_first_round_is_fedavgs(tmp_path, model):
    """Bit for bit, running statistics too."""
    short = SKEWED + f"data.limit=100 client.steps=2 model.name={model} server.rounds=1"
    for method in ("fedavg", "scaffold"):
        tiny.run(method, short, out=tmp_path / method)
    plain, corrected = (Weights.need(state(tmp_path / method, method)).values for method in ("fedavg", "scaffold"))
    tiny.assert_same_bits({0: plain}, {0: corrected})


def test_the_second_round_is_not_fedavgs(tmp_path):
    for method in ("fedavg", "scaffold"):
        tiny.run(method, SKEWED, out=tmp_path / method)
    plain, corrected = (Weights.need(state(tmp_path / method, method)).values for method in ("fedavg", "scaffold"))
    assert all(not torch.equal(plain[key], corrected[key]) for key in plain)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_servers_variate_is_the_mean_of_all_clients_variates(tmp_path, fraction):
    """By examples, also where a part of the clients is asked in each round: the others keep what they have."""
    federation = f"data.clients=4 server.rounds=4 server.fraction={fraction} run.keep=last"
    lines = tiny.run("scaffold", SKEWED + federation, out=tmp_path / "run")
    examples = {client: line["examples"] for (_, client), line in tiny.of_clients(lines).items()}
    assert len(examples) == 4
    assert all(len(line["asked"]) == 4 * fraction for line in tiny.rounds(lines))
    newest = {client: kept for (client, _), kept in sorted(tiny.memories(tmp_path / "run").items())}
    variate = Correction.need(state(tmp_path / "run")).values
    for key, tensor in variate.items():
        total = sum(n * newest[client][f"variate/{key}"].double() for client, n in examples.items())
        torch.testing.assert_close(tensor.double(), total / sum(examples.values()), atol=1e-6, rtol=1e-4)
    assert all(bool(tensor.any()) for tensor in variate.values())


def test_full_batches_reach_the_optimum_of_all_clients_where_fedavg_does_not():
    """Two clients pull one number to 0 and to 4, the second three times as hard: together to 3, as w + 3 (w - 4) = 0.

    In ten steps of 0.2 the second is at its own optimum long before the first, so that FedAvg's mean ends elsewhere.
    The method's own functions do all the steps here; the loss of a client is a squared distance, not cross-entropy.
    """
    pulls, lr, steps = ((0.0, 1.0), (4.0, 3.0)), 0.2, 10
    ends = {}
    for corrected in (False, True):
        server_weight, common, own = torch.tensor([10.0]), torch.zeros(1), [torch.zeros(1), torch.zeros(1)]
        for _ in range(30):
            sent, moved = [], []
            for number, (target, strength) in enumerate(pulls):
                model = nn.ParameterList([server_weight.clone()])
                for _ in range(steps):
                    (w,) = model
                    loss = strength / 2 * (w - target).square().sum()
                    if corrected:
                        loss = loss + with_gradient([w], [common - own[number]])
                    (gradient,) = torch.autograd.grad(loss, [w])
                    w.data -= lr * gradient
                gradients = mean_gradients({"0": server_weight}, {"0": model[0].detach()}, lr, steps)["0"]
                own[number] = own[number] - common + gradients
                sent.append(model[0].detach())
                moved.append(gradients)
            server_weight, common = torch.stack(sent).mean(0), torch.stack(moved).mean(0)
        ends[corrected] = float(server_weight)
    assert ends[True] == pytest.approx(3.0, abs=1e-3)
    assert abs(ends[False] - 3.0) > 0.5


@pytest.mark.parametrize(
    ("changes", "given"),
    [({"momentum": 0.9}, "client.momentum=0.9"), ({"optimizer": "adam"}, "client.optimizer=adam")],
)
def test_what_is_no_plain_sgd_is_refused(changes, given):
    with pytest.raises(InvalidInputError, match=rf"mean gradient under plain SGD alone; got {given}: take client\.opt"):
        methods.config("scaffold", "client", **changes)


def test_a_server_that_does_not_move_is_refused():
    with pytest.raises(InvalidInputError, match=r"server\.lr is 0\.0; expected a number above 0"):
        methods.config("scaffold", "server", lr=0)


def test_a_correction_of_other_keys_or_shapes_is_refused():
    """Statistics of batch normalization are no parameters, so there is none for them."""
    known = {"w": torch.zeros(2), "running_mean": torch.zeros(2), "batches": torch.tensor(1)}
    bounds = Bounds(weights={"": known})
    Correction({"w": torch.ones(2)}).check(bounds)
    assert Correction.blank(bounds).values.keys() == {"w"}
    for values, fault in (
        (dict(known), "correction has other keys than the server's: batches, running_mean"),
        ({"w": torch.ones(3)}, r"correction has 'w' of shape \[3\]; expected \[2\]"),
        ({"w": torch.ones(2, dtype=torch.float64)}, "correction has 'w' of torch.float64; expected torch.float32"),
        ({"w": torch.tensor([1.0, math.inf])}, "not finite"),
    ):
        with pytest.raises(InvalidInputError, match=fault):
            Correction(values).check(bounds)


def test_a_secure_sum_and_noise_hide_both_payloads(tmp_path):
    """Under masks the run is that of open replies up to rounding; clipped sums of zero noise run as well."""
    for name, privacy in (("open", ""), ("masks", "privacy.sum=masks"), ("dp", "privacy.dp=central privacy.clip=1")):
        more = " privacy.noise_multiplier=0 server.lr=0.5" if name == "dp" else ""
        tiny.run("scaffold", f"{SKEWED} {privacy}{more}", out=tmp_path / name)
    plain, hidden = state(tmp_path / "open"), state(tmp_path / "masks")
    for kind in (Weights, Correction):
        for key, tensor in kind.need(plain).values.items():
            torch.testing.assert_close(kind.need(hidden).values[key], tensor, atol=1e-3, rtol=1e-2)
    assert all(bool(tensor.isfinite().all()) for tensor in Correction.need(state(tmp_path / "dp")).values.values())

"""FD: tables of mean outputs by class, each client receives the others', and without them it is local training."""

import math
import shutil
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from fd_flower.client_apps.fd import Table, objective, teacher_of, without_own
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tasks import echoes
from helpers.tiny import STILL, TINY
from torch import Tensor

from fd_flower import methods
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import Bounds, ClassLogits, Knowledge, pack
from fd_flower.wire.replies import Reply

LN2, LN3 = math.log(2), math.log(3)


def table(sums: list[list[float]], counts: list[float], **members: int) -> ClassLogits:
    values = [torch.tensor(v, dtype=torch.float64) for v in (sums, counts)]
    if not members:
        return ClassLogits(*values)
    return ClassLogits.joined(*values, {name.removeprefix("c"): number for name, number in members.items()})


def changed(**changes):
    return methods.config("fd", "client", **changes)


# --- the server


def test_tables_are_added():
    """Two clients' sums and counts, class by class; the second has nothing of class 1."""
    received = [
        reply_of("0", table([[1.6, 0.4], [0.3, 0.7]], [2, 1])),
        reply_of("1", table([[0.5, 0.5], [0.0, 0.0]], [1, 0])),
    ]
    (total,) = strategy("fd").aggregate(received, Knowledge(), round=4)
    torch.testing.assert_close(total.sums, torch.tensor([[2.1, 0.9], [0.3, 0.7]], dtype=torch.float64))
    assert total.counts.tolist() == [3, 1]
    assert total.rounds == {"0": 4, "1": 4}


def test_the_server_does_not_freeze():
    """HtFL-OnDevice's default (old * 1 + new * 0) keeps round one's table for ever; ours is the round's alone."""
    before = Knowledge([table([[9.0, 0.0], [0.0, 9.0]], [9, 9], c0=1)])
    new = table([[0.5, 0.5], [0.2, 0.8]], [1, 1])
    (total,) = strategy("fd").aggregate([reply_of("1", new)], before, round=2)
    assert torch.equal(total.sums, new.sums)
    assert list(total.rounds) == ["1"]


def test_what_several_said_together_names_them_all():
    hidden = Reply.of_sum([Client("0", 0), Client("2", 2)], pack(table([[1.0, 0.0], [0.0, 1.0]], [1, 1])), 2)
    (total,) = strategy("fd").aggregate([hidden], Knowledge(), round=3)
    assert total.rounds == {"0": 3, "2": 3}


# --- the client's table


def test_a_table_sums_softmax_outputs_by_true_class():
    """softmax of (ln 3, 0) is (3/4, 1/4), of (0, 0) is (1/2, 1/2): class 0 sums to (5/4, 3/4) over two samples."""
    seen = Table(2, "probabilities")
    seen.add(torch.tensor([[LN3, 0.0], [0.0, LN3]]), torch.tensor([0, 1]))
    seen.add(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    by_examples, by_clients = seen.payload("examples"), seen.payload("clients")
    torch.testing.assert_close(by_examples.sums.float(), torch.tensor([[1.25, 0.75], [0.25, 0.75]]))
    assert by_examples.counts.tolist() == [2, 1]
    torch.testing.assert_close(by_clients.sums.float(), torch.tensor([[0.625, 0.375], [0.25, 0.75]]))
    assert by_clients.counts.tolist() == [1, 1]


def test_a_table_of_logits_sums_logits():
    seen = Table(2, "logits")
    seen.add(torch.tensor([[4.0, -1.0], [2.0, 1.0]]), torch.tensor([0, 0]))
    assert seen.payload("examples").sums.tolist() == [[6.0, 0.0], [0.0, 0.0]]
    assert seen.payload("clients").sums.tolist() == [[3.0, 0.0], [0.0, 0.0]]
    assert seen.payload("clients").counts.tolist() == [1, 0]


# --- leave-one-out


class Remembering:
    """A turn as far as `without_own` looks at it."""

    def __init__(self, client: str, **kept: Tensor) -> None:
        self.client, self.recall = client, kept.get


def test_a_client_takes_its_own_table_out():
    received = replace(table([[2.1, 0.9], [0.3, 0.7]], [3, 1]), round=torch.tensor(4))
    own = table([[1.6, 0.4], [0.3, 0.7]], [2, 1])
    left = without_own(received, Remembering("0", sums=own.sums, counts=own.counts, sent=torch.tensor(4)))
    assert left.counts.tolist() == [1, 0]
    teacher = teacher_of(left, "probabilities")
    torch.testing.assert_close(teacher[0].exp(), torch.tensor([0.5, 0.5]))
    assert teacher[1].isnan().all()  # a class that nobody else has: no teacher


@pytest.mark.parametrize(
    ("round", "kept"),
    [
        (None, {"sent": 4}),  # its reply of that round did not count
        (4, {"sent": 3}),  # its reply of round 4 never came back to it: what it remembers is older
        (4, {}),  # it lost its memory
    ],
)
def test_what_cannot_be_taken_out_stays_in(round, kept):
    received = table([[2.1, 0.9], [0.3, 0.7]], [3, 1])
    received = replace(received, round=None if round is None else torch.tensor(round))
    own = {"sums": received.sums / 3, "counts": received.counts / 3} if kept else {}
    turn = Remembering("0", **own, **{name: torch.tensor(value) for name, value in kept.items()})
    assert without_own(received, turn) is received


def test_a_client_takes_its_own_late_table_out_with_its_weight():
    """Client 0 counts half: (2.6, 1.4) over 4 samples is half of (3.2, 0.8) over 4 and (1, 1) over 2."""
    own, others = table([[3.2, 0.8], [0.0, 0.0]], [4, 0]), table([[1.0, 1.0], [0.3, 0.7]], [2, 1])
    received = ClassLogits.joined(
        0.5 * own.sums + others.sums, 0.5 * own.counts + others.counts, {"0": 2, "1": 4}, {"0": 0.5, "1": 1.0}
    )
    assert (received.rounds, received.weights) == ({"0": 2, "1": 4}, {"0": 0.5})
    received.check(Bounds(classes=2))
    mine = replace(received, round=torch.tensor(2), weight=torch.tensor(0.5, dtype=torch.float64))
    left = without_own(mine, Remembering("0", sums=own.sums, counts=own.counts, sent=torch.tensor(2)))
    torch.testing.assert_close(teacher_of(left, "probabilities").exp(), torch.tensor([[0.5, 0.5], [0.3, 0.7]]))
    third = teacher_of(received, "probabilities").exp()
    torch.testing.assert_close(third, torch.tensor([[2.6 / 4, 1.4 / 4], [0.3, 0.7]]))


def test_counts_with_weights_that_are_empty_but_for_rounding_are_empty():
    weight = 3**-0.5
    counts = torch.tensor([0.1 * weight, 0.0], dtype=torch.float64)
    said = {"round": torch.tensor(1), "weight": torch.tensor(weight, dtype=torch.float64)}
    received = ClassLogits(torch.ones(2, 2).double(), counts, **said)
    own = Remembering("0", sums=torch.zeros(2, 2).double(), counts=counts / weight, sent=torch.tensor(1))
    assert teacher_of(without_own(received, own), "probabilities").isnan().all()


def test_counts_of_a_reply_are_whole():
    content = ClassLogits.joined(torch.ones(2, 2).double(), torch.tensor([0.5, 1.0]).double(), {"0": 1}, {"0": 0.5})
    with pytest.raises(InvalidInputError, match="counts that are not whole"):
        content.check(Bounds(classes=2, client=Client("0", 0)))


def test_rounding_leaves_no_class_behind():
    """0.1 added 10 times and taken away again leaves 1e-16 of 1e-16 samples, which is nobody's prediction."""
    total = torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(10):
        total += 0.1
    left = ClassLogits(total - 1.0, total[0] - 1.0)
    assert left.sums.all()
    assert left.counts.all()
    assert teacher_of(left, "probabilities").isnan().all()


def test_teachers_are_log_probabilities():
    """The mean of logits (4, -1) and (2, 1) is (3, 0): its softmax; (3/4, 1/4) and (1/4, 3/4) make (1/2, 1/2)."""
    logits = teacher_of(table([[6.0, 0.0], [0.0, 0.0]], [2, 0]), "logits")
    torch.testing.assert_close(logits[0], torch.tensor([3.0, 0.0]).log_softmax(0))
    shares = teacher_of(table([[1.0, 1.0], [0.0, 0.0]], [2, 0]), "probabilities")
    torch.testing.assert_close(shares[0].exp(), torch.tensor([0.5, 0.5]))
    assert logits[1].isnan().all()
    assert shares[1].isnan().all()


def test_a_client_receives_the_round_of_its_own_table_and_nothing_about_others():
    """Whoever is in the sums shares one record, all others another one, however many clients there are."""
    everybody = [Client(str(i), i) for i in range(1000)]
    total = table([[2.1, 0.9], [0.3, 0.7]], [3, 1], **{f"c{i}": 4 for i in range(500)})
    sent = [strategy("fd").knowledge_for(client, Knowledge([total])) for client in everybody]
    assert [len(one) for one in sent] == [1] * 1000
    assert [ClassLogits.need(one).round for one in sent[500:]] == [None] * 500
    assert {int(one.round) for (one,) in sent[:500]} == {4}
    assert len({id(one.record) for (one,) in sent}) == 2
    assert max(one.record.count_bytes() for (one,) in sent) < 1000
    assert strategy("fd").knowledge_for(everybody[0], Knowledge()) == []


# --- the loss


def test_objective_by_hand():
    """Logits (ln 3, 0) are (3/4, 1/4), twice: once as class 0, whose teacher is (1/2, 1/2), once as class 1, of none.

    Cross-entropy: (ln 4/3 + ln 4) / 2. KL((1/2, 1/2) || (3/4, 1/4)) = ln(2/3) / 2 + ln 2 / 2 = ln(4/3) / 2, halved
    because one of two samples has a teacher. Gradient of a sample's logits p, one-hot y, teacher t, gamma 2:
    (p - y + 2 (p - t)) / 2, that is ((-1/4 + 1/2) / 2, ...) = (1/8, -1/8), and (3/8, -3/8) without a teacher.
    """
    x = torch.tensor([[LN3, 0.0], [LN3, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-LN2, -LN2], [math.nan, math.nan]])
    loss = objective(lambda x: x, x, torch.tensor([0, 1]), teacher, changed(kd_weight=2.0))
    loss.backward()
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2 + 2 * math.log(4 / 3) / 4)
    torch.testing.assert_close(x.grad, torch.tensor([[0.125, -0.125], [0.375, -0.375]]))


def test_targets_are_probabilities_at_any_scale_of_logits():
    """HtFLlib takes raw logits for soft targets, HtFL-OnDevice compares probabilities with raw outputs.

    Then a teacher that agrees with the student pulls all the same, and harder the larger its logits are; here the
    distance is 0 and the gradient is cross-entropy's.
    """
    x = torch.tensor([[20.0, -20.0, 5.0]], requires_grad=True)
    agreeing = teacher_of(table([[20.0, -20.0, 5.0], [0] * 3, [0] * 3], [1, 0, 0]), "logits")
    with_teacher = objective(lambda x: x, x, torch.tensor([0]), agreeing, changed(kd_weight=5.0))
    without = objective(lambda x: x, x, torch.tensor([0]), None, changed(kd_weight=5.0))
    torch.testing.assert_close(with_teacher, without)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (with_teacher, without)))


def test_temperature_is_the_objectives():
    """At temperature 2 logits (2 ln 3, 0) are (3/4, 1/4) and the loss is 4 KL((1/2, 1/2) || (3/4, 1/4))."""
    x = torch.tensor([[2 * LN3, 0.0]])
    teacher = torch.tensor([[-LN2, -LN2], [-LN2, -LN2]])
    config = changed(objective_args={"temperature": 2.0})
    distance = objective(lambda x: x, x, torch.tensor([0]), teacher, config) - math.log(10 / 9)
    assert distance.item() == pytest.approx(4 * math.log(4 / 3) / 2)


def test_without_anybody_elses_class_there_is_no_pull():
    """No teacher at all: the second term is exactly 0, and so is its gradient."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.tensor([0, 1, 2, 0])
    nobody = objective(lambda x: x, x, y, torch.full((3, 3), math.nan), changed())
    alone = objective(lambda x: x, x, y, None, changed())
    assert torch.equal(nobody, alone)
    assert torch.equal(*(torch.autograd.grad(loss, x)[0] for loss in (nobody, alone)))


# --- whole runs, on clients whose weights stay where they are, so that every table is known

HELD = {
    "0": [((0.8, 0.2), 0), ((0.3, 0.7), 1)],
    "1": [((0.6, 0.4), 0), ((0.2, 0.8), 0)],
    "2": [((0.9, 0.1), 0), ((0.1, 0.9), 1)],
}
"""Client -> its samples: what the model says of each, and its class."""


def still():
    logs = {client: [([math.log(p) for p in row], y) for row, y in rows] for client, rows in HELD.items()}
    return echoes(logs)


def expected_loss(client: str, received_from: Iterable[str], output: str, weighting: str) -> float:
    """Return the mean over the client's samples of CE + KL(mean output of these clients || own), in plain Python."""
    total = 0.0
    for row, y in HELD[client]:
        total -= math.log(row[y])
        votes = []  # (weight, what was said of class y)
        for other in received_from:
            mine = [r for r, c in HELD[other] if c == y]
            votes += [(1 / len(mine) if weighting == "clients" else 1.0, r) for r in mine]
        if not votes:
            continue
        mass = sum(w for w, _ in votes)
        if output == "probabilities":
            target = [sum(w * r[c] for w, r in votes) / mass for c in (0, 1)]
        else:
            means = [math.exp(sum(w * math.log(r[c]) for w, r in votes) / mass) for c in (0, 1)]
            target = [m / sum(means) for m in means]
        total += sum(t * math.log(t / q) for t, q in zip(target, row, strict=True))
    return total / len(HELD[client])


@pytest.mark.parametrize("weighting", ["clients", "examples"])
@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_every_client_hears_the_others_of_the_last_round(output, weighting):
    """Two of three clients a round: a client receives who replied last, less itself where it is among them.

    A client that received itself, a table that stays round one's, or the others' mean taken over the wrong thing each
    gives another loss in some round.
    """
    changes = f"{STILL} data.clients=3 server.rounds=6 server.fraction=0.67 client.kd_weight=1.0 "
    lines = tiny.run(
        "fd", f"{changes} client.steps=null client.output={output} client.weighting={weighting}", task=still
    )
    replied = {0: [], **{line["round"]: line["replied"] for line in tiny.rounds(lines)}}
    seen = tiny.of_clients(lines)
    assert {len(replied[n]) for n in range(1, 7)} == {2}
    assert any(client in replied[number - 1] for number, client in seen)
    assert any(number > 1 and client not in replied[number - 1] for number, client in seen)
    for (number, client), line in seen.items():
        others = [other for other in replied[number - 1] if other != client]
        assert line["metrics"]["loss"] == pytest.approx(expected_loss(client, others, output, weighting), rel=1e-5)


def test_a_client_without_memory_hears_itself_too(tmp_path, monkeypatch):
    """It cannot take out what it no longer has; from its next turn on it can again."""
    monkeypatch.setattr("fd_flower.client.node.remembered", lambda _: {})  # as of a device, whose memory nobody counts

    def forget(line):
        if line["round"] == 1 and "client" not in line:
            (folder,) = (tmp_path / "run" / "clients").glob("*/0")
            shutil.rmtree(folder)

    changes = f"{STILL} data.clients=3 server.rounds=3 client.steps=null client.output=probabilities"
    lines = tiny.run("fd", changes, out=tmp_path / "run", task=still, on_line=forget)
    seen = {who: line["metrics"]["loss"] for who, line in tiny.of_clients(lines).items()}
    for who, received_from in {(2, "0"): "012", (2, "1"): "02", (3, "0"): "12", (3, "2"): "01"}.items():
        assert seen[who] == pytest.approx(expected_loss(who[1], received_from, "probabilities", "clients"), rel=1e-5)


def test_without_its_second_term_it_is_local_training(tmp_path):
    """Gamma = 0: the same weights as `local`, bit for bit, at every client and in every round."""
    for method in ("fd", "local"):
        tiny.run(method, TINY + "client.kd_weight=0 run.keep=last", out=tmp_path / method)
    tiny.assert_same_bits(tiny.models(tmp_path / "fd"), tiny.models(tmp_path / "local"))


def test_with_its_second_term_it_is_not(tmp_path):
    """And in round one, when there is nothing to receive, it still is."""
    for method in ("fd", "local"):
        tiny.run(method, TINY + "run.keep=last", out=tmp_path / method)
    ours, alone = tiny.models(tmp_path / "fd"), tiny.models(tmp_path / "local")
    first = [who for who in ours if who[1] == "1-0"]
    tiny.assert_same_bits({who: ours[who] for who in first}, {who: alone[who] for who in first})
    assert not torch.equal(ours["0", "2-0"]["model/head.weight"], alone["0", "2-0"]["model/head.weight"])


def test_only_tables_travel():
    lines = tiny.rounds(tiny.run("fd", TINY))
    assert [list(line["bytes"]["up"]) for line in lines] == [["class-logits"]] * 2
    assert [list(line["bytes"]["down"]) for line in lines] == [[], ["class-logits"]]


def test_architectures_may_differ():
    lines = tiny.run("fd", TINY + "model.name=[mlp,lenet]")
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2


@pytest.mark.parametrize("key", ["output", "weighting"])
def test_unknown_words_are_refused(key):
    with pytest.raises(InvalidInputError, match=f"client.{key} is 'exmples'"):
        changed(**{key: "exmples"})


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge):
    lines = tiny.run("fd", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))


def test_a_client_is_known_by_its_id():
    """Ids are words on devices; the table of one is never taken for another's."""
    received = [Reply(Client(name, n), pack(table([[1.0, 0.0], [0.0, 1.0]], [1, 1]))) for n, name in enumerate("ab")]
    (total,) = strategy("fd").aggregate(received, Knowledge(), round=2)
    mine = {"sums": total.sums / 2, "counts": total.counts / 2, "sent": torch.tensor(2)}
    for name, left in (("b", [1, 1]), ("0", [2, 2])):
        (sent,) = strategy("fd").knowledge_for(Client(name, 1), Knowledge([total]))
        assert without_own(sent, Remembering(name, **mine)).counts.tolist() == left

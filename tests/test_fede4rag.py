"""FedE4RAG: the mean retriever teaches personal ones; with nothing taught it is local, and overwritten FedAvg."""

import math

import pytest
import torch
from fd_flower.client_apps.fede4rag import objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from safetensors.torch import load_file

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.retrieval.models import ResidualMap, Retriever
from fd_flower.wire import Knowledge, Weights

TINY = (
    "data.source=companies data.partition=iid data.clients=3 model.name=hashed:8 server.rounds=3 client.epochs=1 "
    "client.batch=32 client.lr=0.01 client.optimizer=adam run.device=cpu run.keep=last privacy.sum=none "
)
"""Settings that every method of a retrieval task takes."""


def changed(**changes):
    return methods.config("fede4rag", "client", **changes)


# --- the server


@pytest.mark.parametrize(("mean", "expected"), [("examples", 2.0), ("plain", 3.0)])
def test_retrievers_are_averaged_by_examples_or_plainly(mean, expected):
    """One pair and three pairs of 5 and 1: (5 + 3 * 1) / 4, or (5 + 1) / 2."""
    replies = [
        reply_of("0", Weights({"w": torch.tensor([5.0])}), examples=1),
        reply_of("1", Weights({"w": torch.tensor([1.0])}), examples=3),
    ]
    (found,) = strategy("fede4rag", mean=mean).aggregate(replies, Knowledge(), round=1)
    assert found.values["w"].tolist() == [expected]


# --- the loss


def retriever(weight: list[list[float]], tau: float = 0.05) -> Retriever:
    made = Retriever(ResidualMap(2), tau)
    made.body.weight.data = torch.tensor(weight)
    return made


def objective_of(*about) -> torch.Tensor:
    return objective(*about).detach()


PAIRS = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]])
NUMBERS = torch.tensor([[0, 0], [1, 1]])


def test_objective_by_hand():
    """The student's cosines are (1, r; 0, r) with r = 1 / sqrt 2, so its cross-entropies are of (1, r) and (r, 0).

    A teacher that turns the second axis round has the same cosines. One that stretches the first by 3 sees the second
    passage at (3, 1) / sqrt 10: its cosines are (1, 3 / sqrt 10; 0, 1 / sqrt 10).
    """
    r, config = 1 / math.sqrt(2), changed(kd_weight=10.0)
    plain = retriever([[0.0, 0.0], [0.0, 0.0]], tau=0.5)
    ce = (math.log(1 + math.exp((r - 1) / 0.5)) + math.log(1 + math.exp((0 - r) / 0.5))) / 2
    assert float(objective_of(plain, PAIRS, NUMBERS, None, config)) == pytest.approx(ce)
    turned = retriever([[0.0, 0.0], [0.0, -2.0]])
    assert float(objective_of(plain, PAIRS, NUMBERS, turned, config)) == pytest.approx(ce, rel=1e-6)
    stretched = retriever([[2.0, 0.0], [0.0, 0.0]])
    apart = ((r - 3 / math.sqrt(10)) ** 2 + (r - 1 / math.sqrt(10)) ** 2) / 4
    assert float(objective_of(plain, PAIRS, NUMBERS, stretched, config)) == pytest.approx(ce + 10 * apart, rel=1e-5)


def test_a_teacher_equal_to_the_student_teaches_nothing():
    student, teacher = retriever([[0.5, 0.1], [0.0, -0.3]]), retriever([[0.5, 0.1], [0.0, -0.3]])
    alone, taught = (objective(student, PAIRS, NUMBERS, who, changed(kd_weight=100.0)) for who in (None, teacher))
    assert float((taught - alone).detach()) == 0.0
    gradients = [torch.autograd.grad(loss, student.body.weight, retain_graph=True)[0] for loss in (alone, taught)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_no_temperature_divides_what_is_distilled_and_the_teacher_learns_nothing():
    teacher, config = retriever([[2.0, 0.0], [0.0, 0.0]]), changed(kd_weight=1.0)
    terms = []
    for tau in (0.05, 1.0):
        student = retriever([[0.0, 0.0], [0.0, 0.0]], tau=tau)
        both = objective(student, PAIRS, NUMBERS, teacher, config)
        terms.append(float(both.detach() - objective_of(student, PAIRS, NUMBERS, None, config)))
        both.backward()
    assert terms[0] == pytest.approx(terms[1], rel=1e-5)
    assert teacher.body.weight.grad is None


# --- whole runs


def kept(folder):
    return tiny.models(folder)


def mean(folder):
    return {"mean": load_file(folder / "checkpoint" / "knowledge.safetensors")}


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_without_distillation_persisting_is_local(tmp_path, trainable):
    words = f"{TINY} client.trainable={trainable}"
    ours = tiny.run("fede4rag", f"{words} client.kd_weight=0", out=tmp_path / "fede4rag")
    alone = tiny.run("local", words, out=tmp_path / "local")
    tiny.assert_same_bits(kept(tmp_path / "fede4rag"), kept(tmp_path / "local"))
    for who, line in tiny.of_clients(alone).items():
        assert tiny.of_clients(ours)[who]["evaluations"] == line["evaluations"]


def test_one_client_that_is_overwritten_without_distillation_is_fedavg(tmp_path):
    words = f"{TINY} data.clients=1"
    tiny.run("fede4rag", f"{words} client.kd_weight=0 client.personal_init=overwrite", out=tmp_path / "fede4rag")
    tiny.run("fedavg", words, out=tmp_path / "fedavg")
    tiny.assert_same_bits(mean(tmp_path / "fede4rag"), mean(tmp_path / "fedavg"))


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_overwritten_without_distillation_it_is_fedavg_for_many_clients_too(tmp_path, trainable):
    words = f"{TINY} client.trainable={trainable}"
    tiny.run("fede4rag", f"{words} client.kd_weight=0 client.personal_init=overwrite", out=tmp_path / "fede4rag")
    tiny.run("fedavg", words, out=tmp_path / "fedavg")
    tiny.assert_same_bits(mean(tmp_path / "fede4rag"), mean(tmp_path / "fedavg"))


def test_with_distillation_it_is_neither(tmp_path):
    for method in ("fede4rag", "local"):
        tiny.run(method, TINY, out=tmp_path / method)
    ours, alone = kept(tmp_path / "fede4rag"), kept(tmp_path / "local")
    assert not torch.equal(ours["0", "3-0"]["model/body.weight"], alone["0", "3-0"]["model/body.weight"])


def test_only_the_head_travels():
    """Eight by eight numbers, up and down, for each of three clients."""
    for line in tiny.rounds(tiny.run("fede4rag", TINY)):
        for way in ("up", "down"):
            assert 0 <= line["bytes"][way]["arrays"] / 3 - 4 * 64 < 500


def test_training_lifts_the_hashed_encoder_well_above_its_random_start(tmp_path):
    from fd_flower.results import RunFolder

    words = "client.trainable=all client.lr=0.01 client.epochs=3 data.clients=3 server.rounds=5 run.device=cpu"
    tiny.run("fede4rag", words, out=tmp_path / "run")
    found = RunFolder.open(tmp_path / "run").summary["retrieval"]
    start = found["references"]["zero-shot"]["own"]["ndcg@10"]
    for who in ("global", "personal"):
        assert found[who]["own"]["ndcg@10"]["final"] > start + 0.2


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("client.personal_init=keep", "client.personal_init is 'keep'"),
        ("retrieval.tau=0", "retrieval.tau is 0.0; expected a number above 0"),
        ("server.mean=median", "server.mean is 'median'"),
        ("client.trainable=tail", "client.trainable is 'tail'"),
        ("data.source=digits data.partition=iid model.name=mlp", "fede4rag cannot learn classification"),
    ],
)
def test_options_and_tasks_that_cannot_be(key, reason):
    with pytest.raises(InvalidInputError, match=reason):
        tiny.run("fede4rag", f"{TINY} {key}")

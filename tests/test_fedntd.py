"""client.teacher=received: clients of fedavg distill the model that they received (FedNTD)."""

import pytest
import torch
from fd_flower.client_apps.fedavg import objective
from helpers import tiny
from helpers.tiny import TINY
from torch.nn.functional import cross_entropy, kl_div

from fd_flower import methods, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.wire import Weights

NTD = (
    "client.teacher=received client.objective=dkd client.objective_args.alpha=0 client.objective_args.beta=1 "
    "client.objective_args.temperature=2 "
)


def served(folder):
    return Weights.need(Checkpoint.read(folder, "fedavg").knowledge).values


def test_the_loss_is_that_of_the_authors_code():
    """Cross-entropy, and beta T^2 KL among the classes that are not the label, as its criterion.py takes it."""
    numbers = torch.Generator().manual_seed(0)
    x, teacher = (3 * torch.randn(6, 5, generator=numbers, dtype=torch.float64) for _ in range(2))
    y, beta, tau = torch.tensor([0, 1, 2, 3, 4, 4]), 0.7, 2.0
    config = methods.config(
        "fedavg", "client", kd_weight=beta, objective="dkd", objective_args={"alpha": 0, "beta": 1, "temperature": tau}
    )
    rows = []
    for own, other, label in zip(x, teacher, y, strict=True):
        rest = [c for c in range(5) if c != label]
        rows.append(kl_div((own[rest] / tau).log_softmax(0), (other[rest] / tau).softmax(0), reduction="sum"))
    expected = cross_entropy(x, y) + beta * tau**2 * torch.stack(rows).mean()
    torch.testing.assert_close(objective(torch.nn.Identity(), x, y, teacher.log_softmax(1), config), expected)


@pytest.mark.parametrize("model", ["mlp", "resnet8:0.25"])
def test_weight_0_is_fedavg(tmp_path, model):
    """Bit for bit, running statistics too; another weight is not."""
    for name, more in (("plain", ""), ("off", NTD + "client.kd_weight=0"), ("on", NTD)):
        tiny.run("fedavg", TINY + f"model.name={model} {more}", out=tmp_path / name)
    plain = served(tmp_path / "plain")
    tiny.assert_same_bits({0: plain}, {0: served(tmp_path / "off")})
    assert any(not torch.equal(plain[key], value) for key, value in served(tmp_path / "on").items())


def test_the_first_step_is_fedavgs(tmp_path):
    """A model that is its teacher's equal has nothing to learn from it."""
    step = TINY + "client.steps=1 server.rounds=1 "
    for name, more in (("plain", ""), ("taught", NTD)):
        tiny.run("fedavg", step + more, out=tmp_path / name)
    plain = served(tmp_path / "plain")
    for key, value in served(tmp_path / "taught").items():
        torch.testing.assert_close(value, plain[key], atol=1e-7, rtol=0)


def test_a_heavy_teacher_keeps_a_client_at_what_it_received(tmp_path):
    """The divergence from the received model's predictions falls with the weight."""
    moved = []
    for weight in (0, 5, 50):
        chosen = (
            TINY + f"client.teacher=received client.kd_weight={weight} client.steps=10 server.rounds=1 client.lr=0.01 "
        )
        tiny.run("fedavg", chosen, out=tmp_path / str(weight))
        tiny.run("fedavg", chosen + "client.lr=1e-30", out=tmp_path / f"{weight} start")
        before, after = served(tmp_path / f"{weight} start"), served(tmp_path / str(weight))
        moved.append(sum(float((after[key] - before[key]).square().sum()) for key in before))
    assert moved[0] > moved[1] > moved[2] > 0


def test_a_kept_head_teaches_too(tmp_path):
    """The teacher is the received part with the client's own."""
    for name, more in (("plain", ""), ("taught", NTD)):
        lines = tiny.run("fedavg", TINY + "client.share=body run.keep=last " + more, out=tmp_path / name)
        assert not any(line["failed"] for line in tiny.rounds(lines))
    plain, taught = (tiny.models(tmp_path / name) for name in ("plain", "taught"))
    assert any(not torch.equal(plain[who][key], taught[who][key]) for who in plain for key in plain[who])


def test_language_models_are_refused():
    message = r"client\.teacher=received .* and the task is language: leave it out"
    with pytest.raises(InvalidInputError, match=message):
        tiny.run("fedavg", TINY + tiny.LANGUAGE + "client.teacher=received data.public=none")


def test_the_recipe_is_fedavg_with_a_teacher():
    client, plain = settings("fedavg", recipe="fedntd").client, methods.config("fedavg", "client")
    assert (client.teacher, plain.teacher, client.kd_weight) == ("received", "none", 1)
    assert (client.loss.alpha, client.loss.beta, client.loss.temperature) == (0, 1, 1)

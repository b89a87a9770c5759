"""FRAug: heads also learn from generated features, which each client's own network brings into its style."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fd_flower.client_apps import fraug
from helpers import tiny
from helpers.grids import hosts
from helpers.replies import reply_of, strategy
from helpers.resumed import again, assert_same, started
from helpers.tiny import TINY, figures, start
from torch.nn import functional as F

from fd_flower import methods, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.generate.features import FeatureGenerator
from fd_flower.generate.transform import Transform, entropy, mmd, non_saturating
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.wire import Bounds, GeneratorWeights, Knowledge, Weights

RESNET = TINY + "model.name=resnet8:0.25 client.batch=8 client.steps=2 "


# --- the losses, by hand


def test_mmd_by_hand():
    """Two sets of two points on a line, 0 and 2 against 1 and 3: mean squared distance 10/3, five Gaussian kernels."""
    one, other = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])

    def kernel(squared: float) -> float:
        return sum(math.exp(-squared / (10 / 3 * width)) for width in (0.25, 0.5, 1, 2, 4))

    within = (2 * kernel(0) + 2 * kernel(4)) / 4
    across = (kernel(1) + kernel(9) + kernel(1) + kernel(1)) / 4
    assert mmd(one, other).item() == pytest.approx(2 * within - 2 * across, rel=1e-5)
    assert mmd(one, one).item() == pytest.approx(0.0, abs=1e-6)
    assert mmd(torch.ones(2, 1), torch.ones(2, 1)).item() == 0.0  # no distance at all is no division by 0


def test_what_is_hard_for_a_head_by_hand():
    """Predictions 3/4 and 1/4; smoothed labels .95 and .05."""
    logits, y = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([0])
    assert entropy(logits, y).item() == pytest.approx(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = -(0.95 * math.log(0.25) + 0.05 * math.log(0.75))
    assert non_saturating(logits, y).item() == pytest.approx(expected, rel=1e-5)


def test_a_transform_adds_to_the_feature():
    torch.manual_seed(0)
    network = Transform(3, 4, 2).eval()
    base, made, y = torch.randn(5, 4), torch.randn(5, 4), torch.arange(5) % 3
    encoder, decoder = network.body[:3], network.body[3:]
    expected = base + decoder(encoder(torch.cat([made, F.one_hot(y, 3).float()], 1)))
    torch.testing.assert_close(network(made, base, y), expected)


def test_the_share_of_generated_features_grows_to_a_half():
    config = methods.config("fraug", "client", growth=0.1)
    assert config.ratio(1, 21) == pytest.approx(math.exp(-2))
    assert config.ratio(21, 21) == config.ratio(30, 21) == 1.0
    assert config.ratio(5, None) == 0.5


def test_a_generator_that_is_normalized_is_known_by_its_weights():
    made = FeatureGenerator(3, 4, 4, 2, normalized=True).eval()
    again = FeatureGenerator.of(made.state_dict(), 3).eval()
    y, noise = torch.tensor([0, 2]), torch.rand(2, 2)
    assert torch.equal(made(y, noise), again(y, noise))
    assert bool((made(y, noise) >= 0).all())


# --- the client


class Turn:
    """As much of a turn as the augmentation looks at."""

    classes, round = 2, 1
    server = SimpleNamespace(rounds=1)
    world = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, **options):
        torch.manual_seed(0)
        self.config = methods.config("fraug", "client", **options)
        self.model = torch.nn.Sequential()
        self.model.body, self.model.head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        self.model.features = self.model.body

    def rng(self, purpose):
        return torch.Generator().manual_seed(1)

    def module(self, name, build):
        torch.manual_seed(2)
        return build()

    def recall(self, name):
        return None


def augmentation(**options):
    turn = Turn(**options)
    made = FeatureGenerator(2, 4, 4, 2, normalized=True)
    return turn, fraug.Augmentation(turn, GeneratorWeights(made.state_dict()))


X, Y = torch.arange(12.0).view(4, 3) / 10, torch.tensor([0, 0, 0, 1])


def test_half_of_the_loss_is_the_heads_on_augmented_features():
    """The share is a half in the last round, and the body learns from the other half alone."""
    turn, made = augmentation()
    real = F.cross_entropy(turn.model.head(turn.model.features(X)), Y)
    loss = made.objective(turn.model, X, Y)
    loss.backward()
    body = turn.model.body.weight.grad.clone()
    turn.model.zero_grad()
    (0.5 * real).backward()
    torch.testing.assert_close(body, turn.model.body.weight.grad)
    _, again = augmentation()
    again.means = made.means.clone()
    taught = [F.cross_entropy(turn.model.head(x), y) for x, y in again._augmented(turn.model.features(X), Y)]
    torch.testing.assert_close(loss, 0.5 * real + 0.5 * (taught[0] + taught[1]) / 2)


def test_class_means_run_with_a_momentum():
    turn, made = augmentation(mean_momentum=0.25)
    features = turn.model.features(X).detach()
    for _ in range(2):
        made.objective(turn.model, X, Y)
        made._batch = None
    torch.testing.assert_close(made.means[1], features[3] * (1 - 0.75**2))
    torch.testing.assert_close(made.means[0], features[:3].mean(0) * (1 - 0.75**2))


def test_the_models_own_weights_do_not_learn_with_the_generator():
    turn, made = augmentation()
    before = {key: t.clone() for key, t in turn.model.state_dict().items()}
    generator = {key: t.clone() for key, t in made.generator.state_dict().items()}
    made.learn()  # no mini-batch yet
    made.objective(turn.model, X, Y)
    made.learn()
    assert all(torch.equal(t, before[key]) for key, t in turn.model.state_dict().items())
    assert all(p.requires_grad for p in turn.model.parameters())
    assert not torch.equal(made.generator.state_dict()["body.0.weight"], generator["body.0.weight"])
    assert made._cycle(3).tolist() == [0, 1, 0]


# --- the server


def test_generators_are_averaged_by_examples():
    server = strategy("fraug")

    def said(client, value, examples):
        generator = GeneratorWeights({"v": torch.tensor([2 * value])})
        return reply_of(client, Weights({"w": torch.tensor([value])}), generator, examples=examples)

    found = Knowledge(server.aggregate([said("0", 1.0, 1), said("1", 5.0, 3)], Knowledge(), round=1))
    assert Weights.need(found).values["w"].tolist() == [4.0]
    assert GeneratorWeights.need(found).values["v"].tolist() == [8.0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "generator has other keys than the server's: v"),
        ({"v": torch.zeros(3)}, r"generator has 'v' of shape \[3\]; expected \[2\]"),
        ({"v": torch.zeros(2).double()}, "generator has 'v' of torch.float64; expected torch.float32"),
    ],
)
def test_a_generator_is_like_the_servers(values: dict[str, torch.Tensor], words: str):
    with pytest.raises(InvalidInputError, match=words):
        GeneratorWeights(values).check(Bounds(generator={"v": torch.zeros(2)}))


# --- runs


@pytest.mark.parametrize(("share", "words"), [("no_stats", RESNET), ("no_norm", RESNET), ("all", TINY)])
def test_without_generated_features_it_is_fedavg_of_a_part(share: str, words: str, tmp_path: Path):
    """Bit for bit, the mean and the clients' models: client.kd_weight=0 is FedBN's or FedAvg's own run."""
    asked = f"{words} run.keep=last client.share={share} "
    for name, more in {"fraug": "client.kd_weight=0", "fedavg": ""}.items():
        tiny.run(name, asked + more, out=tmp_path / name)
    if share != "all":
        tiny.assert_same_bits(*(tiny.models(tmp_path / name) for name in ("fraug", "fedavg")))
    one, two = ({"": Weights.need(Checkpoint.read(tmp_path / m, m).knowledge).values} for m in ("fraug", "fedavg"))
    tiny.assert_same_bits(one, two)


def test_generated_features_change_what_is_learned(tmp_path: Path):
    for weight in (0, 1):
        tiny.run("fraug", f"{TINY} run.keep=last client.kd_weight={weight}", out=tmp_path / str(weight))
    one, two = (Weights.need(Checkpoint.read(tmp_path / w, "fraug").knowledge).values for w in "01")
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_hosts_and_one_process_have_the_same_figures():
    made = settings("fraug", RESNET)
    (_, _, one), (_, _, two) = start(made, hosts("fraug")), start(made, hosts("fraug", 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in tiny.rounds(one))


def test_a_run_goes_on_with_means_and_networks(tmp_path: Path):
    options = "server.fraction=0.7 run.keep=last"
    start(started("fraug", tmp_path / "whole", 4, options), hosts("fraug"))
    start(started("fraug", tmp_path / "cut", 2, options), hosts("fraug"))
    start(again("fraug", tmp_path / "cut", "server.rounds=4"), hosts("fraug", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_a_model_without_normalization_keeps_none_with_the_clients():
    with pytest.raises(InvalidInputError, match=r"client\.share=no_norm keeps normalization .*'mlp' has none"):
        tiny.run("fraug", TINY + "client.share=no_norm")

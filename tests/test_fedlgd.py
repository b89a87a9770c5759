"""FedLGD: virtual images of each client's classes, and the server's, which follow what the clients did."""

import math

import pytest
import torch
from fd_flower.client_apps.fedlgd import objective
from helpers import tiny
from helpers.replies import reply_of
from helpers.tasks import Echo
from helpers.tiny import TINY
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from fd_flower import methods, models
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.generate import gradient
from fd_flower.objectives.alignment import discrepancy, supervised_contrast
from fd_flower.objectives.proximal import proximal
from fd_flower.server import Run
from fd_flower.tasks.described import described
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.wire import Knowledge, PixelStatistics, SyntheticSet, Weights

SHORT = (
    TINY
    + "model.name=convnet:0.1 client.distill_model=convnet:0.1 client.images=3 client.distill_warmup=2 "
    + "client.distill_refresh=1 client.distill_batch=8 server.images=2 server.match_every=2 server.match_steps=2 "
)


def changed(**changes):
    return methods.config("fedlgd", "client", **changes)


# --- the client's loss


def test_objective_by_hand():
    """Features are logits. Cross-entropy of the mini-batch alone, contrast of everything, times lambda."""
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    theirs = SyntheticSet(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1]))
    ce = (math.log(1 + math.exp(-2)) + math.log(1 + math.e)) / 2
    assert objective(Echo(2), x, y, None, changed()).item() == pytest.approx(ce)
    assert objective(Echo(2), x, y, theirs, changed(kd_weight=0.0)).item() == pytest.approx(ce)
    every, labels = torch.cat([x, theirs.x]), torch.tensor([0, 0, 0, 1])
    contrast = supervised_contrast(every, labels, 0.5).item()
    loss = objective(Echo(2), x, y, theirs, changed(kd_weight=3.0, temperature=0.5))
    assert loss.item() == pytest.approx(ce + 3 * contrast, rel=1e-5)
    loss = objective(Echo(2), x, y, theirs, changed(kd_weight=3.0, align="mmd"))
    assert loss.item() == pytest.approx(ce + 3 * discrepancy(x, theirs.x).item(), rel=1e-5)


def test_the_gradient_flows_into_both_sides_features():
    model = models.build("mlp:0.1", (1, 8, 8), 3, seed=0)
    x, mine = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    theirs = SyntheticSet(x.flip(0).clone().requires_grad_(), mine)
    objective(model, x, mine, theirs, changed()).backward()
    assert theirs.x.grad.abs().max() > 0


# --- the server


def server(**changes):
    task = Task(
        lambda _: models.build("convnet:0.05", (1, 8, 8), 3, seed=0),
        test=Samples(torch.zeros(1, 1, 8, 8), torch.tensor([0])),
    )
    config = methods.config("fedlgd", "server", **{"images": 2, "match_steps": 3, **changes})
    strategy = methods.strategy("fedlgd")(config, task=task, run=Run(device="cpu"))
    strategy.__dict__["world"] = World(strategy.settings, task, hosted=False)
    strategy.noted = {}
    strategy.log_diagnostics = lambda figures, client="": strategy.noted.update(figures)
    return strategy


def begun(strategy):
    return Knowledge(strategy.initial_knowledge([reply_of("0").client]))


def test_round_one_starts_from_standard_noise_and_says_nothing_of_pixels():
    known = begun(server(images=300))
    images = SyntheticSet.need(known)
    assert images.x.shape == (900, 1, 8, 8)
    assert images.labels.bincount().tolist() == [300] * 3
    assert images.x.mean().item() == pytest.approx(0.0, abs=0.02)
    assert images.x.std().item() == pytest.approx(1.0, abs=0.02)


def test_the_schedule_is_that_of_the_code():
    """There rounds count from 0: t = 0, 5, ..., 50."""
    config = methods.config("fedlgd", "server")
    assert [t - 1 for t in range(1, 101) if config.matches(t)] == list(range(0, 51, 5))


def test_clients_count_alike():
    strategy = server(match_steps=0)
    known = begun(strategy)
    old = Weights.need(known).values
    received = [
        reply_of(client, Weights({k: t + by for k, t in old.items()}), examples=examples)
        for client, by, examples in (("0", 1.0, 1), ("1", 4.0, 999))
    ]
    after = Knowledge(strategy.aggregate(received, known, round=1))
    for key, tensor in Weights.need(after).values.items():
        torch.testing.assert_close(tensor, old[key] + 2.5)
    assert torch.equal(SyntheticSet.need(after).x, SyntheticSet.need(known).x)


def test_images_that_move_the_model_as_the_clients_did_are_at_no_distance():
    """Clients that went one step down the images' own gradient, by the clients' learning rate."""
    strategy = server(match_steps=1)
    known = begun(strategy)
    images, old = SyntheticSet.need(known), Weights.need(known).values
    net = strategy.world.load("", old).eval()
    own = gradient.gradients(net, images.x, images.labels)
    steps = dict(zip([name for name, _ in net.named_parameters()], own, strict=True))
    lr = strategy.settings.client.lr
    reply = reply_of("0", Weights({k: t - lr * steps[k] for k, t in old.items()}))
    after = Knowledge(strategy.aggregate([reply], known, round=1))
    assert strategy.noted["match_first"] == pytest.approx(0.0, abs=1e-3)  # a difference of weights has lost some bits
    assert (SyntheticSet.need(after).x - images.x).abs().max() < 0.05


def test_images_move_in_matching_rounds_alone_and_labels_never():
    strategy = server(match_every=2, match_times=1)
    known = begun(strategy)
    moved = []
    for round in range(1, 6):
        before = SyntheticSet.need(known)
        reply = reply_of("0", Weights({k: t * 0.9 for k, t in Weights.need(known).values.items()}))
        known = Knowledge(strategy.aggregate([reply], known, round=round))
        moved.append(not torch.equal(SyntheticSet.need(known).x, before.x))
        assert torch.equal(SyntheticSet.need(known).labels, before.labels)
        assert SyntheticSet.need(known).x.isfinite().all()
    assert moved == [True, False, True, False, False]


def test_clients_that_stood_still_give_no_nan():
    strategy = server()
    known = begun(strategy)
    after = Knowledge(strategy.aggregate([reply_of("0", Weights.need(known))], known, round=1))
    assert SyntheticSet.need(after).x.isfinite().all()


def test_images_start_from_the_holders_statistics():
    """Class 0 of two holders, class 1 of one, class 2 of nobody."""
    strategy = server(statistics=True, images=400, match_steps=0)
    known = begun(strategy)
    assert SyntheticSet.find(known) is None
    weights = Weights.need(known)
    held = [torch.tensor([True, True, False]), torch.tensor([True, False, False])]
    means = [torch.tensor([[1.0], [5.0], [0.0]]), torch.tensor([[3.0], [0.0], [0.0]])]
    received = [
        reply_of(str(i), weights, PixelStatistics(mean, torch.full((3, 1), 0.1), has))
        for i, (mean, has) in enumerate(zip(means, held, strict=True))
    ]
    images = SyntheticSet.need(Knowledge(strategy.aggregate(received, known, round=1)))
    for c, (mean, std) in enumerate([(2.0, 0.1), (5.0, 0.1), (0.0, 1.0)]):
        own = images.x[images.labels == c]
        assert own.mean().item() == pytest.approx(mean, abs=0.03)
        assert own.std().item() == pytest.approx(std, rel=0.05)


# --- whole runs


def virtual(folder):
    """Return what clients remember of their images, by client and round."""
    kept = tiny.memories(folder)
    return {(client, int(file.partition("-")[0])): tensors["virtual"] for (client, file), tensors in kept.items()}


def test_a_client_has_images_of_its_own_classes_and_no_other(tmp_path):
    changes = "data.partition=classes data.classes=2 data.clients=5 server.rounds=1 run.keep=last"
    lines = tiny.run("fedlgd", SHORT + changes, out=tmp_path / "run")
    images = virtual(tmp_path / "run")
    assert {tuple(x.shape) for x in images.values()} == {(2 * 3, 1, 8, 8)}
    assert all(x.isfinite().all() for x in images.values())
    assert not any(line["failed"] for line in tiny.rounds(lines))


def test_images_are_kept_and_refreshed_with_the_servers_model_in_matching_rounds(tmp_path):
    """Matching after rounds 1 and 3 of 4; memories of the last two rounds are there."""
    lines = tiny.run("fedlgd", SHORT + "server.rounds=4 run.keep=last", out=tmp_path / "run")
    images = virtual(tmp_path / "run")
    for client in "012":
        assert torch.equal(images[client, 4], images[client, 3])
    told = tiny.of_clients(lines)
    assert ["distance" in told[t, "0"]["metrics"] for t in range(1, 5)] == [True, False, True, False]
    short = tiny.run("fedlgd", SHORT + "server.rounds=2 run.keep=last", out=tmp_path / "short")
    assert not torch.equal(virtual(tmp_path / "short")["0", 2], images["0", 3])
    assert [line["failed"] for line in tiny.rounds(short)] == [{}, {}]


def test_distilling_brings_virtual_images_nearer_to_the_real_ones():
    """The features' distance at the last step, summed over classes, mean over clients.

    At 16x16 pixels: what `convnet` makes of 8x8 is the mean of four normalized numbers, nearly the same for everything.
    """
    far = {}
    for steps in (1, 12):
        changes = f"server.rounds=1 data.size=16x16x1 data.limit=200 client.distill_warmup={steps} client.distill_lr=10"
        (line,) = tiny.rounds(tiny.run("fedlgd", SHORT + changes))
        far[steps] = line["metrics"]["distance"]
    assert far[12] < 0.6 * far[1]


def test_whoever_missed_a_matching_round_keeps_its_images(tmp_path):
    """One client of three a round: a newcomer distills in whatever round it comes, nobody forgets."""
    changes = "server.rounds=6 server.fraction=0.34 run.keep=last"
    lines = tiny.run("fedlgd", SHORT + changes, out=tmp_path / "run")
    met, told = set(), tiny.of_clients(lines)
    for line in tiny.rounds(lines):
        (client,) = line["replied"]
        distilled = "distance" in told[line["round"], client]["metrics"]
        assert distilled == (client not in met or line["round"] in (3, 5))
        met.add(client)
    assert not any(line["failed"] for line in tiny.rounds(lines))


def test_virtual_images_may_start_from_a_clients_own(tmp_path):
    changes = "server.rounds=1 client.start=real client.distill_warmup=0 run.keep=last"
    tiny.run("fedlgd", SHORT + changes, out=tmp_path / "run")
    chosen = settings("fedlgd", SHORT + changes)
    for client, images in ((client, x) for (client, _), x in virtual(tmp_path / "run").items()):
        own = World(chosen, described(chosen)).data(client).train
        real = {tuple(row.flatten().tolist()) for row in own.batch(torch.arange(len(own)))[0]}
        assert {tuple(row.flatten().tolist()) for row in images} <= real


def test_virtual_images_may_start_from_a_folder(tmp_path):
    """Class folders of pictures, each class of one gray level: 8x8, like the digits."""
    for c in range(10):
        (tmp_path / "given" / str(c)).mkdir(parents=True)
        for n in range(3):
            Image.new("L", (8, 8), 20 * c).save(tmp_path / "given" / str(c) / f"{n}.png")
    changes = f"server.rounds=1 client.start={tmp_path / 'given'} client.distill_warmup=0 run.keep=last"
    lines = tiny.run("fedlgd", SHORT + changes, out=tmp_path / "run")
    assert not tiny.rounds(lines)[0]["failed"]
    for images in virtual(tmp_path / "run").values():
        levels = ((images[:, 0, 0, 0] + 1) * 127.5).round().tolist()
        assert all((images[i] == images[i, 0, 0, 0]).all() for i in range(len(images)))
        assert {level / 20 for level in levels} <= set(range(10))
    for c in range(10):
        (tmp_path / "large" / str(c)).mkdir(parents=True)
        Image.new("L", (9, 9)).save(tmp_path / "large" / str(c) / "0.png")
    with pytest.raises(InvalidInputError, match=r"images of \[1, 9, 9\]; expected \[1, 8, 8\]"):
        tiny.run("fedlgd", f"{SHORT} server.rounds=1 client.start={tmp_path / 'large'}")
    with pytest.raises(InvalidInputError, match="expected statistics, noise, real or the absolute path"):
        tiny.run("fedlgd", SHORT + "client.start=given")


def test_without_images_of_the_server_it_is_fedavg_on_the_clients_virtual_images(tmp_path):
    lines = tiny.run("fedlgd", SHORT + "server.images=0 server.rounds=3", out=tmp_path / "run")
    assert [sorted(line["bytes"]["down"]) for line in tiny.rounds(lines)] == [["arrays"]] * 3
    assert not any(line["failed"] for line in tiny.rounds(lines))


def test_the_proximal_term_by_hand():
    """Parameters 1, 2 and a bias 3 against 0, 0, 1: mu / 2 * (1 + 4 + 4), at mu 0.1."""
    model = nn.Linear(2, 1)
    model.load_state_dict({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])})
    assert proximal(model, [torch.zeros(1, 2), torch.ones(1)], 0.1).item() == pytest.approx(0.45)


def test_held_near_the_servers_weights_a_client_moves_less(tmp_path):
    moved = {}
    for mu in (0, 100):
        tiny.run("fedlgd", f"{SHORT} server.images=0 server.rounds=1 client.mu={mu}", out=tmp_path / str(mu))
        moved[mu] = load_file(tmp_path / str(mu) / "checkpoint" / "knowledge.safetensors")
    assert not all(torch.equal(value, moved[100][key]) for key, value in moved[0].items())


def test_in_a_matching_round_weights_move_by_cross_entropy_alone(tmp_path):
    ways = {}
    for weight in (0, 1):
        for every in (1, 2):
            out = tmp_path / f"{weight} {every}"
            tiny.run("fedlgd", f"{SHORT} server.match_every={every} client.kd_weight={weight}", out=out)
            knowledge = out / "checkpoint" / "knowledge.safetensors"
            ways[weight, every] = load_file(knowledge)
    same = [torch.equal(ways[0, 1][key], tensor) for key, tensor in ways[1, 1].items()]
    assert all(same)  # every round matches
    assert not all(torch.equal(ways[0, 2][key], tensor) for key, tensor in ways[1, 2].items())


def test_what_travels():
    """Weights up; weights and the server's images down. Ten classes of 2 images of 64 float32 values: 5,120."""
    first, second = tiny.rounds(tiny.run("fedlgd", SHORT))
    assert list(first["bytes"]["up"]) == list(second["bytes"]["up"]) == ["arrays"]
    assert sorted(first["bytes"]["down"]) == sorted(second["bytes"]["down"]) == ["arrays", "synthetic-set"]
    assert 0 <= first["bytes"]["down"]["synthetic-set"] / 3 - 5120 - 160 < 300


def test_statistics_travel_once_and_only_by_the_knob():
    first, second = tiny.rounds(tiny.run("fedlgd", SHORT + "server.statistics=true"))
    assert sorted(first["bytes"]["up"]) == ["arrays", "pixel-statistics"]
    assert list(second["bytes"]["up"]) == ["arrays"]
    assert list(first["bytes"]["down"]) == ["arrays"]
    assert sorted(second["bytes"]["down"]) == ["arrays", "synthetic-set"]


def test_the_network_may_normalize_batches():
    lines = tiny.run("fedlgd", SHORT + "model.name=resnet8:0.25")
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("server", {"distance": "row"}, r"server.distance is 'row' \(did you mean 'rows'"),
        ("server", {"images": -1}, "server.images is -1; expected at least 0"),
        ("server", {"match_momentum": 1.0}, "server.match_momentum is 1.0; expected at least 0 and below 1"),
        ("client", {"align": "mmdd"}, r"client.align is 'mmdd' \(did you mean 'mmd'"),
        ("client", {"start": "reel"}, "client.start is .reel.; expected statistics, noise, real"),
        ("client", {"augment": ["colour"]}, r"client.augment is \['colour'\] \(did you mean 'color'"),
        ("client", {"distill_model": "convnett"}, r"no architecture or group 'convnett' \(did you mean 'convnet'"),
        ("client", {"temperature": 0.0}, "client.temperature is 0.0; expected a number above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(section, changes, words):
    with pytest.raises(InvalidInputError, match=words):
        methods.config("fedlgd", section, **changes)


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge):
    """A client of one class lacks nine: nothing is made of what it lacks, and nothing is NaN anywhere."""
    lines = tiny.run("fedlgd", SHORT + edge)
    assert all(math.isfinite(value) for line in tiny.of_clients(lines).values() for value in line["metrics"].values())
    assert not any(line["failed"] for line in tiny.rounds(lines))

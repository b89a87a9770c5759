"""LoRA factors that travel: whole runs under each rule, of one rank and of several, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from flwr.app import RecordDict
from helpers import tiny
from helpers.grids import Noted, Spoilt
from helpers.tasks import CLASSES, INPUTS, own, samples
from torch import Tensor, nn

from fd_flower import export, methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.engine import InProcessGrid
from fd_flower.ensemble.adapters import Factors, stack
from fd_flower.models.adapters import DOWN, UP, A, B, Stacked, adapted, ranked, with_rank
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.tasks.task import Task
from fd_flower.wire import Adapter, Weights, pack
from fd_flower.wire.envelope import unfold

pytest.importorskip("peft")

WIDTH = 12
NAME = f"{__name__}:task"
BRIEF = (
    "model.name=net data.clients=3 server.rounds=2 client.steps=3 client.batch=8 client.lr=0.5 run.device=cpu "
    "client.trainable=lora client.rank=2 "
)


class Net(nn.Module):
    """Two residual blocks with a linear layer each, below a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(INPUTS, WIDTH)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def layers(self) -> nn.ModuleList:
        return self.blocks

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Headless(Net):
    """The same with a last layer that does not learn: adapters are all that travels."""

    head: None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.last, self.head = self.head, None

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x))


def task() -> Task:
    """Return the toy task with a model of blocks."""
    return Task(lambda name: Headless() if name == "headless" else Net(), own, test=samples("test", 30))


def play(changes: str = "", method: str = "fedavg", grid: type[InProcessGrid] = Noted):
    """Run; return the strategy, what clients sent in the last round by client, and the lines."""
    chosen = settings(method, BRIEF + changes, task=NAME)
    wires = grid(methods.client_app(method))
    strategy, _, lines = tiny.start(chosen, wires)
    replies = [m for m in getattr(wires, "replies", ()) if m.metadata.message_type == "train"]
    sent = {name: content for message in replies for name, content in unfold(message.content).items()}
    return strategy, sent, lines


def changes_of(values, scaling):
    """Return what a state dict's adapters add to the frozen matrices, by module: dense, float64."""
    found = {}
    for name in adapted(values):
        found[name] = scaling * values[name + B].double() @ values[name + A].double()
        if name + UP in values:
            found[name] = found[name] + values[name + UP].double() @ values[name + DOWN].double()
    return found


def exact_mean(replies: Sequence[Adapter], examples: Sequence[int]):
    """Return the mean of what replies add to the frozen matrices."""
    shares = [n / sum(examples) for n in examples]
    return {
        name: sum(
            share * float(r.scaling) * r.b[name].double() @ r.a[name].double()
            for share, r in zip(shares, replies, strict=True)
        )
        for name in replies[0].a
    }


def assert_near(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    assert found, "nothing to compare"
    for name, tensor in expected.items():
        assert tensor.abs().max() > 1e-3, "nothing was learned"
        torch.testing.assert_close(found[name], tensor, **{"rtol": 1e-4, "atol": 1e-6, **tolerance})


# --- rules


def test_the_mean_is_that_of_weights_and_is_the_default():
    """Factors travel as plain arrays, and each tensor's mean is the server's model, to the bit."""
    strategy, sent, lines = play()
    replies = [Weights.need(content).values for content in sent.values()]
    mean = Weights.need(strategy.knowledge).values
    assert {"blocks.0.0.lora_A.default.weight", "head.weight"} < set(mean)
    for key, value in mean.items():
        expected = sum(reply[key].double() * 20 for reply in replies) / 60  # each client has 20 samples
        torch.testing.assert_close(value, expected.float(), rtol=0, atol=1e-7)
    assert 0 < tiny.rounds(lines)[-1]["diagnostics"]["adapter_error"] < 1


def test_a_frozen_a_does_not_travel_and_makes_the_mean_exact():
    strategy, sent, lines = play("server.adapters=freeze_a")
    first = strategy.world.module("net").state_dict(), dict(strategy.world.module("net").named_parameters())
    assert not [key for key in first[0] if key.endswith(A)]
    replies = [Weights.need(content).values for content in sent.values()]
    scaling, changes = 16 / 2, []
    for values in (*replies, Weights.need(strategy.knowledge).values):
        frozen = {key: tensor.detach() for key, tensor in first[1].items() if key.endswith(A)}
        changes.append(changes_of({**values, **frozen}, scaling))
    *own_changes, found = changes
    assert_near(found, {name: sum(c[name] for c in own_changes) / 3 for name in found}, rtol=1e-4, atol=1e-5)
    with_a = tiny.rounds(play()[2])[-1]["bytes"]["up"]["arrays"]
    assert tiny.rounds(lines)[-1]["bytes"]["up"]["arrays"] < 0.8 * with_a


def test_a_product_is_the_exact_mean_where_its_rank_holds_it():
    """Under one client the mean has that client's rank; of three clients of rank 12 it has no more directions."""
    for changes in ("data.clients=1", "client.rank=12"):
        strategy, sent, lines = play(f"server.adapters=product {changes}")
        replies = [Adapter.need(content) for content in sent.values()]
        found = changes_of(Weights.need(strategy.knowledge).values, float(replies[0].scaling))
        assert_near(found, exact_mean(replies, [20] * len(replies)), rtol=1e-3, atol=1e-5)
        assert tiny.rounds(lines)[-1]["diagnostics"]["adapter_error"] < 1e-5


def test_a_product_of_small_rank_is_nearer_than_the_mean():
    errors = {
        rule: [line["diagnostics"]["adapter_error"] for line in tiny.rounds(play(f"server.adapters={rule}")[2])]
        for rule in ("mean", "product")
    }
    assert 0 < errors["product"][0] < errors["mean"][0] < 1  # both have the same replies in round one


def test_stacks_are_the_sum_of_exact_means():
    """After each round the server's change is the last one plus the mean of what clients learned on top of it."""
    strategy, sent, _ = play("server.adapters=stack server.rounds=1")
    after_one = changes_of(Weights.need(strategy.knowledge).values, 0.0)
    assert_near(after_one, exact_mean([Adapter.need(c) for c in sent.values()], [20] * 3))
    strategy, sent, _ = play("server.adapters=stack")
    own_changes = exact_mean([Adapter.need(c) for c in sent.values()], [20] * 3)
    found = changes_of(Weights.need(strategy.knowledge).values, 0.0)
    assert_near(found, {name: after_one[name] + own_changes[name] for name in found})


def test_a_stack_never_has_more_directions_than_its_matrix():
    """Three clients of rank 2 for three rounds are 18 directions, and a matrix of 12 x 12 has 12."""
    values = Weights.need(play("server.adapters=stack server.rounds=3")[0].knowledge).values
    assert {tuple(values[name + UP].shape) for name in adapted(values)} == {(WIDTH, WIDTH)}


def test_a_stack_tells_what_its_factors_do_as_one_matrix_would():
    """The server's model with a stack gives the logits of a model in which the change is added to the weights."""
    strategy = play("server.adapters=stack")[0]
    weights = Weights.need(strategy.knowledge)
    model, x = strategy.world.load("net", weights.values).eval(), samples("test", 30).x
    with torch.no_grad():
        found = model(x)
        plain = Net()
        whole = dict(model.named_parameters())
        base = {key: whole.get(key, whole.get(key.replace("blocks", "blocks", 1))) for key in plain.state_dict()}
        for name, change in changes_of(weights.values, 0.0).items():
            base[f"{name}.weight"] = whole[f"{name}.base_layer.weight"] + change.float()
            base[f"{name}.bias"] = whole[f"{name}.base_layer.bias"]
        plain.load_state_dict(base)
        torch.testing.assert_close(plain(x), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["mean", "freeze_a", "product", "stack", "fisher"])
def test_what_is_frozen_stays_to_the_bit(rule):
    strategy = play(f"server.adapters={rule}", grid=InProcessGrid)[0]
    module = strategy.world.load("net", Weights.need(strategy.knowledge).values)
    frozen = {key: value for key, value in module.named_parameters() if key not in module.state_dict()}
    untrained = play(f"server.adapters={rule} client.steps=0", grid=InProcessGrid)[0]
    fresh = dict(untrained.world.module("net").named_parameters())
    assert len(frozen) >= 6
    for key, value in frozen.items():
        assert torch.equal(value, fresh[key])


@pytest.mark.parametrize("rule", ["mean", "freeze_a", "product", "stack", "fisher"])
def test_a_model_without_a_head_sends_its_adapters_alone(rule):
    strategy, sent, lines = play(f"server.adapters={rule} model.name=headless")
    assert tiny.rounds(lines)[-1]["replied"] == ["0", "1", "2"]
    assert all("lora" in key or "stacked" in key for key in Weights.need(strategy.knowledge).values)
    for content in sent.values():
        assert not (found.others if (found := Adapter.find(content)) else ())


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fml"])
@pytest.mark.parametrize("rule", ["product", "stack"])
def test_methods_that_average_weights_share_the_rules(method, rule):
    strategy, sent, lines = play(f"server.adapters={rule}", method)
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2
    assert {tuple(line["bytes"]["up"]) for line in tiny.rounds(lines)} == {("adapter",)}
    replies = [Adapter.need(content) for content in sent.values()]
    weights = Weights.need(strategy.knowledge)
    expected = sum(reply.others["head.weight"].double() for reply in replies) / 3  # each client has 20 samples
    torch.testing.assert_close(weights.values["head.weight"], expected.float())


def test_fedprox_without_its_term_is_fedavg_under_every_rule():
    for rule in ("product", "stack"):
        one = play(f"server.adapters={rule}", "fedavg", InProcessGrid)[0]
        other = play(f"server.adapters={rule} client.mu=0", "fedprox", InProcessGrid)[0]
        tiny.assert_same_bits({0: Weights.need(one.knowledge).values}, {0: Weights.need(other.knowledge).values})


# --- several ranks


def test_ranks_two_four_and_eight_learn_in_one_federation():
    """Each receives and sends its own rank; the largest rank's change is nearest to the exact mean."""
    strategy, sent, lines = play("server.adapters=product client.rank=[2,4,8]")
    assert [c.model for c in strategy.clients] == ["net rank=2", "net rank=4", "net rank=8"]
    replies = [Adapter.need(content) for content in sent.values()]
    assert sorted(int(reply.rank) for reply in replies) == [2, 4, 8]
    assert sorted(float(reply.scaling) for reply in replies) == [2.0, 4.0, 8.0]
    exact, errors = exact_mean(replies, [20] * 3), {}
    for weights in Weights.all(strategy.knowledge):
        found = changes_of(weights.values, 16 / ranked(weights.model)[1])
        errors[weights.model] = float(sum((found[name] - exact[name]).square().sum() for name in exact))
    assert errors["net rank=8"] < errors["net rank=4"] < errors["net rank=2"]
    heads = [weights.values["head.weight"] for weights in Weights.all(strategy.knowledge)]
    assert torch.equal(heads[0], heads[2])
    assert tiny.rounds(lines)[-1]["global"]["accuracy"] > 0


def test_ranks_of_all_sizes_have_one_body():
    strategy = play("server.adapters=stack client.rank=[1,3]", grid=InProcessGrid)[0]
    assert len({strategy.world.base(name) for name in ("net rank=1", "net rank=3")}) == 1


def test_a_node_names_its_own_rank(tmp_path):
    """The second device has rank 4 in a federation of rank 2."""
    nodes = [
        {"client-id": name, "state-dir": f"{tmp_path}/{name}", **more} for name, more in (("0", {}), ("1", {"rank": 4}))
    ]
    grid = InProcessGrid(methods.client_app("fedavg"), node_configs=nodes, run_config={"task": NAME})
    chosen = settings("fedavg", BRIEF + "server.adapters=product", task=NAME)
    strategy, _, lines = tiny.start(chosen, grid)
    assert [c.model for c in strategy.clients] == ["net", "net rank=4"]
    assert tiny.rounds(lines)[-1]["replied"] == ["0", "1"]


@pytest.mark.parametrize("rank", [0, "many", 2.5, True])
def test_a_node_whose_rank_is_none_is_refused(tmp_path, rank):
    nodes = [{"client-id": "0", "state-dir": f"{tmp_path}/0", "rank": rank}]
    grid = InProcessGrid(methods.client_app("fedavg"), node_configs=nodes, run_config={"task": NAME})
    with pytest.raises(RunError, match=r"the node's config has rank=.* expected a whole number above 0"):
        tiny.start(settings("fedavg", BRIEF, task=NAME), grid)


def test_methods_of_personal_models_take_several_ranks():
    lines = play("client.rank=[2,4]", "fd", InProcessGrid)[2]
    assert tiny.rounds(lines)[-1]["replied"] == ["0", "1", "2"]


def test_a_name_says_its_rank():
    assert ranked(with_rank("org/model", 4)) == ("org/model", 4)
    assert ranked("a rank=b") == ("a rank=b", None)


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("client.rank=[2,4]", r"one rank; got net rank=2, net rank=4: .*server.adapters=product or server.adapters=st"),
        ("client.rank=[2,4] server.adapters=fisher", "one rank; got net rank=2, net rank=4"),
        ("server.adapters=fisher privacy.sum=masks", "privacy.sum=masks hides each client's Fisher information"),
        ("server.adapters=fisher server.ranks=[1]", "ranks are drawn under server.adapters=mean alone"),
        ("client.rank=[2,4] server.adapters=freeze_a", "one rank; got net rank=2, net rank=4"),
        ("server.adapters=product privacy.sum=masks", "privacy.sum=masks hides each client's factors"),
        ("server.adapters=stack privacy.sum=bfv", "privacy.sum=bfv hides each client's factors"),
        ("server.adapters=stack client.trainable=head", "is about LoRA factors, and the model has none"),
        ("server.adapters=freeze_a client.trainable=all", "is about LoRA factors, and the model has none"),
        ("server.adapters=product client.share=body", "client.share=body keeps a part of it"),
        ("client.rank=[2,0]", r"client.rank is \[2, 0\]; expected a whole number above 0, or a list of them"),
        ("server.adapters=products", "server.adapters is 'products'"),
    ],
)
def test_what_does_not_go_together_is_refused_before_round_one(changes, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        play(changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rule", ["mean", "freeze_a"])
def test_a_secure_sum_hides_factors_of_one_rank(rule):
    plain, masked = (
        Weights.need(play(f"server.adapters={rule} privacy.sum={sums} client.lr=0.1", grid=InProcessGrid)[0].knowledge)
        for sums in ("none", "masks")
    )
    assert plain.values.keys() == masked.values.keys()
    for key, value in plain.values.items():
        torch.testing.assert_close(masked.values[key], value, rtol=0, atol=2e-3)


def test_an_adapter_of_another_body_costs_its_client_the_reply_alone():
    def spoil(name, round, content):
        if name == "1" and (found := Adapter.find(content)):
            return RecordDict({**content, **pack(replace(found, base=found.base.flip(0)))})
        return content

    grid = InProcessGrid(Spoilt(methods.client_app("fedavg"), spoil))
    lines = tiny.start(settings("fedavg", BRIEF + "server.adapters=product", task=NAME), grid)[2]
    first = tiny.rounds(lines)[0]
    assert first["replied"] == ["0", "2"]
    assert "another frozen body than the one here" in first["failed"]["1"]


# --- what is left behind


@pytest.mark.parametrize("changes", ["server.adapters=stack", "server.adapters=product client.rank=[2,4]"])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path, changes):
    words = BRIEF + changes
    whole = tiny.run("fedavg", words, out=tmp_path / "whole", task=task)
    tiny.run("fedavg", f"{words} server.rounds=1", out=tmp_path / "cut", task=task)
    resumed = tiny.run("fedavg", f"run.resume={tmp_path / 'cut'} server.rounds=2")
    assert tiny.rounds(tiny.figures(resumed))[-1] == tiny.rounds(tiny.figures(whole))[-1]
    one, two = (Checkpoint.read(tmp_path / name, "fedavg").knowledge.flat() for name in ("whole", "cut"))
    tiny.assert_same_bits({0: one}, {0: two})


@pytest.mark.parametrize(
    ("changes", "whose"),
    [("server.adapters=stack", "server"), ("server.adapters=product client.rank=[2,4]", "server:net rank=4")],
)
def test_a_kept_model_is_the_servers(tmp_path, changes, whose):
    chosen = settings("fedavg", f"{BRIEF} {changes} run.keep=last", task=NAME)
    tiny.play(chosen, out=tmp_path)
    model = export.load(tmp_path, whose)
    known = Weights.all(Checkpoint.read(tmp_path, "fedavg").knowledge)
    values = next(w.values for w in known if w.model in ("", "net rank=4"))
    for key, value in values.items():
        assert torch.equal(model.module.state_dict()[key], value)


def test_a_stacked_layer_takes_factors_of_any_rank_and_of_its_own_sizes():
    layer = Stacked(torch.zeros(2, 5), torch.zeros(3, 2))
    assert layer.takes("down", torch.Size([7, 5]), layer.down.shape)
    assert not layer.takes("down", torch.Size([7, 4]), layer.down.shape)
    assert layer.takes("up", torch.Size([3, 7]), layer.up.shape)
    assert not layer.takes("up", torch.Size([3]), layer.up.shape)
    layer.load_state_dict({"down": torch.ones(1, 5), "up": torch.ones(3, 1)})
    torch.testing.assert_close(layer(torch.ones(1, 5)), torch.full((1, 3), 5.0))


def test_users_own_factors_are_in_the_stack_from_the_start():
    """``initial_arrays`` with LoRA factors: the server's first model does what they do, its clients begin anew."""
    own_factors = [torch.randn(shape, generator=torch.Generator().manual_seed(3)) for shape in ((WIDTH, 2), (2, WIDTH))]
    strategy = play("server.adapters=stack server.rounds=1", grid=InProcessGrid)[0]
    values = {k: v for k, v in strategy.world.initial("net").items() if not k.endswith((UP, DOWN))}
    name = adapted(values)[0]
    strategy.start_from({**values, name + B: own_factors[0], name + A: own_factors[1]})
    first = Weights.need(strategy.initial_knowledge(strategy.clients)).values
    assert not first[name + B].any()
    expected = 8 * own_factors[0] @ own_factors[1]
    torch.testing.assert_close(first[name + UP] @ first[name + DOWN], expected, rtol=1e-4, atol=1e-4)
    assert stack([Factors(*own_factors, 8.0)], [1]).norm == pytest.approx(float(expected.norm()), rel=1e-5)


# --- a rank a round


def test_a_round_of_a_drawn_rank_moves_the_first_directions_alone():
    """Rank 4, of which a round of rank 1 sends, trains and averages the first direction; the others stay to the bit."""
    short = "client.rank=4 server.rounds=1 server.ranks=[1]"
    fresh = dict(play(f"{short} client.steps=0", grid=InProcessGrid)[0].world.initial("net"))
    strategy, sent, lines = play(short)
    replies = [Weights.need(content).values for content in sent.values()]
    values = Weights.need(strategy.knowledge).values
    for name in adapted(values):
        assert {len(reply[name + A]) for reply in replies} == {1}
        assert torch.equal(values[name + A][1:], fresh[name + A][1:])
        assert torch.equal(values[name + B][:, 1:], fresh[name + B][:, 1:])
        mean = sum(reply[name + A].double() for reply in replies) / 3
        torch.testing.assert_close(values[name + A][:1], mean.float())
        # What a direction does is scaling * b a: 16 / 1 in the round, 16 / 4 in the server's model.
        torch.testing.assert_close(4 * values[name + B][:, :1], 16 * sum(reply[name + B] for reply in replies) / 3)
    assert tiny.rounds(lines)[0]["diagnostics"]["rank"] == 1


def test_all_clients_have_the_drawn_rank_and_rounds_have_several():
    lines = play("client.rank=4 server.ranks=[1,2,4] server.rounds=9 client.steps=1", grid=InProcessGrid)[2]
    assert {line["diagnostics"]["rank"] for line in tiny.rounds(lines)} == {1.0, 2.0, 4.0}
    assert len({line["bytes"]["up"]["arrays"] for line in tiny.rounds(lines)}) == 3


def test_drawing_the_one_full_rank_changes_nothing():
    one, other = (
        Weights.need(play(changes, grid=InProcessGrid)[0].knowledge).values for changes in ("", "server.ranks=[2]")
    )
    tiny.assert_same_bits({0: one}, {0: other})


@pytest.mark.parametrize(("method", "changes"), [("fedavg", "privacy.sum=masks"), ("fedprox", ""), ("fml", "")])
def test_drawn_ranks_go_with_sums_and_with_other_methods(method, changes):
    lines = play(f"client.rank=4 server.ranks=[1,2] {changes}", method, InProcessGrid)[2]
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("server.ranks=[2,3]", r"server.ranks=\[2, 3\] has a rank above client.rank=2"),
        ("server.ranks=[1] client.trainable=head", "is about LoRA factors, and the model has none"),
        ("server.ranks=[1] client.share=body", r"server.ranks=\[1\] needs all that learns, and client.share=body"),
        ("server.ranks=[1] server.adapters=product", "ranks are drawn under server.adapters=mean alone"),
        ("server.ranks=[0]", "server.ranks is"),
        ("server.ranks=[]", "server.ranks is"),
    ],
)
def test_ranks_that_cannot_be_drawn_are_refused(changes, words):
    with pytest.raises(InvalidInputError, match=words):
        play(changes)

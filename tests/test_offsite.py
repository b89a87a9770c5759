"""Offsite-tuning: clients tune the ends of an emulator, which are plugged back into the server's whole model."""

from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.grids import hosts
from helpers.tiny import tiny_settings

from fd_flower.core.errors import InvalidInputError
from fd_flower.server import Strategy
from fd_flower.tasks.language.emulator import end_keys, from_model, kept_blocks, plugged, tune_ends, without_blocks
from fd_flower.tasks.language.models import LanguageModel, build
from fd_flower.wire import Emulator, Weights


def gpt(depth: int = 5) -> LanguageModel:
    return build(f"gpt:8x{depth}", seed=0, length=16).eval()


IDS, MASK = torch.tensor([[256, 104, 105, 33]]), torch.tensor([[False, True, True, True]])


def started(changes: str = "") -> tuple[Strategy[Any], list[dict[str, Any]]]:
    lines: list[dict[str, Any]] = []
    strategy = Strategy.for_method(tiny_settings("offsite", changes))
    strategy.on_line = lines.append
    strategy.start(hosts("offsite"))
    assert not any(line.get("failed") for line in lines)
    return strategy, lines


# --- emulators


@pytest.mark.parametrize(
    ("count", "ends", "drop", "kept"),
    [
        (6, 1, 0.5, [0, 1, 4, 5]),
        (6, 1, 0.0, [0, 1, 2, 3, 4, 5]),
        (6, 1, 1.0, [0, 5]),
        (30, 1, 0.2, [0, *range(1, 29), 29]),
        (5, 2, 0.0, [0, 1, 2, 3, 4]),
    ],
)
def test_both_ends_are_kept_and_evenly_spaced_blocks_between(count: int, ends: int, drop: float, kept: list[int]):
    found = kept_blocks(count, ends, drop)
    if count == 30:
        assert len(found) == 24
        assert found == sorted(set(found))
        assert found[:2] + found[-2:] == [0, 1, 28, 29]
    else:
        assert found == kept


def test_a_model_without_blocks_between_its_ends_is_refused():
    with pytest.raises(
        InvalidInputError, match=r"the model has 4 blocks, and server\.ends=2 tunes 4: expected 5 or more"
    ):
        kept_blocks(4, 2, 0.5)


def test_an_emulator_without_a_block_dropped_is_the_model():
    whole, emulator = gpt(), without_blocks(gpt(), range(5))
    emulator.load_state_dict(from_model(emulator, whole.state_dict(), range(5)))
    assert torch.equal(emulator.logits(IDS, MASK), whole.logits(IDS, MASK))


def test_an_emulator_has_the_models_blocks_and_no_others():
    """Leaving out a block that adds nothing changes nothing; leaving out another does."""
    whole = gpt()
    for name, parameter in whole.layers()[2].named_parameters():
        if parameter.dim() > 1 or "bias" in name:
            parameter.data.zero_()
    outputs = []
    for kept in ([0, 1, 3, 4], [0, 2, 3, 4]):
        emulator = without_blocks(gpt(), kept)
        emulator.load_state_dict(from_model(emulator, whole.state_dict(), kept))
        outputs.append(emulator.logits(IDS, MASK))
    assert torch.equal(outputs[0], whole.logits(IDS, MASK))
    assert not torch.equal(outputs[1], whole.logits(IDS, MASK))


def test_tuned_ends_go_back_to_where_they_were():
    emulator, kept = without_blocks(gpt(), [0, 2, 4]), [0, 2, 4]
    tuned = {
        key: torch.full_like(value, 7) for key, value in emulator.state_dict().items() if key in end_keys(emulator, 1)
    }
    whole = plugged(emulator, gpt().state_dict(), tuned, kept)
    changed = {key.split(".")[2] for key, value in whole.items() if bool((value == 7).all())}
    assert changed == {"0", "4"}
    assert whole.keys() == gpt().state_dict().keys()


def test_the_ends_learn_alone():
    emulator = without_blocks(gpt(), [0, 2, 4])
    tune_ends(emulator, 1)
    learning = {name for name, parameter in emulator.named_parameters() if parameter.requires_grad}
    assert learning == set(end_keys(emulator, 1))


# --- runs


def test_the_server_plugs_the_ends_into_its_model_and_nothing_else_changes():
    strategy, _ = started("server.drop=0.5")
    (whole,), first = Weights.all(strategy.knowledge), strategy.world.initial("gpt:8x4")
    emulator = Emulator.need(strategy.knowledge).values
    changed = {key for key, value in whole.values.items() if not torch.equal(value, first[key])}
    assert {key.split(".")[2] for key in changed} == {"0", "3"}
    assert all(torch.equal(whole.values[key.replace("blocks.2.", "blocks.3.")], emulator[key]) for key in emulator
               if key.startswith(("body.blocks.0.", "body.blocks.2.")))  # fmt: skip
    assert [type(one) for one in strategy.knowledge.public] == [Emulator]


def test_without_a_block_dropped_clients_have_the_whole_model():
    strategy, lines = started("server.drop=0 server.align_steps=0 server.evaluate=received,aggregated")
    (whole,) = Weights.all(strategy.knowledge)
    emulator = Emulator.need(strategy.knowledge).values
    assert all(torch.equal(value, emulator[key]) for key, value in whole.values.items())
    assert lines


def test_alignment_brings_the_emulator_nearer_to_the_model():
    public = "data.public_batch=30 server.drop=0.5 server.rounds=1 client.steps=0 server.align_batch=30"
    losses = []
    for steps in (1, 30):
        strategy = Strategy.for_method(
            tiny_settings("offsite", f"{public} server.align_steps={steps} server.align_lr=0.5")
        )
        strategy.on_line = lambda line: None
        strategy.start(hosts("offsite"))
        whole = strategy.world.load("gpt:8x4", strategy.world.initial("gpt:8x4"))
        emulator = strategy.world.load("gpt:8x4 - emulator", Emulator.need(strategy.knowledge).values)
        whole.eval(), emulator.eval()
        with torch.no_grad():
            p, q = (model.logits(IDS, MASK).log_softmax(-1) for model in (whole, emulator))
        losses.append(float((p.exp() * (p - q)).sum()))
    assert losses[1] < losses[0]


def test_adapters_are_refused_since_blocks_are_tuned():
    with pytest.raises(InvalidInputError, match=r"client\.trainable is lora; offsite tunes whole blocks"):
        tiny.play(tiny_settings("offsite", "client.trainable=lora"))

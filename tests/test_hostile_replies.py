"""Whatever a client replies, the run goes on, what the server knows is finite, and what is refused leaves no trace."""

import json
import random
from collections import Counter
from functools import cache

import pytest
import torch
from flwr.app import Error, RecordDict
from helpers import mutations
from helpers.replays import CLIENTS, Replay, same
from helpers.tiny import toy_settings

from fd_flower import methods

pytestmark = pytest.mark.usefixtures("quiet")

CASES = {
    **{name: (name, "") for name in methods.names()},
    "feddf, two architectures": ("feddf", "model.name=[small,wide]"),
    "selectivefd, hard labels": ("selectivefd", "client.labels=hard"),
    "fedgen, heads": ("fedgen", "server.share=head"),
    "fd, logits of clients": ("fd", "client.output=logits client.weighting=clients"),
    "kdstudy, candidates": ("kdstudy", "server.technique=tuned-kd"),
    "fedd2s, half": ("fedd2s", "client.half=true"),
}
SEED = 2024


@cache
def replay(case: str) -> Replay:
    method, changes = CASES[case]
    return Replay(toy_settings(method, changes))


@cache
def without(case: str, number: int, client: str) -> dict[str, torch.Tensor]:
    """Return what the server knows after a round in which a client's reply is an error."""
    return replay(case).play(number, **{f"client{client}": lambda name, content: Error(2, "gone")})[0]


def try_one(case: str, place: int) -> str:
    """Play one round with one changed reply and look at what it left; return what became of it."""
    rng = random.Random(f"{SEED} {case} {place}")
    number, client = rng.choice((1, 2)), rng.choice(CLIENTS)
    changed: list[str] = []

    def change(name: str, content: RecordDict) -> RecordDict | Error:
        if rng.random() < 0.05:
            what, made = mutations.envelope(name, content, rng)
            changed.append(what)
            return made
        what, reply = mutations.reply(content, rng)
        changed.append(what)
        return reply if isinstance(reply, Error) else mutations.fold({name: reply}, {})

    known = without(case, number, client)
    try:
        state, line = replay(case).play(number, **{f"client{client}": change})
        json.dumps(line, allow_nan=False)
        for key, tensor in state.items():
            assert not tensor.is_floating_point() or _bounded(key, tensor), f"{key} is not finite"
        if client in line["failed"]:
            assert same(state, known), "the refused reply left a trace"
    except Exception as error:
        error.add_note(f"{case}, try {place}: round {number}, client {client}: {changed}")
        raise
    return "lost" if "lost" in line else "refused" if client in line["failed"] else "taken"


def _bounded(key: str, tensor: torch.Tensor) -> bool:
    """Whether numbers are finite, but for classes that a prediction rules out."""
    if "public-logits" in key:
        tensor = tensor.clamp_min(-1e3)
    return bool(tensor.isfinite().all())


def try_many(case: str, tries: range) -> Counter[str]:
    return Counter(try_one(case, place) for place in tries)


@pytest.mark.parametrize("case", CASES)
def test_no_changed_reply_ends_a_run_or_leaves_a_trace(case: str):
    """A thousand in all."""
    found = try_many(case, range(-(-1000 // len(CASES))))
    assert found["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_no_changed_reply_of_many_ends_a_run_or_leaves_a_trace(case: str):
    """More than ten thousand in all."""
    found = try_many(case, range(100, 500))
    assert found["refused"] > found["taken"] > 0 or case == "local"

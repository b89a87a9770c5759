"""What a round costs over a tight hand-written loop of the same work, client by client: CPU seconds in pairs.

    python benchmarks/tight.py --source FOLDER [--methods fd local] [--batches 64 10] [--precisions fp32 bf16]

Both sides train 20 clients with `pfllib_cnn` on the same rows in the same order with one thread and the same optimizer.
Their losses are compared. A pair is one client's turn in one round, the two sides one after the other in alternating
order, so that both see the same machine. On the engine's side it is all of the turn, and an equal share of what the
round costs outside turns: files, messages, the server. The first round, which also builds models, and the last, which
alone is evaluated, are left out.
"""

import argparse
import logging
import math
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from fd_flower.client_apps import fd, local
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import functional as F

from fd_flower.client import App
from fd_flower.config import Settings, settings
from fd_flower.core.rng import torch_rng
from fd_flower.engine import InProcessGrid
from fd_flower.server import Strategy
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World

TRAIN = {"fd": fd.train, "local": local.train}


class Loop:
    """The hand-written side: every model in memory, one module, tables for `fd`."""

    def __init__(self, chosen: Settings) -> None:
        self.chosen, self.world = chosen, World(chosen, described(chosen))
        name = self.world.architecture(0)
        self.module, self.classes = self.world.module(name), self.world.classes(name)
        self.parameters = dict(self.module.named_parameters())
        start = self.world.initial(name)
        self.models = {c: {k: v.clone() for k, v in start.items()} for c in self.world.clients}
        self.rows = {c: self.world.data(c).train.index for c in self.world.clients}
        self.own: dict[str, tuple[Tensor, Tensor]] = {}
        self.tables: dict[str, tuple[Tensor, Tensor]] = {}
        self.total: tuple[Tensor, Tensor] | None = None

    def turn(self, client: str, round: int) -> float:
        """Train one client for one round and return its mean loss."""
        module, config, own = self.module, self.chosen.client, self.rows[client]
        samples = self.world.data(client).train
        images, labels = samples.x, samples.y
        for key, parameter in self.parameters.items():
            parameter.data = self.models[client][key]
        optimizer = torch.optim.SGD(self.parameters.values(), config.lr, fused=True)
        order = own[torch.randperm(len(own), generator=torch_rng(self.chosen.run.seed, "private", client, round))]
        half, step = self.chosen.run.precision == "bf16", self.fd if self.chosen.method == "fd" else plain
        teacher = known = None
        if self.total is not None:
            sums, counts = (whole - part for whole, part in zip(self.total, self.own[client], strict=True))
            teacher = (sums / counts.clamp_min(1).unsqueeze(1)).clamp_min(1e-12).log().log_softmax(1).float()
            known = (counts > 0).float()
        self.sums = torch.zeros(self.classes, self.classes, dtype=torch.float64)
        self.counts = torch.zeros(self.classes, dtype=torch.float64)
        module.train()
        running, batches = torch.zeros(()), order.split(config.batch)
        for rows in batches:
            x, y = images[rows], labels[rows]
            x = torch.empty(x.shape, memory_format=torch.channels_last).copy_(x).div_(127.5).sub_(1)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = step(module(x), y, teacher, known)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            running += loss.detach()
        # As the recipe has it, a client counts as one: it sends a mean of each class that it has.
        self.tables[client] = (self.sums / self.counts.clamp_min(1).unsqueeze(1), (self.counts > 0).double())
        return float(running) / len(batches)

    def fd(self, logits: Tensor, y: Tensor, teacher: Tensor | None, known: Tensor | None) -> Tensor:
        """Return FD's loss, and add what came out to the client's table."""
        self.sums.index_add_(0, y, logits.detach().double().softmax(1))
        self.counts.index_add_(0, y, torch.ones_like(y, dtype=torch.float64))
        loss = F.cross_entropy(logits, y)
        if teacher is None or known is None:
            return loss
        each = F.kl_div(logits.log_softmax(1), teacher[y], reduction="none", log_target=True).sum(1)
        return loss + (known[y] * each.nan_to_num()).mean()

    def close(self) -> None:
        """Sum the tables, where they are FD's, at the end of a round."""
        self.own, self.tables = self.tables, {}
        if self.chosen.method == "fd":
            self.total = tuple(torch.stack([t[i] for t in self.own.values()]).sum(0) for i in (0, 1))  # type: ignore[assignment]


def plain(logits: Tensor, y: Tensor, teacher: None, known: None) -> Tensor:
    """Return cross-entropy."""
    return F.cross_entropy(logits, y)


@dataclass
class Pairs:
    """Both sides, turn by turn: a mod around every client's turn, and what is called after every round."""

    loop: Loop
    found: list[tuple[float, float]] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    """Of each round's seconds the share that is outside turns."""

    def __post_init__(self) -> None:
        self._turns: list[tuple[float, float]] = []
        self._clock = time.process_time()
        self._first = True

    def __call__(self, message: Message, context: Context, call: Any) -> Message:
        """Run a turn and the loop's, and time both."""
        turn = context.turn  # type: ignore[attr-defined]
        self._first = not self._first
        took = [0.0, 0.0]
        for side in (0, 1) if self._first else (1, 0):
            begun = time.process_time()
            if side:
                expected = self.loop.turn(turn.client, turn.round)
            else:
                answer = call(message, context)
            took[side] = time.process_time() - begun
        loss = float(answer.content["metrics"]["loss"])
        if not math.isclose(loss, expected, rel_tol=1e-3):
            raise SystemExit(f"the two do not do the same work: losses {loss} and {expected}")
        self._turns.append((took[0], took[1]))
        return answer

    def close(self, line: dict[str, Any]) -> None:
        """Give each turn its share of what the round cost outside turns, but for the first and the last round's."""
        if "asked" not in line or line.get("closing"):
            return
        begun = time.process_time()
        self.loop.close()
        closing = time.process_time() - begun
        rest = (begun - self._clock - sum(a + b for a, b in self._turns)) / len(self._turns)
        if 1 < line["round"] < self.loop.chosen.server.rounds:
            self.found += [(a + rest, b + closing / len(self._turns)) for a, b in self._turns]
            self.outside.append(rest / (rest + statistics.mean(a for a, _ in self._turns)))
        self._turns, self._clock = [], time.process_time()
        self._first = not self._first  # of an even number of clients each begins once with either side


def compared(method: str, words: str) -> Pairs:
    """Run a method, the hand-written loop beside it."""
    chosen = settings(method, words)
    pairs = Pairs(Loop(chosen))
    app = App(mods=[pairs])
    app.train()(TRAIN[method])
    strategy = Strategy.for_method(chosen)
    strategy.on_line = pairs.close
    strategy.start(InProcessGrid(app, run_config={"task": chosen.task}))
    return pairs


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the mean of logarithms and its 95 % interval (Student's t), as ratios."""
    from scipy.stats import t

    logs = [math.log(v) for v in values]
    mean, half = statistics.mean(logs), t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="absolute path of CIFAR-10's folder")
    parser.add_argument("--limit", type=int, default=20_000, help="rows in all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["fd", "local"], choices=TRAIN)
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 10])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print("| method | batch | precision | loop, CPU ms a turn | ratio | 95 % | pairs | outside turns |")
    print("| --- | ---: | --- | ---: | ---: | --- | ---: | ---: |")
    for method in asked.methods:
        for batch in asked.batches:
            for precision in asked.precisions:
                pairs = compared(
                    method,
                    f"data.source={asked.source} data.limit={asked.limit} data.clients=20 data.partition=iid "
                    f"data.public=none model.name=pfllib_cnn server.rounds={asked.rounds + 2} "
                    "server.evaluate=personal server.evaluate_every=0 "
                    f"client.steps=null client.epochs=1 client.batch={batch} "
                    f"run.precision={precision}",
                )
                ratio, low, high = interval([a / b for a, b in pairs.found])
                by_hand = statistics.median(b for _, b in pairs.found) * 1000
                outside = statistics.mean(pairs.outside)
                print(
                    f"| `{method}` | {batch} | {precision} | {by_hand:.0f} | **{ratio:.3f}** | {low:.3f} to {high:.3f} "
                    f"| {len(pairs.found)} | {outside:.1%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

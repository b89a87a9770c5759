"""How a run grows with its clients: CPU seconds to start and a round, memory and bytes, with and without evaluation.

    python benchmarks/growth.py --source FOLDER [--method fd] [--clients 30 300 1000 3000 10000 100000]
        [--evaluated 1000] [--set WORDS]

`FOLDER` is MNIST; every client has 20 of its images (fewer where they do not suffice), iid, and trains one epoch of
`mlp`. More than 10,000 clients have six rows of noise each, 8x8 bytes. From 3,000 clients on, a round asks 100 of them.
Each run is a process of its own, for which another one has drawn who has which rows: `start` is its CPU time until
round one, `round` that of round two without evaluation, `evaluated` with one, and `last` of the last round, which is
evaluated on everything (both up to `--evaluated` clients). `MB` is the largest resident memory without evaluation; `up`
and `down` are bytes of round two by client, as if each were a device, `wire` is what crossed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from functools import cache
from itertools import pairwise
from typing import Any

import torch

from fd_flower import Callback, Task, data, engine, settings
from fd_flower.results.callback import Round, Started
from fd_flower.tasks.dealt import federation
from fd_flower.tasks.described import load_task

ROWS, ROUNDS, MNIST = 20, 3, 60_000
MANY, ASKED = 3000, 100
FEW, MOST = 6, 10_000
"""Rows of noise a client, and above how many clients."""


@cache
def noise() -> Task:
    """Return rows of noise for the clients of the environment variable ``GROWTH_CLIENTS``."""
    rows = FEW * int(os.environ["GROWTH_CLIENTS"])
    drawn = torch.Generator().manual_seed(0)
    x = torch.randint(256, (rows, 1, 8, 8), dtype=torch.uint8, generator=drawn)
    y = torch.randint(10, (rows,), generator=drawn)
    return Task.from_dataset((x, y), test=(x[:1000], y[:1000]))


class Clock(Callback):
    """Takes the CPU time at the start and after each round; one that is not evaluated ends the process after two."""

    def __init__(self, evaluated: bool) -> None:
        self.evaluated = evaluated
        self.at: list[float] = []
        self.bytes: dict[str, float] = {}

    def on_start(self, run: Started) -> None:
        """Take the time when all clients are known."""
        self.at.append(time.process_time())

    def on_round(self, round: Round) -> None:
        """Take the time after a round, without what a closing message costs."""
        if round.closing:
            return
        self.at.append(time.process_time())
        if round.number == 2:
            line = round.lines[0]
            asked = len(line["asked"])
            self.bytes = {way: sum(line["bytes"][way].values()) / asked for way in ("up", "down")}
            self.bytes["wire"] = line["bytes"]["wire"] / asked
            if not self.evaluated:
                print(json.dumps(self.found), flush=True)
                os._exit(0)

    @property
    def found(self) -> dict[str, float]:
        """What was measured."""
        rounds = [after - before for before, after in pairwise(self.at)]
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"start": self.at[0], "round": rounds[1], "last": rounds[-1], "MB": largest, **self.bytes}


def apart(method: str, words: str, clients: int) -> dict[str, Any]:
    """Return what a run takes in a process of its own; another one has drawn its partition before."""
    command = [sys.executable, __file__, "--method", method, "--clients", str(clients), "--one", words]
    for more in (["--prepare"], []):
        there = {**os.environ, "GROWTH_CLIENTS": str(clients)}
        done = subprocess.run([*command, *more], capture_output=True, text=True, env=there)
        if done.returncode:
            raise SystemExit(f"{words} ended with {done.returncode}: {done.stderr[-500:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print a row a number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="ylecun/mnist")
    parser.add_argument("--method", default="fd")
    parser.add_argument("--clients", type=int, nargs="+", default=[30, 300, 1000, 3000, 10_000, 100_000])
    parser.add_argument("--evaluated", type=int, default=1000)
    parser.add_argument("--set", default="", dest="more")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one is not None:
        task = "growth:noise" if asked.clients[0] > MOST else ""
        chosen = settings(asked.method, asked.one, task=task)
        if asked.prepare:
            whole = federation(load_task(task), chosen) if task else data.federation(chosen.data, chosen.run.seed)
            whole.counts()
            return
        clock = Clock("evaluate_every=0" not in asked.one)
        engine.run(chosen, callbacks=[clock])
        print(json.dumps(clock.found))
        return
    print("| clients | start, CPU s | round | evaluated | ratio | last | MB | up, B a client | down | wire |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for clients in asked.clients:
        rows = f"data.limit={min(MNIST, ROWS * clients)} data.source={asked.source} " if clients <= MOST else ""
        words = (
            f"{rows}data.clients={clients} data.partition=iid data.per_client={ROWS} data.split=[0.7,0.15,0.15] "
            f"data.public=none data.min_rows=1 model.name=mlp server.rounds={ROUNDS} "
            f"server.fraction={ASKED / clients if clients >= MANY else 1} client.steps=null client.epochs=1 "
            f"client.batch=16 {asked.more}"
        )
        bare = apart(asked.method, f"{words} server.evaluate_every=0", clients)
        whole = apart(asked.method, words, clients) if clients <= asked.evaluated else None
        cells = [f"{clients:,}", f"{bare['start']:.2f}", f"{bare['round']:.3f}"]
        if whole is None:
            cells += ["-", "-", "-"]
        else:
            cells += [f"{whole['round']:.3f}", f"{whole['round'] / bare['round']:.2f}", f"{whole['last']:.3f}"]
        cells += [f"{bare[name]:,.0f}" for name in ("MB", "up", "down", "wire")]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

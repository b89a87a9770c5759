"""How a run grows with its clients: CPU seconds to start and a round, memory and bytes, with and without evaluation.

    python benchmarks/growth.py --source FOLDER [--method fd] [--clients 30 300 1000 3000 10000 100000]
        [--evaluated 1000] [--devices] [--set WORDS]

`FOLDER` is MNIST; every client has 20 of its images (fewer where they do not suffice), iid, and trains one epoch of
`mlp`. More than 10,000 clients have six rows of noise each, 8x8 bytes. From 3,000 clients on, a round asks 100 of them.
Each run is a process of its own, for which another one has drawn who has which rows: `start` is its CPU time until
round one, `round` that of round two without evaluation, of which `server` is what was not spent in the client app,
`evaluated` with one, and `last` of the last round, which is evaluated on everything (both up to `--evaluated` clients).
`MB` is the largest resident memory without evaluation, `+MB` what of it came after the start; `up` and `down` are bytes
of round two by client, as if each were a device, `wire` is what crossed.

With `--devices` each client is a device whose reply comes alone, of 20 rows of noise the size of MNIST's images.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fd_flower import Callback, Task, data, methods, settings
from fd_flower.engine import InProcessGrid
from fd_flower.results.callback import Round, Started
from fd_flower.server import Strategy
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


@cache
def images() -> Task:
    """Return a device's rows of noise."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randint(256, (ROWS, 1, 28, 28), dtype=torch.uint8, generator=drawn)
    y = torch.arange(ROWS) % 10
    return Task.from_dataset((x, y), test=(x, y))


class Timed(ClientApp):
    """An app that adds up the CPU time that is spent in it."""

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._app = app
        self.spent = 0.0

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as the app does."""
        begin = time.process_time()
        reply = self._app(message, context)
        self.spent += time.process_time() - begin
        return reply


def memory() -> float:
    """Return the largest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock(Callback):
    """Takes the CPU time at the start and after each round; one that is not evaluated ends the process after two."""

    def __init__(self, evaluated: bool, app: Timed) -> None:
        self.evaluated = evaluated
        self.app = app
        self.at: list[float] = []
        self.outside: list[float] = []
        self.bytes: dict[str, float] = {}

    def _take(self) -> None:
        self.at.append(time.process_time())
        self.outside.append(self.at[-1] - self.app.spent)

    def on_start(self, run: Started) -> None:
        """Take the time when all clients are known."""
        self.begun = memory()
        self._take()

    def on_round(self, round: Round) -> None:
        """Take the time after a round, without what a closing message costs."""
        if round.closing:
            return
        self._take()
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
        rounds, server = ([after - before for before, after in pairwise(at)] for at in (self.at, self.outside))
        more = {"server": server[1], "MB": memory(), "+MB": memory() - self.begun}
        return {"start": self.at[0], "round": rounds[1], "last": rounds[-1], **more, **self.bytes}


def run(method: str, words: str, task: str, devices: int) -> dict[str, float]:
    """Run in this process, with so many devices or (0) one host, and return what was measured."""
    app = Timed(methods.client_app(method))
    clock = Clock("evaluate_every=0" not in words, app)
    strategy = Strategy.for_method(settings(method, words, task=task))
    strategy.callbacks = (clock,)
    folder = tempfile.mkdtemp()
    nodes = [{"client-id": str(i), "state-dir": f"{folder}/{i}"} for i in range(devices)] or None
    strategy.start(InProcessGrid(app, node_configs=nodes, run_config={"task": task}))
    return clock.found


def apart(method: str, words: str, clients: int, devices: bool) -> dict[str, Any]:
    """Return what a run takes in a process of its own; another one has drawn its partition before."""
    command = [sys.executable, __file__, "--method", method, "--clients", str(clients), "--one", words]
    for more in [["--devices"]] if devices else [["--prepare"], []]:
        with tempfile.TemporaryDirectory() as folder:  # the process ends without removing what it made there
            there = {**os.environ, "GROWTH_CLIENTS": str(clients), "TMPDIR": folder}
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
    parser.add_argument("--devices", action="store_true")
    asked = parser.parse_args()
    if asked.one is not None:
        task = "growth:images" if asked.devices else "growth:noise" if asked.clients[0] > MOST else ""
        if asked.prepare:
            chosen = settings(asked.method, asked.one, task=task)
            whole = federation(load_task(task), chosen) if task else data.federation(chosen.data, chosen.run.seed)
            whole.counts()
            return
        print(json.dumps(run(asked.method, asked.one, task, asked.clients[0] if asked.devices else 0)))
        return
    head = ["clients", "start, CPU s", "round", "server", "evaluated", "ratio", "last", "MB", "+MB", "up, B a client"]
    head += ["down", "wire"]
    print(f"| {' | '.join(head)} |\n|{' ---: |' * len(head)}")
    for clients in asked.clients:
        dealt = clients <= MOST and not asked.devices
        rows = f"data.limit={min(MNIST, ROWS * clients)} data.source={asked.source} " if dealt else ""
        nodes = f"server.nodes={clients}" if asked.devices else ""
        words = (
            f"{rows}data.clients={clients} data.partition=iid data.per_client={ROWS} data.split=[0.7,0.15,0.15] "
            f"data.public=none data.min_rows=1 model.name=mlp server.rounds={ROUNDS} "
            f"server.fraction={ASKED / clients if clients >= MANY else 1} client.steps=null client.epochs=1 "
            f"client.batch=16 {nodes} {asked.more}"
        )
        bare = apart(asked.method, f"{words} server.evaluate_every=0", clients, asked.devices)
        whole = apart(asked.method, words, clients, asked.devices) if clients <= asked.evaluated else None
        cells = [f"{clients:,}", f"{bare['start']:.2f}", f"{bare['round']:.3f}", f"{bare['server']:.3f}"]
        if whole is None:
            cells += ["-", "-", "-"]
        else:
            cells += [f"{whole['round']:.3f}", f"{whole['round'] / bare['round']:.2f}", f"{whole['last']:.3f}"]
        cells += [f"{bare[name]:,.0f}" for name in ("MB", "+MB", "up", "down", "wire")]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

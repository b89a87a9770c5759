"""Seconds a round on devices: SuperLink and SuperNodes on loopback, against the floor of Flower's polling."""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.deployment import TINY, lab, partitions, short_settings

from fd_flower.cli import main
from fd_flower.cli.flower import python_path
from fd_flower.results import RunFolder

DEVICES = ("0", "1", "2")

LOOK = 3.0
"""Seconds between a SuperNode's looks for messages (flwr 1.41)."""


def start_of_a_turn(method: str) -> float:
    """Return the CPU seconds that every message costs a device before its turn begins: a process and its imports."""
    code = f"import fd_flower.client_app; from fd_flower import methods; methods.client_app({method!r})"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": python_path()})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(method: str, rounds: int) -> None:
    """Print wall seconds of each round, and the floor."""
    with tempfile.TemporaryDirectory() as folder, lab(Path(folder, "lab")) as made:
        rows = partitions(Path(folder, "data"), short_settings("local"))
        for client in DEVICES:
            made.device(client, rows[client], model="mlp")
        words = ["--set", f"{TINY} server.rounds={rounds}", "--out", f"{folder}/run", "--quiet"]
        begin = time.monotonic()
        if main(["run", method, "--on", str(made.keys), *words]):
            raise SystemExit(made.said())
        whole = time.monotonic() - begin
        lines = [line for line in RunFolder.open(Path(folder, "run")).lines() if "asked" in line]
    took = [line["seconds"] for line in lines if not line.get("closing")]
    slowest = LOOK * len(DEVICES) / (len(DEVICES) + 1)
    closing = sum(line["seconds"] for line in lines if line.get("closing"))
    print(f"{method}: {start_of_a_turn(method):.1f} CPU s to start a message's process, on each device")
    print(f"  floor of polling: {slowest:.2f} s until the last device has looked, on average, {LOOK:.0f} s at most")
    print(f"  rounds {', '.join(f'{s:.1f}' for s in took)} s, median {statistics.median(took):.1f} s")
    print(f"  closing message {closing:.1f} s, whole command {whole:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["fd", "fedmd"])
    parser.add_argument("--rounds", type=int, default=6)
    asked = parser.parse_args()
    for name in asked.methods:
        measure(name, asked.rounds)

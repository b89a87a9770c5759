"""What hosting is worth: FD with many clients in this process, on a few nodes, and with one node a client.

    python benchmarks/hosting.py --source FOLDER [--clients 1000] [--rounds 3] [--model cnn] [--engines local 2 1000]

`local` is the in-process engine; a number is Flower's simulation (`fd-flower run --engine flower`) with that many
SuperNodes, on as many actors as there are cores. Wall seconds of each round but the first come from the run's own
`rounds.jsonl`, so start-up is left out; the anonymous memory of the process that runs strategy and simulation is
sampled from /proc.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def run(words: str, engine: str, out: Path) -> tuple[list[float], float]:
    """Run FD once and return the seconds of its rounds and its driver's largest resident memory in MB."""
    command = [sys.executable, "-m", "fd_flower.cli", "run", "fd", "--quiet", "--out", str(out), "--set", words]
    if engine != "local":
        command += ["--set", f"server.nodes={engine}", "--engine", "flower"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    largest = [0.0]
    watcher = threading.Thread(target=_watch, args=(process.pid, engine != "local", largest), daemon=True)
    watcher.start()
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {errors[-500:]}")
    lines = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    return [line["seconds"] for line in lines if "asked" in line and not line.get("closing")], largest[0]


def _watch(pid: int, simulated: bool, largest: list[float]) -> None:
    """Sample the driver's memory: the process itself, or the flwr-simulation beneath it."""
    while Path(f"/proc/{pid}").exists():
        with contextlib.suppress(OSError, ValueError, IndexError):
            for driver in _drivers(pid) if simulated else [pid]:
                status = Path(f"/proc/{driver}/status").read_text()
                anonymous = next(line for line in status.splitlines() if line.startswith("RssAnon"))
                largest[0] = max(largest[0], int(anonymous.split()[1]) / 1024)
        time.sleep(0.5)


def _drivers(pid: int) -> list[int]:
    """Return the flwr-simulation processes of this user."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"/flwr-simulation") for word in words):
                found.append(int(folder.name))
    return found


def main() -> None:
    """Run each engine once and print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="digits")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--limit", default="null")
    parser.add_argument("--engines", nargs="+", default=["local", "2", "1000"])
    asked = parser.parse_args()
    words = (
        f"data.source={asked.source} data.clients={asked.clients} data.partition=iid data.limit={asked.limit} "
        f"data.split=[0.98,0.0,0.02] data.public=none model.name={asked.model} data.min_rows=1 "
        f"server.rounds={asked.rounds} server.evaluate_every=0 server.evaluate=personal "
        "client.steps=null client.epochs=1 client.batch=32"
    )
    print(f"fd, {words}")
    medians = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine in asked.engines:
            seconds, memory = run(words, engine, Path(folder) / engine)
            medians[engine] = statistics.median(seconds[1:])
            told = ", ".join(f"{s:.2f}" for s in seconds)
            print(f"{engine:>6}: rounds {told} s; driver's own memory at most {memory:.0f} MB", flush=True)
    first = asked.engines[0]
    for engine in asked.engines[1:]:
        print(f"{engine} nodes / {first}: {medians[engine] / medians[first]:.2f} of the seconds a round")


if __name__ == "__main__":
    main()

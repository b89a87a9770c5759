"""CPU seconds a round of every method on one federation, beside ``local``'s.

    python benchmarks/methods.py [--source FOLDER] [--rounds 4] [--model lenet] [METHOD ...]

All methods train on the same clients for one epoch a round; what else they do is by their recipes, but for those that
would take hours on a CPU (``SHORTENED``). Each method runs in this process with one thread, and is measured once, at
the end.
"""

import argparse
import logging
import statistics
import tempfile
import time
from itertools import pairwise

import torch

from fd_flower import data, engine, methods
from fd_flower.config import Settings, settings

FEDERATION = (
    "data.limit=4000 data.clients=10 data.partition=dirichlet data.alpha=0.3 data.public_size=1000 "
    "data.public_batch=500 server.evaluate_every=0 data.test_limit=100 client.epochs=1 client.steps=null "
    "client.batch=32 client.warmup=0 client.optimizer=sgd client.lr=0.01 client.momentum=0.0"
)
SHORTENED = {
    "feddf": "server.distill_steps=100",
    "fedlgd": "client.distill_warmup=10 client.distill_refresh=2 client.distill_batch=16 client.images=5 "
    "server.images=5 server.match_steps=5 client.distill_model=convnet:0.25",
}


def classifiers() -> list[str]:
    """Return the methods that learn classification."""
    return [stem for stem in methods.names() if "classification" in methods.strategy(stem).requires.tasks]


def seconds(chosen: Settings) -> list[float]:
    """Return the CPU seconds of each round; the first holds all that a method does before it, too."""
    marks = [time.process_time()]

    def hear(line: dict) -> None:
        if "asked" in line:
            marks.append(time.process_time())

    with tempfile.TemporaryDirectory() as out:
        engine.run(chosen, out=f"{out}/run", on_line=hear)
    return [after - before for before, after in pairwise(marks)]


def main() -> None:
    """Run the methods one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", nargs="*", default=classifiers())
    parser.add_argument("--source", default="digits")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", default="lenet")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    shared = f"data.source={asked.source} model.name={asked.model} server.rounds={asked.rounds} {FEDERATION}"
    print(shared)
    print("| method | first round | later rounds | of `local` |\n| --- | ---: | ---: | ---: |")
    base = 0.0
    for method in dict.fromkeys(("local", *asked.method)):
        chosen = settings(method, f"{shared} {SHORTENED.get(method, '')}")
        data.federation(chosen.data, chosen.run.seed)  # decoded before the clock starts
        first, *later = seconds(chosen)
        each = statistics.median(later)
        base = base or each
        print(f"| `{method}` | {first:.2f} | {each:.2f} | {each / base:.1f} |", flush=True)


if __name__ == "__main__":
    main()

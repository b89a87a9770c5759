"""What a round costs in HtFLlib and here, beside each other in one process: CPU seconds without evaluation, accuracy.

    python benchmarks/htfllib.py --htfllib CHECKOUT --source FOLDER [--methods fd fedproto ...] [--batches 64 10]

20 clients, `pfllib_cnn` (HtFLlib's `FedAvgCNN`), the same rows: HtFLlib's own servers and clients read them from files
in its layout, which are written to a temporary folder. After each round of one side the other does one, in alternating
order; the first round, which also starts things up, and evaluations are left out. HtFLlib leaves out a last batch that
is not full, and the order of its rows is always the same. It is neither copied nor changed: `h5py`, with which it
writes its results, is replaced by an empty module, and `torch.load` may load its modules.
"""

import argparse
import importlib
import logging
import statistics
import sys
import tempfile
import threading
import time
import types
from contextlib import redirect_stdout, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tight import interval

from fd_flower import engine
from fd_flower.config import Settings, settings
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World

METHODS = {
    "fd": ("FD", "fd", "client.kd_weight=1"),
    "fedproto": ("FedProto", "proto", "client.kd_weight=1 client.momentum=0 client.prototypes=during"),
    "fml": ("FML", "fml", "client.kd_mean=entries"),
    "fedkd": ("FedKD", "kd", "client.kd_mean=entries"),
    "fedgen": (
        "FedGen",
        "gen",
        "server.share=head server.ensemble=mean_logit server.labels=prior server.noise=uniform server.noise_size=512 "
        "server.hidden=512 server.generator_steps=100 server.generator_lr=0.005 server.generator_decay=1 "
        "server.generator_weight_decay=0 server.generator_batch={batch} server.eta=0 "
        "client.alpha=1 client.beta=0 client.fade=1 client.generated={batch}",
    ),
    "fedtgp": ("FedTGP", "tgp", "server.batch={batch} server.lr={lr} client.kd_weight=10 client.prototypes=during"),
}
"""By our name: HtFLlib's class, the end of its module's name, and what makes our options its own."""

NETWORK = "FedAvgCNN(in_features=3, num_classes=args.num_classes, dim=1600)"


WORDS = (
    "data.source={source} data.limit={limit} data.clients=20 data.partition=iid data.public=none model.name=pfllib_cnn "
    "server.rounds={rounds} server.evaluate=personal server.evaluate_every=0 client.steps=null client.epochs=1 "
    "client.batch={batch} client.lr={lr} client.schedule=constant run.precision={precision} run.seed={seed} "
)


class EvaluatedError(Exception):
    """HtFLlib has been evaluated, after which it would train for another round."""


class HtFLlib(threading.Thread):
    """HtFLlib's server in a thread that trains a round when it is asked to.

    Attributes
    ----------
    seconds : list[float]
        CPU seconds of each round.
    accuracy : float
        Over all clients' test samples, after the last round; NaN where its models' outputs are not finite, which its
        own evaluation refuses.
    """

    def __init__(self, args: argparse.Namespace, module: str, name: str) -> None:
        super().__init__(daemon=True)
        self.seconds: list[float] = []
        self.accuracy = float("nan")
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: Exception | None = None
        self._begun: float | None = None
        self._last = args.global_rounds
        torch.manual_seed(args.seed)  # its main program's is 0
        self._server = getattr(importlib.import_module(f"flcore.servers.server{module}"), name)(args, 0)
        self._select, self._evaluate = self._server.select_clients, self._server.evaluate
        self._server.select_clients, self._server.evaluate = self._next, self._measure

    def round(self) -> None:
        """Let it train for a round; the caller waits, so that the process has one busy thread."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        """Train until it was evaluated."""
        torch.set_num_threads(1)
        try:
            self._server.train()
        except EvaluatedError:
            self._done.release()
        except Exception as error:
            self._error = error
            self._done.release()

    def _next(self) -> list[Any]:
        """Choose clients, which is the first thing that it does in a round."""
        if self._begun is not None:
            self.seconds.append(time.process_time() - self._begun)
            self._done.release()
        self._go.acquire()
        self._begun = time.process_time()
        return self._select()

    def _measure(self) -> None:
        """Evaluate after the last round, not before the first."""
        if len(self.seconds) == self._last:
            with suppress(ValueError):
                self._evaluate()
                self.accuracy = self._server.rs_test_acc[-1]
            raise EvaluatedError


def written(chosen: Settings, folder: Path) -> None:
    """Write each client's rows as HtFLlib reads them: float32 in [-1, 1] and labels."""
    world = World(chosen, described(chosen))
    for client in world.clients:
        for part in ("train", "test"):
            x, y = getattr(world.data(client), part).batch(torch.arange(len(getattr(world.data(client), part))))
            path = folder / part / f"{client}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, data=np.array({"x": x.contiguous().numpy(), "y": y.numpy()}, dtype=object))


def args_of(name: str, data: Path, folder: Path, batch: int, asked: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of its main program: its defaults, and those of the comparison."""
    return argparse.Namespace(
        **{"algorithm": name, "dataset": str(data), "device": "cpu", "num_classes": 10, "models": [NETWORK]},
        **{
            "global_model": NETWORK,
            "global_rounds": asked.rounds,
            "local_epochs": 1,
            "batch_size": batch,
            "num_clients": 20,
            "seed": asked.seed,
        },
        **{
            "local_learning_rate": asked.lr,
            "mentee_learning_rate": asked.lr,
            "server_learning_rate": 0.01,
            "lamda": 10.0,
        },
        **{"join_ratio": 1.0, "random_join_ratio": False, "few_shot": 0, "time_select": False, "goal": "test"},
        **{"time_threthold": 10000, "top_cnt": 100, "auto_break": False, "save_folder_name": str(folder)},
        **{"eval_gap": 1, "client_drop_rate": 0.0, "train_slow_rate": 0.0, "send_slow_rate": 0.0},
        **{"models_folder_name": "", "feature_dim": 512, "learning_rate_decay": False, "noise_dim": 512},
        **{"learning_rate_decay_gamma": 0.99, "hidden_dim": 512, "generator_learning_rate": 0.005},
        **{"server_epochs": 100, "alpha": 0.5, "beta": 0.5, "T_start": 0.95, "T_end": 0.98, "margin_threthold": 100.0},
    )


def compared(method: str, asked: argparse.Namespace, batch: int, precision: str) -> list[str]:
    """Return the cells of one row: both sides' seconds, the ratio with its interval, and both accuracies."""
    name, module, more = METHODS[method]
    words = (WORDS + more).format(batch=batch, precision=precision, **vars(asked))
    chosen, ours = settings(method, words), list[float]()
    with tempfile.TemporaryDirectory(prefix="htfl-") as made:
        folder = Path(made)
        written(chosen, folder / "data")
        args = args_of(name, folder / "data", folder / "items", batch, asked)
        args.lamda = chosen.client.kd_weight
        with redirect_stdout(StringIO()):
            theirs = HtFLlib(args, module, name)
            theirs.start()
            clock = time.process_time()

            def hear(line: dict[str, Any]) -> None:
                nonlocal clock
                if "asked" not in line or line.get("closing"):
                    return
                ours.append(time.process_time() - clock)
                for _ in range(2 * (len(ours) % 2)):  # A B B A A B B A ...
                    theirs.round()
                clock = time.process_time()

            run = engine.run(chosen, out=folder / "run", on_line=hear)
            theirs.round()
        accuracy = run.summary["accuracy"]["personal"]["final"]  # type: ignore[union-attr]
    counted = slice(1, asked.rounds - 1)  # our last round is evaluated
    ratio, low, high = interval([a / b for a, b in zip(theirs.seconds[counted], ours[counted], strict=True)])
    seconds = [f"{statistics.median(found[counted]):.2f}" for found in (theirs.seconds, ours)]
    return [
        f"`{method}`", str(batch), precision, *seconds, f"**{ratio:.2f}**", f"{low:.2f} to {high:.2f}",
        f"{theirs.accuracy:.3f}", f"{accuracy:.3f}",
    ]  # fmt: skip


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--htfllib", type=Path, required=True, help="folder of a checkout")
    parser.add_argument("--source", required=True, help="absolute path of CIFAR-10's folder")
    parser.add_argument("--limit", type=int, default=20_000, help="rows in all")
    parser.add_argument("--rounds", type=int, default=6, help="an even number; all but the first and last are counted")
    parser.add_argument("--lr", type=float, default=0.01, help="of clients' models")
    parser.add_argument("--seed", type=int, default=0, help="of both sides; ours also deals the rows by it")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 10])
    parser.add_argument("--precisions", nargs="+", default=["fp32"], help="ours; HtFLlib has fp32 alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.load = partial(torch.load, weights_only=False)  # it saves whole models
    sys.modules.setdefault("h5py", types.ModuleType("h5py"))
    sys.path.insert(0, str(asked.htfllib / "system"))
    print(
        "| method | batch | our precision | HtFLlib, s | ours, s | ratio | 95 % | HtFLlib, accuracy | ours, accuracy |"
    )
    print("| --- | ---: | --- | ---: | ---: | ---: | --- | ---: | ---: |")
    for method in asked.methods:
        for batch in asked.batches:
            for precision in asked.precisions:
                print("| " + " | ".join(compared(method, asked, batch, precision)) + " |", flush=True)


if __name__ == "__main__":
    main()

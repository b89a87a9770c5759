"""The study of distillation as a start for FedAvg: gains, tuned against untuned, rounds to a target.

    python benchmarks/kdstudy.py --data FOLDER --out DIR [--partitions P ...] [--seeds S ...] [--smoke] [--table]

FOLDER holds a labeled image set as Parquet files. For each partition and seed ten clients train their teachers once,
as `kdstudy` has them train; all students are made of these, with the functions that `kdstudy` itself calls and the same
random numbers, and FedAvg runs from each start for the same 30 rounds in the in-process engine. Students start from the
teachers' average and learn on labeled held-out images; a control learns from their labels alone (weight 0). What is
tuned is tuned on the pooled validation parts.

Every figure is a line of DIR/results.jsonl, teachers are in DIR/teachers; what is there already is not computed again,
so a run that was ended goes on. --table computes nothing and prints what there is; --smoke takes one seed, a few
images and rounds, and checks that a student is, bit for bit, the one that `kdstudy` makes in a run.
"""

import argparse
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord
from kdstudy_lines import Book, tables
from safetensors.torch import load_file, save_file
from torch import Tensor

from fd_flower import engine, methods
from fd_flower.config import Settings, settings
from fd_flower.core.rng import torch_rng
from fd_flower.engine import InProcessGrid
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.objectives.metrics import accuracy_by_class, measure
from fd_flower.server import Strategy
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World
from fd_flower.training import Plan, predict
from fd_flower.training.consolidation import Lesson, converge, mutual, teach
from fd_flower.wire import Weights

PARTITIONS = {
    "iid": "data.partition=iid",
    "quantity": "data.partition=quantity data.alpha=0.5",
    "dirichlet": "data.partition=dirichlet data.alpha=0.1",
    "classes": "data.partition=classes data.classes=1",
    "overlap": "data.partition=overlap",
    "embedding": "data.partition=embedding data.alpha=0.1",
}
MAIN = ("iid", "quantity", "dirichlet", "classes", "overlap")
ORDERED = "dirichlet"
"""The partition on which sequential lessons and chains are tried, too."""

HEATS, WEIGHTS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0), (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
FIXED = (1.0, 0.5)
"""Temperature and weight of untuned KD."""

LESSONS = "client.distill_lr=0.05"
FULL = "data.limit=10000 data.public_size=2000 data.test_limit=2000 "
SMALL = "data.limit=1500 data.public_size=200 data.test_limit=200 data.min_rows=2 "
SHORT = f"{LESSONS} client.convergence=2 client.public_epochs=1"

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Cell:
    """A partition and a seed: its clients, their teachers and everything that is made of them."""

    partition: str
    seed: int
    words: str
    lessons: str
    rounds: int
    folder: Path
    book: Book

    @property
    def key(self) -> dict[str, Any]:
        """What each of its lines has."""
        return {"partition": self.partition, "seed": self.seed}

    def settings(self, method: str, more: str = "") -> Settings:
        """Return a run's settings on this cell."""
        lessons = self.lessons if method == "kdstudy" else ""
        return settings(method, f"{self.words} {lessons} {PARTITIONS[self.partition]} run.seed={self.seed} {more}")

    @cached_property
    def study(self) -> Settings:
        """The method's settings: labeled public images, the average for a start."""
        return self.settings("kdstudy", "server.labels=true")

    @cached_property
    def world(self) -> World:
        """Clients, public images and test set."""
        return World(self.study, described(self.study))

    @property
    def architecture(self) -> str:
        """The one architecture."""
        return str(self.study.model.name)

    @cached_property
    def teachers(self) -> list[State]:
        """Each client's model, trained to convergence from the common start, in the clients' order."""
        path = self.folder / "teachers" / f"{self.partition}-{self.seed}.safetensors"
        if not path.exists():
            self.book.fill(lambda: self._train(path), kind="teachers", **self.key)
        flat = load_file(path)
        return [
            {k.partition("/")[2]: t for k, t in flat.items() if k.partition("/")[0] == c} for c in self.world.clients
        ]

    def _train(self, path: Path) -> dict[str, Any]:
        options: Any = self.study.client
        plan = Plan(options.batch, options.lr, epochs=options.convergence, optimizer=options.optimizer)
        flat, epochs, own, everybodys = {}, [], [], []
        for client in self.world.clients:
            model, data = self._model(self.world.initial(self.architecture)), self.world.data(client)
            rng = torch_rng(self.seed, "converge", client, 1)
            epochs.append(
                converge(model, data.train, data.validation, plan=plan, patience=options.patience, rng=rng)[1]
            )
            figures = measure(predict(model, data.validation), data.validation.labels)
            own.append(figures.get("accuracy", 0.0))
            everybodys.append(self.judge(model)["accuracy"])
            flat |= {f"{client}/{key}": tensor.clone() for key, tensor in model.state_dict().items()}
        path.parent.mkdir(exist_ok=True)
        save_file(flat, path)
        sizes = [len(self.world.data(client).train) for client in self.world.clients]
        return {"epochs": epochs, "validation_own": own, "accuracies": everybodys, "examples": sizes}

    def _model(self, state: State) -> torch.nn.Module:
        return self.world.load(self.architecture, state)

    def judge(self, model: torch.nn.Module) -> dict[str, Any]:
        """Return a model's accuracy on everybody's validation parts and on the test images, there by class too."""
        validation, test = self.world.pooled["validation"], self.world.test_part(self.study.data.test_limit or 0)
        assert test is not None
        said = predict(model, test)
        return {
            "validation": measure(predict(model, validation), validation.labels)["accuracy"],
            "accuracy": measure(said, test.labels)["accuracy"],
            "by_class": accuracy_by_class(said, test.labels),
        }

    # --- starts and students

    @cached_property
    def starts(self) -> dict[str, State]:
        """What FedAvg starts from without distillation."""
        told = self.book.find(kind="teachers", **self.key)
        sizes = [len(self.world.data(c).train) for c in self.world.clients]
        own = told["validation_own"] if told else [0.0] * len(sizes)
        best = max(range(len(sizes)), key=lambda i: (own[i], sizes[i]))
        average = mean_of_parameters(self.teachers, sizes)
        return {"random": self.world.initial(self.architecture), "teacher": self.teachers[best], "average": average}

    @cached_property
    def order(self) -> list[int]:
        """The order of the teachers, as the server of `kdstudy` draws it."""
        return torch.randperm(len(self.teachers), generator=torch_rng(self.seed, "order", "server", 1)).tolist()

    @cached_property
    def said(self) -> Tensor:
        """What the teachers say of the public images [U, N, C]."""
        assert self.world.public is not None
        return torch.stack([predict(self._model(self.teachers[i]), self.world.public) for i in self.order])

    def student(
        self,
        technique: str,
        *,
        heat: float = 1.0,
        weight: float = 0.5,
        criterion: str = "label",
        sequential: bool = False,
    ) -> State:
        """Return the student that `kdstudy` makes at the server with these options."""
        public = self.world.public
        assert public is not None
        options: Any = replace(self.study.client, objective_args={"temperature": heat}, kd_weight=weight)
        lesson = Lesson(technique, criterion, options, options.distill_lr, sequential)
        rng = torch_rng(self.seed, "distil", "server", 1)
        if technique == "dml":
            peers = [deepcopy(self._model(self.teachers[i])) for i in self.order]
            model = self._model(self.starts["average"])
            mutual(model, peers, public, lesson, rng)
        else:
            said = self.said
            model = self._model(self.starts["average"])
            teach(model, said, public, lesson, rng)
        return {key: tensor.clone() for key, tensor in model.state_dict().items()}

    def tried(self, technique: str, *, sequential: bool = False, **more: Any) -> dict[str, Any]:
        """Return the line of a student: how good it is before and after."""

        def compute() -> dict[str, Any]:
            before = self.judge(self._model(self.starts["average"]))["accuracy"]
            after = self.judge(self._model(self.student(technique, sequential=sequential, **more)))
            return {"before": before, **after, "gain": after["accuracy"] - before}

        return self.book.fill(compute, kind="student", **self.key, technique=technique, sequential=sequential, **more)

    # --- phase B

    def fedavg(self, start: str, state: State, phase: int) -> None:
        """Run FedAvg from a start that cost so many rounds, and write its accuracy after 0, 1, 2, ... of its own."""

        def compute() -> dict[str, Any]:
            lines: list[dict[str, Any]] = []
            chosen = self.settings("fedavg", f"{self._loop} server.rounds={self.rounds} server.evaluate=aggregated")
            strategy = Strategy.for_method(chosen)
            strategy.on_line = lines.append
            strategy.start(InProcessGrid(methods.client_app("fedavg")), initial_arrays=ArrayRecord(dict(state)))
            curve = [self.judge(self._model(state))["accuracy"]]
            curve += [line["global"]["accuracy"] for line in lines if "asked" in line]
            final = Weights.need(strategy.knowledge).values
            curve[-1] = self.judge(self._model(final))["accuracy"]  # on the same images as the rounds before
            sent = sum(sum(line["bytes"]["up"].values()) for line in lines if "asked" in line)
            return {"phase": phase, "accuracy": curve, "up": sent}

        self.book.fill(compute, kind="fedavg", **self.key, start=start)

    @property
    def _loop(self) -> str:
        options = self.study.client
        return f"client.epochs={options.epochs} client.batch={options.batch} client.lr={options.lr} data.public_batch=1"

    # --- the whole

    def run(self, heats: Sequence[float], weights: Sequence[float]) -> None:
        """Compute whatever is not there yet."""
        _ = self.teachers
        for name, state in self.starts.items():
            self.book.fill(lambda state=state: self.judge(self._model(state)), kind="start", **self.key, start=name)
        grid = [self.tried("kd", heat=heat, weight=weight) for heat in heats for weight in weights]
        best = max(grid, key=lambda line: line["validation"])  # of equals the first
        self.tried("kd", heat=FIXED[0], weight=0.0)
        for heat in heats:
            self.tried("dp-kd", heat=heat, criterion="label")
        self.tried("dp-kd", heat=FIXED[0], criterion="confidence")
        self.tried("dml")
        for name, phase in (("random", 0), ("teacher", 1), ("average", 1)):
            self.fedavg(name, self.starts[name], phase)
        self.fedavg("labels", self.student("kd", heat=FIXED[0], weight=0.0), 1)
        self.fedavg("kd", self.student("kd", heat=FIXED[0], weight=FIXED[1]), 1)
        self.fedavg("tuned-kd", self.student("kd", heat=best["heat"], weight=best["weight"]), 2)
        self.fedavg("dml", self.student("dml"), 1)
        self.fedavg("dp-kd", self.student("dp-kd"), 1)
        if self.partition == ORDERED:
            for technique in ("kd", "dml", "dp-kd"):
                self.tried(technique, sequential=True)
                for learner in ("arriving", "own"):
                    self.chain(technique, learner)

    def chain(self, technique: str, learner: str) -> None:
        """Run the method itself along a chain, and write how good the student is after each link."""

        def compute() -> dict[str, Any]:
            lines: list[dict[str, Any]] = []
            words = f"server.place=chain server.order=sequential server.technique={technique} client.learner={learner}"
            links = len(self.world.clients)
            chosen = self.settings("kdstudy", f"{words} server.criterion=label server.rounds={1 + links}")
            engine.run(chosen, on_line=lines.append)
            told = [line["diagnostics"] for line in lines if "diagnostics" in line]
            after = [one["after"] for one in told]
            return {
                "before": told[0]["before"],
                "links": after,
                "accuracy": after[-1],
                "gain": after[-1] - told[0]["before"],
            }

        self.book.fill(compute, kind="chain", **self.key, technique=technique, learner=learner)

    def check(self, folder: Path) -> None:
        """Fail unless the student of the grid's first point is the one that a run of the method makes."""
        made = engine.run(self.settings("kdstudy", "server.labels=true server.rounds=1"), out=folder)
        assert made is not None
        kept = Checkpoint.read(made.path, "kdstudy")
        assert kept is not None
        theirs, ours = Weights.need(kept.knowledge).values, self.student("kd", heat=FIXED[0], weight=FIXED[1])
        assert all(torch.equal(theirs[key], tensor) for key, tensor in ours.items()), "the method's student differs"
        print("the student is, bit for bit, that of a run of kdstudy")


def cells(asked: argparse.Namespace, book: Book) -> Iterator[Cell]:
    """Yield every cell, seed by seed, so that an ended run has whole comparisons."""
    size, lessons = (SMALL, SHORT) if asked.smoke else (FULL, LESSONS)
    words = f"data.source={Path(asked.data).resolve()} data.clients=10 model.name=lenet run.device=cpu {size}"
    for seed in asked.seeds[:1] if asked.smoke else asked.seeds:
        for partition in asked.partitions:
            yield Cell(partition, seed, words, lessons, 2 if asked.smoke else asked.rounds, asked.out, book)


def main() -> None:
    """Compute what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--partitions", nargs="+", default=list(MAIN), choices=list(PARTITIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    book = Book(asked.out)
    for cell in () if asked.table else cells(asked, book):
        cell.run(HEATS[:2] if asked.smoke else HEATS, (FIXED[1], 1.0) if asked.smoke else WEIGHTS)
        if asked.smoke:
            cell.check(asked.out / f"run-{cell.partition}-{time.time_ns()}")
    print(tables(book.lines, FIXED))


if __name__ == "__main__":
    main()

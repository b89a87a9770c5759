"""Every figure of short runs of all methods, so that a change which should change none can be shown to change none.

    python benchmarks/figures.py write before.json     # on the commit before
    python benchmarks/figures.py write after.json      # on the commit after
    python benchmarks/figures.py compare before.json after.json

A case is a run of a few rounds on digits; what is kept of it is every line of ``rounds.jsonl`` and the SHA-256 of each
tensor in its last checkpoint. Times are left out, and so is ``bytes.wire``, which counts the words of the settings.
``compare`` prints a table and exits with 1 where anything differs. Figures are those of one machine: compare none that
were written on two.
"""

import argparse
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from fd_flower import engine, methods
from fd_flower.config import settings

BASE = {
    "data.clients": "4",
    "data.public_size": "100",
    "data.public_batch": "32",
    "model.name": "mlp",
    "server.rounds": "3",
    "client.steps": "3",
    "client.epochs": "1",
    "client.batch": "16",
    "run.device": "cpu",
}

OWN = {
    "kdstudy": {"client.convergence": "2", "client.public_steps": "2"},
    "feddf": {"server.distill_steps": "3"},
    "fede4rag": {
        "data.source": "companies",
        "data.partition": "iid",
        "data.per_client": "30",
        "model.name": "hashed:8",
        "client.trainable": "all",
        "privacy.sum": "none",
    },
    "fedlgd": {
        "client.distill_warmup": "2",
        "client.distill_refresh": "1",
        "client.images": "2",
        "server.images": "2",
        "server.match_every": "2",
        "server.match_steps": "2",
    },
}
"""What a method needs beside these to be as short as the others."""

STEADY = {"fedkd": {"server.energy_start": "0.95", "server.energy_end": "0.95"}}
"""A schedule that ends with the run would make one with more rounds another from its start on."""

TWO = {"model.name": "[mlp,cnn]", "model.features": "16"}
SUMMED = ("fd", "fedavg", "fede4rag", "fedmd", "fedproto", "fedprox", "fml")
EXITS = {"model.name": "lenet", "client.objective": "ofa", "client.objective_args.stages": "[1,2]"}

WORDS = {
    "heard": "received",
    "neighbours": "neighbors",
    "measures": "evaluations",
    "moment": "evaluated",
    "pictures": "images",
    "query.fd_flower_keys": "query.fd_flower_setup",
    "query.fd_flower_shares": "query.fd_flower_share_keys",
}
"""Key of an older commit's lines -> what it is called now."""

TIMES = {"seconds", "wire"}

BY_CLASS = re.compile(r"((global|validation|pooled_validation)_)?(balanced_accuracy|macro_f1|auc|confusion)")
BY_RULE = re.compile(r"(validation_)?accuracy_(own|all|head|head_own)")
LATER = {"macro_f1": BY_CLASS, "accuracy_own": BY_RULE}
"""Keys that an older commit's lines lack, by one of them: with such a commit they are not compared."""


def cases() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield (name, method, changes) of every run."""
    for method in methods.names():
        own = BASE | OWN.get(method, {})
        yield f"{method}", method, own
        yield f"{method}, half of the clients", method, own | {"server.fraction": "0.5"}
        yield f"{method}, killed and resumed", method, own | STEADY.get(method, {})
        if method in SUMMED:
            yield f"{method}, masks", method, own | {"privacy.sum": "masks"}
    for method in ("dsfl", "edgefd", "fd", "feddf", "fedgen", "fedkd", "fedmd", "fedproto", "fedre", "fedtgp", "fml",
                   "knfu", "local", "mhd", "selectivefd"):  # fmt: skip
        yield f"{method}, two architectures", method, BASE | OWN.get(method, {}) | TWO
    for method in ("dsfl", "edgefd", "fedmd", "knfu", "selectivefd"):
        yield f"{method}, exits", method, BASE | EXITS
    for method in ("fd", "fedmd", "mhd", "local"):
        yield f"{method}, annealing", method, BASE | {"server.anneal_every": "1", "client.anneal_rounds": "2"}
    taid = {"client.objective": "taid", "client.objective_args.inner": "jeffreys"}
    yield "fedmd, taid, infinite schedule", "fedmd", BASE | taid | {"client.schedule": "infinite"}
    yield "fedd2s, cnn", "fedd2s", BASE | {"model.name": "cnn"}
    yield "fedavg, bf16", "fedavg", BASE | {"run.precision": "bf16"}
    for technique in ("tuned-kd", "dml", "dp-kd"):
        short = BASE | OWN["kdstudy"] | {"server.technique": technique, "server.temperatures": "[1.0,3.0]"}
        yield f"kdstudy, {technique}", "kdstudy", short | {"server.weights": "[0.5]"}
    for partition, classes in {"iid": 2, "classes": 3, "overlap": 2, "primary": 2, "quantity": 2, "fedgen": 2}.items():
        yield f"local, {partition}", "local", BASE | {"data.partition": partition, "data.classes": str(classes)}
    yield "local, embedding", "local", BASE | {"data.partition": "embedding", "data.min_rows": "2"}


def play(name: str, method: str, changes: dict[str, str], folder: Path) -> Path:
    """Play one case and return its folder; one that is killed dies after round two and is resumed."""
    changes = changes | {"run.keep": "last"}
    words = [f"{key}={value}" for key, value in changes.items()]
    if name.endswith("killed and resumed"):
        subprocess.run([sys.executable, __file__, "die", method, str(folder), *words], check=False)
        words = [f"run.resume={folder}"]
    engine.run(settings(method, words), out=folder)
    return folder


def die(method: str, folder: Path, words: list[str]) -> None:
    """Play until a line of round two is written, and end there as a process that is killed does."""

    def line(found: dict[str, Any]) -> None:
        if found["round"] == 2:
            os._exit(1)

    engine.run(settings(method, words), out=folder, on_line=line)


def kept(folder: Path) -> dict[str, Any]:
    """Return what is compared of a run."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    with safe_open(folder / "checkpoint" / "knowledge.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    digests = {
        key: hashlib.sha256(f"{t.dtype} {list(t.shape)}".encode() + t.numpy().tobytes()).hexdigest()[:16]
        for key, t in tensors.items()
    }
    return {"lines": [_without(line) for line in lines], "checkpoint": digests}


def _without(value: Any) -> Any:
    """Return lines without times, their keys by the words of this commit."""
    if isinstance(value, dict):
        return {_word(key): _without(inner) for key, inner in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_without(inner) for inner in value]
    return _word(value) if isinstance(value, str) else value


def _older(value: Any, later: re.Pattern[str]) -> Any:
    """Return lines without keys that came later."""
    if isinstance(value, dict):
        return {key: _older(inner, later) for key, inner in value.items() if not later.fullmatch(key)}
    return [_older(inner, later) for inner in value] if isinstance(value, list) else value


def _word(text: str) -> str:
    return "/".join(WORDS.get(part, part) for part in text.split("/"))


def write(path: Path, chosen: str) -> None:
    """Play every case whose name matches and write what is kept of it."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, method, changes) in enumerate(cases()):
            if re.search(chosen, name):
                found[name] = kept(play(name, method, changes, Path(scratch) / str(number)))
                print(f"{name}: {len(found[name]['lines'])} lines, {digest(found[name])}", flush=True)
                path.write_text(json.dumps(found, indent=1))


def digest(case: dict[str, Any]) -> str:
    """Return the start of a hash of all lines of a case, and of its checkpoint's."""
    lines = json.dumps(_without(case["lines"]), sort_keys=True).encode()
    tensors = json.dumps(case["checkpoint"], sort_keys=True).encode()
    return " ".join(hashlib.sha256(part).hexdigest()[:12] for part in (lines, tensors))


def compare(before: Path, after: Path) -> int:
    """Print each case's hashes before and after; return how many cases differ."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    for key, later in LATER.items():
        if key not in before.read_text():
            new = _older(new, later)
    differing = 0
    print(f"{'case':45} {'lines, checkpoint before':26} {'after':26}")
    for name in [*old, *(name for name in new if name not in old)]:
        a, b = (digest(side[name]) if name in side else "-" for side in (old, new))
        differing += a != b
        print(f"{name:45} {a:26} {'equal' if a == b else b}")
        if a != b and name in old and name in new:
            for one, other in zip(_without(old[name]["lines"]), new[name]["lines"], strict=False):
                if one != other:
                    print(f"    first line that differs:\n    {json.dumps(one)[:400]}\n    {json.dumps(other)[:400]}")
                    break
            tensors = [side[name]["checkpoint"] for side in (old, new)]
            odd = sorted(key for key in {*tensors[0], *tensors[1]} if tensors[0].get(key) != tensors[1].get(key))
            print(f"    tensors that differ: {', '.join(odd) or 'none'}")
    print(f"{len(old)} cases before, {len(new)} after, {differing} differ")
    return differing


def main() -> None:
    """Write figures, or compare two files of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    written = commands.add_parser("write")
    written.add_argument("file", type=Path)
    written.add_argument("--only", default="", help="a regular expression of the cases' names")
    compared = commands.add_parser("compare")
    compared.add_argument("before", type=Path)
    compared.add_argument("after", type=Path)
    died = commands.add_parser("die", help="of write's own use")
    died.add_argument("method")
    died.add_argument("folder", type=Path)
    died.add_argument("words", nargs="*")
    chosen = parser.parse_args()
    logging.disable()
    if chosen.command == "die":
        die(chosen.method, chosen.folder, chosen.words)
    elif chosen.command == "write":
        write(chosen.file, chosen.only)
    else:
        sys.exit(min(1, compare(chosen.before, chosen.after)))


if __name__ == "__main__":
    main()

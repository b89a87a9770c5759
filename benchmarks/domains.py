"""Methods for clients whose images look different: digits of four domains, one client each, three seeds.

Usage: ``python benchmarks/domains.py DATA OUT [ROW ...]`` runs what OUT does not have yet (all rows without names) and
prints the table. DATA has the folders ``mnist``, ``usps`` and ``cifar10`` as Parquet. Two domains are made of these and
written to OUT: MNIST over crops of CIFAR-10 (the absolute difference) and inverted MNIST.
"""

import json
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, load_dataset
from datasets import Image as ImageColumn
from PIL import Image

from fd_flower import engine, settings

COMMON = (
    "data.partition=domain data.clients=4 data.size=28x28x3 data.per_client=500 data.public=none data.test_limit=1000 "
    "model.name=resnet8:0.5 client.optimizer=sgd client.lr=0.03 client.momentum=0.5 client.weight_decay=0 "
    "client.batch=32 client.epochs=1 client.steps=10 client.schedule=constant client.clip=null server.rounds=40 "
    "server.evaluate_every=0 server.evaluate=received,trained run.device=cpu run.report=false "
)
ROWS = {
    "local": ("local", ""),
    "fedavg": ("fedavg", ""),
    "fedavg, FedBN": ("fedavg", "client.share=no_norm"),
    "fedavg, own statistics": ("fedavg", "client.share=no_stats"),
    "fedavg, FedWon": ("fedavg", "model.norm=none_ws client.clip=0.32 client.clip_by=unit"),
    "fraug": ("fraug", ""),
    "fraug, FedBN": ("fraug", "client.share=no_norm"),
    "fraug, no augmentation": ("fraug", "client.kd_weight=0"),
}
SEEDS = (0, 1, 2)
POINTS = ("received", "trained")
TRAIN, TEST = 4000, 1000


def domains(data: Path, out: Path) -> list[str]:
    """Return the sources of the four domains; those that are made are written where they are missing."""
    sources = [str(data / "mnist"), str(data / "usps"), *(str(out / name) for name in ("over-pictures", "inverted"))]
    if all((Path(source) / "test-0.parquet").exists() for source in sources[2:]):
        return sources
    for split, count in (("train", TRAIN), ("test", TEST)):
        digits, pictures = (first(data / name, split, count) for name in ("mnist", "cifar10"))
        made = {"inverted": 255 - digits["x"], "over-pictures": over(digits["x"], pictures["x"])}
        for name, images in made.items():
            (out / name).mkdir(parents=True, exist_ok=True)
            written = [Image.fromarray(image) for image in images]
            kinds = Features({"image": ImageColumn(), "label": ClassLabel(names=list("0123456789"))})
            rows = Dataset.from_dict({"image": written, "label": digits["y"]}, features=kinds)
            rows.to_parquet(str(out / name / f"{split}-0.parquet"))
    return sources


def first(folder: Path, split: str, count: int) -> dict[str, Any]:
    """Return the first images of a split, uint8 [count, height, width, ...], and their labels."""
    files = sorted(map(str, folder.glob(f"{split}-*.parquet")))
    rows = load_dataset("parquet", data_files={"rows": files}, split=f"rows[:{count}]")
    return {"x": np.stack([np.asarray(image) for image in rows["img"]]), "y": rows["label"]}


def over(digits: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Return the absolute difference of digits [N, 28, 28] and the upper left of pictures [N, 32, 32, 3]."""
    crops = pictures[:, :28, :28].astype(np.int64)
    return np.abs(crops - digits[..., None]).astype(np.uint8)


def played(sources: list[str], out: Path, row: str, seed: int) -> dict[str, float]:
    """Return a run's accuracies at the end in percent, by evaluation point, as means over domains."""
    method, words = ROWS[row]
    folder = out / f"{row.replace(', ', '-').replace(' ', '-')}-{seed}"
    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        order = f"{COMMON}data.source=[{','.join(sources)}] run.seed={seed} {words}"
        engine.run(settings(method, order), out=folder)
    found: dict[str, dict[str, float]] = {point: {} for point in POINTS}
    for line in map(json.loads, (folder / "rounds.jsonl").read_text().splitlines()):
        for point, figures in (line.get("evaluations") or {}).items():
            found[point][line["client"]] = 100 * figures["accuracy"]
    return {point: mean(of.values()) for point, of in found.items() if of}


def main(data: str, out: str, *rows: str) -> None:
    """Run and print."""
    sources = domains(Path(data).resolve(), Path(out).resolve())
    print("| row | received | trained |\n| --- | ---: | ---: |")
    for row in rows or ROWS:
        found = [played(sources, Path(out), row, seed) for seed in SEEDS]
        cells = [_cell([f[point] for f in found if point in f]) for point in POINTS]
        print(f"| {row} | " + " | ".join(cells) + " |", flush=True)


def _cell(values: list[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if values else ""


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Relatives beside each other in one setting: MNIST, 4,000 rows, lenet, Dirichlet 0.3, 30 rounds, three seeds.

Usage: ``python benchmarks/family.py MNIST OUT [ROW ...]`` runs what OUT does not have yet (all rows without names) and
prints the table. All rows train alike: one private loop, and one public loop where there is one. Each seed's partition,
start and test set are the same for all rows.
"""

import json
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fd_flower import engine, settings

COMMON = (
    "data.limit=4000 data.clients=10 data.partition=dirichlet data.alpha=0.3 data.public_size=1000 "
    "data.public_batch=500 data.test_limit=1000 model.name=lenet client.optimizer=sgd client.momentum=0 "
    "client.weight_decay=0 client.lr=0.05 client.batch=32 client.epochs=1 client.steps=null client.public_steps=20 "
    "client.public_batch=64 client.warmup=0 client.schedule=constant server.rounds=30 server.evaluate_every=0 "
    "run.device=cpu run.report=false "
)
SHARP = "server.temperature=null "
EXPLORED = "client.explore_epochs=10 "
ROWS = {
    "local": ("local", ""),
    "fedavg": ("fedavg", ""),
    "fedprox": ("fedprox", "client.mu=0.1"),
    "fedavg, FedNTD": (
        "fedavg",
        "client.teacher=received client.objective=dkd client.objective_args.alpha=0 client.objective_args.beta=1 "
        "client.objective_args.temperature=1",
    ),
    "fedavg, FeSEM": ("fedavg", "server.clusters=3"),
    "fedavg, SAM": ("fedavg", "client.sam=0.05"),
    "fedavg, AGC": ("fedavg", "client.clip=0.1 client.clip_by=unit"),
    "gossip": ("fedavg", "server.graph=ring"),
    "gossip, QG momentum": ("fedavg", "server.graph=ring client.qg_momentum=0.9"),
    "gossip, GUT": ("fedavg", "server.graph=ring client.tracking=0.9"),
    "scaffold": ("scaffold", ""),
    "scaffold, equal steps": ("scaffold", "client.steps=9"),
    "scaffold, rate 0.02": ("scaffold", "client.lr=0.02"),
    "fedavg, rate 0.02": ("fedavg", "client.lr=0.02"),
    "fedspeed": ("fedspeed", "client.clip=null"),
    "ditto": ("ditto", ""),
    "fedlex": ("fedlex", f"{EXPLORED}server.guidance=scale"),
    "fedlex, Adam": ("fedlex", f"{EXPLORED}server.guidance=scale client.optimizer=adam client.lr=0.001"),
    "fedavg, Adam": ("fedavg", "client.optimizer=adam client.lr=0.001"),
    "fedavg, AMSGrad": ("fedavg", "client.optimizer=amsgrad client.lr=0.001"),
    "fedavg, FedLALR": ("fedavg", "client.optimizer=amsgrad client.lr=0.001 server.moments=true"),
    "fedlex, AutoFLIP": ("fedlex", f"{EXPLORED}server.guidance=prune server.prune_share=0.3"),
    "fedlex, Federated Pruning": ("fedlex", "server.guidance=rows server.prune_share=0.5 server.ramp_rounds=20"),
    "dsfl": ("dsfl", ""),
    "dsfl, mean": ("dsfl", SHARP),
    "dsfl, SCARLET": ("dsfl", SHARP + "server.cache=2 wire.down=changed"),
    "dsfl, SCARLET, power 2": ("dsfl", SHARP + "server.power=2 server.cache=2 wire.down=changed"),
    "dsfl, CFD": ("dsfl", SHARP + "server.model=lenet server.teacher=model wire.up=argmax wire.down=delta"),
    "dsfl, COMET": ("dsfl", SHARP + "server.receivers=clusters"),
    "dsfl, KD3": ("dsfl", SHARP + "client.public_select=joint_confidence"),
    "dsfl, KD3, contrast": ("dsfl", SHARP + "client.public_select=joint_confidence client.public_contrast=0.1"),
    "fedmd": ("fedmd", "client.label_epochs=0"),
    "fedmd, KT-pFL": ("fedmd", "client.label_epochs=0 server.rule=mean_of_probabilities server.receivers=coefficients"),
    "fedmd, DPFL": ("fedmd", "client.label_epochs=0 server.rule=mean_of_probabilities server.receivers=greedy"),
    "knfu": ("knfu", ""),
    "mhd": ("mhd", "server.teachers=2"),
    "mhd, DPFL": ("mhd", "server.teachers=2 server.graph=greedy:4"),
    "fd": ("fd", ""),
    "fd, FedHe": (
        "fd",
        "client.output=logits client.objective=mse server.clock=count server.buffer=5 server.rounds=60 "
        "server.speed_spread=1",
    ),
    "fedproto": ("fedproto", ""),
    "fedre": ("fedre", ""),
    "fedre, 20 epochs": ("fedre", "server.epochs=20"),
    "fedgh": ("fedgh", "client.clip=null server.epochs=20"),
    "fedl2g": ("fedl2g", "client.clip=null"),
    "fml": ("fml", ""),
    "fml, rate 0.1": ("fml", "client.lr=0.1"),
    "fedmrl": ("fedmrl", "client.clip=null server.peer=lenet:0.5"),
}
SEEDS = (0, 1, 2)


def played(source: str, out: Path, row: str, seed: int) -> dict[str, Any]:
    """Return the figures of one run in percent and MB, and where its global one is taken; read, where OUT has it."""
    method, words = ROWS[row]
    folder = out / f"{row.replace(', ', '-').replace(' ', '-')}-{seed}"
    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        engine.run(settings(method, f"{COMMON}data.source={source} run.seed={seed} {words}"), out=folder)
    summary = json.loads((folder / "summary.json").read_text())
    own, every = summary["accuracy"]["personal"], summary["accuracy"]["global"]
    found = {"evaluated": every["evaluated"], "global": 100 * every["final"], "personal": 100 * own["final"]}
    return {**found, "MB up": summary["bytes"]["up"] / 1e6, "MB down": summary["bytes"]["down"] / 1e6}


def main(source: str, out: str, *rows: str) -> None:
    """Run and print."""
    print("| row | evaluated | global | personal | MB up | MB down |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for row in rows or ROWS:
        found = [played(source, Path(out), row, seed) for seed in SEEDS]
        cells = [
            f"{mean(f[key] for f in found):.1f} ± {stdev(f[key] for f in found):.1f}" for key in ("global", "personal")
        ]
        cells += [f"{mean(f[key] for f in found):.2f}" for key in ("MB up", "MB down")]
        print(f"| {row} | {found[0]['evaluated']} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

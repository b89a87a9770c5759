"""EdgeFD's k-means against KuLSIF as a client's density estimator: whose votes are right, and what they cost.

    python benchmarks/votes.py --data FOLDER [--limit ROWS] [--encoder pixels] [--public 2000] [--seed 0] [--widths W]

FOLDER holds a labeled image set as Parquet files. Ten clients with one class each vote on held-out public samples,
whose labels are looked at afterwards: precision is the share of right votes among all votes, "by client" the mean of
each client's own, purity the share of right votes of a sample, averaged over those that somebody claims. Besides its
own threshold, each estimator gets the one at which a client's recall on public samples of its class is that of the
first KuLSIF, so that they can be compared. Widths are multiples of the median distance between a client's samples.
Seconds and memory are of fitting and voting for all ten clients, each estimator in a process of its own; memory is the
rise of the largest resident set over what the process had when it began.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sklearn.cluster  # noqa: F401 (else the first estimator that needs it would pay for the import)
import torch
from torch import Tensor

from fd_flower.config import settings
from fd_flower.core.rng import torch_rng
from fd_flower.data import federation
from fd_flower.data.encoder import encoder
from fd_flower.density import Estimator, kmeans, kulsif

Fit = Callable[[Tensor, Tensor], Estimator]
Client = tuple[Tensor, Tensor]  # features [m, D], classes [m]


def ratio(own: Tensor, labels: Tensor, box: tuple[float, float], width: float, seed: int) -> Estimator:
    """Return KuLSIF with Selective-FD's background and penalty, and a width in median distances."""
    background = kulsif.uniform(*box, 250, own.shape[1], torch_rng(seed, "background"))
    return kulsif.fit(own, background, width * kulsif.median_distance(own), 250**-0.5)


def measured(fit: Fit, share: float, clients: list[Client], public: Tensor, out: multiprocessing.Queue) -> None:
    """Fit to a share of every client's samples; put own held-out scores, public scores, CPU seconds and MB."""
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident set counts from here
    begun, before = _resident(), time.process_time()
    scores = []
    for own, labels in clients:
        fitted = int(share * len(own))
        estimator = fit(own[:fitted], labels[:fitted])
        scores.append((estimator.score(own[fitted:]).numpy(), estimator.score(public).numpy()))
    out.put((scores, time.process_time() - before, _resident() - begun))


def _resident() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def judged(said: Tensor, right: Tensor) -> dict[str, float]:
    """Return what votes [U, N] are worth, given who is right [U, N]."""
    claimed, hits = said.any(0), (said & right).double()
    return {
        "accepted": float(said.double().mean()),
        "recall": float(hits.sum() / right.sum()),
        "precision": float(hits.sum() / said.sum()),
        "by client": float((hits.sum(1) / said.sum(1)).mean()),
        "purity": float((hits.sum(0)[claimed] / said.sum(0)[claimed]).mean()),
        "unclaimed": float((~claimed).double().mean()),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--public", type=int, default=2000)
    parser.add_argument("--encoder", default="pixels")
    parser.add_argument("--limit", default="null")
    parser.add_argument("--widths", type=float, nargs="+", default=[0.17])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    words = f"data.partition=classes data.classes=1 data.public_size={asked.public} data.encoder={asked.encoder} "
    words += f"data.limit={asked.limit}"
    data = settings("fedmd", f"{words} data.source={Path(asked.data).resolve()}").data
    held = federation(data, asked.seed)
    assert held.public is not None
    assert held.public_labeled is not None
    encode = encoder(data, held.public)
    public = encode(held.public)
    own = [held.data(client).train for client in held.clients]
    clients = [(encode(samples), samples.labels) for samples in own]
    right = torch.stack([torch.isin(held.public_labeled.labels, labels.unique()) for _, labels in clients])
    box = (float(public.min()), float(public.max()))
    contestants: list[tuple[str, float, float, Fit]] = [
        *(
            (f"KuLSIF, width {width:g}", 0.05, 0.75, partial(ratio, box=box, width=width, seed=asked.seed))
            for width in asked.widths
        ),
        ("k-means, 10 clusters", 0.8, 0.75, partial(kmeans.fit, clusters=10, seed=asked.seed)),
        ("k-means, 1 cluster", 0.8, 0.90, partial(kmeans.fit, clusters=1, seed=asked.seed)),
    ]
    print(
        f"{len(clients)} clients, {sum(len(x) for x, _ in clients)} own samples, {len(public)} public, {asked.encoder}"
    )
    print("| estimator | threshold | accepted | recall | precision | by client | purity | unclaimed | CPU s | MB |")
    print("| --- |" + " ---: |" * 9)
    recall: list[float] = []
    processes = multiprocessing.get_context("fork")
    for name, share, accepted, fit in contestants:
        out = processes.Queue()
        child = processes.Process(target=measured, args=(fit, share, clients, public, out))
        child.start()
        scores, seconds, memory = out.get()
        child.join()
        held_out, seen = [torch.from_numpy(s) for s, _ in scores], torch.stack([torch.from_numpy(p) for _, p in scores])
        usual = seen > torch.stack([s.quantile(1 - accepted) for s in held_out])[:, None]
        recall = recall or [float(u[r].double().mean()) for u, r in zip(usual, right, strict=True)]
        limits = [s[r].quantile(1 - share) for s, r, share in zip(seen, right, recall, strict=True)]
        equal = seen > torch.stack(limits)[:, None]
        for threshold, said in ((f"own {accepted:g}", usual), ("equal recall", equal)):
            figures = " | ".join(f"{figure:.3f}" for figure in judged(said, right).values())
            print(f"| {name} | {threshold} | {figures} | {seconds:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()

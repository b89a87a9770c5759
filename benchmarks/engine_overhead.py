"""What the in-process engine costs over a tight hand-written loop that does the same work: FD, CPU seconds a round.

    python benchmarks/engine_overhead.py --source FOLDER [--clients 100] [--rounds 4] [--model cnn]

Both sides train the same clients on the same batches with one thread and end with the same models and tables (checked:
the losses are equal). The loop keeps every model in memory; the engine keeps each in a file of its own. Nothing is
measured on test data.
"""

import argparse
import itertools
import logging
import statistics
import tempfile
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from fd_flower import data, engine
from fd_flower.config import Settings, settings
from fd_flower.core.rng import torch_rng
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World


def loop(chosen: Settings) -> tuple[list[float], list[float]]:
    """Return CPU seconds and mean loss of each round of the hand-written loop."""
    world, config = World(chosen, described(chosen)), chosen.client
    name, seed = world.architecture(0), chosen.run.seed
    module, classes = world.module(name), world.classes(name)
    samples = {c: world.data(c).train for c in world.clients}
    models = {c: {k: v.clone() for k, v in world.initial(name).items()} for c in world.clients}
    parameters = dict(module.named_parameters())
    own: dict[str, tuple[Tensor, Tensor]] = {}
    total: tuple[Tensor, Tensor] | None = None
    seconds, losses = [], []
    for round in range(1, chosen.server.rounds + 1):
        start, weighted = time.process_time(), 0.0
        tables = {}
        for client, part in samples.items():
            for key, parameter in parameters.items():
                parameter.data = models[client][key]
            optimizer = torch.optim.SGD(parameters.values(), config.lr, fused=True)
            teacher = None
            if total is not None:
                sums, counts = total[0] - own[client][0], total[1] - own[client][1]
                teacher = (sums / counts.clamp_min(1).unsqueeze(1)).clamp_min(1e-12).log().log_softmax(1).float()
                known = counts > 0
            sums, counts = torch.zeros(classes, classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
            order = torch.randperm(len(part), generator=torch_rng(seed, "private", client, round))
            module.train()
            running, batches = torch.zeros(()), order.split(config.batch)
            for rows in batches:
                x, y = part.batch(rows)
                logits = module(x)
                loss = F.cross_entropy(logits, y)
                if teacher is not None:
                    weight = known[y].float()
                    each = F.kl_div(logits.log_softmax(1), teacher[y], reduction="none", log_target=True).sum(1)
                    loss = loss + config.kd_weight * (weight * each).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                running += loss.detach()
                sums.index_add_(0, y, logits.detach().double().softmax(1))
                counts.index_add_(0, y, torch.ones_like(y, dtype=torch.float64))
            said = (sums / counts.clamp_min(1).unsqueeze(1), (counts > 0).double())
            tables[client] = said if config.weighting == "clients" else (sums, counts)  # type: ignore[attr-defined]
            weighted += float(running) / len(batches) * len(part)
        own = tables
        total = tuple(torch.stack([t[i] for t in tables.values()]).sum(0) for i in (0, 1))  # type: ignore[assignment]
        seconds.append(time.process_time() - start)
        losses.append(weighted / sum(map(len, samples.values())))
    return seconds, losses


def in_process(chosen: Settings) -> tuple[list[float], list[float]]:
    """Return CPU seconds and mean loss of each round of the engine."""
    marks, losses = [time.process_time()], []

    def hear(line: dict) -> None:
        if "asked" in line:
            marks.append(time.process_time())
            losses.append(line["metrics"]["loss"])

    with tempfile.TemporaryDirectory() as out:
        engine.run(chosen, out=f"{out}/run", on_line=hear)
    return [after - before for before, after in itertools.pairwise(marks)], losses


def main() -> None:
    """Run both, alternating, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="digits")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", default="cnn")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    words = (
        f"data.source={asked.source} data.clients={asked.clients} data.partition=iid model.name={asked.model} "
        f"server.rounds={asked.rounds} server.evaluate=personal server.evaluate_every=0 data.public=none "
        "client.steps=null client.epochs=1 client.batch=32"
    )
    chosen = settings("fd", words)
    data.federation(chosen.data, chosen.run.seed)  # decoded before the clock starts
    by_hand, expected = loop(chosen)
    engines, losses = in_process(chosen)
    if not torch.allclose(torch.tensor(expected), torch.tensor(losses), rtol=1e-4):
        raise SystemExit(f"the two do not do the same work: losses {expected} and {losses}")
    print(f"fd, {words}")
    print(f"loss a round: {[round(x, 4) for x in losses]} (loop and engine agree)")
    print(f"hand-written loop: {[round(s, 2) for s in by_hand]} CPU s a round")
    print(f"in-process engine: {[round(s, 2) for s in engines]} CPU s a round (first with start-up)")
    ratio = statistics.median(engines[1:]) / statistics.median(by_hand[1:])
    print(f"ratio of the medians from round 2 on: {ratio:.3f}")


if __name__ == "__main__":
    main()

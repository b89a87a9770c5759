"""A finished run whose figures are typed in."""

from fd_flower.config import DataConfig, RunConfig, ServerConfig, Settings
from fd_flower.results import RunFolder


def finished(
    path,
    method="fd",
    seed=0,
    top=0.5,
    *,
    clients=2,
    failed=None,
    versions=None,
    alpha=0.3,
    sent=500_000,
    more=None,
    closing=False,
):
    """Leave a run of two rounds behind: accuracies of client i are ``top`` - .1 and ``top``; ``more``: other figures.

    ``closing``: what was last trained is received once more, at the end.
    """
    settings = Settings(
        method,
        data=DataConfig(clients=clients, alpha=alpha),
        server=ServerConfig(rounds=2),
        run=RunConfig(seed=seed),
    )
    folder = RunFolder.create(path, settings, "key")
    ids = [str(i) for i in range(clients)]
    for number, share in ((1, top - 0.1), (2, top)):
        traffic = {"up": {"class-logits": sent}, "down": {"class-logits": 2 * sent}, "wire": sent}
        line = {"round": number, "seconds": 1.0, "asked": ids, "replied": ids, "failed": failed or {}}
        folder.append([{**line, "bytes": traffic, "metrics": {"loss": 1.0}, "global": None}])
        figures = {
            "accuracy": share,
            "validation": share,
            "global": share / 2,
            "pooled_validation": share,
            **(more or {}),
        }
        line = {"round": number, "examples": 30, "metrics": {}, "evaluations": {"trained": figures}}
        folder.append([{**line, "client": client} for client in ids])
    if closing:
        folder.append([{**line, "closing": True, "client": client} for client in ids])
    facts = {"method": method, "seed": seed, "rounds": 2, "clients": clients, "engine": "local", "model": "cnn"}
    facts |= {"data": {"source": "digits", "copy": "abc123"}, "versions": versions or {"torch": "2"}}
    folder.finish({**facts, "evaluated": {"global": "trained", "personal": "trained"}})
    return folder

"""What the recipes' comments promise for ``--set`` is the federation that they speak of."""

import re

import numpy as np
import pytest

from fd_flower.config import registry, settings
from fd_flower.config.registry import RECIPES
from fd_flower.core.client import share
from fd_flower.data.partition import partition

pytestmark = pytest.mark.usefixtures("fresh_cache")

ORDER = re.compile(r"--set '([^']+)'")
IMAGES = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))  # as CIFAR-10 has them

FEDERATIONS = {
    # stem: clients, of them asked in a round, rounds, the smallest and the largest client of IMAGES (None: not said)
    "ditto": (500, 10, 5000, None, None),
    "dsfl": (100, 100, 2000, 500, 500),
    "fedavg": (100, 10, None, None, None),
    "fedavg-bias": (64, 8, 50, None, None),
    "fedavg-lora": (10, 1, 50, None, None),
    "fedntd": (100, 10, 200, 500, 500),
    "fedd2s": (20, 20, 100, None, None),
    "feddf": (20, 8, 100, 2500, 2500),
    "fede4rag": (None, 2, 25, None, None),
    "fedgen": (20, 10, 200, None, None),
    "fedgh": (20, 20, 2000, None, None),
    "fedl2g": (20, 20, 2000, None, None),
    "fedlex": (10, 2, 200, None, None),
    "autoflip": (20, 5, 200, None, None),
    "fedlgd": (5, 5, 100, None, None),
    "fedmd": (10, 10, 20, 5000, 5000),
    "fedmrl": (100, 10, 500, None, None),
    "fedprox": (30, 10, 200, None, None),
    "fedproto": (20, 20, 100, None, None),
    "fedre": (10, 10, 100, None, None),
    "fedrep": (100, 10, 100, 500, 500),
    "gut": (16, 16, 19600, None, None),
    "qg-dsgdm": (16, 16, 29400, None, None),
    "fedspeed": (100, 10, 1000, None, None),
    "fedtgp": (20, 20, 1000, None, None),
    "fraug": (4, 4, 300, None, None),
    "mhd": (8, 8, 300, None, None),
    "scaffold": (10, 10, 50, None, None),
    "scarlet": (100, 100, 2000, 500, 500),
    "selectivefd": (10, 10, None, 5000, 5000),
}
PUBLIC = {
    "dsfl": (10000, 1000),
    "scarlet": (10000, 1000),
    "feddf": (50000, None),
    "fedmd": (60000, 5000),
    "selectivefd": (6000, 512),
}
"""Public samples, and those of a round."""
METHODS = {
    "autoflip": "fedlex",
    "fedavg-bias": "fedavg",
    "fedavg-lora": "fedavg",
    "fedntd": "fedavg",
    "fedrep": "fedavg",
    "gut": "fedavg",
    "qg-dsgdm": "fedavg",
    "scarlet": "dsfl",
}
"""Whose recipe it is, where it is not the method's of its name."""


def orders(stem: str) -> list[str]:
    """Return what a recipe's comment has ready for ``--set``."""
    text = (RECIPES / f"{stem}.yaml").read_text(encoding="utf-8")
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return ORDER.findall(comment)


def test_every_line_is_looked_at():
    promised = {path.stem for path in RECIPES.glob("*.yaml") if orders(path.stem)}
    assert promised == FEDERATIONS.keys()
    assert all(len(orders(stem)) == 1 for stem in promised)
    assert all(path.read_text().count("--set") <= 1 for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("stem", FEDERATIONS)
def test_the_line_gives_the_federation(stem: str):
    clients, asked, rounds, smallest, largest = FEDERATIONS[stem]
    method = METHODS.get(stem, stem)
    chosen = settings(method, orders(stem)[0], recipe=stem)
    usual = settings(method, recipe=stem)
    assert clients in (None, chosen.data.clients)
    assert share(chosen.data.clients, chosen.server.fraction) == asked
    assert rounds in (None, chosen.server.rounds)
    assert chosen != usual
    if "classification" not in registry.strategy(method).requires.tasks:
        return
    if chosen.data.partition != "dirichlet":  # the usual one, and slow on so many rows
        sizes = [len(rows) for rows in partition(chosen.data, IMAGES, None, 0)]
        assert len(sizes) == chosen.data.clients
        assert smallest in (None, min(sizes))
        assert largest in (None, max(sizes))
    size, batch = PUBLIC.get(stem, (usual.data.public_size, usual.data.public_batch))
    assert (chosen.data.public_size, chosen.data.public_batch) == (size, batch)
    assert batch is None or batch <= size

"""Clients that attack by training on images with a trigger (``attack.name=backdoor``), and how often it works."""

from collections.abc import Collection
from dataclasses import replace

import torch

from fd_flower import attacks
from fd_flower.attacks.images import Trigger
from fd_flower.config import Settings
from fd_flower.core.client import share
from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Counts, Data, Samples

NAME = "backdoor"
"""The attack, and the figure that says how often it works."""


class Backdoor:
    """Which simulated clients train on images with a trigger; none without the attack.

    Parameters
    ----------
    settings : Settings
        The run.
    hosted : bool
        Whether the clients are simulated: a device's own samples are never changed.
    """

    def __init__(self, settings: Settings, *, hosted: bool) -> None:
        self._settings = settings
        self.asked = hosted and settings.attack.name == NAME
        self._clients: Collection[str] = settings.attackers if self.asked else ()
        self._tests: dict[int, tuple[Samples, Samples]] = {}

    def data(self, client: str, own: Data, classes: int) -> Data:
        """Return a client's samples, given the number of classes; those for validation and test stay unchanged.

        Raises
        ------
        InvalidInputError
            For an attacker whose inputs are no images.
        """
        if client not in self._clients:
            return own
        trigger, train = self._trigger(classes), own.train
        order = torch.randperm(len(train), generator=torch_rng(self._settings.run.seed, NAME, client))
        chosen = order[: share(len(train), trigger.share)].sort().values.to(train.x.device)
        images = train.inputs
        labels = torch.cat([train.labels, torch.full_like(chosen, trigger.target)])
        x = torch.cat([images, trigger.stamped(images[chosen])])
        return replace(own, train=replace(train, x=x, y=labels, index=None))

    def counts(self, counts: Counts, classes: int) -> Counts:
        """Return how many samples each client has of each class, as it trains on them."""
        if not self._clients:
            return counts
        train, trigger = counts.train.copy(), self._trigger(classes)
        sizes = None if counts.sizes is None else counts.sizes.copy()
        for row in map(int, self._clients):
            added = share(int(counts.train[row].sum()), trigger.share)
            train[row, trigger.target] += added
            if sizes is not None:
                sizes[row, 0] += added
        return replace(counts, train=train, sizes=sizes)

    def tests(self, samples: Samples | None) -> Samples | None:
        """Return test samples of the other classes with the trigger, all labeled with its class; made once a set.

        None where nothing of this kind is asked for.
        """
        if not self.asked or samples is None:
            return None
        known = self._tests.get(id(samples))
        if known is None or known[0] is not samples:
            trigger = self._trigger(int(samples.labels.max()) + 1)
            rows = (samples.labels != trigger.target).nonzero()[:, 0]
            others = samples[rows]
            labels = torch.full_like(rows, trigger.target)
            known = samples, replace(others, x=trigger.stamped(others.inputs), y=labels, index=None)
            self._tests[id(samples)] = known
        return known[1]

    def _trigger(self, classes: int) -> Trigger:
        made: Trigger = attacks.named(NAME, **self._settings.attack.args)(classes)
        return made

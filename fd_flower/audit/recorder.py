"""What a server receives in a run, reduced to what attacks use of it: it watches, and changes nothing."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fd_flower.audit.pool import Pool, auxiliary
from fd_flower.audit.scores import scaled_confidence
from fd_flower.audit.shadows import Shadows
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.server import Strategy
from fd_flower.training import predict
from fd_flower.wire import (
    ClassLogits,
    LabelCounts,
    Payload,
    Prototypes,
    PublicHeads,
    PublicLabels,
    PublicLogits,
    Weights,
    unpack,
)
from fd_flower.wire.replies import Reply

PREDICTIONS = (PublicLogits, PublicLabels, PublicHeads)
TABLES = (ClassLogits, Prototypes)
KNOWN = (Weights, *PREDICTIONS, *TABLES)
"""Kinds of payloads that membership inference can use."""

SUM = ""
"""The id of the sum of all clients' replies."""

COUNTS, SHARES = "counts that are sent", "mean prediction"
"""How a client's label distribution is estimated."""


class Recorder:
    """Watches the replies of a run; ``Strategy.on_replies``.

    Parameters
    ----------
    strategy : Strategy
        Whose run it is.
    count : int
        Members of each client, and as many non-members.
    steps : int
        Training steps of a shadow model.

    Attributes
    ----------
    models : list[dict[str, Tensor]]
        For each round, client id -> scaled confidence of all candidates [N] under the weights that it sent.
    injected : list[dict[str, Tensor]]
        The same of its predictions on candidates among the public samples.
    predictions : dict[str, Tensor]
        Client id -> its newest log-probabilities of each public sample [P, C]; NaN where it sent none.
    tables : dict[str, Prototypes | ClassLogits]
        Client id -> its newest class means.
    labels : dict[str, dict[str, Tensor]]
        How it was estimated -> client id -> a client's samples of each class [C], up to a factor.
    kinds : set[type[Payload]]
        Kinds of all payloads.
    unusable : set[str]
        Why payloads of a known kind could not be used.
    """

    def __init__(self, strategy: Strategy[Any], count: int, steps: int) -> None:
        self._strategy = strategy
        self._count = count
        self._steps = steps
        self.models: list[dict[str, Tensor]] = []
        self.injected: list[dict[str, Tensor]] = []
        self.predictions: dict[str, Tensor] = {}
        self.tables: dict[str, Prototypes | ClassLogits] = {}
        self.labels: dict[str, dict[str, Tensor]] = {}
        self.kinds: set[type[Payload]] = set()
        self.unusable: set[str] = set()

    def __call__(self, number: int, replies: Sequence[Reply]) -> None:
        """Take in the usable replies of a round."""
        self.models.append({})
        self.injected.append({})
        for reply in replies:
            for payload in unpack(reply.content):
                self._take(reply.client, payload)

    @cached_property
    def pool(self) -> Pool:
        """The candidates."""
        return Pool.of(self._strategy.world, self._count)

    @cached_property
    def shadows(self) -> Shadows:
        """The server's shadow models."""
        return Shadows(self._strategy.world, self.pool, self._steps)

    @cached_property
    def auxiliary(self) -> Samples:
        """Labeled rows that are no candidates."""
        return auxiliary(self._strategy.world, self.pool)

    @cached_property
    def public(self) -> Samples:
        """The public samples without injected candidates."""
        world = self._strategy.world
        assert world.public is not None
        ordinary = len(world.public) - (len(self.pool.labels) if world.settings.attack.inject else 0)
        return world.public[torch.arange(ordinary)]

    def architecture(self, client: str) -> str:
        """Return a client's architecture; that of the first client for a sum."""
        return {c.id: c.model for c in self._strategy.clients}.get(client, self._strategy.clients[0].model)

    @property
    def clients(self) -> Sequence[Client]:
        """The run's clients."""
        return self._strategy.clients

    def _take(self, client: Client, payload: Payload) -> None:
        self.kinds.add(type(payload))
        if isinstance(payload, Weights):
            self._take_weights(client, payload)
        elif isinstance(payload, PREDICTIONS):
            self._take_predictions(client, payload)
        elif isinstance(payload, TABLES):
            self.tables[client.id] = payload
        if isinstance(payload, LabelCounts | ClassLogits | Prototypes):
            self.labels.setdefault(COUNTS, {})[client.id] = payload.counts

    def _take_weights(self, client: Client, payload: Weights) -> None:
        try:
            model = self.shadows.model(self.architecture(client.id), payload.values)
        except InvalidInputError as error:
            self.unusable.add(f"weights that are no whole model of the client's architecture ({error})")
            return
        logprobs = predict(model, self.pool.samples)
        self.models[-1][client.id] = scaled_confidence(logprobs, self.pool.labels)
        if self._every_class is not None:
            self.labels.setdefault(SHARES, {})[client.id] = predict(model, self._every_class).exp().mean(0)

    @cached_property
    def _every_class(self) -> Samples | None:
        """Samples on which the mean prediction of a model shows the classes that it prefers, if there are any."""
        world = self._strategy.world
        if world.public is not None:
            return self.public
        return None if world.test is None else self.auxiliary

    def _take_predictions(self, client: Client, payload: PublicLogits | PublicLabels | PublicHeads) -> None:
        public = self._strategy.world.public
        assert public is not None
        values = payload.values[:, 0] if isinstance(payload, PublicHeads) else payload.values
        this = torch.full((len(public), values.shape[1]), torch.nan)
        this[payload.index] = values.float()
        ordinary = len(self.public)
        if len(public) > ordinary:
            self.injected[-1][client.id] = scaled_confidence(this[ordinary:], self.pool.labels)
        newest = self.predictions.get(client.id, torch.full_like(this, torch.nan))
        newest = this.where(~this.isnan(), newest)
        self.predictions[client.id] = newest
        self.labels.setdefault(SHARES, {})[client.id] = newest[:ordinary].exp().nansum(0)

"""What methods share that average weights: LoRA's factors by the rule of ``server.adapters``, all else by a mean.

Under ``mean`` and ``freeze_a`` replies are plain weights, of which a sum will do. Under ``product`` and ``stack``
clients send an ``Adapter`` each, and the server's state still consists of the weights of one model for each rank, which
are evaluated, kept and written into checkpoints. Under ``fisher`` they send ``Information`` with their weights, of
whatever learns.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fd_flower.config import AveragingConfig, Settings, averaging
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.adapters import Factors, Spectrum, fisher, mean, product, relative_error, spectrum, stack
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.models.adapters import (
    DOWN,
    INFORMED,
    SINGLE,
    UP,
    A,
    B,
    adapted,
    leading,
    scaling_of,
    with_leading,
    without_adapters,
)
from fd_flower.server.requirements import Requirements
from fd_flower.server.staleness import mean_of_changes
from fd_flower.server.strategy import Strategy
from fd_flower.wire import Adapter, Information, Knowledge, Payload, Private, Weights
from fd_flower.wire.adapters import hashed
from fd_flower.wire.replies import Reply, mean_weights

C = TypeVar("C", bound=AveragingConfig)

ERROR = "adapter_error"
"""Diagnostic: relative error of the averaged low-rank changes to the exact mean of the clients', over all modules."""


RANK = "rank"
"""Diagnostic: the rank that a round drew."""


class Averaging(Strategy[C]):
    """A method whose knowledge is the mean of the clients' weights."""

    summable, sums = (Weights,), True
    drawn: int | None = None
    """The rank of this round, where ``server.ranks`` has some."""

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``requires``, as the rule for adapters changes it."""
        return with_adapters(cls.requires, settings)

    @property
    def _options(self) -> AveragingConfig:
        return averaging(self.config)

    @property
    def single(self) -> bool:
        """Whether the rule for adapters needs each client's factors."""
        return self._options.adapters in SINGLE

    def expected_kinds(self, round: int) -> Sequence[type[Payload]]:
        """Return adapters or Fisher information where the rule needs them, and what a reply has in any case."""
        if self.single:
            return (Adapter,)
        usual = super().expected_kinds(round)
        return (*usual, Information) if self._options.adapters == INFORMED else usual

    @classmethod
    def sums_replies(cls, settings: Settings) -> bool:
        """Whether replies are added up: not LoRA factors, whose means are compared with the mean of what they do."""
        return super().sums_replies(settings) and settings.client.trainable != "lora"

    def takes_sum(self) -> bool:
        """Whether replies are added up: not those of a model that brings LoRA factors itself, either."""
        return super().takes_sum() and not any(adapted(weights.values) for weights in self.known_weights())

    def first_adapted(self, clients: Sequence[Client]) -> list[Weights]:
        """Return the weights before round one: of each rank, where the rule for adapters takes several.

        Raises
        ------
        InvalidInputError
            For a model without LoRA factors under a rule that is about them.
        """
        return self.checked(self.first_of_each(clients) if self.single else [self.first_weights(clients[0].model)])

    def checked(self, first: list[Weights]) -> list[Weights]:
        """Return these weights before round one; refuse a rule about LoRA factors where they have none."""
        rule, ranks = self._options.adapters, self._options.ranks or []
        asked = f"server.ranks={ranks}" if ranks else f"server.adapters={rule}"
        about_factors = rule not in ("mean", INFORMED) or bool(ranks)
        if about_factors and not any(key.endswith(B) for weights in first for key in weights.values):
            raise InvalidInputError(
                f"{asked} is about LoRA factors, and the model has none: give client.trainable=lora, or leave "
                f"{asked.partition('=')[0]} out"
            )
        if ranks and max(ranks) > (most := self.world.rank(self._architecture(first[0]))):
            raise InvalidInputError(f"{asked} has a rank above client.rank={most}: raise that, or leave it out")
        if rule == "stack":
            return [replace(w, values=self._restarted(w, adapted(w.values))) for w in first]
        return first

    def sample(self, round: int) -> Sequence[Client]:
        """Draw whom a round asks, and of which rank they learn, where ``server.ranks`` has some."""
        if ranks := self._options.ranks:
            self.drawn = ranks[int(torch.randint(len(ranks), (), generator=self.rng("ranks", round)))]
        return super().sample(round)

    def known_weights(self) -> Sequence[Weights]:
        """Return the weights of each architecture as clients send them: in this round's rank."""
        return [self._led(w) for w in super().known_weights()]

    def known_adapters(self) -> Mapping[str, Adapter]:
        """Return an adapter of each architecture, as clients send it."""
        if not self.single:
            return {}
        return {w.model: self._adapter(w, A, B) for w in Weights.all(self.knowledge)}

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return what one client receives: its model's weights, or the adapter that it needs of them."""
        found = super().knowledge_for(client, knowledge)
        if self.single:
            return [self._sent(p) if isinstance(p, Weights) else p for p in found]
        return [self._led(p) if isinstance(p, Weights) else p for p in found]

    def averaged(self, replies: Sequence[Reply], knowledge: Knowledge) -> Sequence[Payload | Private]:
        """Return the mean of the replies' weights, each by its number of examples, adapters by their rule."""
        examples = [reply.examples for reply in replies]
        if not self.single:
            if late := mean_of_changes(replies, knowledge, self.waiting_examples):
                return [*late]
            means = mean_weights(replies)
            if self._options.adapters == INFORMED:
                return [_merged(weights, replies) for weights in means.values()]
            self._log_error_of_means(replies, examples)
            return [*(self._filled_up(means, knowledge) if self.drawn else means.values())]
        sent = [Adapter.need(reply.content) for reply in replies]
        clients = {name: [_factors(each, name) for each in sent] for name in sent[0].a}
        others = mean_of_parameters([each.others for each in sent], examples)
        known = Weights.all(knowledge)
        if self._options.adapters == "product":
            spectra = {name: product(each, examples) for name, each in clients.items()}
            new = [replace(w, values={**w.values, **others, **self._truncated(w, spectra)}) for w in known]
            wide = max(new, key=lambda w: max(len(w.values[name + A]) for name in clients))
            scaling = self._scaling(wide)
            self._log_error({name: _of_state(wide.values, name, scaling) for name in clients}, clients, examples)
            return [*new]
        stacks = {name: stack(each, examples) for name, each in clients.items()}
        return [replace(w, values={**self._grown(w, stacks), **others}) for w in known]

    # --- a rank a round

    def _led(self, weights: Weights) -> Weights:
        """Return weights in this round's rank: one object for all clients, whose record is made once."""
        if self.drawn is None:
            return weights
        if weights not in _LED or _LED[weights][0] != self.drawn:
            _LED[weights] = self.drawn, replace(weights, values=leading(weights.values, self.drawn))
        return _LED[weights][1]

    def _filled_up(self, means: Mapping[str, Weights], knowledge: Knowledge) -> list[Weights]:
        """Return the last weights with means of this round's rank in their place."""
        self.log_diagnostics({RANK: float(self.drawn or 0)})
        self.drawn = None  # what is sent after the last round is all
        known = Weights.all(knowledge)
        return [replace(w, values=with_leading(w.values, means[w.model].values)) for w in known if w.model in means]

    # --- product

    def _truncated(self, weights: Weights, spectra: Mapping[str, Spectrum]) -> dict[str, Tensor]:
        """Return an architecture's factors: as much of these changes as its rank holds."""
        first, scaling = self._first(weights), self._scaling(weights)
        found: dict[str, Tensor] = {}
        for name, change in spectra.items():
            made = change.truncated(_of_state(first, name, scaling))
            found |= {name + A: made.a, name + B: made.b}
        return found

    # --- stack

    def _grown(self, weights: Weights, stacks: Mapping[str, Factors]) -> dict[str, Tensor]:
        """Return weights whose frozen change has these added, and whose own factors are the first ones again."""
        values, first = dict(weights.values), self._first(weights)
        for name, change in stacks.items():
            up, down = values[name + UP], values[name + DOWN]
            b = torch.cat([up.double(), change.b * change.scaling], 1)
            joined = Factors(b, torch.cat([down.double(), change.a]))
            if joined.rank > min(len(up), down.shape[1]):  # no matrix has more directions, so nothing is lost
                joined = spectrum(joined).factors
            values |= {name + UP: joined.b.to(up.dtype), name + DOWN: joined.a.to(down.dtype)}
            values |= {name + A: first[name + A], name + B: torch.zeros_like(first[name + B])}
        return values

    def _restarted(self, weights: Weights, names: Sequence[str]) -> dict[str, Tensor]:
        """Return weights of which what somebody's own LoRA factors do (``initial_arrays``) is in the frozen change."""
        scaling = self._scaling(weights)
        own = {name: _of_state(weights.values, name, scaling) for name in names if weights.values[name + B].any()}
        stacks = {key: tensor for key, tensor in self._first(weights).items() if key.endswith((UP, DOWN))}
        begun = replace(weights, values={**stacks, **weights.values})
        return self._grown(begun, {name: stack([factors], [1]) for name, factors in own.items()})

    # --- what both use

    def _architecture(self, weights: Weights) -> str:
        return weights.model or self.clients[0].model

    def _first(self, weights: Weights) -> Mapping[str, Tensor]:
        """Return the seeded start, which clients have themselves."""
        return self.world.initial(self._architecture(weights))

    def _scaling(self, weights: Weights) -> float:
        return scaling_of(self.world.module(self._architecture(weights)))

    def _sent(self, weights: Weights) -> Adapter:
        """Return the one adapter that all clients of an architecture receive: its record is made once."""
        if weights not in _SENT:
            _SENT[weights] = self._adapter(weights, *((DOWN, UP) if self._options.adapters == "stack" else (A, B)))
        return _SENT[weights]

    def _adapter(self, weights: Weights, first: str, second: str) -> Adapter:
        """Return weights as an adapter of the factors with these endings."""
        values, names = weights.values, adapted(weights.values)
        a, b = ({name: values[name + ending] for name in names} for ending in (first, second))
        return Adapter(
            b,
            a,
            torch.tensor(max(len(each) for each in a.values())),
            torch.tensor(1.0 if first == DOWN else self._scaling(weights), dtype=torch.float64),
            hashed(self.world.base(self._architecture(weights))),
            without_adapters(values),
            weights.model,
        )

    # --- diagnostics

    def _log_error_of_means(self, replies: Sequence[Reply], examples: Sequence[int]) -> None:
        """Log how far the means of LoRA factors are from the mean of what they do, where there are single replies."""
        received = [Weights.need(reply.content) for reply in replies]
        names = adapted(received[0].values)
        if len(received) < 2 or not names or len({w.model for w in received}) > 1:
            return
        clients = {name: [_of_state(w.values, name, 1.0) for w in received] for name in names}
        self._log_error({name: mean(each, examples) for name, each in clients.items()}, clients, examples)

    def _log_error(
        self, found: Mapping[str, Factors], clients: Mapping[str, Sequence[Factors]], examples: Sequence[int]
    ) -> None:
        above, below = 0.0, 0.0
        for name, own in found.items():
            exact = stack(clients[name], examples)
            size = exact.norm
            above += (relative_error(own, exact) * (size or 1.0)) ** 2
            below += size**2
        if below:
            self.log_diagnostics({ERROR: math.sqrt(above / below)})


_LED: "WeakKeyDictionary[Weights, tuple[int, Weights]]" = WeakKeyDictionary()
_SENT: "WeakKeyDictionary[Weights, Adapter]" = WeakKeyDictionary()


def _merged(means: Weights, replies: Sequence[Reply]) -> Weights:
    """Return an architecture's means, with each number that clients have Fisher information of as that weighs it."""
    found, group = dict(means.values), [r for r in replies if Weights.need(r.content).model == means.model]
    sent, known = [Weights.need(r.content).values for r in group], [Information.need(r.content).values for r in group]
    for key in dict.fromkeys(key for each in known for key in each):
        values = [each[key] for each in sent]
        own = [each.get(key, torch.zeros_like(values[0])) for each in known]
        found[key] = fisher(values, own, [r.examples for r in group])
    return replace(means, values=found)


def _factors(adapter: Adapter, name: str) -> Factors:
    return Factors(adapter.b[name], adapter.a[name], float(adapter.scaling))


def _of_state(values: Mapping[str, Tensor], name: str, scaling: float) -> Factors:
    return Factors(values[name + B], values[name + A], scaling)


def with_adapters(requires: Requirements, settings: Settings) -> Requirements:
    """Return what a method requires under the rule of ``server.adapters``.

    Raises
    ------
    InvalidInputError
        For a rule that needs single replies next to a sum that hides them.
    """
    rule = averaging(settings.server).adapters
    if rule not in (*SINGLE, INFORMED):
        return replace(requires, punctual=True) if averaging(settings.server).ranks else requires
    what = "Fisher information" if rule == INFORMED else "factors"
    if settings.privacy.sum != "none":
        raise InvalidInputError(
            f"privacy.sum={settings.privacy.sum} hides each client's {what}, which server.adapters={rule} needs: take "
            "server.adapters=mean or freeze_a, or privacy.sum=none"
        )
    if rule == INFORMED:
        return replace(requires, single_replies=True, own_samples="server.adapters=mean", punctual=True)
    return replace(requires, single_replies=True, ranks=True, punctual=True)

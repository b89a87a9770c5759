"""Simulated attackers: in which runs an attack raises an error, and what becomes of the attackers' replies.

The server rewrites the attackers' replies after the round's replies have come and have passed all checks, so that
colluders can know the honest ones, and every engine has the same attack. An attack is given what ``attack.knowledge``
allows. Nothing here is seen by a method or by a rule: what they get are well-formed replies.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import Any, final

import torch
from flwr.app import RecordDict

from fd_flower import attacks
from fd_flower.attacks import ABSENT, DATA, IMAGES, VOTES, Seen
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.server.attacked import TARGETS, Rows, claiming, counterpart, rows_of, with_rows
from fd_flower.server.lines import RoundLines
from fd_flower.server.method import Method
from fd_flower.wire import Payload, PublicLabels, PublicLogits, PublicVotes, Weights
from fd_flower.wire.payload import named_payloads
from fd_flower.wire.replies import Reply


@final
class Attackers:
    """The attackers of a run.

    Parameters
    ----------
    method : Method
        Whose run it is; its settings are those of the handshake.
    lines : RoundLines
        Get the replies that are left out, with the reason.
    """

    def __init__(self, method: Method[Any], lines: RoundLines) -> None:
        self._method = method
        self._lines = lines
        self._config = method.settings.attack
        self.ids = method.settings.attackers

    def honest(self, replies: Sequence[Reply]) -> list[Reply]:
        """Return the replies of clients that do not attack, whose figures count."""
        return [reply for reply in replies if reply.client.id not in self.ids]

    def rewritten(self, replies: Sequence[Reply], number: int) -> list[Reply]:
        """Return a round's replies with those of attackers as they want them; under ``absent`` without them."""
        config = self._config
        if not config.on_replies or number < config.since:
            return list(replies)
        honest = self.honest(replies)
        count, found = len(replies) - len(honest), []
        rows = cache(rows_of)  # every attacker looks at the same honest replies
        for reply in replies:
            if reply.client.id not in self.ids:
                found.append(reply)
            elif config.name == ABSENT:
                self._lines.failed[reply.client.id] = "attack.name=absent leaves out attackers"
            else:
                new = self._attacked(reply, honest, count, number, rows)
                if new.size > self._method.config.max_entry:
                    self._lines.failed[reply.client.id] = (
                        f"its attack has an entry of size {new.size:.3g}; expected at most "
                        f"{self._method.config.max_entry:g} (server.max_entry)"
                    )
                else:
                    found.append(new)
        return found

    def _attacked(
        self, reply: Reply, honest: Sequence[Reply], attackers: int, number: int, rows_of: Callable[[Payload], Rows]
    ) -> Reply:
        """Return an attacker's reply."""
        targets, content = attacks.mark(self._config.name).targets, dict(reply.content)
        rng = torch_rng(self._method.settings.run.seed, "attack", self._config.name, reply.client.id, number)
        for name, payload in named_payloads(reply.content):
            if VOTES in targets:
                content[name] = self._claimed(payload).record
            elif TARGETS.get(type(payload)) in targets:
                seen = self._seen(reply, payload, honest, attackers, rng, rows_of)
                content[name] = with_rows(payload, self._function(seen)).record
        return replace(reply, content=RecordDict(content))

    @cached_property
    def _function(self) -> Any:
        return attacks.named(self._config.name, **self._config.args)

    def _claimed(self, payload: Payload) -> Payload:
        """Return an attacker's votes, and its predictions on the round's samples that it claims."""
        if isinstance(payload, PublicVotes):
            return replace(payload, mask=self._function(payload.mask))
        if isinstance(payload, PublicLogits | PublicLabels):
            index = self._method.round_index
            return claiming(payload, index[self._function(torch.isin(index, payload.index))])
        return payload

    def _seen(
        self,
        reply: Reply,
        payload: Payload,
        honest: Sequence[Reply],
        attackers: int,
        rng: torch.Generator,
        rows_of: Callable[[Payload], Rows],
    ) -> Seen:
        """Return what an attacker knows about the rows of its payload."""
        rows, knowledge = rows_of(payload), self._config.knowledge
        sent = self._method.knowledge_for(reply.client, reply.started or self._method.knowledge)
        received = counterpart(payload, sent)
        nothing = Rows(rows.places[:0], rows.values[:0])
        teacher, taught = (nothing if received is None else rows_of(received)).at(rows.places)
        start = teacher if isinstance(payload, Weights) else torch.zeros_like(rows.values)
        if knowledge == "own" and not isinstance(payload, Weights):
            taught = torch.zeros_like(taught)
            teacher = torch.zeros_like(teacher)
        every = [counterpart(payload, [p for _, p in named_payloads(other.content)]) for other in honest]
        known = [rows_of(other).at(rows.places) for other in every if other and knowledge == "omniscient"]
        others = torch.stack([values for values, _ in known]) if known else rows.values.new_zeros(0, *rows.values.shape)
        held = torch.stack([mask for _, mask in known]) if known else torch.zeros(0, len(rows.places), dtype=torch.bool)
        return Seen(rows.values, start, teacher, taught, others, held, attackers, len(honest), rng)


def check_attack(method: Method[Any], clients: Sequence[Client], *, plain: bool) -> None:
    """Refuse an attack that this run cannot have.

    Parameters
    ----------
    method : Method
        Whose run it is.
    clients : Sequence[Client]
        Who takes part.
    plain : bool
        Whether their apps know nothing of FD-Flower.

    Raises
    ------
    InvalidInputError
        With the reason.
    """
    settings = method.settings
    config, asked = settings.attack, f"attack.name={settings.attack.name}"
    if config.name == attacks.NONE:
        return
    if plain or not method.hosted:
        raise InvalidInputError(
            f"{asked} is for simulated clients, and these are "
            f"{'apps without FD-Flower' if plain else 'devices'}: leave it out, or run the simulation"
        )
    if len(settings.attackers) >= settings.data.clients:
        raise InvalidInputError(
            f"attack.fraction={config.fraction:g} of {settings.data.clients} clients are all of them: lower it, or "
            "raise data.clients"
        )
    if config.name == attacks.HONEST:
        return
    if config.on_replies and settings.privacy.sum != "none":
        raise InvalidInputError(
            f"{asked} rewrites single replies, and privacy.sum={settings.privacy.sum} hides them: take "
            "privacy.sum=none, or an attack on training labels"
        )
    _check_targets(method)
    if config.name == ABSENT:
        return
    if config.on_data and not (method.world.has_data and method.world.task.kind is None):
        raise InvalidInputError(
            f"{asked} changes clients' training samples, and "
            f"{'this task has no classes' if method.world.has_data else 'their app keeps its samples to itself'}: "
            "take an attack on replies"
        )
    attacks.tried(config.name, config.args, max((client.classes for client in clients[:1]), default=0))


def _check_targets(method: Method[Any]) -> None:
    """Refuse an attack on what the method's clients do not send."""
    name, sent = method.settings.attack.name, targets_of(method)
    wanted = attacks.mark(name).targets
    if name != ABSENT and not method.settings.attack.on_data and not set(wanted) & sent:
        able = [other for other in attacks.names() if set(attacks.mark(other).targets) & {*sent, DATA, IMAGES}]
        raise InvalidInputError(
            f"attack.name={name} rewrites {' or '.join(wanted)}, and {method.settings.method} has none in its replies; "
            f"it can be attacked by {', '.join((ABSENT, *able))}"
        )
    if name == ABSENT and not method.expected_kinds(1):
        raise InvalidInputError(
            f"attack.name={ABSENT} leaves out replies, and those of {method.settings.method} have nothing in them"
        )


def targets_of(method: Method[Any]) -> set[str]:
    """Return what of a method's replies attacks can rewrite."""
    found = {TARGETS[kind] for kind in method.expected_kinds(1) if kind in TARGETS}
    return found | ({VOTES} if PublicVotes in method.asked_kinds else set())

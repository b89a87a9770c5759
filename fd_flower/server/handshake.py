"""The handshake: what nodes say of themselves, who takes part, and which client lives on which node."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message

from fd_flower.config import DataConfig
from fd_flower.core.client import Client, answered, grouped, named, natural
from fd_flower.core.clients import Clients
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.core.keys import refusal
from fd_flower.core.versions import distribution, package_sources, sources
from fd_flower.server.dealing import Homes
from fd_flower.server.hosts import Hosts
from fd_flower.wire.envelope import HEADER, one_line, records
from fd_flower.wire.traffic import size_of

Answers = Mapping[int, Mapping[str, Any]]
Check = Callable[[Sequence[Client]], None]


ANSWER = 2**20
"""Bytes of an answer to the handshake, at most."""

KEYLESS = 'it hosts no share of its own, and server.allow names devices and shares: give it hosts="1/N" and a key'
"""Why a host cannot take part where an allow-list says which key may do what."""


def anybody(clients: Sequence[Client]) -> None:
    """Accept every node."""


class Handshake:
    """Who takes part.

    Parameters
    ----------
    allow : Mapping[str, bytes] | None
        Client id, or name of a share -> the key that may use it; None: the first node that claims an id keeps it while
        it is there.
    known : Collection[str]
        The nonces of a resumed run's earlier starts.

    Attributes
    ----------
    living : dict[str, int]
        Device's client id -> the node that it lives on.
    homes : Mapping[str, int]
        Client id -> the node that it lives on.
    hosts : Hosts
        The nodes that host, where they do.
    hosted : bool
        Whether nodes host simulated clients.
    refused : dict[str, str]
        Client or node -> why it takes no part.
    """

    def __init__(self, allow: Mapping[str, bytes] | None = None, known: Collection[str] = ()) -> None:
        self._allow = allow
        self.living: dict[str, int] = {}
        self.homes: Mapping[str, int] = self.living
        self.hosts = Hosts(allow, known)
        self.hosted = False
        self.misfits: dict[str, str] = {}
        self.refused: dict[str, str] = {}

    def refuse(self, who: str, why: str) -> None:
        """Name somebody who takes no part."""
        self.refuse_all({who: why})

    def refuse_all(self, reasons: Mapping[str, str]) -> None:
        """Name clients or nodes that take no part, with the reason of each; a reason that many share is logged once."""
        short = {one_line(who)[:100]: one_line(why) for who, why in reasons.items()}
        self.refused |= short
        for line in grouped(short):
            log(WARNING, "not in this run: %s", line)

    def sift(self, answers: Answers) -> Answers:
        """Return the answers of nodes that say what they are; refuse and name the others."""
        good = {}
        for node, answer in sorted(answers.items()):
            if "refused" in answer:
                self.refuse(str(answer.get("id", f"node {node}")), str(answer["refused"]))
            elif answer.get("role") == "host":
                good[node] = answer
            elif answer.get("role") == "device":
                try:
                    named(answer)
                except InvalidInputError as error:
                    self.refuse(f"node {node}", str(error))
                else:
                    good[node] = answer
            else:
                self.refuse(f"node {node}", "its answer to the handshake cannot be read")
        return good

    @property
    def at(self) -> set[int]:
        """The nodes on which clients live, or that host."""
        return {*self.living.values(), *self.hosts.last.values(), *self.hosts.nodes.values()}

    def decide(self, answers: Answers) -> None:
        """Let the first answers decide whether the federation has hosts or devices: what most nodes are.

        With an allow-list only those count as hosts that name a share, which belongs to a key.
        """
        hosts = [a for a in answers.values() if a["role"] == "host" and (self._allow is None or "share" in a)]
        devices = [a for a in answers.values() if a["role"] == "device"]
        self.hosted = len(hosts) > len(devices)

    def take(self, answers: Answers, keys: Mapping[int, bytes], gone: Collection[int]) -> None:
        """Take in nodes that host; refuse and name the others. Parameters are those of ``Hosts.take``."""
        devices = [node for node, answer in answers.items() if answer["role"] == "device"]
        why = dict.fromkeys(devices, "it is one device; the others host")
        why |= self.hosts.take({n: a for n, a in answers.items() if n not in why}, keys, gone)
        for node in answers.keys() - why.keys():
            self.refused.pop(f"node {node}", None)
        for node in sorted(why):
            self.refuse(f"node {node}", why[node])

    def settle(self, clients: Clients, places: np.ndarray) -> None:
        """Let hosted clients live where the shares are in which they are; ``places`` [N] are these."""
        self.homes = Homes(clients.ids, places, self.hosts)

    def devices(
        self,
        answers: Answers,
        clients: Sequence[Client],
        keys: Mapping[int, bytes],
        gone: Collection[int] = (),
        check: Check = anybody,
    ) -> dict[str, Client]:
        """Return the clients that these nodes are; refuse and name those that cannot take part.

        Parameters
        ----------
        answers : Answers
            Each node's description of itself.
        clients : Sequence[Client]
            Who takes part already.
        keys : Mapping[int, bytes]
            The nodes' public keys, where there is an allow-list.
        gone : Collection[int]
            Nodes that are not there any more: their clients may come back on others.
        check : Check
            Raises InvalidInputError for clients that do not go together.
        """
        found: dict[str, Client] = {}
        for node, answer in answers.items():
            if answer["role"] == "host":
                shareless = self._allow is not None and "share" not in answer
                self.refuse(f"node {node}", KEYLESS if shareless else "it hosts; the others do not")
                continue
            client = named(answer)
            why = "" if self._allow is None else refusal(client, node, self._allow, keys)
            if not why and client in self.homes and self.homes[client] not in gone:
                why = f"client id '{client}' is taken by node {self.homes[client]}"
            if why:
                self.refuse(f"node {node}", why)
                continue
            try:
                came = answered(client, answer)
                check_labels(came)
                check([*(c for c in clients if c.id != client), came])
            except InvalidInputError as error:
                self.refuse(client, str(error))
                continue
            self.living[client] = node
            found[client] = came
            self.refused.pop(client, None)
        return found

    def fitting(self, clients: Sequence[Client], check: Check) -> dict[str, Client]:
        """Return the clients that pass ``check`` one after the other, those first who are most like the others.

        The others are noted in ``misfits`` with the reason.
        """
        traits = [(c.classes, c.labels, c.features, c.model, c.public, c.shape, c.base) for c in clients]
        common = [Counter(column) for column in zip(*traits, strict=True)]
        alike = {
            c.id: sum(count[trait] for count, trait in zip(common, own, strict=True))
            for c, own in zip(clients, traits, strict=True)
        }
        fit: dict[str, Client] = {}
        self.misfits = {}
        for client in sorted(clients, key=lambda c: -alike[c.id]):
            try:
                check([*fit.values(), client])
                fit[client.id] = client
            except InvalidInputError as error:
                self.misfits[client.id] = str(error)
        return fit

    def expel(self, client: str) -> None:
        """Refuse one of the misfits; its id is free again."""
        self.living.pop(client)
        self.refuse(client, self.misfits[client])


def check_labels(client: Client) -> None:
    """Refuse names of classes that the run's settings, in which they are kept, could not hold."""
    try:
        DataConfig(class_names=list(client.labels) or None)
    except InvalidInputError as error:
        raise InvalidInputError(f"the names of its classes are none: {error}") from None


def received(nodes: Sequence[int], replies: Iterable[Message], module: str = "") -> dict[int, dict[str, Any]]:
    """Return what each node reports of itself, or ``{"refused": reason}``.

    ``module`` is where the method lies; "" for a built-in one.
    """
    package = package_sources(module)
    answers: dict[int, dict[str, Any]] = {node: {"refused": "no answer to the handshake"} for node in nodes}
    for reply in replies:
        answer: dict[str, Any] = {"refused": "it runs another app than FD-Flower's"}
        if reply.has_error():
            answer = {"refused": reply.error.reason or f"error {reply.error.code}"}
        elif found := records(reply.content, ConfigRecord).get(HEADER):
            answer = dict(found) if size_of(reply.content) <= ANSWER else {"refused": "its answer is too long"}
        if answer.get("sources", sources()) != sources():
            answer = {"refused": "it runs other FD-Flower sources than the server; install the same version on both"}
        elif answer.get("package", package) != package:
            answer = {"refused": _of_package(answer, module)}
        answers[reply.metadata.src_node_id] = answer
    return answers


def _of_package(answer: Mapping[str, Any], module: str) -> str:
    """Return why a node cannot take part that has not the server's package of the method."""
    name, known = module.partition(".")[0], distribution(module)
    what = f"{name} ({known})" if known else name
    if answer["package"]:
        return f"it runs other sources of {what} than the server; install the same version on both"
    return f"{answer.get('refused', 'it lacks the method')} (the server has {what})"


def joined(known: Sequence[Client], found: Mapping[str, Client]) -> tuple[Client, ...]:
    """Return the clients with their numbers: known clients keep them, others follow in natural order."""
    here = {**{c.id: c for c in known}, **found}
    order = [c.id for c in known] + sorted(here.keys() - {c.id for c in known}, key=natural)
    return tuple(replace(here[name], number=i) for i, name in enumerate(order))

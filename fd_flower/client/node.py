"""The node that a message reached: a host of simulated clients, or one device with a configuration of its own."""

import copy
import math
import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from flwr.app import ConfigRecord, Context, RecordDict

from fd_flower.client.pinned import check_pinned
from fd_flower.client.turn import ClientContext, Turn
from fd_flower.config import Settings
from fd_flower.core import nonce
from fd_flower.core.checksum import checksum
from fd_flower.core.client import LONGEST, NAME, Client, answered, is_name
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.keys import allowed
from fd_flower.core.share import Share
from fd_flower.core.storage import Memory, Position
from fd_flower.core.versions import package_sources, sources, versions
from fd_flower.models.adapters import ranked
from fd_flower.privacy.client_protocol import Party
from fd_flower.privacy.party import SIMULATED, check_promise
from fd_flower.tasks.classification import CLASSIFICATION
from fd_flower.tasks.world import World, device, world
from fd_flower.training import one_thread
from fd_flower.wire.envelope import one_line, remembered

DEVICE_KEYS = ("client-id", "data-path", "state-dir")
"""With one of these in its node-config a node is a device, and all must be there; a task of its own needs no data."""

DECLARED = ("memory-mb", "speed")
"""Numbers by which a device gets the rank of its adapters (`client.memory_mb`, `client.speed`)."""

PINNED = "public-sha256"
"""With this key in its node-config a device takes part in no run with other public samples (``fd-flower public``)."""

HOSTS = "hosts"
"""With this key in its node-config a node hosts a share of the simulated clients, on a disk of its own."""

DEVICES_ALONE = ("client-id", "data-path", "model", "rank", *DECLARED, "secret-key", "peer-keys", PINNED)
"""Keys that a host's node-config may not have: the run's settings describe its clients."""

KEYS = (*DEVICE_KEYS, "model", "rank", *DECLARED, "device", "secret-key", "peer-keys", PINNED, HOSTS)
"""What a device's or a host's node-config may say to us; other keys are its user's."""


_KNOWN: "WeakKeyDictionary[World, dict[str, Client]]" = WeakKeyDictionary()

TEXT = 2**20
"""Characters of one text in a message's header, at most; all settings are one."""


class Node:
    """What a node's configuration and a message's header say.

    Parameters
    ----------
    header : ConfigRecord
        What the server sends to the node: settings, run key, where hosted clients' state lies.
    context : Context
        Flower's; its node-config is the device's.

    Raises
    ------
    InvalidInputError
        For a node-config with a key that is missing, misspelled or wrong.
    StateError
        On a host that does not see what the server wrote into the folder of its clients' memory.
    """

    def __init__(self, header: ConfigRecord, context: Context) -> None:
        check_header(header)
        self.context = context
        self.header = header
        self.kept: dict[str, Position] = {}
        """Hosted clients that had their turn in this message -> the turn, where it is in their memory."""
        config = context.node_config
        for key in config:
            if key not in KEYS and (near := get_close_matches(key, KEYS, n=1, cutoff=0.85)):
                raise InvalidInputError(f"the node's config has '{key}'; did you mean '{near[0]}'?")
        self.settings = read_settings(str(header.get("settings", "")))
        self.share = Share.read(config[HOSTS]) if HOSTS in config else None
        """The share of the simulated clients that the node's configuration names, if any."""
        named = [key for key in DEVICE_KEYS if key in config and self.share is None]
        lacking = [key for key in DEVICE_KEYS if key not in config and not (self.task and key == "data-path")]
        if named and lacking:
            raise InvalidInputError(f"the node's config has {', '.join(named)} and lacks {', '.join(lacking)}")
        self.client = str(config["client-id"]) if named else None
        self.declared = {key: _number(key, config[key]) for key in DECLARED if key in config} if named else None
        self.folder = str(config["data-path"]) if "data-path" in config else None
        if self.share:
            self._check_host()
        if self.client == "":
            raise InvalidInputError("the node's client-id is empty; give it a name of its own")
        if self.client is not None and not is_name(self.client):
            raise InvalidInputError(f"the node's client-id is {reprlib.repr(self.client)}; expected {NAME}")
        state = str(config["state-dir"] if named or self.share else header["state"])
        secret, peers = (str(config[key]) if key in config else None for key in ("secret-key", "peer-keys"))
        for key, path in (
            ("data-path", self.folder),
            ("state-dir", state),
            ("secret-key", secret),
            ("peer-keys", peers),
        ):
            if path is not None and not Path(path).is_absolute():
                raise InvalidInputError(f"{key} is the relative path '{path}' on a node; give an absolute one")
        self.state = Path(state)
        if not named and "nonce" in header:
            self._check_nonce(str(header["run-key"]), str(header["nonce"]))
        self.settings = self._settings(self.settings)
        self.peers = allowed(peers, "peer-keys")
        self.secret = None if secret is None else Path(secret)
        if named:
            check_promise(self.settings.privacy, secret=secret is not None, peers=peers is not None)
        elif self.settings.privacy.sum == "bfv":
            self.secret = self.state / str(header["run-key"]) / SIMULATED

    def _check_host(self) -> None:
        """Refuse a host's configuration that is also a device's, or says too little."""
        config = self.context.node_config
        if of_devices := [key for key in DEVICES_ALONE if key in config]:
            raise InvalidInputError(
                f"the node's config has {HOSTS} and {', '.join(of_devices)}: a node hosts a share of the simulated "
                "clients or is one device, so leave out one or the other"
            )
        if "state-dir" not in config:
            raise InvalidInputError(
                f"the node's config has {HOSTS} and lacks state-dir: name a folder of this machine for its clients' "
                "memory"
            )
        if self.settings.privacy.sum == "bfv":
            raise InvalidInputError(
                "privacy.sum=bfv simulates clients with one key file, which a host's own disk lacks: take "
                "privacy.sum=masks, or hosts on a shared disk without hosts and state-dir in their config"
            )

    def _check_nonce(self, run_key: str, newest: str) -> None:
        """Raise StateError where this is not the disk that has the clients' memory, or it has that of another run."""
        if self.share:
            nonce.adopt(self.state, run_key, newest, str(self.header.get("nonces", newest)).split())
        else:
            nonce.need(self.state, run_key, newest)

    def _settings(self, sent: Settings) -> Settings:
        """Return the run's settings, on the node's own device where it names one."""
        named = self.context.node_config.get("device")
        if named is None:
            return sent
        try:
            run = replace(sent.run, device=str(named))
            device(run.device)
        except InvalidInputError as error:
            raise InvalidInputError(f"the node's config has device='{named}': {error}") from None
        return replace(sent, run=run)

    @property
    def task(self) -> str:
        """The user's own task, ``package.module:name``; "": what ``data.*`` describes."""
        return self.settings.task or str(self.context.run_config.get("task", ""))

    @cached_property
    def world(self) -> World:
        """The run as this process sees it."""
        labels = bool(self.header.get("public-labels", False))
        where = (self.settings.text, self.task, self.folder, self.client or "")
        here, sent = world(*where, public_labels=labels), self.header.get("class-names")
        if PINNED in self.context.node_config:
            check_pinned(str(self.context.node_config[PINNED]), here)
        names = tuple(map(str, sent)) if isinstance(sent, list) else ()
        if not names or not here.class_names or here.class_names == names:
            return here
        return world(*where, public_labels=labels, class_names=names)

    def architecture(self, client: str) -> str:
        """Return a client's architecture: its node's own, or the one that its number gives, with its adapters' rank."""
        named, rank = (self.context.node_config.get(key) for key in ("model", "rank"))
        number, here = int(client) if self.client is None else 0, self.world
        name = str(named) if named else ranked(here.architecture(number))[0]
        return here.with_own_rank(name, number, None if rank is None else _rank(rank), self.declared)

    def memory(self, client: str) -> Memory:
        """Return a client's memory; a machine may lose its power alone, so what it writes has to reach the disk."""
        if self.client not in (None, client):
            raise InvalidInputError(f"this is the device of client '{self.client}', not of '{client}'")
        run_key = str(self.header["run-key"])
        if self.client is not None:
            return Memory(self.state, run_key, client, hosted=False, lasting=True)
        expected = self._remembered.get(client)
        return Memory(self.state, run_key, client, lasting=self.share is not None, expected=expected)

    @cached_property
    def _remembered(self) -> dict[str, Position]:
        """The turns that the server knows hosted clients to remember."""
        return remembered(self.header)

    def capabilities(self, client: str) -> ConfigRecord:
        """Answer the handshake for a client: what it has."""
        here, name = self.world, self.architecture(client)
        capabilities = here.kind.capabilities(here, client, name)
        own = here.data(client) if here.has_data else None
        parts = () if own is None else (own.train, own.validation, own.test)
        return ConfigRecord(
            {
                **self._of_model(name),
                "sizes": [len(part) for part in parts],
                # A device's would let others try guesses at it.
                "checksum": checksum(*parts) if here.hosted and parts else "",
                **capabilities,
            }
        )

    def known(self, client: str) -> Client:
        """Return a hosted client as the server knows it by the handshake, but for what only that needs; kept."""
        here = self.world
        clients = _KNOWN.setdefault(here, {})
        if client not in clients:
            name = self.architecture(client)
            if here.counts is None:
                found = here.kind.capabilities(here, client, name)
            else:
                counts = here.counts.train[int(client)].tolist()
                of_model = CLASSIFICATION.of_model(here, name)
                found = {**of_model, "counts": counts, "examples": sum(counts), "shape": list(here.shape)}
            clients[client] = answered(client, {"model": name, "public": "", **found})
        return clients[client]

    def traits(self, architecture: str) -> ConfigRecord:
        """Answer the handshake for all hosted clients of an architecture, but for what samples they have."""
        here = self.world
        of_model = CLASSIFICATION.of_model(here, architecture)
        none: dict[str, Any] = {"counts": [0] * int(of_model["classes"]), "examples": 0, "shape": list(here.shape)}
        return ConfigRecord({**self._of_model(architecture), **of_model, **none})

    def _of_model(self, name: str) -> dict[str, Any]:
        """Return what a client answers about its model and what it shares with others."""
        here = self.world
        return {
            "model": name,
            "public": here.public_checksum,
            "labels": [] if here.hosted else list(here.class_names),  # hosted clients have one partition's
            "task": self.task,
            "network": type(here.module(name)).__qualname__,
            "base": here.base(name),
            "cost": here.cost(name),
        }

    def party(self, client: str) -> Party:
        """Return a client as a secure sum knows it."""
        folder, run_key, sent = self.memory(client).folder, str(self.header["run-key"]), str(self.header["settings"])
        run = self.settings
        keys = self.secret, self.peers
        return Party(client, folder, run_key, sent, run.privacy, *keys, rounds=run.server.rounds, seed=run.run.seed)

    def turn(self, client: str, content: RecordDict) -> Turn:
        """Return a client's turn for a message's content."""
        return Turn(self.world, client, self.architecture(client), content, self.memory(client))

    def context_of(self, turn: Turn) -> ClientContext:
        """Return a client's own Flower context; its ``state`` is what the node's has under ``<client>/``.

        It is a copy: of a turn that fails nothing is kept.
        """
        prefix, kept = f"{turn.client}/", self.context.state
        own = {name.removeprefix(prefix): copy.deepcopy(kept[name]) for name in kept if name.startswith(prefix)}
        return ClientContext(self.context, RecordDict(own), turn)

    def keep(self, context: ClientContext) -> None:
        """Put what a client's context has in its ``state`` into the node's, for Flower to bring back."""
        prefix, kept = f"{context.turn.client}/", self.context.state
        for name in [name for name in kept if name.startswith(prefix)]:
            del kept[name]
        for name, record in context.state.items():
            kept[prefix + name] = record


def _rank(value: object) -> int:
    """Return the rank of adapters that a node's config names."""
    if isinstance(value, bool) or not re.fullmatch("[1-9][0-9]{0,5}", str(value)):
        raise InvalidInputError(f"the node's config has rank={reprlib.repr(value)}; expected a whole number above 0")
    return int(str(value))


def _number(key: str, value: object) -> float:
    """Return a number that a node's config declares."""
    try:
        found = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise InvalidInputError(f"the node's config has {key}={reprlib.repr(value)}; expected a number above 0")
    return found


def read_settings(text: str) -> Settings:
    """Return the settings in a message's header; InvalidInputError, in one line, for what cannot be read."""
    try:
        return Settings.read(text)
    except InvalidInputError:
        raise
    except Exception as error:  # what a stranger's text makes Python raise has no end
        raise InvalidInputError(
            f"the message's settings cannot be read: {one_line(f'{type(error).__name__} {error}')}"
        ) from None


def check_header(header: ConfigRecord) -> None:
    """Raise on a header that FD-Flower's server does not send: parts of it become paths and options here.

    Raises
    ------
    InvalidInputError
        For a run key that is not 16 hexadecimal digits, texts that are too long, or anything but texts and numbers.
    """
    for key, value in header.items():
        if key == "class-names":
            if not isinstance(value, list) or not all(isinstance(v, str) and len(v) <= LONGEST for v in value):
                raise InvalidInputError(
                    f"the message's header has {reprlib.repr(value)} for 'class-names'; expected names of at most "
                    f"{LONGEST} characters"
                )
        elif key != "layout" and not isinstance(value, int | str):
            raise InvalidInputError(f"the message's header has {reprlib.repr(value)} for '{key[:50]}'; expected text")
        if key != "layout" and isinstance(value, str) and len(value) > TEXT:
            raise InvalidInputError(
                f"the message's header has {len(value)} characters for '{key[:50]}'; expected at most {TEXT}"
            )
    if not re.fullmatch("[0-9a-f]{16}", str(header.get("run-key", ""))):
        raise InvalidInputError(
            f"the message's header has the run key {reprlib.repr(header.get('run-key', ''))}; expected 16 hexadecimal "
            "digits"
        )


def introduction(header: ConfigRecord, context: Context, clipping: Sequence[str] = ()) -> ConfigRecord:
    """Answer the handshake for a node: what it is, what it runs, and what keeps it from taking part.

    ``clipping`` names the app's mods that clip or add noise to replies.
    """
    package = package_sources(str(header.get("module", "")))
    answer = ConfigRecord({"role": "host", "sources": sources(), "package": package, **versions()})
    try:
        node = Node(header, context)
        if clipping and node.settings.privacy.dp != "none":
            raise InvalidInputError(
                f"its app has Flower's {clipping[0]}, which would change replies outside of what privacy.dp accounts "
                "for: take the mod out, or leave privacy.dp out"
            )
        if node.client is not None:
            answer.update({"role": "device", "id": node.client})
            check_state(node.state)
            with one_thread():
                answer.update(node.capabilities(node.client))
        if node.share is not None:
            check_state(node.state)
            held = nonce.found(node.state, str(header["run-key"]))
            answer.update({"share": str(node.share), "state": str(node.state), "nonces": held})
    except InvalidInputError as error:
        answer["refused"] = str(error)
    return answer


def check_state(folder: Path) -> None:
    """Refuse a folder in which a device, or a host, cannot keep clients' memory."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else "no permission"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise InvalidInputError(
            f"state-dir {folder} cannot be written ({reason}); give a folder of the SuperNode's user"
        )

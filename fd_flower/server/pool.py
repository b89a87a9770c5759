"""What hosts say of their clients: each is asked once for a share of them, and all have to hold the same data."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fd_flower.core.client import Client
from fd_flower.core.clients import Block, Clients
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.share import Share
from fd_flower.server.handshake import Handshake
from fd_flower.wire import pool
from fd_flower.wire.envelope import HANDSHAKE, HEADER, fold, records

Header = Mapping[str, str | int | bool | list[str]]


class Pool:
    """The clients of a run whose nodes host.

    Parameters
    ----------
    grid : Grid
        Where the hosts are.
    handshake : Handshake
        Which node hosts which share; clients that cannot take part are named there.
    """

    def __init__(self, grid: Grid, handshake: Handshake) -> None:
        self._grid = grid
        self._handshake = handshake
        self._data = ""

    def asked(self, header: Header, clients: int, timeout: float | None) -> Clients:
        """Ask each host for all clients of its share; return those that can take part.

        Parameters
        ----------
        header : Header
            What every message to a node names.
        clients : int
            How many there are.
        timeout : float | None
            Seconds after which no answer is waited for.

        Raises
        ------
        InvalidInputError
            Where hosts hold different data, or a client's settings or data are unusable: those are the user's for all
            alike, and fewer clients would be another federation. The first such client is named.
        """
        of, nodes = self._handshake.hosts.of, sorted(self._handshake.hosts.nodes.items())
        answers = self._answers({node: Share(of, share) for share, node in nodes}, header, timeout)
        found: list[Block] = []
        errors: dict[str, str] = {}
        held: dict[int, str] = {}
        for share, node in nodes:
            own = range(share - 1, clients, of)
            try:
                if "refused" in (about := _header(answers[node])):
                    raise InvalidInputError(str(about["refused"]))
                blocks, wrong = pool.read(answers[node], own)
            except InvalidInputError as error:
                errors |= dict.fromkeys(map(str, own), str(error))
            else:
                held[node] = str(about.get("data", ""))
                found += blocks
                errors |= wrong
        errors = dict(sorted(errors.items(), key=lambda item: int(item[0])))
        _check(errors)
        self._data = self._same(held)
        self._handshake.refuse_all(errors)
        return Clients(merged(found), self._data)

    def check(self, header: Header, nodes: Collection[int]) -> None:
        """Refuse those of these hosts that came later and hold other data than the others."""
        if not self._data:
            return
        hosts = self._handshake.hosts
        new = {node: Share(hosts.of, share) for share, node in hosts.nodes.items() if node in nodes}
        for node, answer in self._answers(new, {**header, pool.AGAIN: True}, None).items():
            about = _header(answer)
            data = str(about.get("data", ""))
            if data != self._data:
                hosts.leave(node)
                self._handshake.refuse(f"node {node}", str(about.get("refused", _other(data, self._data))))

    def _answers(self, nodes: Mapping[int, Share], header: Header, timeout: float | None) -> dict[int, RecordDict]:
        """Return what each of these nodes answers about a share."""
        asked = [
            Message(fold({}, {**header, pool.SHARE: str(share)}), node, HANDSHAKE) for node, share in nodes.items()
        ]
        answers = {node: _refusal("no answer to the handshake") for node in nodes}
        for reply in self._grid.send_and_receive(asked, timeout=timeout) if asked else ():
            error = reply.error.reason or "an error without a reason" if reply.has_error() else ""
            answers[reply.metadata.src_node_id] = _refusal(error) if error else reply.content
        return answers

    def _same(self, held: Mapping[int, str]) -> str:
        """Return the checksum of the data that all these nodes hold; InvalidInputError where they hold different data.

        Those are the others that are fewer, or of equally many those that do not host the first share.
        """
        usual = Counter(held.values()).most_common(1)[0][0] if held else ""
        others = {node: data for node, data in held.items() if data != usual}
        if others:
            lines = [f"node {node}: {_other(data, usual)}" for node, data in others.items()]
            raise InvalidInputError(lines[0] + (f" (and {len(lines) - 1} other nodes likewise)" * (len(lines) > 1)))
        return usual


def merged(found: Sequence[Block]) -> list[Block]:
    """Return blocks of which no two have clients of one kind."""
    alike: dict[tuple[Client, tuple[bool, ...]], list[Block]] = {}
    for block in found:
        said = tuple(column is None for column in (block.counts, block.sizes, block.checksums))
        alike.setdefault((block.like, said), []).append(block)
    return [_together(some) for some in alike.values()]


def _together(some: Sequence[Block]) -> Block:
    first = some[0]
    if len(some) == 1:
        return first
    order = np.argsort(np.concatenate([block.places for block in some]))
    names = ("places", "examples", "counts", "sizes", "checksums")
    columns = {
        name: np.concatenate([getattr(block, name) for block in some])[order]
        for name in names
        if getattr(first, name) is not None
    }
    return Block(first.like, **columns)


def _check(errors: Mapping[str, str]) -> None:
    """Raise where clients' own data or settings are unusable."""
    if wrong := [why.removeprefix(pool.INVALID) for why in errors.values() if why.startswith(pool.INVALID)]:
        # Settings and data are the user's for all alike, and fewer clients would be another federation.
        others = len(wrong) - wrong.count(wrong[0])
        raise InvalidInputError(wrong[0] + (f" (and {others} other clients likewise)" if others else ""))


def _header(content: RecordDict) -> ConfigRecord:
    return records(content, ConfigRecord).get(HEADER, ConfigRecord({"refused": "its answer cannot be read"}))


def _refusal(reason: str) -> RecordDict:
    return RecordDict({HEADER: ConfigRecord({"refused": reason})})


def _other(found: str, usual: str) -> str:
    return (
        f"it holds other data than the other hosts, or deals them out otherwise (checksum {found[:12] or 'none'}, not "
        f"{usual[:12] or 'none'}): give all hosts the same copy of data.source and the same versions of packages"
    )

"""Which node hosts which share of the simulated clients."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from fd_flower.core import nonce
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.keys import refusal
from fd_flower.core.share import Share


class Hosts:
    """The nodes that host, by the share that they name in their configuration, or by the order of their ids.

    Parameters
    ----------
    allow : Mapping[str, bytes] | None
        Name of a share -> the key that may host it; None: the first node that names a share keeps it while it is there.
    known : Collection[str]
        The nonces of the run's starts so far.

    Attributes
    ----------
    known : Collection[str]
        As above.
    of : int
        How many shares there are.
    named : bool
        Whether the nodes name them, and keep their clients' memory on disks of their own.
    nodes : dict[int, int]
        Share -> its node.
    last : dict[int, int]
        Share -> the node that had it last.
    """

    def __init__(self, allow: Mapping[str, bytes] | None, known: Collection[str]) -> None:
        self._allow = allow
        self.known = known
        self._started: dict[int, str] = {}
        self._waiting: dict[int, int] = {}
        self.of = 0
        self.named = False
        self.nodes: dict[int, int] = {}
        self.last: dict[int, int] = {}

    def asked(self, nodes: Collection[int], started: Mapping[int, str]) -> None:
        """Note when nodes that are asked were started, where the grid knows it."""
        self._started |= {node: started.get(node, "") for node in nodes}

    def take(
        self,
        answers: Mapping[int, Mapping[str, Any]],
        keys: Mapping[int, bytes],
        gone: Collection[int],
    ) -> dict[int, str]:
        """Take in nodes that host; return node -> why it does not, for the others.

        Parameters
        ----------
        answers : Mapping[int, Mapping[str, Any]]
            What hosts answered to the handshake.
        keys : Mapping[int, bytes]
            The nodes' public keys, where there is an allow-list.
        gone : Collection[int]
            Nodes that are not there any more: others may take their shares.
        """
        refused: dict[int, str] = {}
        shares: dict[int, Share | None] = {}
        for node, answer in answers.items():
            try:
                shares[node] = Share.read(answer["share"]) if "share" in answer else None
            except InvalidInputError as error:
                refused[node] = str(error)
        if not self.of:
            self._decide(shares)
        for node, share in sorted(shares.items()):
            self.leave(node)
            if why := self._misfit(node, share, answers[node], keys):
                refused[node] = why
                continue
            free = share.number if share else self._free(gone)
            holder = self.nodes.get(free)
            if holder is not None and holder not in gone:
                self._waiting[node] = free
                if share:
                    refused[node] = f"share {share} is hosted by node {holder}"
                continue
            self.nodes[free] = self.last[free] = node
        return refused

    def unsettled(self, nodes: Collection[int], started: Mapping[int, str]) -> set[int]:
        """Return which of these nodes to ask again: started again since, or waiting for a share whose node is gone."""
        anew = {node for node, start in self._started.items() if node in nodes and started.get(node, start) != start}
        return anew | {n for n, share in self._waiting.items() if n in nodes and self.nodes.get(share) not in nodes}

    @property
    def missing(self) -> list[Share]:
        """The shares that no node has hosted yet."""
        return [Share(self.of, i) for i in range(1, self.of + 1) if i not in self.nodes]

    def _decide(self, shares: Mapping[int, Share | None]) -> None:
        """Let the first nodes decide how many shares there are: what most of them name, or as many as there are."""
        counts = Counter(share.of for share in shares.values() if share)
        self.named = bool(counts)
        self.of = min(counts, key=lambda of: (-counts[of], of)) if counts else len(shares)

    def _misfit(self, node: int, share: Share | None, answer: Mapping[str, Any], keys: Mapping[int, bytes]) -> str:
        """Return why a node cannot host, whichever shares are free; "" where it can."""
        if share is None:
            return f'it names no share; the others host shares of {self.of}: give it hosts="I/{self.of}"' * self.named
        if not self.named:
            return f"it hosts share {share}; the others name no shares"
        if share.of != self.of:
            return f"it hosts share {share}; the others host shares of {self.of}"
        if self._allow is not None and (why := refusal(share.name, node, self._allow, keys, "share")):
            return why
        held = answer.get("nonces", [])
        if not isinstance(held, list) or nonce.foreign(map(str, held), self.known):
            return f"share {share}: {nonce.OTHER.format(answer.get('state', 'its state-dir'))}"
        return ""

    def leave(self, node: int) -> None:
        """Forget which share a node had: it was started again, perhaps with another, or it cannot take part."""
        self.nodes = {share: home for share, home in self.nodes.items() if home != node}
        self._waiting.pop(node, None)

    def _free(self, gone: Collection[int]) -> int:
        """Return the first share without a node, or whose node is gone; where there is none, the first."""
        free = [i for i in range(1, self.of + 1) if i not in self.nodes or self.nodes[i] in gone]
        return free[0] if free else 1

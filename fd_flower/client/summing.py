"""A host adds up what its clients reply, where the server asks for the sum."""

from typing import final

from flwr.app import ConfigRecord, Error, MetricRecord, RecordDict

from fd_flower.client.node import Node
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import Bounds, Weights, pack, unpack
from fd_flower.wire.envelope import records
from fd_flower.wire.exact import SUM, ExactSum, SumSpec
from fd_flower.wire.figures import check_figures
from fd_flower.wire.host_sum import HostSum
from fd_flower.wire.replies import Reply, read_one
from fd_flower.wire.traffic import Bytes, size_of

UNFIT = 5
"""Error code of a hosted client whose reply cannot be in the sum."""


@final
class Summing:
    """The sum of the replies to one message, each of which is checked as the server would check it.

    Parameters
    ----------
    node : Node
        The host.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._total: ExactSum | None = None
        self._replies: list[Reply] = []
        self._bytes: list[dict[str, int]] = []

    def take(self, client: str, asked: RecordDict | Error, answer: RecordDict | Error) -> RecordDict | Error | None:
        """Add a client's answer, and return what else there is to send of it; None: nothing."""
        if isinstance(asked, Error) or isinstance(answer, Error) or SUM not in asked or self._node.client is not None:
            return answer
        try:
            self._add(client, asked, answer)
        except InvalidInputError as error:
            return Error(UNFIT, str(error))
        return None

    @property
    def content(self) -> RecordDict:
        """The sum, where anything was added."""
        return pack(HostSum.made(self._total, self._replies, self._bytes)) if self._total else RecordDict()

    def _add(self, client: str, asked: RecordDict, reply: RecordDict) -> None:
        spec = SumSpec.read(records(asked, ConfigRecord)[SUM])
        if (size := size_of(reply)) > spec.limit:
            raise InvalidInputError(
                f"its reply has {size / 2**20:.1f} MB; server.max_reply_mb is {spec.limit / 2**20:g}"
            )
        known = {w.model: w.values for w in Weights.all(asked)}
        bounds = Bounds(weights=known, largest=spec.largest, passes=self._node.settings.client.passes)
        found = read_one(self._node.known(client), reply, bounds, (), check=self._check)
        total = self._total or ExactSum(spec)
        total.add(unpack(found.content), found.examples)
        self._total = total
        bytes = Bytes()
        bytes.count("up", reply)
        self._bytes.append(bytes.up)
        self._replies.append(found.without_payloads)

    def _check(self, client: Client, metrics: MetricRecord) -> None:
        here = self._node.world
        check_figures(client, metrics, here.metrics, None, shares=here.kind.higher_is_better)

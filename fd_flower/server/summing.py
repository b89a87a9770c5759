"""The open sum of a round: hosts add up their clients' replies, and the server those of devices, as whole numbers."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, final

from flwr.app import RecordDict

from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy.central import NoisySum
from fd_flower.privacy.server_protocol import Ask, Contents, ServerProtocol
from fd_flower.privacy.sums import server_protocol
from fd_flower.server.client_grid import ClientGrid
from fd_flower.server.method import Method
from fd_flower.wire import Bounds, Summable, Weights, pack, unpack
from fd_flower.wire.exact import SUM, ExactSum, SumSpec
from fd_flower.wire.replies import Reply
from fd_flower.wire.summable import summables
from fd_flower.wire.traffic import counting


@final
class OpenSum(ServerProtocol):
    """A sum of which the server may see every summand: the method gets one reply, wherever they are added up.

    Parameters
    ----------
    method : Method
        Whose replies they are.
    host : ClientGrid
        Its clients, and the sums that their hosts answer with.
    """

    def __init__(self, method: Method[Any], host: ClientGrid) -> None:
        super().__init__()
        self._method = method
        self._host = host
        self._blanks: list[Summable] = []
        self._total: ExactSum | None = None

    def open(self, round: int, asked: Sequence[Client], bounds: Bounds, ask: Ask) -> Contents:
        """Tell hosts what to add up, where the method needs no more than a sum."""
        self.faults, self._host.sums = {}, []
        self._blanks, self._total = self._summed(bounds), None
        # What attackers make of all replies is added up, and who observes the server sees single replies.
        single = self._method.settings.attack.on_replies or self._method.on_replies is not None
        # Of clients in a loop of their own, examples are known when they reply.
        if not single and not any(client.own_loop for client in asked):
            self._begin([client.examples for client in asked])
        if self._total is None or not self._host.hosted:
            return super().open(round, asked, bounds, ask)
        record = self._total.spec.record
        return {client: RecordDict({SUM: record}) for client in asked}

    def take(self, reply: Reply) -> Reply:
        """Add a single reply, where what the sum is about is known; return what is left to say of it.

        Raises
        ------
        InvalidInputError
            For one that cannot be in the sum.
        """
        if self._total is None or reply.row is not None:
            return reply
        self._total.add(unpack(reply.content), reply.examples)
        return reply.without_payloads

    def close(self, replies: Sequence[Reply], ask: Ask) -> Sequence[Reply]:
        """Return the sum of all replies as one reply; each that cannot be in it is named in ``faults``."""
        if self._total is None:
            self._begin([reply.examples for reply in replies])
        if self._total is None:
            return replies
        of_hosts: dict[int, list[Reply]] = defaultdict(list)
        for reply in replies:
            try:
                row = self.take(reply).row
            except InvalidInputError as error:
                self.faults[reply.client.id] = str(error)
                continue
            if row is not None and "host" in row:
                of_hosts[int(str(row["host"]))].append(reply)
        for host, group in of_hosts.items():
            if why := self._join(self._total, host, group):
                self.faults |= dict.fromkeys((r.client.id for r in group), why)
        members = [reply for reply in replies if reply.client.id not in self.faults]
        examples = sum(r.examples for r in members)
        if not examples:
            return []
        payloads = self._total.opened(self._blanks, examples, len(members))
        return [Reply.of_sum([r.client for r in members], pack(*payloads), examples)]

    def _join(self, total: ExactSum, host: int, group: Sequence[Reply]) -> str:
        """Add a host's sum; return why it cannot be used, "" where it can."""
        found = self._host.sums[host]
        if len(group) != len(found.sizes):
            return "its host's sum has replies in it that cannot be used"
        if (len(found.values), len(found.wholes)) != (total.spec.length, total.spec.wholes):
            return f"its host's sum has {len(found.values)} numbers; expected {total.spec.length}"
        total.join(found.values.numpy(), found.wholes.numpy())
        return ""

    def _summed(self, bounds: Bounds) -> list[Summable]:
        """Return payloads of the shapes that are summed; none where the method gets single replies."""
        method = self._method
        kinds = summables(method.summable)
        lone = Weights not in kinds or len(bounds.weights) == 1  # those of several architectures do not add up
        single = self._host.plain or counting() or not lone or not method.takes_sum()
        return [] if single else [kind.blank(bounds) for kind in kinds]

    def _begin(self, examples: Sequence[int]) -> None:
        """Begin the sum over clients with so many examples, where there is one."""
        config = self._method.config
        if not self._blanks or not any(examples):
            return
        spec = SumSpec.of(examples, self._blanks, float(config.max_entry), int(config.max_reply_mb * 2**20))
        self._total = None if spec is None else ExactSum(spec)


def protocol_of(method: Method[Any], host: ClientGrid, run_key: str, settings: str) -> ServerProtocol:
    """Return how a run's replies are added up, given the run's key and its settings as clients are sent them."""
    privacy, run = method.settings.privacy, method.settings.run
    if privacy.dp == "central":
        return NoisySum(method.summable, privacy, method.config.rounds, run.seed)
    if privacy.sum == "none":
        return OpenSum(method, host)
    return server_protocol(privacy, method.summable, run_key, settings)

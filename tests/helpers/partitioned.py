"""A method whose clients take their samples by Flower's partition number, as a ClientApp of Flower's examples does."""

from collections.abc import Sequence
from typing import Any, final

from flwr.app import Context, Message

from fd_flower.client import App, Turn, reply
from fd_flower.server import Reply, Strategy
from fd_flower.wire import Knowledge, Payload

app = App()


@final
class Partitioned(Strategy):
    """Clients say which partition they take; nothing is learned."""

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        return []


@app.train()
def train(message: Message, context: Context) -> Message:
    """Send the partition that this client takes of how many, as Flower's examples ask for it."""
    number, count = (int(context.node_config[key]) for key in ("partition-id", "num-partitions"))
    return reply(message, Turn.of(message, context), partition=number, of=count)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return reply(message, Turn.of(message, context))


METHOD = "helpers.partitioned:Partitioned"


def taken(lines: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return each client's partition number and how many there are, by its lines of round one."""
    told = [line for line in lines if line.get("round") == 1 and "client" in line and not line.get("closing")]
    return {line["client"]: (line["metrics"]["partition"], line["metrics"]["of"]) for line in told}

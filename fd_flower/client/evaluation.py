"""What most clients answer to the closing message: how good the model is with what they receive."""

from flwr.app import Context, Message

from fd_flower.client.adapters import received
from fd_flower.client.steps import reply
from fd_flower.client.turn import Turn


def evaluate_personal(message: Message, context: Context) -> Message:
    """Evaluate the personal model, untrained; for ``app.evaluate()``."""
    turn = Turn.of(message, context)
    turn.evaluate("received")
    return reply(message, turn)


def evaluate_shared(message: Message, context: Context) -> Message:
    """Evaluate the model whose weights the client receives; for ``app.evaluate()``."""
    turn = Turn.of(message, context)
    turn.evaluate("received", turn.shared(received(turn, message.content)))
    return reply(message, turn)

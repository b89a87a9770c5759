"""Offsite-tuning (Xiao et al. 2023, arXiv 2302.04870): clients tune the ends of a model without having it."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, private_training, reply
from fd_flower.config import ClientConfig
from fd_flower.models.frozen import copied
from fd_flower.tasks.language.emulator import end_keys, kept_blocks, tune_ends, without_blocks
from fd_flower.tasks.language.exchange import language_model
from fd_flower.training import supervised
from fd_flower.wire import Emulator, Weights

app = App()


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Next-token loss on private texts; the blocks at both ends learn alone."""
    return supervised(model, x, y)


def receive(message: Message, context: Context) -> Turn:
    """Take the server's emulator, of which the blocks at both ends learn."""
    turn = Turn.of(message, context)
    world, name, server = turn.world, turn.architecture, turn.server
    whole = language_model(world.module(name))
    kept = kept_blocks(len(whole.layers()), server.ends, server.drop)
    key = f"{name} - emulator"
    world.module(key, lambda: without_blocks(language_model(copied(whole)), kept))
    emulator = language_model(world.load(key, Emulator.need(message.content).values))
    tune_ends(emulator, server.ends)
    turn.model = emulator
    return turn


def send(message: Message, turn: Turn, *, examples: int | None = None, **metrics: float) -> Message:
    """Send the tuned blocks."""
    values = turn.model.state_dict()
    keys = end_keys(language_model(turn.model), turn.server.ends)
    return reply(message, turn, Weights({key: values[key] for key in keys}), examples=examples, **metrics)


app.train()(private_training(receive, send))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the emulator with the tuned blocks: the whole model is the server's."""
    turn = receive(message, context)
    turn.evaluate("received")
    return reply(message, turn)

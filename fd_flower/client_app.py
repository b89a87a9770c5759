"""Flower's entry point on a client: the app of the method that the run's configuration names."""

from flwr.app import Context, Message

from fd_flower.client import App
from fd_flower.config import registry


class _Chosen(App):
    """The app of the method in the run's configuration."""

    def __call__(self, message: Message, context: Context) -> Message:
        return registry.client_app(str(context.run_config["method"]))(message, context)


app = _Chosen()

"""Flower's entry point on a client: the app of the method that the server runs."""

from flwr.app import ConfigRecord, Context, Message

from fd_flower.client import App
from fd_flower.config import Settings, registry
from fd_flower.wire.envelope import HANDSHAKE, HEADER, records


class _Chosen(App):
    """The app of the method in the settings that came, which is everywhere the one that the server found."""

    def __call__(self, message: Message, context: Context) -> Message:
        header = records(message.content, ConfigRecord).get(HEADER)
        if header is None or message.metadata.message_type == HANDSHAKE:
            return super().__call__(message, context)  # any app can say what the node lacks, a method among it
        return registry.client_app(Settings.read(str(header["settings"])).method)(message, context)


app = _Chosen()

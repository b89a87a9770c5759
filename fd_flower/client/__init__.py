"""The client's half: the app, and a client's turn."""

from fd_flower.client.app import App
from fd_flower.client.distillation import public_distillation
from fd_flower.client.turn import Turn, fit, reply

__all__ = ["App", "Turn", "fit", "public_distillation", "reply"]

"""The client's half: the app, and a client's turn."""

from fd_flower.client.adapters import informed, received, send_shared, to_send
from fd_flower.client.app import App
from fd_flower.client.distillation import distilled, public_distillation
from fd_flower.client.evaluation import evaluate_personal, evaluate_shared
from fd_flower.client.labeled import learn_public_labels
from fd_flower.client.steps import fit, private_training, reply
from fd_flower.client.turn import Own, Turn

__all__ = [
    "App",
    "Own",
    "Turn",
    "distilled",
    "evaluate_personal",
    "evaluate_shared",
    "fit",
    "informed",
    "learn_public_labels",
    "private_training",
    "public_distillation",
    "received",
    "reply",
    "send_shared",
    "to_send",
]

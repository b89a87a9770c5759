"""One direction of a run's messages, as the section ``wire`` says."""

from collections.abc import Collection
from typing import final

from flwr.app import RecordDict

from fd_flower.config import KEEPING, REFERRING, SPARSE, Settings, WireConfig, registry
from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.codecs import named
from fd_flower.wire.codecs.ranges import coder
from fd_flower.wire.payload import Payload, coded
from fd_flower.wire.predictions import PublicLogits
from fd_flower.wire.traffic import counting
from fd_flower.wire.weights import Weights


@final
class Wire:
    """What becomes of messages in one direction.

    Parameters
    ----------
    config : WireConfig
        The run's options.
    down : bool
        Whether it is from the server to clients.
    """

    def __init__(self, config: WireConfig, *, down: bool) -> None:
        name = config.down if down else config.up
        self._codec = None if name in ("none", SPARSE, *REFERRING, *KEEPING) else named(name, config.top_k)
        self._zstd = config.zstd

    def outgoing(self, content: RecordDict) -> RecordDict:
        """Return what travels in place of a message's content: the same, where nothing is encoded.

        Raises
        ------
        InvalidInputError
            For numbers that the codec cannot hold.
        """
        if self._codec is None and not self._zstd:
            return content
        return coded(content, self._codec, zstd=self._zstd)


def check_wire(
    method: str, settings: Settings, kinds: Collection[type[Payload]], *, plain: bool, one_teacher: bool
) -> None:
    """Refuse codecs that cannot be read, hide what is added up, or have nothing to encode (section ``wire``)."""
    wire, used = settings.wire, settings.wire.used
    if not used:
        return
    if plain:
        raise InvalidInputError(
            f"the nodes run an app without FD-Flower's turn, which reads plain arrays alone: leave {used[0]} out, or "
            f"use {registry.client_app_name(method)}"
        )
    if settings.privacy.sum != "none":
        raise InvalidInputError(
            f"privacy.sum={settings.privacy.sum} adds up unchanged numbers: leave {' and '.join(used)} out"
        )
    sent = ", ".join(sorted(kind.kind for kind in kinds)) or "nothing"
    if used[0] != "wire.zstd=true" and kinds and all(kind.exact for kind in kinds):
        raise InvalidInputError(
            f"clients of {method} send {sent} alone, which travel unchanged, because clients subtract their own: "
            f"leave {used[0]} out; wire.zstd loses nothing"
        )
    if wire.refers:
        _check_teacher(method, wire, kinds, sent, one_teacher=one_teacher)
    if wire.up == SPARSE:
        _check_sparse(method, wire, kinds, sent)
    about = {f"wire.down={wire.down} refers to the last round's teacher": wire.refers} | {
        "wire.up=sparse sends changes of the round's weights": wire.up == SPARSE
    }
    for what in (what for what, asked in about.items() if asked):
        if settings.server.clock != "rounds":
            raise InvalidInputError(
                f"{what}, and under server.clock={settings.server.clock} clients have those of different rounds: leave "
                "one of both out"
            )
        if counting():
            raise InvalidInputError(f"{what}, of which --numbers has nothing to count: leave one of both out")
    if "top_k" in (wire.up, wire.down) and not any(kind.predictions for kind in kinds):
        raise InvalidInputError(
            f"top_k is for predictions on public samples (public-logits), and clients of {method} send {sent}: take "
            "fp16 or int8"
        )


def _check_teacher(
    method: str, wire: WireConfig, kinds: Collection[type[Payload]], sent: str, *, one_teacher: bool
) -> None:
    """Refuse messages relative to the last teacher where there is not one teacher for all."""
    if wire.down == "delta" or wire.up_refers:
        coder()
    if not any(issubclass(kind, PublicLogits) for kind in kinds):
        raise InvalidInputError(
            f"wire.down={wire.down} is for a teacher of public samples (public-logits), and clients of {method} send "
            f"{sent}: take fp16 or int8"
        )
    if not one_teacher:
        raise InvalidInputError(
            f"wire.down={wire.down} is for one teacher that all clients receive, and {method} has one for each: take "
            "fp16 or int8"
        )


def _check_sparse(method: str, wire: WireConfig, kinds: Collection[type[Payload]], sent: str) -> None:
    """Refuse changes of weights where there are none, or where clients receive others than the server has."""
    if wire.down not in ("none", *KEEPING):
        raise InvalidInputError(
            f"wire.up=sparse sends changes of the weights that were received, which wire.down={wire.down} makes others "
            "than the server's: leave wire.down out"
        )
    if not any(issubclass(kind, Weights) for kind in kinds):
        raise InvalidInputError(f"wire.up=sparse is for weights, and clients of {method} send {sent}: take int8")

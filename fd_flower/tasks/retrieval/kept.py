"""A retriever that a run kept: its encoder, and what of it has learned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks import kept
from fd_flower.tasks.kept import body_of, learning, restore
from fd_flower.tasks.retrieval.config import Config
from fd_flower.tasks.retrieval.encoders import PASSAGE, QUESTION, Encoder, apply, embedded, encoder
from fd_flower.tasks.retrieval.models import ResidualMap, Retriever
from fd_flower.training import one_thread

ROLES = (QUESTION, PASSAGE)


@final
class KeptRetriever(nn.Module):
    """A client's, or the server's, retriever in evaluation mode.

    Parameters
    ----------
    about : dict[str, Any]
        What is known about it.
    tensors : dict[str, Tensor]
        What has learned.

    Attributes
    ----------
    retriever : Retriever
        What turns tokens, or under ``client.trainable=head`` the encoder's vectors, into vectors of length 1.
    encoder : Encoder
        What splits texts into tokens.
    """

    def __init__(self, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.about = about
        self.config = Config(**about["retrieval"])
        self.encoder: Encoder = encoder(body_of(about), self.config.pool, about["seed"])
        self.frozen = about["trainable"] == "head"
        """Whether the encoder has not learned, so that the retriever takes its vectors."""
        body = ResidualMap(len(tensors["body.weight"])) if self.frozen else self.encoder.network()
        self.retriever = Retriever(body, self.config.tau, self.encoder.identity)
        learning(self.retriever, about)
        restore(self.retriever, tensors, about, f"the encoder '{about['architecture']}'")
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return vectors of length 1 [B, D] of tokens [B, L], -1 where a text has ended."""
        return self.retriever(self.encoder.network().eval()(tokens) if self.frozen else tokens)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], role: str = PASSAGE, *, cached: bool = False) -> Tensor:
        """Return vectors of length 1 [N, D], float32, of texts.

        Parameters
        ----------
        texts : Sequence[str]
            Questions or passages.
        role : str
            ``query`` or ``document``: encoders have prompts for each.
        cached : bool
            Whether a frozen encoder's vectors stay on this machine's disk for the next time.
        """
        if role not in ROLES:
            raise InvalidInputError(f"the role is '{role}'; expected {QUESTION} or {PASSAGE}")
        precision = self.about["precision"]
        with one_thread():
            if not self.frozen:
                return apply(self.retriever, self.encoder.tokens(texts, role), precision)
            if cached:
                return apply(self.retriever, embedded(self.encoder, texts, role, precision), precision)
            vectors = apply(self.encoder.network().eval(), self.encoder.tokens(texts, role), precision)
            return apply(self.retriever, vectors, precision)


def retriever(source: Path, client: str | None) -> KeptRetriever:
    """Return a retriever that a run kept; parameters and errors are those of ``tasks.kept.find``."""
    path = kept.find(source, client)
    about, tensors = kept.read(path)
    if about["task"] != "retrieval":
        raise InvalidInputError(f"{path} is a model for {about['task']}; expected a retriever")
    return KeptRetriever(about, tensors)

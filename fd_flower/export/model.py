"""A classifier that a run kept, ready to use: its network, its classes' names, and what an image goes through."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import Module

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.pixels import MODES, pixels
from fd_flower.core.samples import Samples
from fd_flower.core.storage import reason
from fd_flower.data.texts import cleaned
from fd_flower.tasks import kept
from fd_flower.training.prediction import predict

Inputs = Image.Image | Tensor | str | Path | Sequence[Image.Image | str | Path]
"""One image or several, as files, as PIL has them, or as a tensor of samples as the run had them; or texts."""


class Guess(NamedTuple):
    """A class that a model takes a sample for, and how sure it is (0 to 1)."""

    name: str
    probability: float


@final
class KeptModel(nn.Module):
    """A model in evaluation mode: ``model(x)`` gives logits [B, C] of inputs as its network takes them.

    Parameters
    ----------
    module : Module
        The network, with its weights.
    about : dict[str, Any]
        What is known about it: whose it is, how it was evaluated, and when.

    Attributes
    ----------
    module : Module
        The network itself: one of the zoo has ``features(x)`` and a ``head``.
    classes : tuple[str, ...]
        The classes' names in the order of the logits; () if they have no names.
    shape : tuple[int, ...]
        Of one input; of an image (channels, height, width).
    takes_images : bool
        Whether inputs are images of bytes, which ``preprocess`` prepares.
    takes_texts : bool
        Whether inputs are texts, or files of text by their ``Path``.
    """

    def __init__(self, module: Module, about: dict[str, Any]) -> None:
        super().__init__()
        self.module = module
        self.about = about
        self.classes = tuple(about.get("classes") or ())
        self.shape = tuple(about.get("input", {}).get("shape", ()))
        self.takes_images = about.get("input", {}).get("type") == "uint8" and len(self.shape) == 3
        self.takes_texts = "texts" in about
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of inputs as ``preprocess`` returns them [B, ...]."""
        return self.module(x)

    def preprocess(self, inputs: Inputs) -> Tensor:
        """Return inputs as the network takes them [B, ...].

        Parameters
        ----------
        inputs : Inputs
            Images are made gray or RGB, brought to the model's size and to [-1, 1], as in the run. Strings are texts
            for a model of texts, else files of images. A tensor [B, ...] or [...] is one of samples as the run had
            them: of images bytes (uint8), of other inputs the numbers.

        Raises
        ------
        InvalidInputError
            For inputs that the model does not take.
        """
        samples = self._samples(inputs)
        return samples.batch(torch.arange(len(samples)))[0]

    def logprobs(self, inputs: Inputs | Samples) -> Tensor:
        """Return log-probabilities [N, C], float32, computed as in the run (``run.precision``)."""
        samples = inputs if isinstance(inputs, Samples) else self._samples(inputs)
        return predict(self, samples, precision=self.about.get("precision", "fp32"))

    def classify(self, inputs: Inputs, top: int = 1) -> list[list[Guess]]:
        """Return the likeliest classes of each input, best first.

        Parameters
        ----------
        inputs : Inputs
            As of ``preprocess``.
        top : int
            How many of each, at most.
        """
        probabilities = self.logprobs(inputs).exp()
        names = kept.names(self.about, probabilities.shape[1])
        best = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
        return [
            [Guess(names[place], value) for place, value in zip(places, values, strict=True)]
            for places, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def predict(self, inputs: Inputs) -> list[str]:
        """Return the name of the likeliest class of each input."""
        return [guesses[0].name for guesses in self.classify(inputs)]

    def _samples(self, inputs: Inputs) -> Samples:
        if isinstance(inputs, Tensor):
            return Samples(self._rows(inputs))
        several = [inputs] if isinstance(inputs, Image.Image | str | Path) else list(inputs)
        if self.takes_texts:
            texts = cleaned(self.about["texts"]["clean"], [_text(one) for one in several])
            return Samples(self.module.reader.of(texts))  # type: ignore[union-attr, operator]
        if not self.takes_images:
            raise InvalidInputError(
                f"the model takes tensors {['B', *self.shape]} as its task makes them, no images: prepare them as the "
                "task does"
            )
        channels, height, width = self.shape
        rows = [torch.from_numpy(pixels(opened(image), (height, width, channels)).copy()) for image in several]
        return Samples(torch.stack(rows) if rows else torch.empty(0, *self.shape, dtype=torch.uint8))

    def _rows(self, x: Tensor) -> Tensor:
        rows = x if x.dim() == len(self.shape) + 1 else x[None]
        if self.shape and tuple(rows.shape[1:]) != self.shape:
            raise InvalidInputError(f"the input has the shape {list(x.shape)}; expected {['B', *self.shape]}")
        if self.takes_images and rows.dtype != torch.uint8:
            raise InvalidInputError(
                f"the input is {str(rows.dtype).removeprefix('torch.')}; expected images of bytes (uint8, 0 to 255): "
                "model(x) takes what is prepared already, in [-1, 1]"
            )
        return rows


def _text(one: Image.Image | str | Path) -> str:
    """Return a text, read where it is a file."""
    if isinstance(one, Image.Image):
        raise InvalidInputError("the model takes texts, no images")
    if isinstance(one, str):
        return one
    try:
        return one.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidInputError(f"{one} cannot be read: {reason(error)}") from None


def opened(image: Image.Image | str | Path) -> Image.Image:
    """Return an image, read where it is a file.

    Raises
    ------
    InvalidInputError
        Where it cannot be read.
    """
    read = image
    if not isinstance(read, Image.Image):
        try:
            with Image.open(read) as file:
                file.load()
                read = file.copy()
        except Exception as error:  # a broken file raises whatever its decoder raises
            why = reason(error).partition(" <_io")[0]
            raise InvalidInputError(f"{image} cannot be read as an image ({why})") from None
    if read.mode not in MODES:
        who = "the image" if isinstance(image, Image.Image) else image
        raise InvalidInputError(f"{who} has the mode {read.mode}: expected 8 bits, gray or RGB")
    return read

"""The language task: what ``data.*`` and ``model.*`` describe with ``data.task=language``, and how it is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower import data as reading
from fd_flower.config import DataConfig, Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.library import texts_of
from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Data, Samples
from fd_flower.data import partition
from fd_flower.data.public import checksum
from fd_flower.tasks.kind import Figures, Inference, View
from fd_flower.tasks.language.config import LENGTH, Config
from fd_flower.tasks.language.models import LanguageModel, build
from fd_flower.tasks.language.scoring import Scores, score, spelled
from fd_flower.tasks.task import Task

NAME = "language"
PARTITIONS = ("column", "domain", "iid", "quantity")
IDLE = ("image", "size", "label", "class_names", "transform", "encoder")
"""Options of ``data`` that are about images and classes."""
HEADLINE = "bits_per_byte"


def described(settings: Settings, folder: str | None = None, client: str = "", *, alone: bool = False) -> Task:
    """Return the task: a simulation's, a device's with its own folder, or that of a server ``alone``.

    Raises
    ------
    InvalidInputError
        For sources that hold no texts, and options that are about images or classes.
    """
    config, seed = settings.data, settings.run.seed
    _check(config)
    kind = Language(settings)
    sources = [folder] if folder else [config.source] if isinstance(config.source, str) else config.source
    holding = all(map(reading.texts.holds, sources))
    if alone and not holding:  # a server of devices, whose texts are not here
        return Task(kind.model, None, _public(config, seed), _test(config), kind=kind)
    if not holding:
        raise InvalidInputError(
            f"data.task=language learns from texts, and {sources[0]} holds none: give data.source a table, a folder of "
            ".txt and .md files or a data set with a column of texts"
        )
    if folder is None:
        whole = reading.federation(config, seed)

        def own(client: str) -> Data:
            return _bare(whole.data(client))

        public = whole.public
        return Task(kind.model, own, None if public is None else lambda: public, _unlabeled(whole.test), kind=kind)

    def of_device(_: str) -> Data:
        return _bare(reading.device_data(folder, config, seed, client))

    return Task(kind.model, of_device, _public(config, seed), _test(config), kind=kind)


def _check(config: DataConfig) -> None:
    """Refuse partitions that go by classes, and options about images and classes."""
    if config.partition not in PARTITIONS:
        raise InvalidInputError(
            f"data.partition is '{config.partition}', which deals out classes, and language models learn none: take "
            f"{', '.join(PARTITIONS[:-1])} or {PARTITIONS[-1]}"
        )
    usual = DataConfig()
    for name in IDLE:
        if (value := getattr(config, name)) != getattr(usual, name):
            raise InvalidInputError(
                f"data.{name} is {value!r}, which is about images or classes: leave it out with data.task=language"
            )


def _public(config: DataConfig, seed: int) -> Any:
    """Return what makes the public texts of a device or its server; None: there are none."""
    if config.public == "none":
        return None
    sources = [config.source] if isinstance(config.source, str) else config.source
    if config.public == "held-out":  # of `data.source`, on devices too where they have it
        if not all(map(reading.texts.holds, sources)):
            return None
        return lambda: reading.federation(config, seed).public
    return lambda: reading.elsewhere(config, seed, (2,), ()).samples


def _test(config: DataConfig) -> Samples | None:
    return _unlabeled(reading.labeled(config.test, config)) if config.test else None


def _unlabeled(samples: Samples) -> Samples:
    return replace(samples, y=None)


def _bare(own: Data) -> Data:
    return Data(*(_unlabeled(part) for part in (own.train, own.validation, own.test)))


@final
class Language:
    """How language models are measured: in bits per byte on a client's own texts, the others', and unseen ones.

    Parameters
    ----------
    settings : Settings
        The run.
    """

    name = NAME
    higher_is_better = False
    takes_judges = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.config = Config.of(settings)
        length = settings.data.length or LENGTH
        if (self.config.stride or 0) > length:
            raise InvalidInputError(
                f"language.stride is {self.config.stride}, above data.length={length}: windows would leave tokens out; "
                f"take 1 to {length}"
            )

    def model(self, name: str) -> Module:
        """Return a new model of an architecture."""
        settings = self.settings
        return build(
            name,
            seed=settings.run.seed,
            length=settings.data.length,
            start=self.config.start_of(settings, name),
            trainable=settings.client.trainable,
            half=settings.run.precision == "bf16",
        )

    def capabilities(self, world: View, client: str, model: str) -> dict[str, Any]:
        """Return a client's answer to the handshake: its examples are the tokens of its training texts.

        Raises
        ------
        InvalidInputError
            Where there is no token, and for texts to be measured on that the tokenizer's tokens do not spell.
        """
        module = _language(world.module(model))
        parts = {f"client {client}, {part}": self._own(world, client, part) for part in ("validation", "test")}
        if world.test is not None:
            parts["the test set"] = self._unseen(world, 0)
        for who, x in parts.items():
            spelled(module, texts_of(x), module.reader(x), who)
        tokens = self.examples(world, client, model)
        if not tokens:
            raise InvalidInputError(f"client {client} has no text with a token to learn from: all are empty")
        return {"features": 0, "classes": 0, "counts": [], "examples": tokens, "vocabulary": module.vocabulary.name}

    def examples(self, world: View, client: str, model: str) -> int:
        """Return the tokens of a client's training texts."""
        samples = world.data(client).train
        return int(_language(world.module(model)).reader.lengths(samples.inputs).sum())

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return what of ``data`` and ``language`` says which texts a run is about, and how they are read."""
        own = {key: value for key, value in partition.options(settings.data).items() if key not in IDLE}
        config = Config.of(settings)
        return {**own, "start": config.start, "stride": config.stride, "texts": config.texts}

    def copy(self, world: View) -> str:
        """Return the start of the test set's SHA-256."""
        return "" if world.test is None else checksum(world.test)[:12]

    # --- figures

    def figures(
        self,
        world: View,
        client: str,
        model: Any,
        shared: Any,
        limit: int | None,
        inference: Inference = Inference(),
    ) -> Figures:
        """Measure a client's model wherever this process can.

        Returns
        -------
        Figures
            ``own/bits_per_byte`` and ``own/perplexity`` on its own test texts, ``others/`` on the other clients' test
            texts together, ``unseen/`` on the test set; ``validation`` bits per byte on its own validation texts. What
            has no text is missing.
        """
        everybodys = shared or model
        found: Figures = {**_named("own", self._score(model, self._own(world, client, "test")))}
        if (bits := self._score(model, self._own(world, client, "validation")).bits_per_byte) is not None:
            found["validation"] = bits
        if limit is None:
            return found
        if others := [self._own(world, other, "test") for other in self._clients(world) if other != client]:
            found |= _named("others", self._score(everybodys, self._part(torch.cat(others), "others", limit)))
        if world.test is not None:
            found |= _named("unseen", self._score(everybodys, self._unseen(world, limit)))
        return found

    def accuracies(self, world: View, client: str, model: Any, limit: int | None) -> dict[str, float]:
        """Return nothing: a language model has no accuracy."""
        return {}

    def judges(self, world: View) -> bool:
        """Whether there is a test set, or clients' parts that can be seen."""
        return world.test is not None or bool(world.pooled)

    def judged(self, world: View, model: Module, limit: int) -> Figures:
        """Measure one model as every client's: means over clients, and the test set."""
        found: Figures = {
            **self._for_clients(world, dict.fromkeys(self._clients(world), model), ("test", "validation"))
        }
        if world.test is not None:
            found |= _named("unseen", self._score(model, self._unseen(world, limit)))
        return found

    def references(self, world: View) -> dict[str, dict[str, float]]:
        """Return what needs no training: every client's model before it has learned."""
        found: list[dict[str, float]] = []
        names = {client: world.architecture(int(client)) for client in self._clients(world)}
        for name in dict.fromkeys(names.values()):
            model = world.load(name, world.initial(name))
            theirs = {client: model for client, own in names.items() if own == name}
            figures = self._for_clients(world, theirs, ("test",))
            if world.test is not None:
                figures |= _named("unseen", self._score(model, self._unseen(world, 0)))
            found += [figures] * len(theirs)
        return {"zero-shot": _mean(found)} if found else {}

    def _clients(self, world: View) -> list[str]:
        """Return the clients whose parts this process sees."""
        return [str(number) for number in range(self.settings.data.clients)] if world.pooled else []

    def _for_clients(self, world: View, models: Mapping[str, Any], parts: Sequence[str]) -> dict[str, float]:
        """Return the means over clients of what one model makes of their own texts, and of the others'."""
        if not models:
            return {}
        clients, model = self._clients(world), next(iter(models.values()))
        figures: dict[str, dict[str, float]] = {client: {} for client in models}
        for part in parts:
            texts = [self._own(world, client, part) for client in clients]
            scores = self._score(model, torch.cat(texts))
            whose = torch.repeat_interleave(torch.arange(len(clients)), torch.tensor(list(map(len, texts))))
            for client, found in figures.items():
                mine = whose == clients.index(client)
                if part == "test":
                    found |= {**_named("own", scores[mine]), **_named("others", scores[~mine])}
                elif (bits := scores[mine].bits_per_byte) is not None:
                    found["validation"] = bits
        return _mean(list(figures.values()))

    # --- on which texts

    def _own(self, world: View, client: str, part: str) -> Tensor:
        """Return the texts [N, 2] of a client's part that are measured on."""
        return self._part(getattr(world.data(client), part).inputs, f"{part} of {client}")

    def _unseen(self, world: View, limit: int) -> Tensor:
        """Return the texts [N, 2] of the test set that are measured on; a limit of 0 is none."""
        assert world.test is not None
        return self._part(world.test.inputs, "unseen", limit)

    def _part(self, texts: Tensor, what: str, limit: int = 0) -> Tensor:
        """Return as many of these texts as are measured on, drawn by the seed."""
        most = min(self.config.texts or len(texts), limit or len(texts))
        if most >= len(texts):
            return texts
        order = torch.randperm(len(texts), generator=torch_rng(self.settings.run.seed, "texts", what))
        return texts[order[:most].sort().values.to(texts.device)]

    def _score(self, model: Any, texts: Tensor) -> Scores:
        precision = self.settings.run.precision
        return score(_language(model), texts, stride=self.config.stride, precision=precision)


def _language(model: Any) -> LanguageModel:
    if not isinstance(model, LanguageModel):
        raise InvalidInputError(f"the model is {type(model).__name__}; data.task=language needs a language model")
    return model


def _named(scope: str, scores: Scores) -> dict[str, float]:
    """Return a scope's figures; {} of no text."""
    found = {HEADLINE: scores.bits_per_byte, "perplexity": scores.perplexity}
    return {f"{scope}/{name}": value for name, value in found.items() if value is not None}


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(key for one in figures for key in one)
    return {key: fmean(one[key] for one in figures if key in one) for key in names}

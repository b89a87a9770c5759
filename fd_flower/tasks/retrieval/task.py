"""The retrieval task: what ``data.*`` and ``model.*`` describe where the source is a collection; how it is measured."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from fd_flower.config import Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Data, Samples
from fd_flower.models.choices import LAYERED, lacking
from fd_flower.tasks.kind import Figures, Inference, View
from fd_flower.tasks.retrieval.beir import Collection
from fd_flower.tasks.retrieval.bm25 import scores_of
from fd_flower.tasks.retrieval.config import Config
from fd_flower.tasks.retrieval.encoders import PASSAGE, QUESTION, Encoder, apply, embedded, encoder
from fd_flower.tasks.retrieval.library import Holding, Library, library, options, pairs
from fd_flower.tasks.retrieval.models import ResidualMap, Retriever
from fd_flower.tasks.retrieval.search import HEADLINE, Search
from fd_flower.tasks.task import Task


def described(settings: Settings, folder: str | None = None, client: str = "") -> Task:
    """Return the task: a simulation's, or a device's with its own folder."""
    held = library(settings, folder, client)
    library_inputs = EncodedLibrary(settings, held)

    def model(name: str) -> Module:
        return library_inputs.retriever(name)

    def data(client: str) -> Data:
        return library_inputs.data(0 if folder else _place(held, client))

    return Task(model, data, kind=Retrieval(library_inputs, alone=bool(folder)))


def _place(held: Library, client: str) -> int:
    if client not in held.clients:
        raise InvalidInputError(f"there is no client '{client}': expected '0' to '{held.clients[-1]}'")
    return int(client)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a retriever takes of a collection: the passages' [N, ...] and the questions' [Q, ...]."""

    passages: Tensor
    questions: Tensor


class EncodedLibrary:
    """A library as numbers: what retrievers take of its texts.

    Parameters
    ----------
    settings : Settings
        The run.
    held : Library
        Who holds which.

    Raises
    ------
    InvalidInputError
        Where ``model.name`` is no encoder, or several, or one without the layers that ``client.trainable`` names.
    """

    def __init__(self, settings: Settings, held: Library) -> None:
        self.settings = settings
        self.held = held
        name = settings.model.name
        names = {name} if isinstance(name, str) else set(name)
        if len(names) != 1:
            raise InvalidInputError(f"model.name is {name!r}; retrievers have one encoder for all clients")
        self.name = str(names.pop())
        self.config = Config.of(settings)
        self.encoder = encoder(self.name, self.config.pool, settings.run.seed)
        self.trainable = settings.client.trainable
        if self.trainable in LAYERED and not self.encoder.layered:
            raise lacking(self.trainable, self.name, ("head", "all"))

    @property
    def frozen(self) -> bool:
        """Whether the encoder does not learn, so that its vectors are what a retriever takes."""
        return self.trainable == "head"

    def retriever(self, name: str) -> Retriever:
        """Return a new retriever with its first weights."""
        if name not in ("", self.name):
            raise InvalidInputError(
                f"a node has model='{name}'; the run's is '{self.name}', and retrievers have one encoder for all"
            )
        if self.frozen:
            size = self.inputs(self.held.collections[0]).passages.shape[1]
            return Retriever(ResidualMap(size), self.config.tau, self.encoder.identity)
        return Retriever(self.encoder.network(), self.config.tau, self.encoder.identity)

    def inputs(self, collection: Collection) -> Inputs:
        """Return what a retriever takes of a collection."""
        return _inputs(self.encoder, collection, self.frozen, self.settings.run.precision)

    def data(self, place: int) -> Data:
        """Return a client's pairs to learn from, and its questions to select by and to be tested on."""
        holding = self.held.holdings[place]
        x, y, rows = self._of_collection(holding.collection)
        questions = self.inputs(self.held.collections[holding.collection]).questions
        learned = torch.from_numpy(np.flatnonzero(np.isin(rows, holding.train)))
        if not len(learned):
            raise InvalidInputError(
                f"client {place} has no question with a passage that is not empty: nothing can be learned"
            )
        parts = (torch.from_numpy(part) for part in (holding.validation, holding.test))
        return Data(Samples(x, y, learned), *(Samples(questions, None, part) for part in parts))

    def _of_collection(self, number: int) -> tuple[Tensor, Tensor, np.ndarray]:
        """Return every pair of a collection [P, 2, ...], its numbers [P, 2], and its question [P]."""
        return _pairs(self.encoder, self.held, number, self.frozen, self.settings.run.precision)


@lru_cache(maxsize=16)
def _inputs(encoder: Encoder, collection: Collection, frozen: bool, precision: str) -> Inputs:
    texts = ((collection.passages, PASSAGE), (collection.asked, QUESTION))
    if frozen:
        return Inputs(*(embedded(encoder, own, role, precision) for own, role in texts))
    return Inputs(*(encoder.tokens(own, role) for own, role in texts))


@lru_cache(maxsize=16)
def _pairs(
    encoder: Encoder, held: Library, number: int, frozen: bool, precision: str
) -> tuple[Tensor, Tensor, np.ndarray]:
    collection, answers = held.collections[number], held.answers[number]
    inputs = _inputs(encoder, collection, frozen, precision)
    both = pairs(collection, answers, list(answers))
    found = [inputs.questions[both[:, 0]], inputs.passages[both[:, 1]]]
    if not frozen:
        longest = max(tokens.shape[1] for tokens in found)
        found = [torch.nn.functional.pad(tokens, (0, longest - tokens.shape[1]), value=-1) for tokens in found]
    # Passages of one text are one passage: none is a negative of the other.
    first: dict[str, int] = {}
    same = [first.setdefault(collection.passages[d], len(first)) for d in both[:, 1]]
    y = torch.stack([torch.from_numpy(both[:, 0]), torch.tensor(same, dtype=torch.int64)], dim=1)
    return torch.stack(found, dim=1), y, both[:, 0]


class Retrieval:
    """How retrievers are measured: on a client's own questions, on the other clients' collections, on an unseen one.

    Parameters
    ----------
    library_inputs : EncodedLibrary
        The library.
    alone : bool
        Whether this process is a device, which sees no other client's collection.
    """

    name = "retrieval"
    higher_is_better = True
    takes_judges = False

    def __init__(self, library_inputs: EncodedLibrary, *, alone: bool) -> None:
        self.library_inputs = library_inputs
        self.alone = alone

    def capabilities(self, world: View, client: str, model: str) -> dict[str, Any]:
        """Return a client's answer to the handshake: the size of its vectors and its pairs."""
        train = world.data(client).train
        pair, _ = train.batch(torch.zeros(1, dtype=torch.int64, device=world.device))
        features = world.module(model)(pair[:, 1]).shape[1]
        return {"features": int(features), "classes": 0, "counts": [], "examples": len(train)}

    def examples(self, world: View, client: str, model: str) -> int:
        """Return the number of a client's training pairs."""
        return len(world.data(client).train)

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return what of ``data`` and of ``retrieval`` says who holds and asks what."""
        return options(settings)

    def copy(self, world: View) -> str:
        """Return the start of a SHA-256 of all collections."""
        digests = "".join(collection.digest for collection in self.library_inputs.held.collections)
        return hashlib.sha256(digests.encode()).hexdigest()[:12]

    def figures(
        self,
        world: View,
        client: str,
        model: Any,
        shared: Any,
        limit: int | None,
        inference: Inference = Inference(),
    ) -> Figures:
        """Measure a client's model wherever this process can: ``own/ndcg@10``, ``others/map``, and so on."""
        held = self.library_inputs.held
        place = 0 if self.alone else _place(held, client)
        return {**self._of_client(self._searching(world, model), held.holdings[place])}

    def accuracies(self, world: View, client: str, model: Any, limit: int | None) -> dict[str, float]:
        """Return nothing: a search has no accuracy."""
        return {}

    def judges(self, world: View) -> bool:
        """Whether there is a collection that this process sees and that is not its own alone."""
        return world.hosted or self.library_inputs.held.unseen is not None

    def judged(self, world: View, model: Module, limit: int) -> Figures:
        """Measure one model as every client's: means over clients; on a server of devices, on the unseen one alone."""
        searching = self._searching(world, model)
        return {**(self._for_all(searching) if world.hosted else self._unseen(searching))}

    def references(self, world: View) -> dict[str, dict[str, float]]:
        """Return what needs no training: BM25, where bm25s is installed, and the encoder as it comes."""
        held = self.library_inputs.held
        if not world.hosted or self.alone:
            return {}
        first = world.load(self.library_inputs.name, world.initial(self.library_inputs.name))
        found = {"zero-shot": self._for_all(self._searching(world, first))}
        words = scores_of((*held.collections, *([held.unseen] if held.unseen else [])))
        if words is not None:
            found["BM25"] = self._for_all(Search(words))
        return found

    def _searching(self, world: View, model: Module) -> "Search":
        return Search(lambda collection: self._scores(world, model, collection))

    def _scores(self, world: View, model: Module, collection: Collection) -> Tensor:
        """Return a model's similarities of all questions and passages of a collection [Q, N]."""
        inputs, precision = self.library_inputs.inputs(collection), self.library_inputs.settings.run.precision
        before = model.training
        model.eval()
        asked, passages = (apply(model, x.to(world.device), precision) for x in (inputs.questions, inputs.passages))
        model.train(before)
        return asked @ passages.T

    def _for_all(self, searching: "Search") -> dict[str, float]:
        found = [self._of_client(searching, holding) for holding in self.library_inputs.held.holdings]
        # A client of few questions has none to validate on.
        names = dict.fromkeys(key for figures in found for key in figures)
        return {key: fmean(figures[key] for figures in found if key in figures) for key in names}

    def _of_client(self, searching: "Search", own: Holding) -> dict[str, float]:
        """Return a client's figures: each metric's mean over questions, and the standard error of the headline."""
        held = self.library_inputs.held
        figures = self._of_set(searching, own.collection, own.test, "own")
        if len(own.validation):
            chosen_by = self._of_set(searching, own.collection, own.validation, "validation")
            figures["validation"] = chosen_by[f"validation/{HEADLINE}"]
        others = [
            self._of_set(searching, number, test, "others")
            for number, test in enumerate(held.tests)
            if number != own.collection
        ]
        if others:
            figures |= {key: fmean(one[key] for one in others) for key in others[0]}
            figures["others/se"] = sum(one["others/se"] ** 2 for one in others) ** 0.5 / len(others)
        return figures | self._unseen(searching)

    def _unseen(self, searching: "Search") -> dict[str, float]:
        unseen = self.library_inputs.held.unseen
        if unseen is None:
            return {}
        judged = unseen.judged.get("test") or next(iter(unseen.judged.values()))
        return searching.figures(unseen, judged, tuple(judged), "unseen")

    def _of_set(self, searching: "Search", number: int, questions: np.ndarray, scope: str) -> dict[str, float]:
        held = self.library_inputs.held
        return searching.figures(held.collections[number], held.answers[number], tuple(questions.tolist()), scope)

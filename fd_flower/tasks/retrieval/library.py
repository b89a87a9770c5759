"""Who holds which documents and asks which questions: a simulated federation's, or one device's own."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from logging import INFO
from typing import Any

import numpy as np

from fd_flower.config import DataConfig, Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.core.rng import numpy_rng
from fd_flower.data.partition import fewer
from fd_flower.tasks.retrieval.beir import Collection, Judgments, read
from fd_flower.tasks.retrieval.config import Config

PARTITIONS = ("iid", "column", "domain")
READ = ("source", "clients", "split", "column", "partition", "per_client", "min_rows")
"""The options of ``data`` that are about a collection, too."""

IDLE = ("public_batch",)
"""Options that somebody may give for all methods of a comparison: these go by no public samples."""


@dataclass(frozen=True, eq=False)
class Holding:
    """A client's share: a collection, all of whose documents it can search, and questions about it.

    Attributes
    ----------
    collection : int
        The place of the collection in the library.
    train, validation, test : np.ndarray
        Its questions, by their places in the collection, sorted.
    """

    collection: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class Library:
    """Collections, their clients, and one that no client holds.

    Attributes
    ----------
    collections : tuple[Collection, ...]
        What is held.
    answers : tuple[Judgments, ...]
        Of each, what its questions are judged by: all splits together.
    tests : tuple[np.ndarray, ...]
        Of each, the questions that are for testing.
    holdings : tuple[Holding, ...]
        Each client's share, in the clients' order.
    unseen : Collection | None
        What ``retrieval.unseen`` names.
    """

    collections: tuple[Collection, ...]
    answers: tuple[Judgments, ...]
    tests: tuple[np.ndarray, ...]
    holdings: tuple[Holding, ...]
    unseen: Collection | None = None

    @cached_property
    def clients(self) -> tuple[str, ...]:
        """The clients' ids, in natural order."""
        return tuple(str(number) for number in range(len(self.holdings)))


def options(settings: Settings) -> dict[str, Any]:
    """Return the options that say who holds and asks what, by their names."""
    data, config = asdict(settings.data), Config.of(settings)
    read = {key: value for key, value in data.items() if key in READ}
    return {**read, "folds": config.folds, "unseen": config.unseen}


def library(settings: Settings, folder: str | None = None, client: str = "") -> Library:
    """Return who holds which; the same object for the same arguments in one process.

    Parameters
    ----------
    settings : Settings
        The run; ``run.seed % retrieval.folds`` is the fold that tests where a source has no training judgments.
    folder : str | None
        A device's own collection.
    client : str
        The device's client id.

    Raises
    ------
    InvalidInputError
        Where a source cannot be read, or the clients cannot be made of it.
    """
    for option in fields(settings.data):
        value = getattr(settings.data, option.name)
        if option.name not in (*READ, *IDLE) and option.default is None and value is not None:  # somebody asked for it
            raise InvalidInputError(
                f"data.{option.name} is {value!r}; it is about images, leave it out for a collection"
            )
    return _library(json.dumps(options(settings), sort_keys=True), settings.run.seed, folder, client)


@lru_cache(maxsize=8)
def _library(text: str, seed: int, folder: str | None, client: str) -> Library:
    chosen = json.loads(text)
    folds, unseen_name = chosen.pop("folds"), chosen.pop("unseen")
    data = DataConfig(**chosen)
    collections = (read(folder),) if folder else _collections(data, folds, seed)
    answers = tuple(_joined(one) for one in collections)
    for one, judged in zip(collections, answers, strict=True):
        if len(judged) < 2:
            raise InvalidInputError(f"{one.name} has {len(judged)} questions with an answer; expected 2 and more")
    cuts = [_cut(one, judged, folds, seed) for one, judged in zip(collections, answers, strict=True)]
    for one, judged, (_, test) in zip(collections, answers, cuts, strict=True):
        if not _is_cut(one):
            parts = min(folds, len(judged))
            log(INFO, "%s: %s questions are tested on, fold %s of %s", one.name, len(test), seed % parts + 1, parts)
    clients = 1 if folder else data.clients
    _check_sizes([len(train) for train, _ in cuts], clients, data.min_rows, client)
    shares = np.array_split(np.arange(clients), len(collections))
    holdings = []
    for number, ((train, test), numbers) in enumerate(zip(cuts, shares, strict=True)):
        dealt = np.array_split(numpy_rng(seed, "partition", number).permutation(train), len(numbers))
        for own, place in zip(dealt, numbers, strict=True):
            learned, validation = _parts(own, data, seed, client if folder else str(place))
            holdings.append(Holding(number, learned, validation, test))
    unseen = read(unseen_name) if unseen_name else None
    if unseen is not None and not unseen.judged:
        raise InvalidInputError(
            f"retrieval.unseen={unseen.name} has no question with an answer: nothing can be measured on it"
        )
    return Library(collections, answers, tuple(test for _, test in cuts), tuple(holdings), unseen)


def _check_sizes(questions: Sequence[int], clients: int, least: int, client: str) -> None:
    """Refuse clients with fewer than ``least`` training questions, given those of each collection.

    ``client`` is the device's id, or "".
    """

    def smallest(clients: int) -> int:
        shares = np.array_split(np.arange(clients), len(questions))
        return min(number // len(share) for number, share in zip(questions, shares, strict=True))

    if (size := smallest(clients)) >= least:
        return
    fewer = next((n for n in range(clients - 1, len(questions) - 1, -1) if smallest(n) >= least), 0)
    hints = [f"data.clients={fewer}" if fewer else "", f"data.min_rows={size}" if size else ""]
    raise InvalidInputError(
        f"{f'client {client}' if client else 'the smallest client'} has {size} training questions, data.min_rows is "
        f"{least}: take {' or '.join(filter(None, hints)) or 'fewer clients and a smaller data.min_rows'}"
    )


def _collections(data: DataConfig, folds: int, seed: int) -> tuple[Collection, ...]:
    """Return the collections that clients hold."""
    listed = not isinstance(data.source, str)
    if data.partition not in PARTITIONS:
        raise InvalidInputError(
            f"data.partition is '{data.partition}', which is for labeled samples; "
            f"questions and documents are partitioned by {', '.join(PARTITIONS)}"
        )
    if listed != (data.partition == "domain"):
        raise InvalidInputError(
            f"data.source is {data.source!r} and data.partition is '{data.partition}': "
            "a list of sources goes with data.partition=domain, one source with the others"
        )
    if data.partition == "column":
        return _by_column(data, folds, seed)
    found = tuple(read(source) for source in ([data.source] if not listed else data.source))
    if data.clients < len(found):
        raise InvalidInputError(
            f"data.clients is {data.clients}, but data.source lists {len(found)} sources: one client each"
        )
    return found


def _by_column(data: DataConfig, folds: int, seed: int) -> tuple[Collection, ...]:
    """Return a collection for each of ``data.clients`` values of ``data.column``, drawn from those large enough."""
    whole = read(data.source, data.column)
    assert whole.groups is not None
    groups = np.array(whole.groups)
    parts = [whole.only(np.flatnonzero(groups == value).tolist(), str(value)) for value in np.unique(groups)]
    sizes = [len(_cut(part, _joined(part), folds, seed)[0]) for part in parts]
    enough = [part for part, size in zip(parts, sizes, strict=True) if size >= data.min_rows]
    if len(enough) < data.clients:
        raise InvalidInputError(
            f"data.column={data.column} has {len(enough)} values with at least {data.min_rows} training questions "
            f"(data.min_rows) of {len(parts)} in all, data.clients is {data.clients}: "
            f"take {fewer(sizes, data.clients, data.min_rows)}"
        )
    chosen = np.sort(numpy_rng(seed, "partition").permutation(len(enough))[: data.clients])
    return tuple(enough[number] for number in chosen)


def _joined(collection: Collection) -> Judgments:
    """Return what answers each question, in any split."""
    found: Judgments = {}
    for of in collection.judged.values():
        for question, answers in of.items():
            found[question] = {**found.get(question, {}), **answers}
    return dict(sorted(found.items()))


def _cut(collection: Collection, judged: Judgments, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a collection's questions to learn from, and those to test on.

    A source that is judged for training and for tests says which are which; a question in both is for tests. Others
    are cross-validated: of ``folds`` equal parts one tests, another one with each of as many seeds.
    """
    if _is_cut(collection):
        train, test = (np.array(sorted(collection.judged[split]), dtype=np.int64) for split in ("train", "test"))
        return np.setdiff1d(train, test), test
    every = np.array(list(judged), dtype=np.int64)
    if len(every) < 2:
        return every[:0], every
    folds = min(folds, len(every))
    # By the collection's own contents, so that it is the same cut whichever others are used with it.
    order = numpy_rng(seed // folds, "folds", collection.digest).permutation(every)
    fold = np.array_split(order, folds)[seed % folds]
    return np.setdiff1d(every, fold), np.sort(fold)


def _is_cut(collection: Collection) -> bool:
    """Whether a collection is judged for training and for tests."""
    return all(collection.judged.get(split) for split in ("train", "test"))


def _parts(own: np.ndarray, data: DataConfig, seed: int, client: str) -> tuple[np.ndarray, np.ndarray]:
    """Cut a client's questions into those to learn from and those to select by; the share for tests is the source's."""
    shuffled = numpy_rng(seed, "split", client).permutation(np.sort(own))[: data.per_client]
    share = data.split[1] / (data.split[0] + data.split[1])
    count = min(max(1, round(len(shuffled) * share)) if share else 0, len(shuffled) - 1)
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])


def pairs(collection: Collection, answers: Judgments, questions: Sequence[int]) -> np.ndarray:
    """Return every (question, document that answers it) [P, 2], int64, without empty documents."""
    found = [(q, d) for q in questions for d in sorted(answers[q]) if collection.passages[d]]
    return np.array(found, dtype=np.int64).reshape(-1, 2)

"""A simulated federation's data, and a device's own."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from logging import WARNING

import numpy as np
import torch

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.core.rng import numpy_rng
from fd_flower.core.samples import Counts, Data, Samples
from fd_flower.data import cut
from fd_flower.data.clusters import clustered
from fd_flower.data.images import Images
from fd_flower.data.partition import Held, partition
from fd_flower.data.portions import PARTS, Portions
from fd_flower.data.public import Public, elsewhere, held_out
from fd_flower.data.reading import read
from fd_flower.data.source import locate
from fd_flower.data.standard import standardized

TEST_SHARE = 0.2  # of a source that has no test rows of its own


@dataclass(frozen=True, eq=False)
class Federation:
    """Who holds which: all clients' samples are views on one resident base.

    Attributes
    ----------
    config : DataConfig
        What it was made of.
    seed : int
        The run's seed.
    base : Images
        All training rows.
    rows : Held
        The rows of each client, sorted, disjoint.
    dealt : np.ndarray
        The rows that these were taken from, sorted.
    known : Public
        The public samples.
    test : Samples
        The global test set.
    tested : tuple[np.ndarray, ...]
        With ``data.own_test`` the rows of the test set that are each client's own, sorted.
    """

    config: DataConfig
    seed: int
    base: Images
    rows: Held
    dealt: np.ndarray
    known: Public
    test: Samples
    tested: tuple[np.ndarray, ...] = ()

    @cached_property
    def clients(self) -> tuple[str, ...]:
        """The clients' ids, in natural order."""
        return tuple(str(number) for number in range(len(self.rows)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of their numbers."""
        return self.base.class_names

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """An image's (channels, height, width)."""
        return self.base.shape

    @property
    def public(self) -> Samples | None:
        """The public samples, unlabeled; None with ``data.public=none``."""
        return self.known.samples

    @property
    def public_labeled(self) -> Samples | None:
        """The public samples with labels; None where their classes are not the private ones."""
        return self.known.labeled

    @cached_property
    def clusters(self) -> np.ndarray:
        """The cluster of each distributed row, int64: ``data.clusters`` of the features of ``data.encoder``."""
        return clustered(Samples(self.base.x, None, torch.from_numpy(self.dealt)), self.config, self.seed)

    def data(self, client: str) -> Data:
        """Return a client's training, validation and test samples; raises InvalidInputError for a stranger."""
        place = int(client) if client.isdecimal() else len(self.rows)
        if place >= len(self.rows) or str(place) != client:
            raise InvalidInputError(f"there is no client '{client}': expected '0' to '{len(self.rows) - 1}'")
        own = cut_rows(self.base, self.rows[place], self._of_training, self.seed, client)
        return replace(own, test=self.test[torch.from_numpy(self.tested[place])]) if self.tested else own

    @property
    def _of_training(self) -> DataConfig:
        """The options by which training rows are cut: where clients' test rows are given, all but these."""
        if not self.tested:
            return self.config
        train, validation, _ = self.config.split
        whole = train + validation
        return replace(self.config, split=[train / whole, validation / whole, 0.0])

    def counts(self) -> Counts:
        """Return how many samples each client has, of which no image is read."""
        return self._counts

    @cached_property
    def _counts(self) -> Counts:
        labels = self.base.labels.numpy()
        cuts = Portions.drawn(self.rows, labels, self._of_training, self.seed)
        sizes = cuts.sizes.copy()
        if self.tested:
            sizes[:, PARTS.index("test")] = [len(own) for own in self.tested]
        return Counts(cuts.counts(labels, self.classes), sizes, self._checksum(cuts), partial(self._pooled, cuts))

    def _checksum(self, cuts: Portions) -> str:
        """Return one checksum of the source and of who has which rows."""
        sha = hashlib.sha256(self.base.checksum.encode())
        for array in (cuts.rows, cuts.sizes, *self.tested):
            sha.update(repr((array.shape, array.dtype.str)).encode() + array.tobytes())
        return sha.hexdigest()

    def _pooled(self, cuts: Portions, part: str) -> Samples:
        """Return this part of all clients."""
        if part == "test" and self.tested:
            return self.test[torch.from_numpy(np.concatenate(self.tested))]
        return Samples(self.base.x, self.base.labels, torch.from_numpy(cuts.whole(part)))


def federation(data: DataConfig, seed: int) -> Federation:
    """Return who holds which; the same object for the same arguments in one process.

    The order of the cuts: ``data.limit``, test (a stratified fifth of a source that has no test rows), public,
    partition, and within each client ``data.split``, by class.

    Raises
    ------
    InvalidInputError
        When a source cannot be read, or no such partition is found.
    """
    return _federation(json.dumps(asdict(data), sort_keys=True), seed)


@lru_cache(maxsize=8)
def _federation(text: str, seed: int) -> Federation:
    data = DataConfig(**json.loads(text))
    listed = not isinstance(data.source, str)
    if listed != (data.partition == "domain"):
        raise InvalidInputError(
            f"data.source is {data.source!r} and data.partition is '{data.partition}': "
            "a list of sources goes with data.partition=domain, one source with the others"
        )
    sources = data.source if listed else [data.source]
    first = read(sources[0], data, column=data.column)
    if first.columns:  # so that those of all other tables are the same, in one order
        data = replace(data, features=list(first.columns))
    base, origin = _joined(sources, [first, *(read(source, data, column=data.column) for source in sources[1:])])
    whose = _whose_test(sources[0], data) if data.own_test else None
    for source in sources:
        if "validation" in locate(source).splits():
            log(WARNING, "%s: validation rows are not used, clients' are cut from their own (data.split)", source)
    if data.public not in ("held-out", "noise", "none") and locate(data.public) in map(locate, sources):
        raise InvalidInputError(
            f"data.public is data.source, {data.public}: use data.public=held-out, which does not overlap"
        )
    tests = [_test_rows(sources[0], base, source, data) for source in sources]
    return dealt_out(base, origin, tests, data, seed, whose=whose)


def dealt_out(
    base: Images,
    origin: np.ndarray,
    tests: Sequence[Samples | None],
    data: DataConfig,
    seed: int,
    public: Public | None = None,
    whose: np.ndarray | None = None,
) -> Federation:
    """Deal rows out; see ``federation``.

    Parameters
    ----------
    base : Images
        All training rows.
    origin : np.ndarray
        For each row the number of its source [N].
    tests : Sequence[Samples | None]
        Each source's test rows; None: a fifth of its training rows.
    data : DataConfig
        All but where rows come from.
    seed : int
        The run's seed.
    public : Public | None
        Public samples that are given; None: by ``data.public``.
    whose : np.ndarray | None
        With ``data.own_test`` the values of ``data.column`` of the test rows [M].
    """
    rows = np.arange(len(base.x))
    if data.limit is not None:
        rows = np.sort(numpy_rng(seed, "limit").permutation(rows)[: data.limit])
    test, rows = _test(tests, base, origin, rows, seed)
    if public is not None:
        known = public
    elif data.public == "held-out":
        known, rows = held_out(base, rows, data, seed)
    else:
        known = elsewhere(data, seed, base.shape, base.class_names)
    dealt = Federation(data, seed, base, Held.of(rows[:0], rows[:0]), rows, known, test)
    held = partition(data, base.labels[rows].numpy(), _groups(dealt, origin), seed)
    found = replace(dealt, rows=Held.of(rows[held.rows], held.sizes))
    if whose is not None:
        assert base.groups is not None
        own_tests = (np.flatnonzero(whose == base.groups[own[0]]) for own in found.rows)
        found = replace(found, tested=tuple(own_tests))
    return _standardized(found) if data.standardize and base.kind == "numbers" else found


def _standardized(found: Federation) -> Federation:
    """Return a federation whose numbers are standardized, unless ``numbers.read`` has done it."""
    labels = found.base.labels.numpy()

    def training() -> np.ndarray:
        return Portions.drawn(found.rows, labels, found._of_training, found.seed).whole("train")

    base, known, test = standardized(found.config, found.base, found.known, found.test, training)
    return replace(found, base=base, known=known, test=test)


def _whose_test(source: str, data: DataConfig) -> np.ndarray:
    """Return the values of ``data.column`` of a source's test rows [M]."""
    if "test" not in locate(source).splits():
        raise InvalidInputError(f"data.own_test is true, and {source} has no test rows: leave it out")
    groups = read(source, data, "test", column=data.column).groups
    assert groups is not None
    return groups


def _groups(dealt: Federation, origin: np.ndarray) -> np.ndarray | None:
    """Return what the partition uses in addition to labels [distributed rows], given each row's source."""
    if dealt.config.partition == "embedding":
        return dealt.clusters
    groups = {"column": dealt.base.groups, "domain": origin}.get(dealt.config.partition)
    return None if groups is None else groups[dealt.dealt]


def _joined(sources: Sequence[str], sets: Sequence[Images]) -> tuple[Images, np.ndarray]:
    """Return the sources' rows in one set, and for each row the number of its source [N]."""
    first = sets[0]
    sets = [_alike(sources[0], first, source, other) for source, other in zip(sources, sets, strict=True)]
    origin = np.repeat(np.arange(len(sets)), [len(one.x) for one in sets])
    if len(sets) == 1:
        return first, origin
    x, y = (torch.cat(tensors) for tensors in ([one.x for one in sets], [one.labels for one in sets]))
    return replace(first, x=x, y=y, groups=None, declared=True, kept=None), origin


def _alike(name: str, images: Images, other_name: str, other: Images) -> Images:
    """Return a set's rows with the classes' numbers of another; refuse other shapes and other names."""
    if images.kind != other.kind:
        kinds = f"{other.kind} and {images.kind}"
        raise InvalidInputError(f"{other_name} and {name} hold {kinds}; expected one kind of samples")
    if images.shape != other.shape:
        cure = "expected one shape"
        if images.kind == "images":
            cure = "bring them to one size, like data.size={1}x{2}x{0}".format(*images.shape)
        raise InvalidInputError(
            f"{other_name} has {other.kind} of shape {other.shape}, {name} of {images.shape}: {cure}"
        )
    return other.called(images.class_names, other_name, name)


def _test_rows(first: str, base: Images, source: str, data: DataConfig) -> Samples | None:
    """Return a source's test rows with the numbers of the base's classes; None where it has none."""
    if "test" not in locate(source).splits():
        return None
    own = _alike(f"{first} (train)", base, f"{source} (test)", read(source, data, "test"))
    return Samples(own.x, own.labels)


def _test(
    given: Sequence[Samples | None], base: Images, origin: np.ndarray, rows: np.ndarray, seed: int
) -> tuple[Samples, np.ndarray]:
    """Return the full test set, and the rows that are left for training."""
    tests, left = [], np.ones(len(rows), dtype=bool)
    for number, own in enumerate(given):
        if own is not None:
            tests.append(own)
        else:
            mine = origin[rows] == number
            fifth = cut.stratified(base.labels[rows[mine]].numpy(), TEST_SHARE, numpy_rng(seed, "test", number))
            left[mine] = ~fifth
            tests.append(Samples(base.x, base.labels, torch.from_numpy(rows[mine][fifth])))
    if len(tests) == 1:
        return tests[0], rows[left]
    x = [one.x if one.index is None else one.x[one.index] for one in tests]
    return Samples(torch.cat(x), torch.cat([one.labels for one in tests])), rows[left]


def device_data(folder: str, data: DataConfig, seed: int, client: str) -> Data:
    """Return the samples of a device: the rows of its own folder, cut as a simulated client's rows are.

    Parameters
    ----------
    folder : str
        The absolute path of a folder with ``train-*.parquet``.
    data : DataConfig
        ``split``, ``per_client``, ``size`` and the columns' names.
    seed : int
        The run's seed.
    client : str
        The device's client id.

    Raises
    ------
    InvalidInputError
        When the folder cannot be read.
    """
    own = read(folder, data)
    if more := [split for split in ("validation", "test") if split in locate(folder).splits()]:
        log(
            WARNING,
            "%s: %s rows are not used, a device's parts are cut from its train rows (data.split)",
            folder,
            " and ".join(more),
        )
    return cut_rows(own, np.arange(len(own.x)), data, seed, client)


def labeled(source: str, data: DataConfig, split: str = "test", class_names: Sequence[str] = ()) -> Samples:
    """Return a whole split of a set with its labels, like ``data.test`` on a device; InvalidInputError without any.

    With ``class_names``, those of the private samples, its classes have their numbers.
    """
    images = read(source, data, split, own=False)
    if data.class_names:
        images = images.named(data.class_names, f"{source} ({split})", lacking=data.adds_classes)
    if class_names:
        images = images.called(class_names, f"{source} ({split})", "the private samples", lacking=data.adds_classes)
    return Samples(images.x, images.labels, classes=images.class_names)


def cut_rows(base: Images, rows: np.ndarray, data: DataConfig, seed: int, client: str) -> Data:
    """Cut a client's rows by class and (seed, client id): the same cut for a partition and for a device's folder."""
    shuffled = rows[numpy_rng(seed, "split", client).permutation(len(rows))[: data.per_client]]
    parts = cut.parts(shuffled, base.labels[shuffled].numpy(), data.split)
    return Data(*(Samples(base.x, base.labels, torch.from_numpy(part)) for part in parts))

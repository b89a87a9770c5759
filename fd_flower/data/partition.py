"""Who holds which rows: the partitioners of flwr-datasets, and rules that it lacks."""

import contextlib
import hashlib
import io
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fd_flower.data.cache import stored
from fd_flower.errors import WrongInput
from fd_flower.knobs import DataConfig
from fd_flower.rng import numpy_rng, seed_of

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Rows = list[np.ndarray]

DRAWS = 2000
"""How often `fedgen` draws anew, in about a second, until every client has ``data.min_rows``."""


def partition(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Deal rows out to clients.

    Parameters
    ----------
    data : DataConfig
        ``partition`` and what belongs to it, ``clients``, ``min_rows``.
    labels : np.ndarray
        Labels [N].
    groups : np.ndarray | None
        What `column` and `domain` go by [N].
    seed : int
        The run's seed.

    Returns
    -------
    list[np.ndarray]
        For each client its rows, sorted, disjoint.

    Raises
    ------
    WrongInput
        When no such partition is found; says what would work.
    """
    _check(data, len(labels))
    parts = [labels.tobytes(), b"" if groups is None else groups.tobytes()]
    digests = [hashlib.sha256(part).hexdigest() for part in parts]
    knobs = [data.partition, data.clients, data.min_rows, data.alpha, data.ratio, data.classes]
    knobs += [data.skew, data.primaries, seed]
    # Kept on disk: importing the partitioners takes longer than all else that a client's process does to get its rows.
    folder = stored(
        "partitions", [*digests, *knobs, version("flwr-datasets")], partial(_save, data, labels, groups, seed)
    )
    rows, sizes = np.load(folder / "rows.npy"), np.load(folder / "sizes.npy")
    return np.split(rows, np.cumsum(sizes)[:-1])


def _save(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int, folder: Path) -> None:
    held = [np.sort(rows) for rows in _RULES[data.partition](data, labels, groups, seed)]
    smallest = min(len(rows) for rows in held)
    if smallest < data.min_rows:
        raise WrongInput(
            f"data.partition={data.partition} leaves a client with {smallest} rows, data.min_rows is {data.min_rows}: "
            f"take fewer than {data.clients} clients or data.min_rows={max(smallest, 1)}"
        )
    np.save(folder / "rows.npy", np.concatenate(held))
    np.save(folder / "sizes.npy", np.array([len(rows) for rows in held]))


def _check(data: DataConfig, rows: int) -> None:
    """Refuse what no partition can give, and save it from trying."""
    if data.clients * data.min_rows <= rows:
        return
    if data.clients > rows:
        raise WrongInput(f"{data.clients} clients are more than the {rows} private rows: take {_most(data, rows)}")
    raise WrongInput(
        f"{data.clients} clients with at least {data.min_rows} rows each (data.min_rows) need "
        f"{data.clients * data.min_rows} private rows, there are {rows}: take {_most(data, rows)} "
        f"or data.min_rows={rows // data.clients}"
    )


def _most(data: DataConfig, rows: int) -> str:
    return f"at most {rows // data.min_rows} clients" if rows >= data.min_rows else "more rows (data.limit)"


def _iid(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Equally many rows each, at random."""
    from flwr_datasets.partitioner import IidPartitioner

    return _run(IidPartitioner(data.clients), row=_shuffled(labels, seed))


def _dirichlet(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Each class is dealt out in shares drawn from a Dirichlet distribution over clients (Hsu et al. 2019)."""
    held = _try_dirichlet(data, data.alpha, labels, seed)
    if held is not None:
        return held
    larger = (alpha for alpha in (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0) if alpha > data.alpha)
    works = next((alpha for alpha in larger if _try_dirichlet(data, alpha, labels, seed) is not None), None)
    advice = "" if works is None else f"data.alpha={works:g}, "
    raise WrongInput(
        f"data.partition=dirichlet with data.alpha={data.alpha:g} found no partition of {len(labels)} rows among "
        f"{data.clients} clients with at least {data.min_rows} (data.min_rows) each: take {advice}"
        f"fewer clients or a smaller data.min_rows"
    )


def _try_dirichlet(data: DataConfig, alpha: float, labels: np.ndarray, seed: int) -> Rows | None:
    """Return None when the partitioner gives up, after 11 draws."""
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        data.clients, "label", alpha=float(alpha), min_partition_size=data.min_rows, seed=seed_of(seed, "partition")
    )
    try:
        return _run(partitioner, row=np.arange(len(labels)), label=labels)
    except ValueError:
        return None


def _fedgen(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Part of each class is dealt out in Dirichlet shares, to clients that are not full yet.

    The rule of FedGen's experiments (Zhu et al. 2021, arXiv 2105.10056; data/Mnist/generate_niid_dirichlet.py of
    zhuangdizhu/FedGen): a client is full at ``ratio`` of all rows over the number of clients and gets nothing of later
    classes, and no class gives more rows than that or than ``ratio`` of its own (all of them where ``ratio`` is 1).
    Drawn anew until every client has ``data.min_rows``.
    """
    rng = numpy_rng(seed, "partition")
    present = rng.permutation(np.unique(labels))
    full = data.ratio * len(labels) / data.clients
    sizes = [int((labels == label).sum()) for label in present]
    used = [size if data.ratio == 1 else int(min(full, data.ratio * size)) for size in sizes]
    for _ in range(DRAWS):
        ends = _shares(used, full, data, rng)
        if ends is not None:
            break
    else:
        raise WrongInput(
            f"data.partition=fedgen with data.alpha={data.alpha:g} and data.ratio={data.ratio:g} found no partition of "
            f"{sum(used)} rows among {data.clients} clients with at least {data.min_rows} (data.min_rows) each: take "
            f"a larger data.alpha, a larger data.ratio, fewer clients or a smaller data.min_rows"
        )
    held: list[list[np.ndarray]] = [[] for _ in range(data.clients)]
    for label, number, bounds in zip(present, used, ends, strict=True):
        rows = rng.permutation(np.flatnonzero(labels == label))[:number]
        for own, share in zip(held, np.split(rows, bounds[:-1]), strict=True):
            own.append(share)
    return [np.concatenate(own) for own in held]


def _shares(used: list[int], full: float, data: DataConfig, rng: np.random.Generator) -> list[np.ndarray] | None:
    """Return for each class where the clients' rows end [clients]; None where a client is left too small."""
    counts = np.zeros(data.clients, dtype=np.int64)
    ends = []
    for number in used:
        share = rng.dirichlet(np.full(data.clients, data.alpha)) * (counts < full)
        if share.sum() == 0:  # with a tiny alpha all of a class may fall to clients that are full
            return None
        bounds = (np.cumsum(share / share.sum()) * number).astype(np.int64)
        bounds[-1] = number  # the sum of the shares is 1 but for rounding
        counts += np.diff(bounds, prepend=0)
        ends.append(bounds)
    return ends if counts.min() >= data.min_rows else None


def _quantity(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Sizes skewed, labels alike: what ``data.min_rows`` leaves is shared out by one Dirichlet draw over clients."""
    from flwr_datasets.partitioner import SizePartitioner

    rng = numpy_rng(seed, "partition", "sizes")
    spare = len(labels) - data.clients * data.min_rows
    bounds = np.cumsum(rng.dirichlet(np.full(data.clients, data.alpha))) * spare
    bounds[-1] = spare  # the sum of the shares is 1 but for rounding
    sizes = np.diff(np.floor(bounds).astype(int), prepend=0) + data.min_rows
    return _run(SizePartitioner(sizes.tolist()), row=_shuffled(labels, seed))


def _classes(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """``data.classes`` classes a client, each class held by somebody and its rows shared evenly by its holders.

    Our own rule: the PathologicalPartitioner of flwr-datasets draws classes at random and can leave some to nobody.
    """
    present = np.unique(labels)
    if data.classes > len(present):
        raise WrongInput(f"data.classes is {data.classes}, but the private rows have {len(present)} classes")
    if data.clients * data.classes < len(present):
        raise WrongInput(
            f"{data.clients} clients with {data.classes} classes each (data.classes) leave some of "
            f"{len(present)} classes to nobody: take data.classes={-(-len(present) // data.clients)} "
            f"or at least {-(-len(present) // data.classes)} clients"
        )
    rng = numpy_rng(seed, "partition")
    hands = _dealt(data.clients, data.classes, present, rng)
    holders = {label: [client for client, hand in enumerate(hands) if label in hand] for label in present.tolist()}
    held: list[list[np.ndarray]] = [[] for _ in range(data.clients)]
    for label, clients in holders.items():
        rows = rng.permutation(np.flatnonzero(labels == label))
        for client, share in zip(clients, np.array_split(rows, len(clients)), strict=True):
            held[client].append(share)
    return [np.concatenate(shares) for shares in held]


def _primary(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Each class has primary clients, to which a row of it is 1 + ``data.skew`` times as likely to go as to another.

    The rule of multi-headed distillation's experiments (Zhmoginov et al. 2023, arXiv 2211.15774), as far as recalled;
    that primary clients are dealt out evenly is ours.
    """
    if data.primaries > data.clients:
        raise WrongInput(
            f"data.primaries is {data.primaries}, but data.clients is {data.clients}: take at most {data.clients}"
        )
    rng = numpy_rng(seed, "partition")
    present = np.unique(labels)
    owner = np.empty(len(labels), dtype=np.int64)
    for label, primary in zip(present, _dealt(len(present), data.primaries, np.arange(data.clients), rng), strict=True):
        weight = np.ones(data.clients)
        weight[primary] += data.skew
        rows = np.flatnonzero(labels == label)
        owner[rows] = rng.choice(data.clients, len(rows), p=weight / weight.sum())
    return [np.flatnonzero(owner == client) for client in range(data.clients)]


def _dealt(hands: int, size: int, cards: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
    """Deal ``size`` different cards to each hand from shuffled packs: every card is dealt out equally often, or +-1."""
    dealt: list[list[int]] = []
    pack: deque[int] = deque()
    for _ in range(hands):
        hand: list[int] = []
        while len(hand) < size:
            if all(card in hand for card in pack):  # dealt out but for what this hand has: open a new pack
                pack.extend(rng.permutation(cards).tolist())
            card = next(card for card in pack if card not in hand)
            pack.remove(card)
            hand.append(card)
        dealt.append(hand)
    return dealt


def _column(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """One value of ``data.column`` a client: of those with enough rows ``data.clients``, at random."""
    from flwr_datasets.partitioner import NaturalIdPartitioner

    assert groups is not None
    natural = _run(NaturalIdPartitioner("group"), row=np.arange(len(labels)), group=groups)
    enough = [rows for rows in natural if len(rows) >= data.min_rows]
    if len(enough) < data.clients:
        raise WrongInput(
            f"data.column={data.column} has {len(enough)} values with at least {data.min_rows} rows (data.min_rows) of "
            f"{len(natural)} in all, data.clients is {data.clients}: take at most {len(enough)} clients "
            f"or a smaller data.min_rows"
        )
    chosen = np.sort(numpy_rng(seed, "partition").permutation(len(enough))[: data.clients])
    return [enough[number] for number in chosen]


def _domain(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """One source a client, or a group of neighbouring clients that share it evenly."""
    assert groups is not None
    domains = np.unique(groups)
    if data.clients < len(domains):
        raise WrongInput(
            f"data.clients is {data.clients}, but data.source lists {len(domains)} sources: one client each"
        )
    rng = numpy_rng(seed, "partition")
    held: Rows = []
    for domain, clients in zip(domains, np.array_split(np.arange(data.clients), len(domains)), strict=True):
        held += np.array_split(rng.permutation(np.flatnonzero(groups == domain)), len(clients))
    return held


_RULES: dict[str, Callable[[DataConfig, np.ndarray, np.ndarray | None, int], Rows]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "fedgen": _fedgen,
    "classes": _classes,
    "primary": _primary,
    "quantity": _quantity,
    "column": _column,
    "domain": _domain,
}


def _shuffled(labels: np.ndarray, seed: int) -> np.ndarray:
    return numpy_rng(seed, "partition").permutation(len(labels))


def _run(partitioner: "Partitioner", **columns: np.ndarray) -> Rows:
    """Return the column ``row`` of each partition. Quiet: partitioners warn in kilobytes and draw progress bars."""
    import datasets

    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
        partitioner.dataset = datasets.Dataset.from_dict(columns)
        numbers = range(partitioner.num_partitions)
        return [np.asarray(partitioner.load_partition(number)["row"][:], dtype=np.int64) for number in numbers]

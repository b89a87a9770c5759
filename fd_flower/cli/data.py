"""``fd-flower data``: who holds what."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from fd_flower.cli import paths
from fd_flower.cli.run import words_of
from fd_flower.config import Settings, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.library import texts_of
from fd_flower.data import Holdings, federation, holdings, plot_holdings
from fd_flower.data.heterogeneity import divergences, entropy, mutual_information
from fd_flower.tasks import dealt
from fd_flower.tasks.described import described, load_task
from fd_flower.tasks.retrieval import beir
from fd_flower.tasks.retrieval.library import Library, library, pairs

PICTURE = "holdings.png"
COLUMNS = 20  # up to this many classes are named one by one
PARTS = ("train", "val", "test")


def show(
    method: str,
    changes: Sequence[str],
    recipe: str | None,
    out: Path | None,
    console: Console,
    *,
    task: str = "",
    clusters: bool = False,
) -> None:
    """Print each client's samples by class and part, and how different clients are; draw them where ``out`` says.

    Parameters
    ----------
    method : str
        Whose recipe counts.
    changes : Sequence[str]
        Every ``--set``.
    recipe : str | None
        Another recipe than the method's.
    out : Path | None
        An image's file, or a folder for it.
    task : str
        The user's own task; its rows are distributed to clients.
    clusters : bool
        Count clusters of what ``data.encoder`` sees, too; with `data.partition=embedding` they always are.
    """
    chosen = settings(method, words_of(changes, recipe), task=task)
    paths.look_here(paths.modules_of(chosen))
    source = chosen.data.source
    if not task and any(map(beir.holds, [source] if isinstance(source, str) else source)):
        if out is not None or clusters:
            raise InvalidInputError(
                "questions and documents have no classes to draw or cluster: leave out --out and --clusters"
            )
        console.print(collections(library(chosen)))
        return
    if not task and chosen.data.task == "language":
        if out is not None or clusters:
            raise InvalidInputError(
                "texts of language models have no classes to draw or cluster: leave out --out and --clusters"
            )
        console.print(corpora(chosen))
        return
    clusters = clusters or chosen.data.partition == "embedding"
    whole = dealt.federation(load_task(task), chosen) if task else federation(chosen.data, chosen.run.seed)
    held = holdings(whole, clusters=clusters)
    notes = [
        f"{task or source}: {int(held.parts.sum()):,} private samples at {len(held.clients)} clients, "
        f"{held.public:,} public, {held.test:,} in the global test set",
        "JS: Jensen-Shannon divergence of what a client holds to what all hold, in bits: 0 alike, below 1; their mean",
    ]
    console.print(table(held))
    if held.clusters is not None and held.joint is not None:
        console.print(cluster_table(held))
        bits, most = mutual_information(held.joint), float(entropy(held.joint.sum(0) / held.joint.sum()))
        notes.append(f"c0, ...: clusters of what data.encoder={chosen.data.encoder} sees")
        notes.append(f"a sample's cluster tells {bits:.2f} of the {most:.2f} bits of its label (mutual information)")
    for line in notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        path = paths.absolute(out, Path.cwd())
        path = path if path.suffix else path / PICTURE
        path.parent.mkdir(parents=True, exist_ok=True)
        plot_holdings(whole, path, clusters=clusters)
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def collections(held: Library) -> Table:
    """Return clients in rows: whose documents, how many, and the questions of each part."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("client", "collection", "documents", *(f"{part} questions" for part in PARTS), "train pairs"):
        shown.add_column(name, justify="left" if name in ("client", "collection") else "right", overflow="fold")
    for client, own in zip(held.clients, held.holdings, strict=True):
        whole = held.collections[own.collection]
        learned = pairs(whole, held.answers[own.collection], own.train.tolist())
        counts = (len(whole.documents), *map(len, (own.train, own.validation, own.test, learned)))
        shown.add_row(client, Text(Path(whole.name).name), *map(str, counts))
    return shown


def corpora(chosen: Settings) -> Table:
    """Return clients in rows: how many texts each part has, and the bytes of UTF-8 of those to train on."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("client", *(f"{part} texts" for part in PARTS), "train bytes"):
        shown.add_column(name, justify="left" if name == "client" else "right")
    found = described(chosen)
    assert found.data is not None
    for client in map(str, range(chosen.data.clients)):
        own = found.data(client)
        texts = texts_of(own.train.inputs)
        counts = (*map(len, (own.train, own.validation, own.test)), sum(len(text.encode()) for text in texts))
        shown.add_row(client, *map(str, counts))
    return shown


def table(held: Holdings) -> Table:
    """Return clients in rows: samples of each class and of each part; how many classes, where they are many."""
    return _table(held.clients, held.class_names, held.counts, "classes", held.parts)


def cluster_table(held: Holdings) -> Table:
    """Return clients in rows: samples of each cluster; how many clusters, where they are many."""
    assert held.clusters is not None
    names = [f"c{number}" for number in range(held.clusters.shape[1])]
    return _table(held.clients, names, held.clusters, "clusters")


def _table(
    clients: Sequence[str], names: Sequence[str], counts: Tensor, kinds: str, parts: Tensor | None = None
) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_footer=True)
    shown.add_column("client", footer="all", no_wrap=True)
    rows: list[list[Text]] = []
    if len(names) <= COLUMNS:
        _add_numbers(shown, names, counts)
        rows = [[Text(str(count) if count else "·") for count in own] for own in counts.tolist()]
    else:
        shown.add_column(kinds, footer=str(int((counts.sum(dim=0) > 0).sum())), justify="right")
        shown.add_column("most of", overflow="fold")
        for own in counts:
            largest = f"{names[int(own.argmax())]} ({int(own.max())})"
            rows.append([Text(str(int((own > 0).sum()))), Text(largest)])
    if parts is not None:
        _add_numbers(shown, PARTS, parts)
        for row, sizes in zip(rows, parts.tolist(), strict=True):
            row += [Text(str(size)) for size in sizes]
    apart = divergences(counts)
    shown.add_column("JS", footer=f"{float(apart.mean()):.3f}", justify="right", no_wrap=True)
    for client, row, divergence in zip(clients, rows, apart.tolist(), strict=True):
        shown.add_row(Text(client), *row, f"{divergence:.3f}")
    return shown


def _add_numbers(table: Table, names: Sequence[str], numbers: Tensor) -> None:
    """Add a column of numbers for each name, with its sum; the name gives way where it is narrow, never a number."""
    for name, total in zip(names, numbers.sum(dim=0).tolist(), strict=True):
        table.add_column(Text(name), footer=str(total), justify="right", overflow="fold", min_width=len(str(total)))

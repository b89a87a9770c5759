"""Who holds how many rows of which class, as numbers and as an image."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fd_flower.data.clients import Federation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

PARTS = ("train", "validation", "test")
NUMBERED = 20  # up to this many clients or classes are named one by one, and their counts written into the image


@dataclass(frozen=True)
class Holdings:
    """Counts of a federation's rows.

    Attributes
    ----------
    clients : tuple[str, ...]
        The clients' ids.
    class_names : tuple[str, ...]
        The classes' names.
    counts : Tensor
        Rows per client and class [clients, classes], int64, all parts together.
    parts : Tensor
        Training, validation and test rows per client [clients, 3], int64.
    public : int
        Public samples.
    test : int
        Samples of the global test set.
    clusters : Tensor | None
        Rows per client and cluster of what ``data.encoder`` sees [clients, K], int64; None: they were not asked for.
    joint : Tensor | None
        Rows per cluster and class, of all clients together [K, C], int64.
    """

    clients: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: Tensor
    parts: Tensor
    public: int
    test: int
    clusters: Tensor | None = None
    joint: Tensor | None = None


def holdings(federation: Federation, *, clusters: bool = False) -> Holdings:
    """Count who holds what; also by clusters, where these are asked for: the encoder may take its time."""
    classes, number = federation.classes, federation.config.clusters if clusters else 1
    parts, pairs = [], []
    for client in federation.clients:
        data = federation.data(client)
        own = (data.train, data.validation, data.test)
        parts.append([len(part) for part in own])
        here = [part for part in own if part.x is federation.base.x] if clusters else own  # others have no clusters
        labels = torch.cat([part.labels for part in here])
        rows = torch.cat([part.index for part in here if part.index is not None])
        pair = (_clusters(federation, rows) * classes if clusters else 0) + labels
        pairs.append(torch.bincount(pair, minlength=number * classes).view(number, classes))
    counted = torch.stack(pairs)
    return Holdings(
        federation.clients,
        federation.class_names,
        counted.sum(1),
        torch.tensor(parts),
        public=0 if federation.public is None else len(federation.public),
        test=len(federation.test),
        clusters=counted.sum(2) if clusters else None,
        joint=counted.sum(0) if clusters else None,
    )


def _clusters(federation: Federation, rows: Tensor) -> Tensor:
    """Return the clusters [N] of these rows of the federation's base."""
    return torch.from_numpy(federation.clusters[np.searchsorted(federation.dealt, rows.numpy())])


def plot_holdings(federation: Federation, path: Path, *, clusters: bool = False) -> None:
    """Draw clients from left to right: their rows per part as bars, below them per class, and per cluster, as colors.

    Parameters
    ----------
    federation : Federation
        Who holds which.
    path : Path
        The image's file.
    clusters : bool
        Draw clusters, too: what ``data.encoder`` sees is made where it is not known yet.
    """
    from matplotlib.figure import Figure

    held = holdings(federation, clusters=clusters)
    fields = [("class", held.counts, [name[:16] for name in held.class_names])]
    if held.clusters is not None:
        fields.append(("cluster", held.clusters, [str(number) for number in range(held.clusters.shape[1])]))
    heights = [max(2.0, min(7.0, 0.35 * len(names))) for _, _, names in fields]
    width = max(6.0, min(14.0, 2 + 0.6 * len(held.clients)))
    figure = Figure(figsize=(width, 2.5 + sum(heights)), dpi=120)
    figure.set_layout_engine("constrained")
    bars, *below = figure.subplots(1 + len(fields), 1, sharex=True, gridspec_kw={"height_ratios": [2.0, *heights]})
    _draw_parts(bars, held, federation)
    for axes, (kind, counts, names) in zip(below, fields, strict=True):
        image = _draw_field(axes, counts, names)
        figure.colorbar(image, ax=axes, label=f"rows of a {kind}", pad=0.01)
        axes.set_ylabel(kind)
    below[-1].set_xlabel("client")
    if len(held.clients) <= NUMBERED:
        below[-1].set_xticks(range(len(held.clients)), held.clients)
    figure.savefig(path)


def _draw_parts(bars: "Axes", held: Holdings, federation: Federation) -> None:
    """Draw each client's rows per part as a bar, below what all of this is about."""
    base = np.zeros(len(held.clients))
    for part, rows, color in zip(PARTS, held.parts.T.numpy(), ("#31688e", "#90c8e8", "#fd9a44"), strict=True):
        bars.bar(np.arange(len(base)), rows, bottom=base, label=part, color=color, width=0.85)
        base = base + rows
    bars.set_ylabel("rows")
    bars.spines[["top", "right"]].set_visible(False)
    bars.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0)
    source = federation.config.source
    names = [Path(name).name for name in ([source] if isinstance(source, str) else source)]
    title = f"{', '.join(names)}: {len(base)} clients by {federation.config.partition}"
    bars.set_title(f"{title}\n{int(base.sum()):,} private, {held.public:,} public, {held.test:,} test", loc="left")


def _draw_field(axes: "Axes", counts: Tensor, names: list[str]) -> "AxesImage":
    """Draw how many rows of each kind each client has [clients, kinds] as colors, and as numbers where they fit."""
    from matplotlib.colors import PowerNorm

    # The square root keeps small counts visible next to large ones; a kind that a client lacks stays white.
    shown = np.ma.masked_equal(counts.T.numpy(), 0)
    norm = PowerNorm(0.5, vmin=0, vmax=counts.max().item())
    image = axes.imshow(shown, aspect="auto", cmap="YlGnBu", norm=norm, interpolation="nearest")
    step = 1 if len(names) <= 2 * NUMBERED else 5
    axes.set_yticks(range(0, len(names), step), names[::step])
    if max(counts.shape) <= NUMBERED:
        for (row, column), number in np.ndenumerate(counts.T.numpy()):
            if number:
                color = "white" if norm(number) > 0.5 else "black"
                axes.text(column, row, f"{number}", ha="center", va="center", fontsize=8, color=color)
    return image

"""Who holds how many rows of which class, as numbers and as a picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fd_flower.data.clients import Federation

PARTS = ("train", "validation", "test")
NUMBERED = 20  # up to this many clients or classes are named one by one, and their counts written into the picture


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
        Samples of the full balanced test set.
    """

    clients: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: Tensor
    parts: Tensor
    public: int
    test: int


def holdings(federation: Federation) -> Holdings:
    """Count who holds what."""
    counts, parts = [], []
    for client in federation.clients:
        data = federation.data(client)
        own = (data.train, data.validation, data.test)
        counts.append(torch.bincount(torch.cat([part.labels for part in own]), minlength=federation.classes))
        parts.append([len(part) for part in own])
    return Holdings(
        federation.clients,
        federation.class_names,
        torch.stack(counts),
        torch.tensor(parts),
        public=0 if federation.public is None else len(federation.public),
        test=len(federation.test),
    )


def plot_holdings(federation: Federation, path: Path) -> None:
    """Draw clients from left to right: their rows per part as bars, above their rows per class as colours."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    held = holdings(federation)
    clients, classes = held.counts.shape
    few = clients <= NUMBERED and classes <= NUMBERED
    figure = Figure(figsize=(max(6.0, min(14.0, 2 + 0.6 * clients)), 2.5 + max(2.0, min(7.0, 0.35 * classes))), dpi=120)
    figure.set_layout_engine("constrained")
    heights = [2.0, max(2.0, min(7.0, 0.35 * classes))]
    bars, field = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": heights})

    base = np.zeros(clients)
    for part, rows, colour in zip(PARTS, held.parts.T.numpy(), ("#31688e", "#90c8e8", "#fd9a44"), strict=True):
        bars.bar(np.arange(clients), rows, bottom=base, label=part, color=colour, width=0.85)
        base = base + rows
    bars.set_ylabel("rows")
    bars.spines[["top", "right"]].set_visible(False)
    bars.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0)
    source = federation.config.source
    names = [Path(name).name for name in ([source] if isinstance(source, str) else source)]
    title = f"{', '.join(names)}: {clients} clients by {federation.config.partition}"
    bars.set_title(f"{title}\n{int(base.sum()):,} private, {held.public:,} public, {held.test:,} test", loc="left")

    # The square root keeps small counts visible beside large ones; a class that a client lacks stays white.
    counts = np.ma.masked_equal(held.counts.T.numpy(), 0)
    norm = PowerNorm(0.5, vmin=0, vmax=held.counts.max().item())
    image = field.imshow(counts, aspect="auto", cmap="YlGnBu", norm=norm, interpolation="nearest")
    figure.colorbar(image, ax=field, label="rows of a class", pad=0.01)
    field.set_xlabel("client")
    field.set_ylabel("class")
    if clients <= NUMBERED:
        field.set_xticks(range(clients), held.clients)
    step = 1 if classes <= 2 * NUMBERED else 5
    field.set_yticks(range(0, classes, step), [name[:16] for name in held.class_names[::step]])
    if few:
        for (row, column), number in np.ndenumerate(held.counts.T.numpy()):
            if number:
                colour = "white" if norm(number) > 0.5 else "black"
                field.text(column, row, f"{number}", ha="center", va="center", fontsize=8, color=colour)
    figure.savefig(path)

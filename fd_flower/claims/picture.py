"""A plot of an entry's result: what every row reached, seed by seed, next to the published figures."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from fd_flower.claims.entry import Entry
from fd_flower.results.pictures import Picture
from fd_flower.results.plots import COLORS

FIGURES = {
    "accuracy.global": "accuracy on the global test set",
    "accuracy.pooled": "accuracy on all clients' test parts",
    "accuracy.personal": "accuracy on clients' own test parts",
    "rules.own": "accuracy on own test parts, among own classes",
    "rules.head": "accuracy on own test parts, by heads",
    "language.global.own.bits_per_byte": "the server's model on clients' own texts",
    "language.global.unseen.bits_per_byte": "the server's model on the test set",
    "language.personal.own.bits_per_byte": "clients' models on their own texts",
    "language.personal.others.bits_per_byte": "clients' models on the others' texts",
    "language.personal.unseen.bits_per_byte": "clients' models on the test set",
    "retrieval.global": "nDCG@10 on the global test set",
}


def picture(made: Entry, result: Mapping[str, Any]) -> Picture:
    """Return a frame for each variant with a line for each row, the rows that are claimed to be better in color."""
    measure = made.measure
    variants, rows = result["variants"], list(made.arms)
    figure = Figure(figsize=(1.6 + 3.0 * len(variants), 1.3 + 0.36 * len(rows)), layout="constrained")
    frames = figure.subplots(1, len(variants), sharey=True, squeeze=False)[0]
    told = []
    for axes, (variant, found) in zip(frames, variants.items(), strict=True):
        for place, row in enumerate(rows):
            values = [measure.scale * value for value in found["figures"][row]]
            color = COLORS[1] if row in made.better else COLORS[0]
            axes.plot(values, [place] * len(values), "o", color=color, alpha=0.35, markersize=4, markeredgewidth=0)
            axes.plot(fmean(values), place, "|", color=color, markersize=15, markeredgewidth=2.2)
            if row in found["published"]:
                axes.plot(found["published"][row][0], place, "D", color="#333333", fillstyle="none", markersize=5.5)
            told.append(f"{row}{f' ({variant})' if variant else ''} {fmean(values):.{measure.digits}f}")
        axes.set_title(variant, fontsize=10.5, loc="left")
        axes.set_xlabel(f"{FIGURES.get(made.figure.rpartition('.')[0], made.figure)}, {measure.axis}")
        axes.grid(alpha=0.25, linewidth=0.6, axis="x")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    frames[0].set_yticks(range(len(rows)), rows)
    frames[0].set_ylim(len(rows) - 0.4, -0.6)
    published = any(found["published"] for found in variants.values())
    figure.supxlabel(
        f"dots: {len(result['seeds'])} seeds, bar: their mean{', diamond: published' if published else ''}", fontsize=8
    )
    return Picture("result", f"{made.claim} Means in {measure.axis}: {', '.join(told)}.", figure)

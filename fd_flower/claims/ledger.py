"""The ledger: results of entries that were run in full, kept next to them, and the page that is made of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fd_flower.claims.entry import Entry, entry, names
from fd_flower.config.registry import strategy
from fd_flower.results.page import NOTHING
from fd_flower.results.tables import Table

RESULTS = Path(__file__).parent / "results"
"""Results of whole entries; those of small forms are in its folder ``quick``."""

BEGIN, END = "<!-- claims: made by benchmarks/claims.py -->\n", "<!-- end of claims -->\n"
"""What a method's page has around its verdicts."""

Result = Mapping[str, Any]

SOURCES = {
    "paper": "read in the paper",
    "code": "read in the official code",
    "abstract": "read in the abstract alone",
    "second-hand": "read second-hand, in another publication",
    "ours": "the setting is our own",
}
"""Where a claim was read, in words."""

HEAD = """\
# Claims

This page lists what papers claim about their methods and what our runs show. The settings, seeds and rule of each
entry were committed (`fd_flower/claims/`) before its first full run. `fd-flower reproduce NAME --data DIR` repeats an
entry and reports whether its figures equal the committed ones bit for bit; `python benchmarks/claims.py` generates
this page from the committed results.

Each claim has one of these verdicts:

* **ordering**: the method is better than the other row, compared seed by seed on the same partition, initial weights
  and test set. The mean difference is at least one point, or 0.01 bits per byte (lower is better there), its 90 % t
  interval is above 0, and with fewer than five seeds the difference is positive for every seed.
* **matches paper**: the ordering holds, and every figure is within 2 points, or 2 published standard deviations, of
  the published one.
* **not shown**: neither holds.
* **not testable here**: the entry gives the reason.

*Our reconstruction* before a verdict means that neither official code nor the full paper was available, so the figures
say nothing about the published method.

Accuracies and nDCG@10 are in %; bits per byte are not scaled. Figures are mean ± sample standard deviation over seeds,
after the last round. *Selected* is the round with the best validation figure.
"""


def results() -> dict[str, Result]:
    """Return the results that are kept, by the names of their entries."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def place(name: str, *, quick: bool) -> Path:
    """Return the file in which the result of an entry, or of its small form, is kept."""
    return RESULTS / "quick" / f"{name}.json" if quick else RESULTS / f"{name}.json"


def kept(name: str, *, quick: bool) -> Result | None:
    """Return the kept result of an entry, or of its small form; None where there is none."""
    file = place(name, quick=quick)
    return json.loads(file.read_text()) if file.is_file() else None


def elsewhere(result: Result, other: Result) -> list[str]:
    """Return in what two results were computed differently, so that their last bits may differ: data, torch, CPU.

    The sources are left out: code that is other and gives other figures is what a comparison is to find.
    """
    there, here = ({"data": each["data"], **(each.get("arithmetic") or {})} for each in (other, result))
    names = dict.fromkeys([*there, *here])
    pairs = {name: (there.get(name, "unknown"), here.get(name, "unknown")) for name in names}
    return [f"{name} {before}, here {now}" for name, (before, now) in pairs.items() if before != now]


def against(result: Result, other: Result) -> list[str]:
    """Return how a result's figures compare with those of the kept one, bit for bit: lines for a reader."""
    ours, theirs = (_by_place(each) for each in (result, other))
    places = dict.fromkeys([*ours, *theirs])
    lines = [
        f"  {place}: {ours.get(place, 'none')}, committed {theirs.get(place, 'none')}"
        for place in places
        if ours.get(place) != theirs.get(place)
    ]
    if not lines:
        return [as_kept(result)]
    why = elsewhere(result, other)
    return [
        f"{len(lines)} of {len(places)} figures differ from the committed result",
        *lines,
        f"  which was computed elsewhere: {'; '.join(why)}" if why else "  data, torch and CPU are the same",
    ]


def as_kept(result: Result) -> str:
    """Return the line for a result that has every figure of the kept one."""
    return f"as in the committed result, bit for bit ({len(_by_place(result))} figures)"


def _by_place(result: Result) -> dict[str, float]:
    """Return every figure by its variant, row and seed."""
    return {
        ", ".join(filter(None, [variant, row, f"seed {seed}"])): value
        for variant, found in result["variants"].items()
        for row, figures in found["figures"].items()
        for seed, value in zip(result["seeds"], figures, strict=True)
    }


def words(made: Entry, result: Result | None, orders: Sequence[tuple[str, str]] | None = None) -> list[str]:
    """Return an entry's verdicts in short, one for each variant and order (None: of all): ``ordering (alpha 0.1)``."""
    if made.rule == "not testable here":
        return [made.rule]
    if result is None:
        return ["not run in full"]
    several = len(made.orders) > 1
    return [
        _named(made, order) + _about([variant, f"{order['better']} against {order['than']}" if several else ""])
        for variant, found in result["variants"].items()
        for order in found["orders"]
        if orders is None or (order["better"], order["than"]) in orders
    ]


def sentence(made: Entry, order: Mapping[str, Any], seeds: int) -> str:
    """Return a verdict and what it is made of."""
    measure = made.measure
    rows = [order["better"], order["than"]]
    larger, smaller = rows if measure.higher else reversed(rows)
    mean, low, high = (measure.written(value, "+") for value in (order["mean"], *order["interval"]))
    return (
        f"{_named(made, order)}: {larger} less {smaller} {mean} {measure.unit}, 90 % interval {low} to {high}, "
        f"{seeds} seeds"
    )


def table(made: Entry, found: Mapping[str, Any]) -> Table:
    """Return our figures of a variant next to the published ones."""
    head = ["row", "final", "selected", "evaluated at", "published"]
    published = found["published"]
    rows = [
        [
            row,
            made.measure.spread(figures) or NOTHING,
            made.measure.spread([value for value in found["selected"][row] if value is not None]) or NOTHING,
            found["evaluated"][row] or NOTHING,
            f"{published[row][0]:.1f}" if row in published else NOTHING,
        ]
        for row, figures in found["figures"].items()
    ]
    return Table.of(head, rows, (0, 3))


def page(kept: Mapping[str, Result]) -> str:
    """Return the ledger as Markdown: a table of verdicts, then every entry."""
    rows = [[f"[{name}](#{name})", "; ".join(words(entry(name), kept.get(name)))] for name in names()]
    sections = [_section(entry(name), kept.get(name)) for name in names()]
    return "\n".join([HEAD, Table.of(["entry", "verdict"], rows, (0, 1)).markdown(), "", *sections])


def of_method(method: str, kept: Mapping[str, Result]) -> str:
    """Return what a method's page says of its claims, as Markdown: each entry with its verdicts; empty without one."""
    lines = []
    for made in map(entry, names()):
        own = [order for order in made.orders if made.arms[order[0]].method == method]
        if own:
            found = "; ".join(words(made, kept.get(made.name), own))
            lines.append(f"* [{made.name}](../claims.md#{made.name}): {made.claim} **{found}**.")
    return "\n".join(lines)


def with_claims(text: str, method: str, kept: Mapping[str, Result]) -> str:
    """Return a method's page with its verdicts below the heading of its results, in place of those that it had."""
    if BEGIN in text:
        head, _, rest = text.partition(BEGIN)
        text = head + rest.partition(END)[2].lstrip("\n")
    lines, heading = of_method(method, kept), "## Results\n\n"
    if not lines:
        return text
    block = f"Claims about this method and our verdicts ([how claims are judged](../claims.md)):\n\n{lines}\n\n"
    return text.replace(heading, f"{heading}{BEGIN}{block}{END}\n", 1)


def _section(made: Entry, result: Result | None) -> str:
    parts = [f"## {made.name}", f"{made.claim} ({made.origin.where}; {SOURCES[made.origin.read]}.)"]
    if made.reason:
        parts.append(made.reason)
    if made.rule != "not testable here" and result is None:
        parts.append("Not run in full.")
    if result is not None:
        parts += [f"![{made.claim}](images/{made.name}.png)"]
        for variant, found in result["variants"].items():
            parts += [f"**{variant}**"] if variant else []
            parts += [table(made, found).markdown()]
            parts += ["\n".join(f"* {sentence(made, order, len(result['seeds']))}" for order in found["orders"])]
        about = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
        copies = ", ".join(f"`{copy}`" for copy in result["data"] if copy) or "scikit-learn's digits"
        parts += [f"Why: {made.cause}"] if made.cause else []
        parts += [
            f"`{result['command']}`: {result['hours']:.2f} hours of runs, figure `{result['figure']}`, seeds "
            f"{', '.join(map(str, result['seeds']))}, data {copies}, sources {result['sources']}, {about}."
        ]
    return "\n\n".join(parts) + "\n"


def _named(made: Entry, order: Mapping[str, Any]) -> str:
    """Return a verdict; of a reconstruction it says so."""
    word, method = order["verdict"], made.arms[order["better"]].method
    return f"our reconstruction, {word}" if strategy(method).status.follows == "reconstruction" else word


def _about(what: Sequence[str]) -> str:
    return f" ({', '.join(filter(None, what))})" if any(what) else ""

"""Draw the figure of every method: who sends what to whom, what each side does, and where the accuracy is taken.

    python benchmarks/method_figures.py

Writes docs/images/methods/NAME.svg and puts the figure's description, as alternative text, into every page that shows
it. What the strategies declare is taken from them: requirements, kinds of payload, evaluation point and secure sums.
The steps and the words at the arrows are in the comment ``figure`` of the page.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from textwrap import wrap

import yaml

from fd_flower import methods
from fd_flower.cli.describe import kinds

DOCS = Path(__file__).resolve().parent.parent / "docs"
IMAGES = DOCS / "images" / "methods"

EVALUATED = "evaluated here"
"""Stands among the steps where the accuracy is taken."""


@dataclass(frozen=True)
class Flow:
    """What is drawn of a method.

    Attributes
    ----------
    down, up : Mapping[str, str]
        Kind of payload -> what it holds, for what every run sends with the recipe's options.
    clients, server : Sequence[str]
        The steps of a round, in order, the clients' first.
    title : str
        The method's name, as the page's heading has it.
    numbered : bool
        Whether the steps are one round's, in order.
    """

    title: str
    down: Mapping[str, str]
    up: Mapping[str, str]
    clients: Sequence[str]
    server: Sequence[str]
    numbered: bool = True


EVERYWHERE, AT_THE_SERVER = "the same at the server and on every client", "at the server only"


def flow_of(stem: str) -> Flow:
    """Return what the comment ``figure`` on a method's page has, in YAML.

    Raises
    ------
    ValueError
        If the page has no such comment.
    """
    page = (DOCS / "methods" / f"{stem}.md").read_text(encoding="utf-8")
    found = re.search(r"^<!-- figure\n(.+?)\n-->$", page, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"docs/methods/{stem}.md has no comment '<!-- figure': see docs/methods/fedmd.md")
    title = page.partition("\n")[0].removeprefix("# ").partition(" (")[0]
    return Flow(title=title, **yaml.safe_load(found[1]))


# --- what the declarations say


def architectures(stem: str) -> str:
    """Return which models the clients may have."""
    requires = methods.strategy(stem).requires
    if requires.same_model:
        return "one architecture"
    if requires.features:
        return "any architectures, one feature size"
    if requires.headed:
        return "any architectures with a linear head"
    return "any architectures"


def public(stem: str) -> str:
    """Return where public samples lie, if the method needs any: clients that predict on them have them, too."""
    strategy = methods.strategy(stem)
    if not strategy.requires.public:
        return ""
    return EVERYWHERE if strategy.predicts else AT_THE_SERVER


def sees(stem: str) -> str:
    """Return what the server must see of the replies."""
    strategy = methods.strategy(stem)
    if strategy.requires.single_replies:
        return "sees each client's reply"
    return "a secure sum is enough" if strategy.summable else ""


def point(stem: str) -> str:
    """Return the evaluation point, and which models are evaluated there."""
    evaluated = methods.strategy(stem).evaluated
    return f"{EVALUATED}: {evaluated}"


def further(stem: str) -> str:
    """Return the kinds of payload that only other options than the recipe's send."""
    flow = flow_of(stem)
    return ", ".join(kind for kind in kinds(stem) if kind not in {*flow.down, *flow.up})


def description(stem: str) -> str:
    """Return the figure in words, on one line."""
    flow = flow_of(stem)

    def steps(words: Sequence[str]) -> str:
        done = [f"{text[0].lower()}{text[1:]}" for text in words if text != EVALUATED]
        return "; ".join(done) or "nothing to aggregate"

    def sent(payloads: Mapping[str, str]) -> str:
        return ", ".join(f"{kind} ({what})" for kind, what in payloads.items()) or "nothing"

    parts = [
        f"One round of {flow.title}.",
        f"The server sends {sent(flow.down)}.",
        f"Clients ({architectures(stem)}): {steps(flow.clients)}.",
        f"They send {sent(flow.up)}.",
        f"Server{f' ({tag})' if (tag := sees(stem)) else ''}: {steps(flow.server)}.",
    ]
    if place := public(stem):
        parts += [f"Public samples: {place}."]
    parts += [f"Accuracy is taken at {methods.strategy(stem).evaluated}."]
    return " ".join(parts)


# --- the drawing

WIDTH, EDGE, LINE, CHARACTERS = 480, 14, 19, 53

STYLE = """
text { font: 14px system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; fill: #1f2328 }
.card { fill: #ffffff; stroke: #d0d7de }
.server { fill: #ddf4ff; stroke: #54aeff }
.client { fill: #dafbe1; stroke: #4ac26b }
.public { fill: #fff8c5; stroke: #d4a72c; stroke-dasharray: 5 3 }
.arrow { stroke: #57606a; stroke-width: 2; fill: none }
.tip { fill: #57606a }
.head { font-weight: 700 }
.small { font-size: 12.5px; fill: #57606a }
.kind { font: 600 12.5px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
.pill { fill: #8250df }
.mark { font-size: 12.5px; font-weight: 700; fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.card { fill: #0d1117; stroke: #30363d }
.server { fill: #0c2d6b; stroke: #388bfd }
.client { fill: #033a16; stroke: #2ea043 }
.public { fill: #341a00; stroke: #bb8009 }
.arrow { stroke: #9198a1 }
.tip { fill: #9198a1 }
.small { fill: #b1bac4 }
.mark { fill: #ffffff }
}
"""


@dataclass
class Drawing:
    """Elements of an SVG, from top to bottom."""

    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        """Add a line of text with its baseline at ``y``."""
        self.parts.append(f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Add a rectangle with round corners."""
        place = f'x="{x}" y="{y}" width="{width}" height="{height}"'
        self.parts.append(f'<rect {place} rx="8" class="{kind}"/>')

    def arrow(self, x: float, start: float, end: float) -> None:
        """Add a vertical arrow."""
        way = 1 if end > start else -1
        self.parts.append(f'<path d="M{x} {start}V{end - way * 7}" class="arrow"/>')
        self.parts.append(f'<path d="M{x} {end}l-6 {-way * 11}h12z" class="tip"/>')


def drawn(stem: str) -> str:
    """Return the figure of a method as SVG."""
    flow, art = flow_of(stem), Drawing()
    client_lines = lines(flow.clients, 1, numbered=flow.numbered)
    begun = 1 + len([step for step in flow.clients if step != EVALUATED])
    server_lines = lines(flow.server, begun, numbered=flow.numbered)

    y = panel(art, EDGE, "server", "Server", sees(stem), server_lines, stem)
    y = arrows(art, y, flow)
    y = panel(art, y, "client", "Clients", architectures(stem), client_lines, stem)
    if place := public(stem):
        y += 12
        art.box(EDGE, y, WIDTH - 2 * EDGE, 32, "public")
        art.text(EDGE + 12, y + 21, "Public samples", "head")
        art.text(EDGE + 136, y + 21, place, "small")
        y += 32
    if more := further(stem):
        y += 22
        art.text(EDGE + 2, y, f"With other options also: {more}", "small")
        y += 2
    height = y + EDGE
    words = escape(description(stem))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="560" viewBox="0 0 {WIDTH} {height}" role="img" '
            'aria-labelledby="title desc">',
            f'<title id="title">One round of {escape(flow.title)}</title>',
            f'<desc id="desc">{words}</desc>',
            f"<style>{STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10" class="card"/>',
            *art.parts,
            "</svg>\n",
        ]
    )


def lines(steps: Sequence[str], number: int, *, numbered: bool) -> list[tuple[str, str]]:
    """Return the lines of a box as (number or "", text), the first step having this number."""
    found: list[tuple[str, str]] = []
    for step in steps:
        if step == EVALUATED:
            found.append(("", EVALUATED))
            continue
        first, *rest = wrap(step, CHARACTERS)
        found += [(f"{number}." if numbered else "", first), *(("", words) for words in rest)]
        number += 1
    return found


def panel(art: Drawing, y: float, kind: str, name: str, tag: str, shown: list[tuple[str, str]], stem: str) -> float:
    """Draw the box of one side, clients as a pile, and return where it ends."""
    height = 32 + LINE * len(shown) + 6 + 5 * sum(words == EVALUATED for _, words in shown)
    pile = 2 if kind == "client" else 0
    width = WIDTH - 2 * EDGE - 5 * pile
    for back in range(pile, -1, -1):
        art.box(EDGE + 5 * back, y + 5 * (pile - back), width, height, kind)
    top = y + 5 * pile
    art.text(EDGE + 12, top + 23, name, "head")
    art.text(EDGE + width - 12, top + 23, tag, "small", "end")
    line = top + 32 + 14
    for number, words in shown:
        if words == EVALUATED:
            label = point(stem)
            art.parts.append(
                f'<rect x="{EDGE + 34}" y="{line - 12}" width="{24 + 7.6 * len(label)}" height="20" rx="10" '
                'class="pill"/>'
            )
            art.text(EDGE + 46, line + 3, label, "mark")
            line += LINE + 5
            continue
        if number:
            art.text(EDGE + 12, line, number, "small")
        art.text(EDGE + 34, line, words)
        line += LINE
    return top + height


def arrows(art: Drawing, y: float, flow: Flow) -> float:
    """Draw what travels down (left) and up (right), and return where the clients begin."""
    rows = max(len(flow.down), len(flow.up))
    if not rows:
        art.text(WIDTH / 2, y + 27, "nothing travels, nothing is aggregated", "small", "middle")
        return y + 36
    end = y + 16 + 34 * rows
    for x, payloads, begin, stop in ((EDGE + 22, flow.down, y + 4, end + 4), (EDGE + 244, flow.up, end + 4, y + 4)):
        art.arrow(x, begin, stop)
        for place, (kind, what) in enumerate(payloads.items()):
            art.text(x + 16, y + 24 + 34 * place, kind, "kind")
            art.text(x + 16, y + 40 + 34 * place, what, "small")
    return end + 6


def with_alternative(page: str, stem: str) -> str:
    """Return a page whose figure, if it shows it, has its description as alternative text."""
    image = f"](../images/methods/{stem}.svg)"
    return re.sub(rf"!\[[^\]]*{re.escape(image)}", lambda _: f"![{description(stem)}{image}", page)


def main() -> None:
    """Write every figure, and its description into the pages that show it."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for stem in methods.names():
        (IMAGES / f"{stem}.svg").write_text(drawn(stem), encoding="utf-8")
        page = DOCS / "methods" / f"{stem}.md"
        page.write_text(with_alternative(page.read_text(encoding="utf-8"), stem), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Draw the figure of every method: who sends what to whom, what each side does, and where the accuracy is taken.

    python benchmarks/method_figures.py

Writes docs/images/methods/NAME.svg and puts the figure's description, as alternative text, into every page that shows
it. What the strategies declare is taken from them: requirements, kinds of payload, evaluation point and secure sums.
The steps and the words at the arrows are written here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from textwrap import wrap

from fd_flower import methods
from fd_flower.cli.describe import exchanged

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
    clients, server : tuple[str, ...]
        The steps of a round, in order, the clients' first.
    title : str
        The method's name.
    public : str
        Where public samples lie, if the method needs any.
    numbered : bool
        Whether the steps are one round's, in order.
    """

    title: str
    down: Mapping[str, str]
    up: Mapping[str, str]
    clients: tuple[str, ...]
    server: tuple[str, ...]
    public: str = ""
    numbered: bool = True


EVERYWHERE, AT_THE_SERVER = "the same at the server and on every client", "at the server only"
INDEX = {"public-index": "samples of this round"}
WEIGHTS = {"arrays": "model weights"}
VOTES = {"public-votes": "once, which samples"}

FLOWS = {
    "dsfl": Flow(
        "DS-FL",
        {"public-logits": "sharpened mean"} | INDEX,
        {"public-logits": "predictions"},
        (
            "Distill the sharpened mean on the last round's public samples",
            "Train on private data",
            EVALUATED,
            "Predict on this round's public samples",
        ),
        ("Average the clients' probabilities", "Sharpen the mean (reduce its entropy)"),
        EVERYWHERE,
    ),
    "edgefd": Flow(
        "EdgeFD",
        {"public-logits": "mean of the voters"} | INDEX | {"public-votes": "once, a request"},
        {"public-logits": "predictions"} | VOTES,
        (
            "Once: vote for public samples near the centroids of the private data",
            "Distill the voters' mean",
            EVALUATED,
            "Train on private data",
            "Predict on the samples voted for",
        ),
        ("Average the logits of each sample's voters",),
        EVERYWHERE,
    ),
    "fd": Flow(
        "FD",
        {"class-logits": "sums over clients"},
        {"class-logits": "sums and counts"},
        (
            "Subtract the client's own table from the sums",
            "Train on private data, with the other clients' mean output of a class as soft label",
            EVALUATED,
            "Add up the model's outputs by class",
        ),
        ("Add up the clients' tables",),
    ),
    "fedavg": Flow(
        "FedAvg",
        WEIGHTS,
        WEIGHTS,
        ("Load the server's weights", "Train on private data"),
        ("Average the weights by number of samples", EVALUATED),
    ),
    "fedd2s": Flow(
        "FedD2S",
        {"sample-knowledge": "cut, soft labels"},
        {"sample-knowledge": "features, labels, logits"},
        (
            "Train on private data; distill the server's soft labels into the blocks below the cut",
            EVALUATED,
            "Send features at the cut, labels and predictions",
        ),
        (
            "Train a head for this cut on all clients' features",
            "Predict soft labels for each client's samples",
            "Move the cut from deep to shallow",
        ),
    ),
    "feddf": Flow(
        "FedDF",
        {"arrays": "student's weights"},
        WEIGHTS,
        ("Load the student of the client's architecture", "Train on private data"),
        (
            "Average the weights of each architecture",
            "Predict with all clients' models: the ensemble",
            "Distill the ensemble into each student",
            EVALUATED,
        ),
        AT_THE_SERVER,
    ),
    "fede4rag": Flow(
        "FedE4RAG",
        {"arrays": "mean retriever"},
        {"arrays": "trained parameters"},
        (
            "Train the client's own retriever on private questions and passages, with the mean retriever's "
            "similarities as teacher",
            "Keep it, and send its trained parameters",
        ),
        ("Average the retrievers", EVALUATED),
    ),
    "fedgen": Flow(
        "FedGen",
        {"arrays": "model weights", "feature-generator": "from round two"},
        {"arrays": "model weights", "label-counts": "samples per class"},
        ("Load the server's weights", "Train on private data and on generated features"),
        (
            "Train the feature generator against the clients' heads",
            "Average the weights by number of samples",
            EVALUATED,
        ),
    ),
    "fedkd": Flow(
        "FedKD",
        {"update": "compressed mean", "arrays": "first round: mentee"},
        {"update": "compressed change"},
        (
            "Add the mean update to the small shared model (mentee)",
            "Train it and the client's own model (mentor) on private data; each distills the other",
            EVALUATED,
            "Compress the mentee's change by singular values",
        ),
        ("Average the updates by number of samples", "Compress the mean and add it to the server's mentee"),
    ),
    "fedlgd": Flow(
        "FedLGD",
        {"arrays": "model weights", "synthetic-set": "server's images"},
        WEIGHTS,
        (
            "First turn: distill private images into a few synthetic ones",
            "Load the server's weights",
            "Train on the client's and the server's synthetic images",
        ),
        (
            "Average the weights",
            "In matching rounds: adapt the server's images to the weights' change",
            EVALUATED,
        ),
    ),
    "fedmd": Flow(
        "FedMD",
        {"public-logits": "mean of the logits"} | INDEX,
        {"public-logits": "predictions"},
        (
            "Distill the mean on the last round's public samples",
            "Train on private data",
            EVALUATED,
            "Predict on this round's public samples",
        ),
        ("Average the clients' logits",),
        EVERYWHERE,
    ),
    "fedproto": Flow(
        "FedProto",
        {"prototypes": "mean per class"},
        {"prototypes": "mean feature per class"},
        (
            "Train on private data; pull features to the global prototype of their class",
            EVALUATED,
            "Compute the mean feature of each class",
        ),
        ("Average the prototypes class by class",),
    ),
    "fedprox": Flow(
        "FedProx",
        WEIGHTS,
        WEIGHTS,
        ("Load the server's weights", "Train on private data, with a penalty on the distance from these weights"),
        ("Average the weights by number of samples", EVALUATED),
    ),
    "fedre": Flow(
        "FedRE",
        {"head": "shared classifier"},
        {"representation": "one mixed feature"},
        (
            "Load the shared head",
            "Train on private data",
            EVALUATED,
            "Mix the class prototypes, and their labels, with random weights into one",
        ),
        ("Train the head on the clients' mixed features",),
    ),
    "fedtgp": Flow(
        "FedTGP",
        {"prototypes": "trained, one per class"},
        {"prototypes": "mean feature per class"},
        (
            "Train on private data; pull features to the global prototype of their class",
            EVALUATED,
            "Compute the mean feature of each class",
        ),
        ("Train global prototypes that lie far apart, near those of the clients",),
    ),
    "fml": Flow(
        "FML",
        {"arrays": "mean shared model"},
        {"arrays": "shared model (meme)"},
        (
            "Load the mean of the shared models (memes)",
            "Train it and the client's own model on private data; each distills the other",
            EVALUATED,
        ),
        ("Average the shared models by number of samples",),
    ),
    "kdstudy": Flow(
        "KD study",
        WEIGHTS,
        WEIGHTS,
        ("Round one: train to convergence on private data", "Later rounds: train the server's model as in FedAvg"),
        (
            "Round two: distill the clients' models into one student",
            "Later rounds: average the weights as in FedAvg",
            EVALUATED,
        ),
        AT_THE_SERVER,
        numbered=False,
    ),
    "knfu": Flow(
        "KnFu",
        {"public-logits": "one fusion per client"} | INDEX,
        {"public-logits": "predictions"},
        (
            "Distill the client's own fusion",
            EVALUATED,
            "Train on private data",
            "Predict on this round's public samples",
        ),
        (
            "Compare the clients' mean predictions",
            "For each client: average the predictions of those that predict alike",
        ),
        EVERYWHERE,
    ),
    "local": Flow("Local training", {}, {}, ("Train on private data", EVALUATED), ()),
    "mhd": Flow(
        "MHD",
        {"public-heads": "neighbors' predictions"} | INDEX,
        {"public-heads": "all heads, embeddings"},
        (
            "Train on private data; each auxiliary head distills neighbors' heads one level lower",
            EVALUATED,
            "Predict with all heads on this round's public samples",
        ),
        ("Keep each client's last predictions", "Pass them on to its neighbors in the graph"),
        EVERYWHERE,
    ),
    "selectivefd": Flow(
        "Selective-FD",
        {"public-logits": "mean of the voters"} | INDEX | {"public-votes": "once, a request"},
        {"public-logits": "predictions"} | VOTES,
        (
            "Once: vote for public samples that look like the private data (density ratio)",
            "Distill the voters' mean",
            EVALUATED,
            "Train on private data",
            "Predict on the samples voted for",
        ),
        ("Average the probabilities of each sample's voters", "By option: leave out ambiguous samples"),
        EVERYWHERE,
    ),
}
"""What the declarations do not say of a method."""


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
    flow = FLOWS[stem]
    kinds = set(exchanged(stem).split(", ")) - {"nothing"} - {*flow.down, *flow.up}
    return ", ".join(sorted(kinds))


def description(stem: str) -> str:
    """Return the figure in words, on one line."""
    flow = FLOWS[stem]

    def steps(words: tuple[str, ...]) -> str:
        done = [f"{text[0].lower()}{text[1:]}" for text in words if text != EVALUATED]
        return "; ".join(done) or "nothing to aggregate"

    def sent(kinds: Mapping[str, str]) -> str:
        return ", ".join(f"{kind} ({what})" for kind, what in kinds.items()) or "nothing"

    parts = [
        f"One round of {flow.title}.",
        f"The server sends {sent(flow.down)}.",
        f"Clients ({architectures(stem)}): {steps(flow.clients)}.",
        f"They send {sent(flow.up)}.",
        f"Server{f' ({tag})' if (tag := sees(stem)) else ''}: {steps(flow.server)}.",
    ]
    if flow.public:
        parts += [f"Public samples: {flow.public}."]
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
    flow, art = FLOWS[stem], Drawing()
    client_lines = lines(flow.clients, 1, numbered=flow.numbered)
    begun = 1 + len([step for step in flow.clients if step != EVALUATED])
    server_lines = lines(flow.server, begun, numbered=flow.numbered)

    y = panel(art, EDGE, "server", "Server", sees(stem), server_lines, stem)
    y = arrows(art, y, flow)
    y = panel(art, y, "client", "Clients", architectures(stem), client_lines, stem)
    if flow.public:
        y += 12
        art.box(EDGE, y, WIDTH - 2 * EDGE, 32, "public")
        art.text(EDGE + 12, y + 21, "Public samples", "head")
        art.text(EDGE + 136, y + 21, flow.public, "small")
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


def lines(steps: tuple[str, ...], number: int, *, numbered: bool) -> list[tuple[str, str]]:
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
    for x, kinds, begin, stop in ((EDGE + 22, flow.down, y + 4, end + 4), (EDGE + 244, flow.up, end + 4, y + 4)):
        art.arrow(x, begin, stop)
        for place, (kind, what) in enumerate(kinds.items()):
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

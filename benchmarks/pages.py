"""Make what pages say about all methods at once from what the methods' code declares.

    python benchmarks/pages.py

It writes the table and the map of docs/choose.md (docs/images/choose.svg), and the list of docs/paper-index.md. The
text around them is written by hand. A method from a new file appears by itself; its paper's title is in ``TITLES``.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from textwrap import wrap
from xml.sax.saxutils import escape

from fd_flower import methods, objectives
from fd_flower.cli import describe
from fd_flower.config.registry import RECIPES, RECIPES_OF
from fd_flower.server import Strategy
from fd_flower.wire import Summable

DOCS = Path(__file__).resolve().parent.parent / "docs"

TITLES = {
    "ditto": "Ditto: Fair and Robust Federated Learning Through Personalization",
    "dsfl": "Distillation-Based Semi-Supervised Federated Learning for Communication-Efficient Collaborative Training "
    "with Non-IID Private Data",
    "edgefd": "Federated Distillation on Edge Devices: Efficient Client-Side Filtering for Non-IID Data",
    "fd": "Communication-Efficient On-Device Machine Learning: Federated Distillation and Augmentation under Non-IID "
    "Private Data",
    "fedalm": "Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching",
    "fedavg": "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    "fedavg-bias": "Exploring Parameter-Efficient Fine-Tuning to Enable Foundation Models in Federated Learning",
    "fedavg-lora": "Towards Building the Federated GPT: Federated Instruction Tuning",
    "fedbn": "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization",
    "fedcollm": "FedCoLLM: A Parameter-Efficient Federated Co-tuning Framework for Large and Small Language Models",
    "fedd2s": "FedD2S: Personalized Data-Free Federated Knowledge Distillation",
    "feddf": "Ensemble Distillation for Robust Model Fusion in Federated Learning",
    "fede4rag": "Privacy-Preserving Federated Embedding Learning for Localized Retrieval-Augmented Generation",
    "fedgen": "Data-Free Knowledge Distillation for Heterogeneous Federated Learning",
    "fedgh": "FedGH: Heterogeneous Federated Learning with Generalized Global Header",
    "fedkd": "Communication-Efficient Federated Learning via Knowledge Distillation",
    "fedkseed": "Federated Full-Parameter Tuning of Billion-Sized Language Models with Communication Cost under 18 "
    "Kilobytes",
    "fedl2g": "FedL2G: Learning to Guide Local Training in Heterogeneous Federated Learning",
    "fedlgd": "Federated Learning on Virtual Heterogeneous Data with Local-Global Dataset Distillation",
    "fedlex": "Federated Loss Exploration for Improved Convergence on Non-IID Data",
    "autoflip": "Federated Hybrid Model Pruning through Loss Landscape Exploration",
    "federated-pruning": "Federated Pruning: Improving Neural Network Efficiency with Federated Learning",
    "fedmd": "FedMD: Heterogenous Federated Learning via Model Distillation",
    "fedmkt": "FedMKT: Federated Mutual Knowledge Transfer for Large and Small Language Models",
    "fedmrl": "Federated Model Heterogeneous Matryoshka Representation Learning",
    "cfd": "Communication-Efficient Federated Distillation",
    "comet": "Personalized Federated Learning for Heterogeneous Clients with Clustered Knowledge Transfer",
    "dpfl": "Decentralized Personalized Federated Learning",
    "kt-pfl": "Parameterized Knowledge Transfer for Personalized Federated Learning",
    "fesem": "Multi-Center Federated Learning",
    "fedlalr": "FedLALR: Client-Specific Adaptive Learning Rates Achieve Linear Speedup for Non-IID Data",
    "gut": "Global Update Tracking: A Decentralized Learning Algorithm for Heterogeneous Data",
    "qg-dsgdm": "Quasi-Global Momentum: Accelerating Decentralized Deep Learning on Heterogeneous Data",
    "pa-cfl": "PA-CFL: Privacy-Adaptive Clustered Federated Learning for Transformer-Based Sales Forecasting on "
    "Heterogeneous Retail Data",
    "fedhe": "FedHe: Heterogeneous Models and Communication-Efficient Federated Learning",
    "scarlet": "Soft-Label Caching and Sharpening for Communication-Efficient Federated Distillation",
    "fedntd": "Preservation of the Global Knowledge by Not-True Distillation in Federated Learning",
    "fedper": "Federated Learning with Personalization Layers",
    "fedproto": "FedProto: Federated Prototype Learning across Heterogeneous Clients",
    "fedprox": "Federated Optimization in Heterogeneous Networks",
    "fedre": "FedRE: A Representation Entanglement Framework for Model-Heterogeneous Federated Learning",
    "fedrep": "Exploiting Shared Representations for Personalized Federated Learning",
    "fedspeed": "FedSpeed: Larger Local Interval, Less Communication Round, and Higher Generalization Accuracy",
    "fedtgp": "FedTGP: Trainable Global Prototypes with Adaptive-Margin-Enhanced Contrastive Learning for Data and "
    "Model Heterogeneity in Federated Learning",
    "fedwon": "FedWon: Triumphing Multi-domain Federated Learning Without Normalization",
    "fraug": "FRAug: Tackling Federated Learning with Non-IID Features via Representation Augmentation",
    "fml": "Federated Mutual Learning",
    "kdstudy": "Practical Insights into Knowledge Distillation for Pre-Trained Models",
    "knfu": "KnFu: Effective Knowledge Fusion",
    "lg-fedavg": "Think Locally, Act Globally: Federated Learning with Local and Global Representations",
    "mhd": "Decentralized Learning with Multi-Headed Distillation",
    "scaffold": "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
    "selectivefd": "Selective Knowledge Sharing for Privacy-Preserving Federated Distillation without a Good Teacher",
    "alm": "Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching",
    "akl": "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models",
    "bdkd": "BD-KD: Balancing the Divergences for Online Knowledge Distillation",
    "dist": "Knowledge Distillation from A Stronger Teacher",
    "dkd": "Decoupled Knowledge Distillation",
    "kl": "Distilling the Knowledge in a Neural Network",
    "mse": "Do Deep Nets Really Need to be Deep?",
    "ofa": "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
    "ctkd": "Curriculum Temperature for Knowledge Distillation",
    "offsite": "Offsite-Tuning: Transfer Learning without Full Model",
    "pld": "PLD: A Choice-Theoretic List-Wise Knowledge Distillation",
    "taid": "TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language Models",
}
"""Titles of papers on arXiv, by method, recipe or loss."""

FEDERATION = "data.clients=10 data.alpha=0.1 server.rounds=20"
"""What a command asks for where the recipe names no federation: a small one that we chose."""

SOURCES = {
    "ditto": "data.source=FASHION_MNIST",
    "dsfl": "data.source=CIFAR10 data.public=CIFAR100",
    "fd": "data.source=MNIST data.clients=10 data.per_client=2000 server.rounds=16",
    "fedalm": "data.task=language data.source=TEXTS model.name=[MODEL,OTHER] data.clients=10",
    "fedavg": "data.source=MNIST",
    "fedavg-bias": "data.source=CIFAR100 data.size=224x224x3 model.name=vit_b_16 model.weights=DEFAULT",
    "fedavg-lora": "model.name=vit",
    "fedcollm": "data.task=language data.source=TEXTS model.name=MODEL server.model=LARGE data.clients=10",
    "feddf": "data.source=CIFAR10 data.public=CIFAR100",
    "fede4rag": "privacy.sum=none",
    "fedgen": "data.source=MNIST",
    "fedgh": "data.source=CIFAR100",
    "fedkd": "data.source=CIFAR10 data.clients=20 data.alpha=0.1",
    "fedkseed": "data.task=language data.source=TEXTS model.name=MODEL data.clients=200 server.fraction=0.05",
    "fedl2g": "data.source=CIFAR100",
    "fedlex": "data.source=MNIST",
    "autoflip": "data.source=CIFAR10",
    "gut": "data.source=CIFAR10",
    "qg-dsgdm": "data.source=CIFAR10",
    "fedmd": "data.source=EMNIST_LETTERS data.public=MNIST",
    "fedmkt": "data.task=language data.source=TEXTS model.name=[MODEL,OTHER] data.clients=10",
    "fedmrl": "data.source=CIFAR100",
    "fedproto": "data.source=MNIST",
    "fedre": "data.source=CIFAR10",
    "fedspeed": "data.source=CIFAR10",
    "fedtgp": "data.source=CIFAR10",
    "scaffold": "data.source=CIFAR10",
    "offsite": "data.task=language data.source=TEXTS model.name=MODEL client.trainable=all data.clients=10",
    "fml": "data.source=CIFAR10 data.clients=20 data.alpha=0.1",
}
"""What a recipe's comment says of data and clients in words; capitals stand for the user's folder or name of a set."""

CAVEATS = {
    "dsfl": "The federation is that of code in which DS-FL's second author runs it as a baseline, not the paper's.",
    "fedavg-bias": "Values and federation are those of a first version of the authors' code. Its ViT has weights of "
    "ImageNet-21k; torchvision's `DEFAULT` are of ImageNet-1k.",
    "fedavg-lora": "The paper tunes a language model to instructions; only its aggregation is here.",
    "fedalm": "The paper distills one teacher; the federation is our own choice.",
    "fedcollm": "The federation is our own choice.",
    "fedd2s": "The federation is our own choice.",
    "fede4rag": "This is the federation of the authors' code. The recipe without these options trains a small head.",
    "fedgh": "The federation is that of HtFLlib, a third-party library.",
    "fedkd": "The paper is about text; these are the images of HtFLlib, a third-party library.",
    "fedkseed": "The paper tunes models of one and three billion parameters.",
    "fedmkt": "The federation is our own choice; tokens of other vocabularies are not aligned.",
    "fedmd": "`EMNIST_LETTERS` has the letters of six classes.",
    "fml": "The federation is that of HtFLlib, a third-party library.",
    "fedprox": "The number of devices is recalled from memory, not read in the paper.",
    "offsite": "The federation is our own choice.",
    "scaffold": "The federation is that of NIID-Bench, a third-party library.",
    "mhd": "The federation is recalled from memory, not read in the paper.",
}
"""Where a recipe's federation comes from, if neither from the paper nor from its authors' code."""

GROWS = {
    "arrays": "model",
    "candidates": "model",
    "chain": "",
    "chunk-likelihoods": "tokens of public texts",
    "correction": "model",
    "class-logits": "classes",
    "emulator": "model",
    "feature-generator": "",
    "generator": "",
    "guide-gradients": "classes",
    "guides": "classes",
    "head": "classes",
    "label-counts": "classes",
    "pixel-statistics": "classes",
    "mask": "model",
    "moments": "model",
    "prototypes": "classes",
    "public-heads": "public samples",
    "public-labels": "public samples",
    "public-logits": "public samples",
    "public-votes": "public samples",
    "representation": "classes",
    "sample-knowledge": "own samples",
    "scores": "",
    "seed-scalars": "steps",
    "synthetic-set": "synthetic images",
    "token-logits": "tokens of public texts",
    "update": "model (compressed)",
}
"""What the size of a payload grows with; "": it is small beside the others of its method."""


# --- what the code declares


def architectures(strategy: type[Strategy]) -> str:
    """Return which models a method's clients may have."""
    needs = strategy.requires
    if needs.same_model:
        return "one architecture"
    if needs.features:
        return "any, one feature size"
    return "any with features and a head" if needs.headed else "any"


def outcome(strategy: type[Strategy]) -> str:
    """Return whose accuracy is a method's headline: that of the server's model or of the clients' own."""
    return "global" if strategy.evaluated == "aggregated" else "personal"


def remembers(stem: str) -> bool:
    """Return whether a method's clients keep a model or tensors between rounds."""
    source = inspect.getsource(import_module(methods.client_app_name(stem).partition(":")[0]))
    return "turn.shared(" not in source or ".remember(" in source or ".module(" in source


def grows(stem: str) -> str:
    """Return what a method's messages grow with."""
    return ", ".join(dict.fromkeys(GROWS[kind] for kind in describe.kinds(stem) if GROWS[kind])) or "nothing is sent"


def sums(strategy: type[Strategy]) -> bool:
    """Return whether a secure sum will do for a method, by its recipe."""
    return bool(strategy.summable) and all(issubclass(kind, Summable) for kind in strategy.summable)


def mark(yes: bool) -> str:
    """Return a word for a truth value."""
    return "yes" if yes else "no"


# --- docs/choose.md


def table() -> str:
    """Return the decision table in Markdown."""
    names = ("method", "status", "public samples", "client models", "result", "client state", "secure sum", "retrieval",
             "language models", "messages grow with")  # fmt: skip
    rows = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for stem in methods.names():
        strategy = methods.strategy(stem)
        cells = (
            f"[`{stem}`](methods/{stem}.md)",
            strategy.status.follows,
            mark(strategy.requires.public),
            architectures(strategy),
            outcome(strategy),
            mark(remembers(stem)),
            mark(sums(strategy)),
            mark("retrieval" in strategy.requires.tasks),
            mark("language" in strategy.requires.tasks),
            grows(stem),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def leaf(chosen: Callable[[type[Strategy]], bool]) -> list[tuple[str, list[str]]]:
    """Return the methods of one end of the map: pairs of allowed architectures and names."""
    found: dict[str, list[str]] = {}
    for stem in methods.names():
        strategy = methods.strategy(stem)
        if strategy.status.follows != "baseline" and chosen(strategy):
            found.setdefault(architectures(strategy), []).append(stem)
    order = ("any", "any with features and a head", "any, one feature size", "one architecture")
    return [(name, found[name]) for name in order if name in found]


WIDTH, INDENT, LINE = 400, 26, 19
QUESTION, ANSWER, EDGE, PAPER, INK = "#234a8c", "#eef3fb", "#6b7f9e", "#ffffff", "#1b2433"


def choose_svg() -> str:
    """Return the map: questions from top to bottom, and at each end the methods that fit."""
    drawn: list[str] = []
    y = 14

    def text(x: float, at: float, words: str, style: str = "") -> None:
        drawn.append(f'<text x="{x}" y="{at}" {style}>{words}</text>')

    def question(depth: int, words: str) -> None:
        nonlocal y
        x = 10 + depth * INDENT
        drawn.append(f'<rect x="{x}" y="{y}" width="{WIDTH - 10 - x}" height="34" rx="6" fill="{QUESTION}"/>')
        text(x + 12, y + 22, escape(words), 'fill="#ffffff" font-weight="600"')
        y += 34

    def branch(depth: int, top: float, answer: str) -> None:
        x = 10 + depth * INDENT + 12
        drawn.append(f'<path d="M{x} {top} V{y + 17} H{x + 14}" fill="none" stroke="{EDGE}" stroke-width="2"/>')
        text(x + 7, y - 4, answer, f'fill="{INK}" font-size="13" font-style="italic"')

    def answers(depth: int, chosen: Callable[[type[Strategy]], bool]) -> None:
        nonlocal y
        x = 10 + depth * INDENT
        lines: list[tuple[str, str]] = []
        for models, stems in leaf(chosen):
            lines.append((f"{models} models" if models == "any" else models, 'font-size="13"'))
            lines += [(names, 'font-weight="600"') for names in wrapped(stems, (WIDTH - 34 - x) // 8)]
        height = LINE * len(lines) + 14
        drawn.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH - 10 - x}" height="{height}" rx="6" fill="{ANSWER}" '
            f'stroke="{QUESTION}"/>'
        )
        for number, (words, style) in enumerate(lines):
            text(x + 12, y + 20 + LINE * number, words, f'fill="{INK}" {style}')
        y += height

    def step(depth: int, top: float, answer: str, below: Callable[[], None]) -> None:
        nonlocal y
        y += 24
        branch(depth, top, answer)
        below()

    def learns(kind: str) -> Callable[[type[Strategy]], bool]:
        return lambda strategy: kind in strategy.requires.tasks

    def classifies(result: str, public: bool) -> Callable[[type[Strategy]], bool]:
        return lambda strategy: (
            "classification" in strategy.requires.tasks
            and outcome(strategy) == result
            and strategy.requires.public is public
        )

    def by_public(depth: int, result: str) -> None:
        question(depth, "Do you have public samples?")
        top = y
        step(depth, top, "yes", lambda: answers(depth + 1, classifies(result, True)))
        step(depth, top, "no", lambda: answers(depth + 1, classifies(result, False)))

    question(0, "What do the clients learn?")
    first = y
    step(0, first, "to retrieve documents", lambda: answers(1, learns("retrieval")))
    step(0, first, "to continue texts", lambda: answers(1, learns("language")))
    step(0, first, "to classify", lambda: question(1, "Which models do you want?"))
    second = y
    step(1, second, "one global model", lambda: by_public(2, "global"))
    step(1, second, "a personal model for each client", lambda: by_public(2, "personal"))
    y += 28
    text(12, y, "Italic: a reconstruction. Baseline of all: local.", f'fill="{INK}" font-size="13"')
    y += 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif" font-size="15">\n'
        "<title>Which method fits</title>\n"
        f'<rect width="{WIDTH}" height="{y}" rx="10" fill="{PAPER}"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def wrapped(stems: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines of names, reconstructions in italics."""
    for line in wrap(", ".join(stems), width):
        yield ", ".join(_styled(stem) for stem in line.rstrip(",").split(", ")) + ("," if line.endswith(",") else "")


def _styled(stem: str) -> str:
    if methods.strategy(stem).status.follows == "reconstruction":
        return f'<tspan font-style="italic">{stem}</tspan>'
    return stem


# --- docs/paper-index.md


def command(method: str, recipe: str) -> list[str]:
    """Return the lines of a command that runs a recipe with the federation that its comment names."""
    text = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    named = re.search(r"--set '([^']+)'", comment)
    federation = named[1].replace("<mnist>", "MNIST") if named else "" if recipe in SOURCES else FEDERATION
    words = f"{SOURCES.get(recipe, '')} {federation}".split()
    start = f"fd-flower run {method}" + (f" --recipe {recipe}" if recipe != method else "")
    lines, size = [start], max(3, -(-len(words) // 4))
    for first in range(0, len(words), size):
        lines[-1] += " \\"
        lines.append(f"    --set '{' '.join(words[first : first + size])}'")
    return lines


def papers() -> str:
    """Return the list of papers in Markdown, by title: method, status and a command."""
    recipes = [path.stem for path in RECIPES.glob("*.yaml") if path.stem in TITLES]
    entries = []
    for recipe in recipes:
        method = RECIPES_OF.get(recipe, recipe)
        entries.append((TITLES[recipe], _entry(method, recipe)))
    entries += [(stem, _entry(stem, stem)) for stem in methods.names() if stem not in TITLES and _arxiv(stem)]
    return "\n\n".join(entry for _, entry in sorted(entries, key=lambda pair: pair[0].lower()))


def _entry(method: str, recipe: str) -> str:
    source = describe.idea(method) if recipe == method else _comment(recipe)
    authors, arxiv = _cited(source)
    name = f"[`{method}`](methods/{method}.md)" + (f" with `--recipe {recipe}`" if recipe != method else "")
    status = str(methods.strategy(method).status) if recipe == method else f"a recipe of `{method}`"
    title = TITLES.get(recipe, recipe)
    cited = f"{authors}, [arXiv {arxiv}](https://arxiv.org/abs/{arxiv})"
    lines = [f"### {title}", "", f"{cited}. Method: {name}. Status: {status}."]
    if caveat := CAVEATS.get(recipe):
        lines.append(caveat)
    return "\n".join([*lines, "", "```", *command(method, recipe), "```"])


def _comment(recipe: str) -> str:
    return (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _cited(text: str) -> tuple[str, str]:
    """Return the authors with the year, and the number on arXiv, of ``... (Li et al. 2019, arXiv 1910.03581)``."""
    found = re.search(r"([A-Z][^(:,]*?(?:, [A-Z]\w+)*(?: and \w+)? \d{4})(?:, | \()arXiv (\d+\.\d+)", text)
    if found is None:
        raise ValueError(f"no paper is cited in {text!r}")
    return found[1].strip(), found[2]


def _arxiv(stem: str) -> bool:
    return "arXiv" in describe.idea(stem)


def losses() -> str:
    """Return the table of losses that come from papers."""
    rows = ["| paper | loss | option |", "| --- | --- | --- |"]
    every = {name: objectives.named(name) for name in objectives.names()}
    every |= {name: objectives.token_named(name) for name in objectives.names("tokens")}
    for name in sorted((name for name in every if name in TITLES), key=lambda name: TITLES[name].lower()):
        kind = type(every[name])
        module = import_module(kind.__module__)
        text = f"{kind.__doc__} {module.__doc__}"
        authors, arxiv = _cited(text)
        rows.append(
            f"| {TITLES[name]} ({authors}, [arXiv {arxiv}](https://arxiv.org/abs/{arxiv})) | `{kind.__name__}` | "
            f"`client.objective={name}` |"
        )
    return "\n".join(rows)


# --- pages


def filled(text: str, mark: str, body: str) -> str:
    """Return a page with what stands between two marks replaced."""
    begin, end = f"<!-- {mark}: made by benchmarks/pages.py -->", f"<!-- end of {mark} -->"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{body}\n\n{end}{rest.partition(end)[2]}"


def made() -> dict[Path, str]:
    """Return every file that this script writes, with its text."""
    choose, index = DOCS / "choose.md", DOCS / "paper-index.md"
    return {
        DOCS / "images" / "choose.svg": choose_svg(),
        choose: filled(choose.read_text(encoding="utf-8"), "table", table()),
        index: filled(filled(index.read_text(encoding="utf-8"), "papers", papers()), "losses", losses()),
    }


def main() -> None:
    """Write the pages."""
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

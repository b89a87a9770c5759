"""How retrieval's figures look: nDCG@10 and related metrics instead of accuracy.

Figures are called ``<scope>/<metric>`` in the lines of a run: ``own/ndcg@10`` of a client's own questions, ``others/``
of the other clients' collections, ``unseen/`` of one that no client holds; ``<scope>/se`` is the standard error of the
scope's nDCG@10 over questions, ``validation`` the nDCG@10 that rounds are selected by.
"""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any, ClassVar, final

from fd_flower.core.client import natural
from fd_flower.results.columns import Column, Summaries
from fd_flower.results.history import Track, Tracks, curve, last, training_loss
from fd_flower.results.kinds.base import Evaluated, Kind, Lines
from fd_flower.results.kinds.scoped import VALIDATION, by_scope, tracks_of
from fd_flower.results.page import Markup, element, rounded
from fd_flower.results.page import table as markup
from fd_flower.results.panels import Panel, panel

METRICS = {"ndcg@10": "nDCG@10", "mrr@100": "MRR@100", "hit@1": "Hit@1", "hit@10": "Hit@10", "map": "MAP"}
HEADLINE = "ndcg@10"
SCOPES = {
    "own": "questions about a client's own documents",
    "others": "the other clients' questions and documents",
    "unseen": "a collection that no client holds",
}
WHOSE = {"global": "the server's retriever", "personal": "each client's own retriever, mean over clients"}
WHO = ("global", "personal")
FIGURES = (
    *(
        Column(
            f"{who}_{scope}{'' if key == 'final' else '_selected'}",
            f"{who} {scope}{'' if key == 'final' else ' selected'}",
            ("retrieval", who, scope, HEADLINE, key),
            scale=1,
            digits=3,
        )
        for who in WHO
        for scope in SCOPES
        for key in ("final", "selected")
        if key == "final" or scope == "own"
    ),
    *(
        Column(f"{who}_own_error", f"{who} SE", ("retrieval", who, "own", "se"), 1, 3, better="", spread=False)
        for who in WHO
    ),
)


@final
class Retrieval(Kind):
    """nDCG@10 of the server's retriever and of the clients', by what is searched."""

    key = "retrieval"
    title = "Retrieval"
    figure = heading = axis = "nDCG@10"
    scale = 1
    higher_is_better = True  # as all of its metrics
    selected: ClassVar = {who: f"{who}_own_selected" for who in WHO}
    measured = "Global figures are measured"
    scopes: ClassVar = {
        "global": "The server's retriever: own questions",
        "personal": "Clients' retrievers: own questions",
    }
    explained = (
        "Global: the server's retriever. Personal: each client's own. Figures are final, after the last round, ± their "
        "standard error, and selected, at the best validation round; best, in the report, is at the best test round."
    )
    figures: ClassVar = FIGURES

    def summarize(self, lines: Lines, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return each metric by whose retriever it is of and what is searched, and those of what needs no training."""
        found, evaluated = tracks_of(lines, facts["evaluated"]), facts["evaluated"]
        return {
            "retrieval": {
                **{who: {**_of(found[who]), "evaluated": evaluated[who]} for who in ("personal", "global")},
                "references": {
                    name: {
                        scope: {metric: figures.get(f"{scope}/{metric}") for metric in (*METRICS, "se")}
                        for scope in SCOPES
                        if f"{scope}/{HEADLINE}" in figures
                    }
                    for name, figures in facts.get("references", {}).items()
                },
            }
        }

    def outcome(self, summary: Mapping[str, Any]) -> list[str]:
        """Return what a run came to, in a few words each."""
        retrieval, found = summary["retrieval"], []
        for who in ("global", "personal"):
            for scope, metrics in ((scope, retrieval[who][scope]) for scope in SCOPES):
                if metrics is not None:
                    final, selected = (rounded(metrics[HEADLINE][key]) for key in ("final", "selected"))
                    picked = "" if selected is None else f", selected {selected}"
                    found.append(f"{who} {scope} nDCG@10 {final} ± {rounded(metrics['se'])}{picked}")
        found += [
            f"{name} {rounded(scopes['own'][HEADLINE])}"
            for name, scopes in retrieval["references"].items()
            if "own" in scopes
        ]
        return found

    def headline(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[Markup]:
        """Return the report's headline: every figure at the end, those of what needs no training, what they mean."""
        retrieval = summary["retrieval"]
        head = ["", *(METRICS.values()), "SE of nDCG@10", "nDCG@10 selected", "best on test", "measured"]
        rows: list[tuple[object, ...]] = []
        for who in ("global", "personal"):
            for scope, metrics in ((scope, retrieval[who][scope]) for scope in SCOPES):
                if metrics is not None:
                    finals = (
                        element("strong" if metric == HEADLINE else "span", rounded(metrics[metric]["final"]))
                        for metric in METRICS
                    )
                    more = (rounded(metrics[HEADLINE][key]) for key in ("selected", "best"))
                    rows.append(
                        (f"{who}, {scope}", *finals, rounded(metrics["se"]), *more, retrieval[who]["evaluated"])
                    )
        for name, scopes in retrieval["references"].items():
            for scope, metrics in scopes.items():
                figures = (rounded(metrics[metric]) for metric in METRICS)
                rows.append((f"{name}, {scope}", *figures, rounded(metrics["se"]), None, None, None))
        return [markup(head, rows, texts=(0, 9)), *(element("p", sentence, "soft") for sentence in _meaning(summary))]

    def panels(self, lines: Lines, evaluated: Evaluated) -> list[Panel]:
        """Return nDCG@10 of the server's retriever and of the clients', and loss."""
        found = tracks_of(lines, evaluated)
        panels = []
        for who, title in (("global", "Server's retriever"), ("personal", "Clients' retrievers, mean")):
            names = {f"{scope}/{HEADLINE}": scope for scope in SCOPES} | {VALIDATION: "own, validation"}
            drawn = {
                label: curve(found[who][name], from_first=True) for name, label in names.items() if name in found[who]
            }
            panels.append(panel(f"{title}: nDCG@10" + (f" ({evaluated[who]})" if drawn else ""), drawn, self.axis))
        return [*panels, panel("Loss", {"training": training_loss(lines)}, "loss")]

    def clients(self, lines: Lines, evaluated: Evaluated) -> list[Markup]:
        """Return one row a client: its newest figures."""
        found = tracks_of(lines, evaluated)["personal"]
        examples = {line["client"]: line.get("examples") for line in lines if "client" in line}
        columns = [f"{scope}/{HEADLINE}" for scope in SCOPES if f"{scope}/{HEADLINE}" in found]
        columns += [name for name in ("own/mrr@100", "own/hit@1", "own/hit@10", VALIDATION) if name in found]

        def newest(name: str, client: str) -> str | None:
            track = found[name].get(client)
            return None if track is None else rounded(last(track))

        names = [_words(name) for name in columns]
        rows = [
            (client, examples[client], *(newest(name, client) for name in columns))
            for client in sorted(examples, key=natural)
        ]
        note = "Newest figures; pairs are of a question and a passage that answers it."
        return [markup(["client", "pairs", *names], rows, kind="tall"), element("p", note, "soft")]

    def tracks(self, lines: Lines, evaluated: Evaluated) -> Mapping[str, Mapping[str, Track]]:
        """Return nDCG@10 on questions about clients' own documents."""
        return {who: found.get(f"own/{HEADLINE}", {}) for who, found in tracks_of(lines, evaluated).items()}

    def validations(self, lines: Lines, evaluated: Evaluated) -> Mapping[str, Mapping[str, Track]]:
        """Return nDCG@10 on clients' own validation questions."""
        return {who: found.get(VALIDATION, {}) for who, found in tracks_of(lines, evaluated).items()}

    def references(self, runs: Summaries) -> Mapping[str, Mapping[str, tuple[float | None, float | None]]]:
        """Return how BM25 and the untrained retriever search, in the columns of the server's retriever."""
        found = {}
        for name in runs[0]["retrieval"]["references"]:
            at = ("retrieval", "references", name)
            paths = {f"global_{scope}": (*at, scope, HEADLINE) for scope in SCOPES}
            paths["global_own_error"] = (*at, "own", "se")
            found[name] = {
                column.name: replace(column, path=paths[column.name]).over_seeds(runs)
                for column in FIGURES
                if column.name in paths
            }
        return found

    def notes(self, several: bool) -> list[str]:
        """Return what the figures are."""
        spread = "; ± is the sample standard deviation over seeds" if several else ""
        return [
            f"nDCG@10, 0 to 1{spread}. Global: the server's retriever. Personal: each client's own, mean over clients. "
            "Own: questions about a client's own documents; "
            + "; ".join(f"{scope}: {SCOPES[scope]}" for scope in ("others", "unseen"))
            + ".",
            "SE: standard error of the figure on own questions, over the questions of one run (of personal ones its "
            "mean over clients). Where the questions are cross-validated, each seed is a fold of its own.",
            "BM25 counts words, zero-shot is the retriever before it has learned: neither depends on the clients.",
        ]


def _of(found: Tracks) -> dict[str, Any]:
    """Return each metric's figures by scope, with the standard error of the headline at the end."""
    scopes = by_scope(found, SCOPES, METRICS, headline=HEADLINE, higher=True)
    for scope, metrics in scopes.items():
        if metrics is not None:
            metrics["se"] = fmean(last(track) for track in found[f"{scope}/se"].values())
    return scopes


def _meaning(summary: Mapping[str, Any]) -> list[str]:
    """Return what the figures of a run are."""
    retrieval = summary["retrieval"]
    scopes = [scope for scope in SCOPES if any(retrieval[who][scope] is not None for who in WHOSE)]
    whose = [
        f"{who}: {what}" for who, what in WHOSE.items() if any(retrieval[who][scope] is not None for scope in scopes)
    ]
    notes = [
        f"After the last round, from 0 to 1. {'; '.join(whose).capitalize()}. "
        + "; ".join(f"{scope}: {SCOPES[scope]}" for scope in scopes).capitalize()
        + ".",
        "SE: standard error of nDCG@10 over the questions of one ranking set; of personal figures, its mean over "
        "clients. Selected: at the round with the best nDCG@10 on validation questions. Best on test chooses by the "
        "test itself.",
    ]
    if retrieval["references"]:
        notes.append("BM25 counts words; zero-shot is the retriever before it has learned. Neither needs clients.")
    return notes


def _words(name: str) -> str:
    scope, slash, metric = name.partition("/")
    return f"{scope} {METRICS[metric]}" if slash else f"{name} nDCG@10"

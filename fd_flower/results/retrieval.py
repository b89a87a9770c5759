"""What a run on a retrieval task comes to: nDCG@10 and its kin in the place of accuracy, in summary, page and images.

Figures are called ``<scope>/<metric>`` in the lines of a run: ``own/ndcg@10`` of a client's own questions, ``others/``
of the other clients' collections, ``unseen/`` of one that nobody holds; ``<scope>/se`` is the standard error of the
scope's nDCG@10 over questions, ``validation`` the nDCG@10 that rounds are selected by.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from fd_flower.core.client import natural
from fd_flower.results.history import SERVER, Track, Tracks, at_best, curve, last
from fd_flower.results.page import Markup, element, rounded, table

METRICS = {"ndcg@10": "nDCG@10", "mrr@100": "MRR@100", "hit@1": "Hit@1", "hit@10": "Hit@10", "map": "MAP"}
HEADLINE = "ndcg@10"
SCOPES = {
    "own": "questions about a client's own documents",
    "others": "the other clients' questions and documents",
    "unseen": "a collection that no client holds",
}
WHOSE = {"global": "the server's retriever", "personal": "each client's own retriever, mean over clients"}
Lines = Iterable[Mapping[str, Any]]


def of_retrieval(summary: Mapping[str, Any]) -> bool:
    """Whether a run's summary is one of a retrieval task."""
    return "retrieval" in summary


def tracks(lines: Lines, evaluated: Mapping[str, str | None]) -> dict[str, Tracks]:
    """Return every figure over time: ``global`` of the server's retriever, ``personal`` of each client's."""
    found: dict[str, Tracks] = {"global": {}, "personal": {}}
    for line in lines:
        if "client" in line:
            scope, who = "personal", line["client"]
            figures = (line.get("evaluations") or {}).get(evaluated["personal"]) or {}
        else:
            scope, who, figures = "global", SERVER, line.get("global") or {}
        for name, value in figures.items():
            if isinstance(value, int | float) and (name == "validation" or "/" in name):
                track = found[scope].setdefault(name, {}).setdefault(who, {})
                track[line["round"], bool(line.get("closing"))] = value
    return found


def summarize(lines: Lines, evaluated: Mapping[str, str | None], references: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands in ``summary.json`` in the place of accuracy.

    Parameters
    ----------
    lines : Iterable[Mapping]
        The lines of ``rounds.jsonl``.
    evaluated : Mapping[str, str | None]
        When ``global`` and ``personal`` are measured.
    references : Mapping[str, Mapping[str, float]]
        Figures of what needs no training, by its name.
    """
    found = tracks(lines, evaluated)
    return {
        **{who: {**_of(found[who]), "evaluated": evaluated[who]} for who in ("personal", "global")},
        "references": {
            name: {
                scope: {metric: figures.get(f"{scope}/{metric}") for metric in (*METRICS, "se")}
                for scope in SCOPES
                if f"{scope}/{HEADLINE}" in figures
            }
            for name, figures in references.items()
        },
    }


def _of(found: Tracks) -> dict[str, Any]:
    """Return each metric's final, selected and best figure, by scope; a scope that was not measured is None."""
    validation = curve(found.get("validation", {}))
    scopes: dict[str, Any] = {}
    for scope in SCOPES:
        if f"{scope}/{HEADLINE}" not in found:
            scopes[scope] = None
            continue
        scopes[scope] = {}
        for metric in METRICS:
            of_clients = found[f"{scope}/{metric}"]
            points = curve(of_clients)
            scopes[scope][metric] = {
                "final": last(points) if points else None,
                "selected": _selected(found.get("validation", {}), of_clients, validation),
                "best": max(points.values()) if points else None,
            }
        scopes[scope]["se"] = fmean(last(track) for track in found[f"{scope}/se"].values())
    return scopes


def _selected(validations: Mapping[str, Track], figures: Mapping[str, Track], together: Track) -> float | None:
    """Return the figure at the best validation round: each client's own, and the server's by the mean over clients."""
    if not together:
        return None
    chosen = [at_best(validations.get(who, {}), track) for who, track in figures.items()]
    return fmean(last(track) if one is None else one for one, track in zip(chosen, figures.values(), strict=True))


def outcome(summary: Mapping[str, Any]) -> list[str]:
    """Return what a run came to, in a few words each."""
    retrieval, said = summary["retrieval"], []
    for who in ("global", "personal"):
        for scope, metrics in ((scope, retrieval[who][scope]) for scope in SCOPES):
            if metrics is not None:
                told = {key: rounded(metrics[HEADLINE][key]) for key in ("final", "selected")}
                picked = "" if told["selected"] is None else f", selected {told['selected']}"
                said.append(f"{who} {scope} nDCG@10 {told['final']} ± {rounded(metrics['se'])}{picked}")
    said += [
        f"{name} {rounded(scopes['own'][HEADLINE])}"
        for name, scopes in retrieval["references"].items()
        if "own" in scopes
    ]
    return said


def headline(summary: Mapping[str, Any]) -> list[Markup]:
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
                rows.append((f"{who}, {scope}", *finals, rounded(metrics["se"]), *more, retrieval[who]["evaluated"]))
    for name, scopes in retrieval["references"].items():
        for scope, metrics in scopes.items():
            figures = (rounded(metrics[metric]) for metric in METRICS)
            rows.append((f"{name}, {scope}", *figures, rounded(metrics["se"]), None, None, None))
    return [table(head, rows, texts=(0, 9)), *(element("p", sentence, "soft") for sentence in meaning(summary))]


def meaning(summary: Mapping[str, Any]) -> list[str]:
    """Say what the figures are."""
    retrieval = summary["retrieval"]
    scopes = [scope for scope in SCOPES if any(retrieval[who][scope] is not None for who in WHOSE)]
    whose = [
        f"{who}: {what}" for who, what in WHOSE.items() if any(retrieval[who][scope] is not None for scope in scopes)
    ]
    said = [
        f"After the last round, from 0 to 1. {'; '.join(whose).capitalize()}. "
        + "; ".join(f"{scope}: {SCOPES[scope]}" for scope in scopes).capitalize()
        + ".",
        "SE: standard error of nDCG@10 over the questions of one ranking set; of personal figures, its mean over "
        "clients. Selected: at the round with the best nDCG@10 on validation questions. Best on test chooses by the "
        "test itself.",
    ]
    if retrieval["references"]:
        said.append("BM25 counts words; zero-shot is the retriever before it has learned. Neither needs clients.")
    return said


def clients(lines: Sequence[Mapping[str, Any]], evaluated: Mapping[str, str | None]) -> list[Markup]:
    """Return one row a client: its newest figures."""
    found = tracks(lines, evaluated)["personal"]
    examples = {line["client"]: line.get("examples") for line in lines if "client" in line}
    columns = [f"{scope}/{HEADLINE}" for scope in SCOPES if f"{scope}/{HEADLINE}" in found]
    columns += [name for name in ("own/mrr@100", "own/hit@1", "own/hit@10", "validation") if name in found]

    def newest(name: str, client: str) -> str | None:
        track = found[name].get(client)
        return None if track is None else rounded(last(track))

    names = [_words(name) for name in columns]
    rows = [
        (client, examples[client], *(newest(name, client) for name in columns))
        for client in sorted(examples, key=natural)
    ]
    note = "Newest figures; pairs are of a question and a passage that answers it."
    return [table(["client", "pairs", *names], rows, kind="tall"), element("p", note, "soft")]


def _words(name: str) -> str:
    scope, slash, metric = name.partition("/")
    return f"{scope} {METRICS[metric]}" if slash else f"{name} nDCG@10"


def courses(lines: Lines, evaluated: Mapping[str, str | None]) -> dict[str, dict[str, Track]]:
    """Return what is drawn of a run: nDCG@10 of the server's retriever and of the clients', by panel and line."""
    found = tracks(lines, evaluated)
    panels = {}
    for who, title in (("global", "Server's retriever"), ("personal", "Clients' retrievers, mean")):
        names = {f"{scope}/{HEADLINE}": scope for scope in SCOPES} | {"validation": "own, validation"}
        drawn = {label: curve(found[who][name], from_first=True) for name, label in names.items() if name in found[who]}
        panels[f"{title}: nDCG@10" + (f" ({evaluated[who]})" if drawn else "")] = drawn
    return panels

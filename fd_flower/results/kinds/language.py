"""How language models' figures look: bits per byte, of which fewer are better, and perplexity.

Figures are called ``<scope>/<metric>`` in the lines of a run: ``own/bits_per_byte`` of a client's own test texts,
``others/`` of the other clients' together, ``unseen/`` of the test set. ``validation`` is the bits per byte of a
client's own validation texts, by which rounds are selected.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, final

from fd_flower.core.client import natural
from fd_flower.results.columns import Column, Summaries
from fd_flower.results.history import Track, curve, last, training_loss
from fd_flower.results.kinds.base import Evaluated, Kind, Lines
from fd_flower.results.kinds.scoped import VALIDATION, by_scope, tracks_of
from fd_flower.results.page import Markup, element, rounded
from fd_flower.results.page import table as markup
from fd_flower.results.panels import Panel, panel

HEADLINE, PERPLEXITY = "bits_per_byte", "perplexity"
METRICS = {HEADLINE: "bits per byte", PERPLEXITY: "perplexity"}
SCOPES = {
    "own": "a client's own test texts",
    "others": "the other clients' test texts together",
    "unseen": "the test set, whose texts no client has",
}
WHO = {"global": "the server's model", "personal": "each client's own model, mean over clients"}
DIVERGED = 9.0
"""Bits per byte above those of a model that has learned nothing: equally likely bytes have 8, a random start more."""
FIGURES = tuple(
    Column(
        f"{who}_{scope}{'' if key == 'final' else '_selected'}",
        f"{who} {scope}{'' if key == 'final' else ' selected'}",
        ("language", who, scope, HEADLINE, key),
        scale=1,
        digits=3,
        better="lower",
    )
    for who in WHO
    for scope in SCOPES
    for key in ("final", "selected")
    if key == "final" or scope == "own"
)


@final
class Language(Kind):
    """Bits per byte of the server's model and of the clients', by whose texts they are."""

    key = "language"
    title = "Language models"
    figure = axis = "bits per byte"
    heading = "Bits per byte"
    scale = 1
    higher_is_better = False
    selected: ClassVar = {who: f"{who}_own_selected" for who in WHO}
    measured = "Global figures are measured"
    scopes: ClassVar = {
        "global": "The server's model: clients' own texts",
        "personal": "Clients' models: own texts",
    }
    explained = (
        "Bits per byte, fewer are better. Global: the server's model. Personal: each client's own. Figures are final, "
        "after the last round, and (selected), at the best validation round; best, in the report, is at the best test "
        "round."
    )
    figures: ClassVar = FIGURES

    def summarize(self, lines: Lines, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return bits per byte and perplexity by whose model and whose texts, and those of models before they learn."""
        evaluated = facts["evaluated"]
        found = tracks_of(lines, evaluated)
        return {
            "language": {
                **{
                    who: {
                        **by_scope(found[who], SCOPES, METRICS, headline=HEADLINE, higher=False),
                        "evaluated": evaluated[who],
                    }
                    for who in ("personal", "global")
                },
                "references": {
                    name: {
                        scope: {metric: figures.get(f"{scope}/{metric}") for metric in METRICS}
                        for scope in SCOPES
                        if f"{scope}/{HEADLINE}" in figures
                    }
                    for name, figures in facts.get("references", {}).items()
                },
            }
        }

    def outcome(self, summary: Mapping[str, Any]) -> list[str]:
        """Return what a run came to, in a few words each."""
        language, found = summary["language"], []
        for who in WHO:
            for scope, metrics in ((scope, language[who][scope]) for scope in SCOPES):
                if metrics is not None:
                    final, selected = (rounded(metrics[HEADLINE][key]) for key in ("final", "selected"))
                    picked = "" if selected is None else f" (selected {selected})"
                    found.append(f"{who} {scope} {final} bits per byte{picked}")
        found += [
            f"{name} {rounded(scopes['own'][HEADLINE])}"
            for name, scopes in language["references"].items()
            if "own" in scopes
        ]
        return [*found, *_divergence(language)]

    def headline(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[Markup]:
        """Return the report's headline: every figure at the end, those of models before they learn, what they mean."""
        language = summary["language"]
        head = ["bits per byte", "final", "selected", "best on test", "perplexity a token", "measured"]
        rows: list[tuple[object, ...]] = []
        for who in WHO:
            for scope, metrics in ((scope, language[who][scope]) for scope in SCOPES):
                if metrics is not None:
                    final, selected, best = (rounded(metrics[HEADLINE][key]) for key in ("final", "selected", "best"))
                    perplexity = rounded(metrics[PERPLEXITY]["final"])
                    point = language[who]["evaluated"]
                    rows.append((f"{who}, {scope}", element("strong", final), selected, best, perplexity, point))
        for name, scopes in language["references"].items():
            for scope, metrics in scopes.items():
                final, perplexity = (rounded(metrics[metric]) for metric in (HEADLINE, PERPLEXITY))
                rows.append((f"{name}, {scope}", final, None, None, perplexity, None))
        return [markup(head, rows, texts=(0, 5)), *(element("p", sentence, "soft") for sentence in _meaning(summary))]

    def panels(self, lines: Lines, evaluated: Evaluated) -> list[Panel]:
        """Return bits per byte of the server's model and of the clients', and loss."""
        found = tracks_of(lines, evaluated)
        panels = []
        for who, title in (("global", "Server's model"), ("personal", "Clients' models, mean")):
            names = {f"{scope}/{HEADLINE}": scope for scope in SCOPES} | {VALIDATION: "own, validation"}
            drawn = {
                label: curve(found[who][name], from_first=True) for name, label in names.items() if name in found[who]
            }
            panels.append(
                panel(f"{title}: bits per byte" + (f" ({evaluated[who]})" if drawn else ""), drawn, self.axis)
            )
        return [*panels, panel("Loss", {"training": training_loss(lines)}, "nats a token")]

    def clients(self, lines: Lines, evaluated: Evaluated) -> list[Markup]:
        """Return one row a client: its newest figures."""
        found = tracks_of(lines, evaluated)["personal"]
        examples = {line["client"]: line.get("examples") for line in lines if "client" in line}
        names = {f"{scope}/{HEADLINE}": scope for scope in SCOPES}
        names |= {VALIDATION: "own, validation", f"own/{PERPLEXITY}": "own perplexity"}
        columns = {name: label for name, label in names.items() if name in found}

        def newest(name: str, client: str) -> str | None:
            track = found[name].get(client)
            return None if track is None else rounded(last(track))

        rows = [
            (client, examples[client], *(newest(name, client) for name in columns))
            for client in sorted(examples, key=natural)
        ]
        note = "Newest figures, in bits per byte; tokens are those of a client's training texts, by its own tokenizer."
        return [markup(["client", "tokens", *columns.values()], rows, kind="tall"), element("p", note, "soft")]

    def tracks(self, lines: Lines, evaluated: Evaluated) -> Mapping[str, Mapping[str, Track]]:
        """Return bits per byte on clients' own texts."""
        return {who: found.get(f"own/{HEADLINE}", {}) for who, found in tracks_of(lines, evaluated).items()}

    def validations(self, lines: Lines, evaluated: Evaluated) -> Mapping[str, Mapping[str, Track]]:
        """Return bits per byte on clients' own validation texts."""
        return {who: found.get(VALIDATION, {}) for who, found in tracks_of(lines, evaluated).items()}

    def references(self, runs: Summaries) -> Mapping[str, Mapping[str, tuple[float | None, float | None]]]:
        """Return what models need before they learn, in the columns of the clients' models."""
        found = {}
        for name in runs[0]["language"]["references"]:
            paths = {f"personal_{scope}": ("language", "references", name, scope, HEADLINE) for scope in SCOPES}
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
            f"Bits per byte, fewer are better{spread}. Global: the server's model. Personal: each client's own, mean "
            "over clients. " + "; ".join(f"{scope}: {what}" for scope, what in SCOPES.items()).capitalize() + ".",
            "Zero-shot is every client's model before it has learned.",
        ]


def _meaning(summary: Mapping[str, Any]) -> list[str]:
    """Return what the figures of a run are."""
    language = summary["language"]
    scopes = [scope for scope in SCOPES if any(language[who][scope] is not None for who in WHO)]
    whose = [f"{who}: {what}" for who, what in WHO.items() if any(language[who][scope] is not None for scope in scopes)]
    notes = [
        f"After the last round; fewer are better. {'; '.join(whose).capitalize()}. "
        + "; ".join(f"{scope}: {SCOPES[scope]}" for scope in scopes).capitalize()
        + ".",
        "Each text alone, behind a start token that is not scored; every other token is, and the bits are divided by "
        "the bytes of UTF-8 that these spell. Perplexity is of a token: do not compare it across tokenizers.",
        "Selected: at the round with the fewest bits per byte on validation texts. Best on test chooses by the test "
        "itself.",
    ]
    if language["references"]:
        notes.append("Zero-shot is every client's model before it has learned.")
    return notes


def _divergence(language: Mapping[str, Any]) -> list[str]:
    """Return a remark on models that ended worse than they began, and than those that have learned nothing; or []."""
    before = [scopes["own"][HEADLINE] for scopes in language["references"].values() if "own" in scopes]
    for who in WHO:
        for scope in SCOPES:
            final = language[who][scope] and language[who][scope][HEADLINE]["final"]
            if final is not None and final > max([DIVERGED, *before]):
                return [f"training diverged ({who} {scope} is above {DIVERGED:g}: lower client.lr)"]
    return []

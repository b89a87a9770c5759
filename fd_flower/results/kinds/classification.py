"""How classification's figures look: accuracy and calibration."""

from collections import Counter
from collections.abc import Mapping
from statistics import fmean, pstdev
from typing import Any, ClassVar, final

from fd_flower.core.client import natural, share
from fd_flower.results.history import SERVER, History, Track, at_best, curve, last, training_loss
from fd_flower.results.kinds.base import COSTS, Evaluated, Kind, Lines, Summaries, costs, over_seeds
from fd_flower.results.page import NOTHING, Markup, Share, element, percent, rounded, table
from fd_flower.results.panels import TEST, TRAINING, VALIDATION, Line, Panel

EVALUATION_POINTS = {
    "received": "received: after a client has learned from what the server says, before it trains on its own data",
    "trained": "trained: at the end of a client's turn, after training on its own data",
    "aggregated": "aggregated: the server's model, after aggregation",
}

FIGURES = {
    "global_final": ("accuracy", "global", "final"),
    "global_selected": ("accuracy", "global", "selected"),
    "personal_final": ("accuracy", "personal", "final"),
    "personal_selected": ("accuracy", "personal", "selected"),
    "personal_worst10": ("accuracy", "personal", "worst10"),
}
"""Column -> where the figure stands in summary.json."""

HEAD = [
    "method",
    "evaluated",
    "global final",
    "global selected",
    "personal final",
    "personal selected",
    "worst 10 %",
    "MB up",
    "MB down",
    "seconds",
]


@final
class Classification(Kind):
    """Accuracy on everybody's classes and on a client's own, in per cent."""

    key = "accuracy"
    title = heading = "Accuracy"
    figure = "accuracy"
    axis = "accuracy, %"
    scale = 100
    measured = "Global accuracy is measured"
    scopes: ClassVar = {"global": "Global accuracy: balanced test set", "personal": "Personal accuracy: own test parts"}
    columns: ClassVar = {**FIGURES, **COSTS}

    def summarize(self, lines: Lines, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return accuracy, what it is selected on, and calibration."""
        evaluated = facts["evaluated"]
        history = History.of(lines, evaluated)
        shared, own = history.shared, history.own
        pooled_validation = curve(shared.get("validation", {}))
        # On devices nobody holds all clients' validation parts: what they say of their own is the next best judge.
        validation = pooled_validation or curve(own.get("validation", {}))
        return {
            "accuracy": {
                "global": {**_of_mean(shared.get("accuracy", {}), validation), "evaluated": evaluated["global"]},
                "pooled": {**_of_mean(shared.get("pooled", {}), validation), "evaluated": evaluated["global"]},
                "personal": {**_of_clients(own), "evaluated": evaluated["personal"]},
            },
            "selected_on": "pooled" if pooled_validation else "own" if validation else None,
            "calibration": {
                scope: {key: _final(tracks.get(key, {})) for key in ("ece", "nll")}
                for scope, tracks in (("global", shared), ("personal", own))
            },
        }

    def outcome(self, summary: Mapping[str, Any]) -> list[str]:
        """Return global and personal accuracy."""
        found = []
        for scope in ("global", "personal"):
            final, selected = (summary["accuracy"][scope][key] for key in ("final", "selected"))
            if final is not None:
                found.append(f"{scope} {final:.1%}" + ("" if selected is None else f" (selected {selected:.1%})"))
        return found

    def headline(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[Markup]:
        """Return the headline: what to report, and what each word in it means."""
        accuracy = summary["accuracy"]
        served = accuracy["global"]["evaluated"] == "aggregated"
        whose = "the server's model" if served else "mean over the clients' models"
        rows = [
            ("global", f"balanced test set, {whose}"),
            ("pooled", f"all clients' test parts together, {whose}"),
            ("personal", "each client on its own test part, mean over clients"),
        ]
        cells = [
            (
                f"{scope}: {what}",
                element("strong", percent(accuracy[scope]["final"])),
                element("strong", percent(accuracy[scope]["selected"])),
                percent(accuracy[scope]["best"]),
                percent(accuracy[scope].get("std")),
                percent(accuracy[scope].get("worst10")),
                accuracy[scope]["evaluated"],
            )
            for scope, what in rows
        ]
        head = ["accuracy, %", "final", "selected", "best on test", "std over clients", "worst 10 %", "measured"]
        notes = [
            "Final is after the last round. Selected is at the round with the best validation accuracy"
            f"{_judge(summary)}. Best on test is the best round by test accuracy itself: nobody can pick it without "
            "the test labels, so quote it only beside papers that do.",
            "Std and worst 10 % (the mean of the worst tenth of the clients) are over clients, at the end.",
        ]
        used = dict.fromkeys(accuracy[scope]["evaluated"] for scope, _ in rows)
        notes.append("Measured " + "; ".join(EVALUATION_POINTS[point] for point in used if point) + ".")
        if limit := config["data"]["test_limit"]:
            notes.append(
                f"Between the first and the last evaluation, the test set is {limit} of its images, class-balanced."
            )
        return [table(head, cells, texts=(0, 6)), *(element("p", sentence, "soft") for sentence in notes)]

    def panels(self, lines: Lines, evaluated: Evaluated) -> list[Panel]:
        """Return accuracy on the full test set, accuracy on the clients' own data, and loss."""
        history = History.of(lines, evaluated)
        shared, own = history.shared, history.own

        def line(label: str, tracks: Mapping[str, Track], color: int) -> Line:
            return Line(label, curve(tracks, from_first=True), color, dashed=color == VALIDATION)

        whose = "the server's model" if SERVER in shared.get("accuracy", {}) else "mean over clients' models"
        everybodys = [
            line("full test set", shared.get("accuracy", {}), TEST),
            line("all clients' validation parts", shared.get("validation", {}), VALIDATION),
        ]
        personal = [
            line("own test part", own.get("accuracy", {}), TEST),
            line("own validation part", own.get("validation", {}), VALIDATION),
        ]
        losses = [
            Line("training", training_loss(lines), TRAINING),
            line("full test set", shared.get("nll", {}), TEST),
            line("own test part", own.get("nll", {}), VALIDATION),
        ]
        title = f"Personal accuracy, mean over clients ({evaluated['personal']})"
        return [
            Panel(f"Global accuracy, {whose} ({evaluated['global']})", everybodys, "%", 100),
            Panel(title, personal, "%", 100, own.get("accuracy", {})),
            Panel("Loss", losses, "nats a sample"),
        ]

    def sections(self, summary: Mapping[str, Any]) -> list[Markup]:
        """Return how well probabilities are calibrated."""
        rows = [(scope, rounded(at["ece"]), rounded(at["nll"])) for scope, at in summary["calibration"].items()]
        note = "At the end. ECE: expected calibration error, 15 bins of equal width. NLL: negative log-likelihood."
        return [element("h2", "Calibration"), table(["", "ECE", "NLL, nats"], rows), element("p", note, "soft")]

    def clients(self, lines: Lines, evaluated: Evaluated) -> list[Markup]:
        """Return one row per client."""
        history = History.of(lines, evaluated)
        rounds = [line for line in lines if "client" not in line and not line.get("closing")]
        examples = {
            line["client"]: line.get("examples") for line in lines if "client" in line and not line.get("closing")
        }
        asked = Counter(client for line in rounds for client in line["asked"])
        replied = Counter(client for line in rounds for client in line["replied"])
        own, shared = history.own, history.shared

        def final(tracks: Mapping[str, Mapping[str, Track]], key: str, client: str) -> float | None:
            track = tracks.get(key, {}).get(client)
            return None if track is None else last(track)

        rows = [
            (
                client,
                examples.get(client),
                f"{replied[client]} of {asked[client]}",
                Share(final(own, "accuracy", client)),
                percent(at_best(own.get("validation", {}).get(client, {}), own.get("accuracy", {}).get(client, {}))),
                percent(final(own, "validation", client)),
                percent(final(shared, "accuracy", client)),
                rounded(final(own, "nll", client)),
                rounded(final(own, "ece", client)),
            )
            for client in sorted(asked.keys() | examples.keys(), key=natural)
        ]
        head = [
            "client",
            "samples",
            "replies",
            "own test, %",
            "selected, %",
            "own validation, %",
            "global, %",
            "NLL",
            "ECE",
        ]
        kept = [i for i in range(len(head)) if i < 4 or any(row[i] is not None for row in rows)]
        note = f"Newest figures of each of the {len(rows)} clients."
        note += " Global: its own model on the balanced test set." if "global, %" in [head[i] for i in kept] else ""
        shown = [[row[i] for i in kept] for row in rows]
        return [table([head[i] for i in kept], shown, kind="tall"), element("p", note, "soft")]

    def tracks(self, lines: Lines, evaluated: Evaluated) -> Mapping[str, Mapping[str, Track]]:
        """Return accuracy on the full test set and on clients' own data."""
        history = History.of(lines, evaluated)
        return {"global": history.shared.get("accuracy", {}), "personal": history.own.get("accuracy", {})}

    def validations(self, lines: Lines, evaluated: Evaluated) -> Mapping[str, Mapping[str, Track]]:
        """Return accuracy on all clients' validation parts together and on clients' own."""
        history = History.of(lines, evaluated)
        return {"global": history.shared.get("validation", {}), "personal": history.own.get("validation", {})}

    def table(self, groups: Mapping[str, Summaries]) -> tuple[list[str], list[list[str]]]:
        """Return one row a group: accuracies, bytes and seconds."""
        rows = [
            [
                name,
                self.point(runs[0]),
                *(percent(*over_seeds(runs, path)) or NOTHING for path in FIGURES.values()),
                *costs(runs),
            ]
            for name, runs in groups.items()
        ]
        return HEAD, rows

    def notes(self, several: bool) -> list[str]:
        """Return what the figures are."""
        spread = "; ± is the sample standard deviation over seeds" if several else ""
        return [
            f"Accuracies in %{spread}. Global: balanced test set. Personal: each client's own test part, mean over "
            "clients; worst 10 %: its mean over the worst tenth of the clients, at the end."
        ]


def _of_mean(tracks: Mapping[str, Track], validation: Track) -> dict[str, float | None]:
    """Return final, selected and best of the mean over clients (or of the server's model)."""
    test = curve(tracks)
    if not test:
        return {"final": None, "selected": None, "best": None}
    return {"final": last(test), "selected": at_best(validation, test), "best": max(test.values())}


def _of_clients(own: Mapping[str, Mapping[str, Track]]) -> dict[str, float | None]:
    """Return the figures of clients on their own data, where each one selects for itself."""
    tests, validations = own.get("accuracy", {}), own.get("validation", {})
    if not tests:
        return {"final": None, "selected": None, "best": None, "std": None, "worst10": None}
    finals = sorted(last(track) for track in tests.values())
    selected = None
    if validations:
        # A client too small for a validation part has nothing to choose by and stays at its last figure.
        chosen = {client: at_best(validations.get(client, {}), track) for client, track in tests.items()}
        selected = fmean(last(tests[client]) if figure is None else figure for client, figure in chosen.items())
    return {
        "final": fmean(finals),
        "selected": selected,
        "best": max(curve(tests).values()),
        "std": pstdev(finals),
        "worst10": fmean(finals[: share(len(finals), 0.1)]),
    }


def _final(tracks: Mapping[str, Track]) -> float | None:
    """Return the mean of the newest figures, None where there are none."""
    return fmean(last(track) for track in tracks.values()) if tracks else None


def _judge(summary: Mapping[str, Any]) -> str:
    if summary["selected_on"] == "pooled":
        return " (global and pooled: on all clients' validation parts together; personal: each client on its own)"
    return " (each client's own validation part; nobody holds them all)" if summary["selected_on"] == "own" else ""

"""How classification's figures look: accuracy and calibration."""

from collections import Counter
from collections.abc import Mapping
from statistics import fmean
from typing import Any, ClassVar, final

from fd_flower.core.client import natural
from fd_flower.objectives.metrics import BY_CLASS
from fd_flower.results import classes, metrics, reported, rules
from fd_flower.results.columns import Column, Summaries
from fd_flower.results.history import SERVER, History, Track, at_best, curve, last, training_loss
from fd_flower.results.kinds.base import Evaluated, Kind, Lines
from fd_flower.results.metrics import of_clients, of_mean
from fd_flower.results.page import Markup, Share, element, percent, rounded, table
from fd_flower.results.panels import TEST, TRAINING, VALIDATION, Line, Panel

EVALUATION_POINTS = {
    "received": "received: after a client has learned from what the server sent, before it trains on its own data",
    "trained": "trained: at the end of a client's turn, after training on its own data",
    "aggregated": "aggregated: the server's model, after aggregation",
}

FIGURES = (
    Column("global_final", "global final", ("accuracy", "global", "final")),
    Column("global_selected", "global selected", ("accuracy", "global", "selected")),
    Column("personal_final", "personal final", ("accuracy", "personal", "final")),
    Column("personal_selected", "personal selected", ("accuracy", "personal", "selected")),
    Column("personal_worst10", "worst 10 %", ("accuracy", "personal", "worst10")),
)


@final
class Classification(Kind):
    """Accuracy on all classes and on a client's own, in per cent."""

    key = "accuracy"
    title = heading = "Accuracy"
    figure = "accuracy"
    axis = "accuracy, %"
    scale = 100
    higher_is_better = True
    selected: ClassVar = {scope: f"{scope}_selected" for scope in ("global", "personal")}
    choices: ClassVar = dict.fromkeys(("accuracy", *BY_CLASS), True)
    measured = "Global accuracy is measured"
    scopes: ClassVar = {"global": "Global accuracy: global test set", "personal": "Personal accuracy: own test parts"}
    explained = (
        "Global: global test set. Personal: each client's own test part. Figures are final, after the last round, "
        "and (selected), at the best validation round; best, in the report, is at the best test round."
    )
    figures: ClassVar = FIGURES

    def summarize(self, lines: Lines, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return accuracy, what it is selected on, and calibration."""
        evaluated = facts["evaluated"]
        history = History.of(lines, evaluated)
        shared, own = history.shared, history.own
        pooled_validation = curve(shared.get("validation", {}))
        # On devices no process holds all clients' validation parts: the clients' own figures are the next best judge.
        validation = pooled_validation or curve(own.get("validation", {}))

        def mean(name: str) -> dict[str, float | None]:
            return of_mean(shared.get(name, {}), validation, higher=self.higher_is_better)

        accuracy = {
            "global": {**mean("accuracy"), "evaluated": evaluated["global"]},
            "pooled": {**mean("pooled"), "evaluated": evaluated["global"]},
            "personal": {
                **of_clients(own.get("accuracy", {}), own.get("validation", {}), higher=self.higher_is_better),
                "evaluated": evaluated["personal"],
            },
        }
        for found in accuracy.values() if facts.get("own_loops") else ():
            found |= {"reason": reported.INSTEAD} if found["final"] is None else {}
        return {
            "accuracy": accuracy,
            "selected_on": {
                "global": "pooled" if pooled_validation else "own" if validation else None,
                "personal": "own" if own.get("validation") else None,
            },
            "calibration": {
                scope: {key: _final(tracks.get(key, {})) for key in ("ece", "nll")}
                for scope, tracks in (("global", shared), ("personal", own))
            },
            "metrics": metrics.summarize(lines, evaluated, facts.get("metrics", {})),
            "rules": rules.summarize(lines, evaluated),
            "recall": classes.recall(lines, evaluated, facts.get("classes", ())),
        }

    def outcome(self, summary: Mapping[str, Any]) -> list[str]:
        """Return global and personal accuracy."""
        found = []
        for scope in ("global", "personal"):
            final, selected = (summary["accuracy"][scope][key] for key in ("final", "selected"))
            if final is not None:
                found.append(f"{scope} {final:.1%}" + ("" if selected is None else f" (selected {selected:.1%})"))
        for column in self.metrics([summary]):
            if column.path[1] not in BY_CLASS and (value := column.of(summary)) is not None:
                found.append(f"{column.title} {column.text(value)}")
        return found

    def headline(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[Markup]:
        """Return the headline: what to report, and what each word in it means."""
        accuracy = summary["accuracy"]
        served = accuracy["global"]["evaluated"] == "aggregated"
        whose = "the server's model" if served else "mean over the clients' models"
        if (judges := summary.get("judges")) and not served:
            whose = f"mean over the models of some clients, judges={judges}"
        rows = [
            ("global", f"global test set, {whose}"),
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
            f"{_judge(summary)}. Best on test is the best round by test accuracy itself: it cannot be picked without "
            "the test labels, so quote it only next to papers that do.",
            "Std and worst 10 % (the mean of the worst tenth of the clients) are over clients, at the end.",
        ]
        used = dict.fromkeys(accuracy[scope]["evaluated"] for scope, _ in rows)
        notes.append("Measured " + "; ".join(EVALUATION_POINTS[point] for point in used if point) + ".")
        if limit := config["data"]["test_limit"]:
            notes.append(f"In all evaluations but the last, the test set is {limit} of its samples, class-balanced.")
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
            Panel(f"Global accuracy, {whose} ({evaluated['global']})", everybodys, self.axis, 100),
            Panel(title, personal, self.axis, 100, own.get("accuracy", {})),
            Panel("Loss", losses, "nats a sample"),
        ]

    def sections(self, summary: Mapping[str, Any], lines: Lines) -> list[Markup]:
        """Return accuracy by rule, other metrics, recall class by class, and the calibration of probabilities."""
        from fd_flower.results import metric_pages  # matplotlib takes a second, and most processes never draw

        rows = [(scope, rounded(of["ece"]), rounded(of["nll"])) for scope, of in summary["calibration"].items()]
        note = "At the end. ECE: expected calibration error, 15 bins of equal width. NLL: negative log-likelihood."
        calibration = [element("h2", "Calibration"), table(["", "ECE", "NLL, nats"], rows), element("p", note, "soft")]
        others = metric_pages.sections(summary, lines, self.evaluated(summary))
        return [*rules.section(summary), *others, *calibration]

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

        def selected(client: str) -> float | None:
            score, figures = (own.get(key, {}).get(client, {}) for key in ("validation", "accuracy"))
            return at_best(score, figures, higher=self.higher_is_better)

        rows = [
            (
                client,
                examples.get(client),
                f"{replied[client]} of {asked[client]}",
                Share(final(own, "accuracy", client)),
                percent(selected(client)),
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
        note += " Global: its own model on the global test set." if "global, %" in [head[i] for i in kept] else ""
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

    def metrics(self, runs: Summaries) -> list[Column]:
        """Return balanced accuracy, macro-F1, AUC and the task's own metrics."""
        return metrics.figures(runs)

    def rules(self, runs: Summaries) -> tuple[list[Column], str]:
        """Return personal accuracy among own classes and all, by prototypes and by heads."""
        return rules.columns(runs), rules.MEANING

    def notes(self, several: bool) -> list[str]:
        """Return what the figures are."""
        spread = "; ± is the sample standard deviation over seeds" if several else ""
        return [
            f"Accuracies in %{spread}. Global: global test set. Personal: each client's own test part, mean over "
            "clients; worst 10 %: its mean over the worst tenth of the clients, at the end."
        ]


def _final(tracks: Mapping[str, Track]) -> float | None:
    """Return the mean of the newest figures, None where there are none."""
    return fmean(last(track) for track in tracks.values()) if tracks else None


def _judge(summary: Mapping[str, Any]) -> str:
    if summary["selected_on"]["global"] == "pooled":
        return " (global and pooled: on all clients' validation parts together; personal: each client on its own)"
    return " (each client's own validation part; no process holds them all)" if summary["selected_on"]["global"] else ""

"""What a run comes to, against numbers worked out on paper."""

import pytest

from fd_flower.results.summary import summarize

NAMES = ("method", "seed", "rounds", "clients", "engine", "model", "data", "versions")


def facts(shared="trained", personal="trained"):
    return {**dict.fromkeys(NAMES, "x"), "evaluated": {"global": shared, "personal": personal}}


def round_line(number, judged=None, *, seconds=1.0, up=None, down=None, wire=0, **more):
    traffic = {"up": up or {}, "down": down or {}, "wire": wire}
    line = {"round": number, "seconds": seconds, "asked": ["0", "1"], "replied": ["0", "1"], "failed": {}}
    return {**line, "bytes": traffic, "metrics": {}, "global": judged, **more}


def client_line(number, client, point="trained", *, closing=False, **figures):
    line = {"round": number, "client": client, "examples": 5, "metrics": {}, "evaluations": {point: figures}}
    return {**line, "closing": True} if closing else line


def three_rounds():
    """Two clients: (own test, own validation, full test, pooled test, pooled validation) by round."""
    figures = {
        "0": [(0.50, 0.6, 0.20, 0.21, 0.30), (0.70, 0.9, 0.40, 0.41, 0.50), (0.60, 0.9, 0.30, 0.31, 0.40)],
        "1": [(0.90, 0.8, 0.40, 0.41, 0.30), (0.80, 0.7, 0.60, 0.61, 0.50), (1.00, 0.8, 0.80, 0.81, 0.50)],
    }
    keys = ("accuracy", "validation", "global", "pooled", "pooled_validation")
    lines = []
    for number in (1, 2, 3):
        lines.append(round_line(number))
        for client, rounds in figures.items():
            own = dict(zip(keys, rounds[number - 1], strict=True))
            lines.append(client_line(number, client, **own, nll=0.1 * number, ece=0.2, global_nll=1.0 + int(client)))
    return lines


def test_means_over_clients():
    """Global means .3, .5, .55; pooled validation .3, .5, .45: round 2 is selected, round 3 final and best.

    Personal: client 0 is best on validation in round 2 (a tie with 3: the earlier counts), .7; client 1 in round 1
    (a tie with 3), .9: mean .8. Final (.6 + 1) / 2 = .8, deviation .2, the worst tenth is the worse client. The best
    round by test is 3 with .8, before it .7 and .75.
    """
    summary = summarize(three_rounds(), facts())
    accuracy = summary["accuracy"]
    assert accuracy["global"] == pytest.approx({"final": 0.55, "selected": 0.5, "best": 0.55, "evaluated": "trained"})
    assert accuracy["pooled"] == pytest.approx({"final": 0.56, "selected": 0.51, "best": 0.56, "evaluated": "trained"})
    personal = {"final": 0.8, "selected": 0.8, "best": 0.8, "std": 0.2, "worst10": 0.6, "evaluated": "trained"}
    assert accuracy["personal"] == pytest.approx(personal)
    assert summary["selected_on"] == {"global": "pooled", "personal": "own"}
    assert summary["calibration"] == {
        "global": {"ece": None, "nll": pytest.approx(1.5)},
        "personal": {"ece": pytest.approx(0.2), "nll": pytest.approx(0.3)},
    }


def test_the_keys_are_those_of_the_contract_in_order():
    summary = summarize(three_rounds(), facts())
    kept = [
        "method",
        "status",
        *NAMES[1:7],
        "task",
        "accuracy",
        "selected_on",
        "calibration",
        "metrics",
        "rules",
        "recall",
        "state",
        "bytes",
        "seconds",
        "steps",
        "versions",
    ]
    assert list(summary) == kept


def test_the_earliest_of_equal_validation_rounds_is_selected():
    judged = [{"accuracy": a, "validation": v} for a, v in ((0.1, 0.2), (0.3, 0.6), (0.5, 0.6))]
    lines = [round_line(number, figures) for number, figures in enumerate(judged, start=1)]
    shared = summarize(lines, facts("aggregated"))["accuracy"]["global"]
    assert shared == {"final": 0.5, "selected": 0.3, "best": 0.5, "evaluated": "aggregated"}


def test_the_server_s_model_speaks_for_all():
    """Where the server has a model, what clients say of theirs on the full test set does not count."""
    lines = [*three_rounds(), round_line(3, {"accuracy": 0.9, "validation": 0.8, "nll": 0.4, "ece": 0.1})]
    summary = summarize(lines, facts("aggregated"))
    assert summary["accuracy"]["global"]["final"] == 0.9
    assert summary["calibration"]["global"] == {"ece": 0.1, "nll": 0.4}


def test_closing_figures_are_final_and_cost_nothing():
    """Received in round 1 before anything was said: .1; the closing figure .7 is final, selected and best."""
    lines = [
        round_line(1, seconds=2.0, up={"public-logits": 10}, down={"public-logits": 4}, wire=9),
        client_line(1, "0", "received", accuracy=0.1, validation=0.1, **{"global": 0.1, "pooled_validation": 0.1}),
        round_line(1, seconds=9.0, up={"public-logits": 99}, down={"public-logits": 99}, wire=99, closing=True),
        client_line(
            1, "0", "received", closing=True, accuracy=0.7, validation=0.6, **{"global": 0.6, "pooled_validation": 0.5}
        ),
    ]
    summary = summarize(lines, facts("received", "received"))
    assert summary["accuracy"]["global"] == {"final": 0.6, "selected": 0.6, "best": 0.6, "evaluated": "received"}
    assert summary["accuracy"]["personal"]["final"] == 0.7
    assert summary["bytes"] == {"up": 10, "down": 4, "wire": 9}
    assert summary["seconds"] == {"total": 2.0, "round": 2.0}


def test_a_moment_without_closing_figures_keeps_the_last_round():
    lines = [
        client_line(1, "0", "trained", accuracy=0.4),
        client_line(1, "0", "received", closing=True, accuracy=0.9),
    ]
    assert summarize(lines, facts())["accuracy"]["personal"]["final"] == 0.4


def test_a_client_that_was_not_asked_stands_at_its_newest_figure():
    """Client 0 in rounds 1 and 3 (.9, .5), client 1 in round 2 (.3): means .9 (one client), .6, .4.

    Round 1 does not count as best or selected, since it lacks client 1: .6 is best; pooled validation .2, .3 selects
    round 3.
    """
    lines = [
        client_line(1, "0", accuracy=0.9, **{"global": 0.9, "pooled_validation": 0.2}),
        client_line(2, "1", accuracy=0.3, **{"global": 0.3, "pooled_validation": 0.2}),
        client_line(3, "0", accuracy=0.5, **{"global": 0.5, "pooled_validation": 0.4}),
    ]
    accuracy = summarize(lines, facts())["accuracy"]
    assert accuracy["global"] == pytest.approx({"final": 0.4, "selected": 0.4, "best": 0.6, "evaluated": "trained"})
    assert accuracy["personal"]["final"] == pytest.approx(0.4)
    assert accuracy["personal"]["best"] == pytest.approx(0.6)
    assert accuracy["personal"]["selected"] is None


def test_on_devices_global_is_selected_on_the_clients_own_validation():
    lines = []
    for number, (test, own) in enumerate([(0.2, 0.5), (0.6, 0.9), (0.7, 0.8)], start=1):
        lines += [round_line(number, {"accuracy": test}), client_line(number, "a", accuracy=0.1, validation=own)]
    summary = summarize(lines, facts("aggregated"))
    assert summary["accuracy"]["global"]["selected"] == 0.6
    assert summary["selected_on"] == {"global": "own", "personal": "own"}


def test_a_client_without_validation_part_stays_at_its_last_figure():
    lines = [
        client_line(1, "0", accuracy=0.2, validation=0.9),
        client_line(1, "1", accuracy=0.2),
        client_line(2, "0", accuracy=0.4, validation=0.1),
        client_line(2, "1", accuracy=0.6),
    ]
    assert summarize(lines, facts())["accuracy"]["personal"]["selected"] == pytest.approx((0.2 + 0.6) / 2)


@pytest.mark.parametrize(("clients", "expected"), [(5, 0.0), (10, 0.0), (20, 0.5), (30, 1.0)])
def test_the_worst_tenth_is_at_least_one_client(clients, expected):
    """Client i scores i / 100: the mean of 0; of 0 and 1; of 0, 1 and 2."""
    lines = [client_line(1, str(i), accuracy=i / 100) for i in range(clients)]
    assert summarize(lines, facts())["accuracy"]["personal"]["worst10"] == pytest.approx(expected / 100)


def test_what_was_not_measured_is_none():
    summary = summarize([round_line(1)], facts("aggregated"))
    nothing = {"final": None, "selected": None, "best": None}
    assert summary["accuracy"] == {
        "global": {**nothing, "evaluated": "aggregated"},
        "pooled": {**nothing, "evaluated": "aggregated"},
        "personal": {**nothing, "std": None, "worst10": None, "evaluated": "trained"},
    }
    assert summary["calibration"] == {scope: {"ece": None, "nll": None} for scope in ("global", "personal")}
    assert summary["selected_on"] == {"global": None, "personal": None}


def test_bytes_add_up_over_kinds_and_rounds():
    lines = [
        round_line(1, seconds=1.0, up={"class-logits": 5, "arrays": 7}, wire=3),
        round_line(2, seconds=3.0, up={"arrays": 1}, down={"arrays": 2}, wire=4),
    ]
    summary = summarize(lines, facts())
    assert summary["bytes"] == {"up": 13, "down": 2, "wire": 7}
    assert summary["seconds"] == {"total": 4.0, "round": 2.0}


def test_a_task_is_summarized_as_its_kind_is():
    for task, key in (("classification", "accuracy"), ("retrieval", "retrieval"), ("my own", "accuracy")):
        summary = summarize([round_line(1)], facts() | {"task": task})
        assert summary["task"] == task
        assert key in summary

"""What a comparison says of every evaluation point, and the report of votes and heads."""

import pytest

from fd_flower.results import diagnostics, evaluation_points


def lines(trained, *, received=(), ensemble=(), server=()):
    """Return lines of one client whose model has these accuracies on the test set, round by round."""
    made = []
    for number in range(1, len(trained) + 1):
        whole = {"round": number, "global": None, "diagnostics": {"votes": 2}}
        if ensemble:
            whole["diagnostics"] |= {"ensemble_accuracy": ensemble[number - 1], "by_class": [0.1, None]}
        if server:
            whole["global"] = {"evaluated": "aggregated", "accuracy": server[number - 1]}
        evaluations = {"trained": {"global": trained[number - 1], "accuracy": 1.0}}
        if received:
            evaluations["received"] = {"global": received[number - 1]}
        made += [whole, {"round": number, "client": "0", "evaluations": evaluations}]
    return made


def test_every_moment_has_its_series():
    found = evaluation_points.series(lines([0.1, 0.2], received=[0.3, 0.4], ensemble=[0.5, 0.6], server=[0.7, 0.8]))
    assert {name: [track[when] for when in sorted(track)] for name, track in found.items()} == {
        "received": [0.3, 0.4],
        "trained": [0.1, 0.2],
        "aggregated": [0.7, 0.8],
        "ensemble": [0.5, 0.6],
    }
    assert list(evaluation_points.series(lines([0.1, 0.2]))) == ["trained"]


def test_the_table_tells_when_each_seed_first_has_a_level():
    runs = {
        "fast": [evaluation_points.series(lines([0.5, 0.9])), evaluation_points.series(lines([0.8, 0.7]))],
        "slow": [evaluation_points.series(lines([0.1, 0.2], ensemble=[0.8, 0.1]))],
    }
    head, rows = evaluation_points.table(runs, 0.8)
    assert head == ["method", "trained · ≥ 80 % at", "ensemble · ≥ 80 % at"]
    assert rows == [["fast", "80.0 ± 14.1 · 2, 1", "-"], ["slow", "20.0 · > 2", "10.0 · 1"]]


def test_one_moment_alone_needs_no_table():
    runs = {"fd": [evaluation_points.series(lines([0.5, 0.9]))]}
    assert evaluation_points.table(runs, None) is None
    assert evaluation_points.table(runs, 0.8)[1] == [["fd", "90.0 · 2"]]


def test_a_report_of_votes_by_client_and_class():
    voter = {"accepted": 0.5, "accepted_by_class": [1.0, None], "precision": None}
    told = [
        *lines([0.1, 0.2], ensemble=[0.25, 0.75]),
        {"round": 1, "client": "0", "diagnostics": voter},
        {"round": 2, "client": "0", "diagnostics": {**voter, "accepted_by_class": [0.0, None], "precision": 0.25}},
    ]
    page = "\n".join(diagnostics.sections(told))
    assert "<td>0.250</td><td>0.750</td><td>0.500</td>" in page  # the teacher: first, last, mean
    assert '<td class="text">0</td><td>0.500</td><td>0.250</td><td class="bar" style="--share:50.0%">' in page
    assert page.count("<img") == 2  # shares in one panel, others in a second


def test_a_report_of_heads():
    evaluations = {"trained": {"accuracy": 0.9, "head1/accuracy": 0.4, "head1/global": 0.6, "head1/nll": 3.0}}
    told = [{"round": 1, "client": str(i), "evaluations": evaluations} for i in range(2)]
    page = "\n".join(diagnostics.sections(told))
    assert '<td class="text">head1</td><td>40.0</td><td>-</td><td>60.0</td>' in page
    assert "3.0" not in page


@pytest.mark.parametrize("told", [[], [{"round": 1, "client": "0", "evaluations": {"trained": {"accuracy": 1.0}}}]])
def test_a_run_with_neither_has_no_such_part(told):
    assert diagnostics.sections(told) == []

"""The ledger: entries that can be run, and verdicts worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fd_flower.claims import Entry, entry, ledger, names
from fd_flower.claims.measure import measure_of
from fd_flower.claims.picture import picture
from fd_flower.claims.verdict import better, difference, matches, verdict
from fd_flower.cli import main, reproduce
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.versions import arithmetic

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", names())
def test_every_run_of_an_entry_has_options_that_its_method_takes(name: str):
    chosen = entry(name)
    for variant in chosen.variants:
        for row, arm in chosen.arms.items():
            made = settings(arm.method, chosen.words(row, variant, Path("/data")))
            assert made.server.rounds >= 1
    if chosen.quick:
        small = chosen.small
        for row, arm in small.arms.items():
            settings(arm.method, small.words(row, *small.variants, None))


def test_what_cannot_be_tested_says_why():
    cannot = [entry(name) for name in names() if entry(name).rule == "not testable here"]
    assert cannot
    assert all(each.reason for each in cannot)


def test_data_sets_come_from_the_hub_or_from_a_folder():
    words = entry("fedgen").words("fedgen", "alpha 1", None)
    assert "data.source=ylecun/mnist" in words
    assert "data.source=/data/mnist" in entry("fedgen").words("fedgen", "alpha 1", Path("/data"))
    with pytest.raises(InvalidInputError, match="give --data DIR"):
        entry("fede4rag").words("fedavg", "", None)


def test_a_folder_without_an_entrys_data_sets_is_refused_before_any_run(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="claim fedlgd needs mnist, and there is no folder"):
        reproduce.ordered("fedlgd", tmp_path, tmp_path / "out", quick=False)


def test_what_is_not_testable_here_cannot_be_run(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="claim htfe8 is not testable here: "):
        reproduce.ordered("htfe8", None, tmp_path / "out", quick=False)


def test_an_entry_without_a_small_form_names_those_that_have_one():
    with pytest.raises(InvalidInputError, match="without --quick, or one of kdstudy, mixed-models, selective"):
        _ = entry("fedgen").small


def test_an_unknown_claim_is_refused_with_the_nearest():
    with pytest.raises(InvalidInputError, match=r"there is no claim 'fedgenn' \(did you mean 'fedgen'"):
        entry("fedgenn")


SOURCE = {"where": "nowhere", "read": "ours"}
ACCURACY, BITS = measure_of("accuracy.global.final"), measure_of("language.personal.own.bits_per_byte.final")


def test_the_interval_is_students():
    """Differences 1, 2, 3 points: mean 2, deviation 1, t(2) at 95 % 2.919986, so 2 -+ 1.6859."""
    found = difference([0.51, 0.62, 0.73], [0.5, 0.6, 0.7], ACCURACY)
    assert found.mean == pytest.approx(0.02)
    assert found.interval == pytest.approx((0.02 - 0.01685855, 0.02 + 0.01685855), abs=1e-7)
    assert better(found, ACCURACY)


@pytest.mark.parametrize(
    ("pairs", "shown"),
    [
        ([0.02, 0.02, 0.02, 0.02, 0.021], True),
        ([0.009, 0.009, 0.009, 0.009, 0.0091], False),  # below a point
        ([0.2, -0.1, 0.1, -0.05, 0.0], False),  # the interval has 0 in it
        ([0.0, 0.05, 0.05, 0.05, 0.05], True),  # one seed of five without a gain
    ],
)
def test_what_counts_as_better(pairs: list[float], shown: bool):
    assert better(difference(pairs, [0.0] * len(pairs), ACCURACY), ACCURACY) is shown


@pytest.mark.parametrize(
    ("ours", "theirs", "mean", "shown"),
    [
        ([1.28, 1.27, 1.26], [1.30, 1.30, 1.30], 0.03, True),  # fewer bits on every seed
        ([1.30, 1.30, 1.30], [1.28, 1.27, 1.26], -0.03, False),  # as many more
        ([1.294, 1.293, 1.292], [1.30, 1.30, 1.30], 0.007, False),  # below 0.01 bits per byte
        ([1.2, 1.31, 1.2], [1.3, 1.3, 1.3], 0.19 / 3, False),  # one seed of three is worse
    ],
)
def test_fewer_bits_per_byte_are_better(ours: list[float], theirs: list[float], mean: float, shown: bool):
    found = difference(ours, theirs, BITS)
    assert found.mean == pytest.approx(mean)
    assert better(found, BITS) is shown


def test_bits_per_byte_are_written_as_they_are():
    """Gains 0.02, 0.03, 0.04: mean 0.03, deviation 0.01, t(2) at 95 % 2.919986, so 0.03 -+ 0.0169."""
    key = "language.personal.own.bits_per_byte.final"
    rows = {"fedalm": {"method": "fedalm"}, "local": {"method": "local"}}
    made = Entry("small", "Fewer bits.", SOURCE, figure=key, better={"fedalm": "local"}, rows=rows)
    figures = {"fedalm": [1.28, 1.27, 1.26], "local": [1.3, 1.3, 1.3]}
    order = reproduce._order(made, "fedalm", "local", figures, {})
    assert (order["better"], order["verdict"]) == ("fedalm", "ordering")
    assert ledger.sentence(made, order, 3).endswith(
        "ordering: local less fedalm +0.030 bits per byte, 90 % interval +0.013 to +0.047, 3 seeds"
    )
    found = {"figures": figures, "selected": figures, "evaluated": dict.fromkeys(figures, "trained"), "published": {}}
    assert "| fedalm | 1.270 ± 0.010 |" in ledger.table(made, found).markdown()
    drawn = picture(made, {"variants": {"": found}, "seeds": [0, 1, 2]})
    assert "Means in bits per byte (lower is better): fedalm 1.270, local 1.300." in drawn.alt
    assert drawn.figure.axes[0].lines[0].get_xdata().tolist() == [1.28, 1.27, 1.26]


@pytest.mark.parametrize("figure", ["language.personal.own.perplexity.final", "metrics.mine.global.final"])
def test_a_figure_without_a_least_difference_is_refused(figure: str):
    with pytest.raises(InvalidInputError, match="no least difference is stated for the figure"):
        Entry("small", "A claim.", SOURCE, figure=figure, better={"a": "b"}, rows={"a": {}, "b": {}})


def test_published_percentages_of_bits_per_byte_are_refused():
    with pytest.raises(InvalidInputError, match="published figures, which are in percent"):
        Entry(
            "small", "A claim.", SOURCE, figure="language.global.own.bits_per_byte.final", published={"": {"a": [1, 0]}}
        )


def test_published_figures_are_met_within_two_points_or_two_deviations():
    assert matches([0.91, 0.93], [90.1, 0.1])  # 92 against 90.1
    assert not matches([0.91, 0.93], [89.9, 0.1])
    assert matches([0.91, 0.93], [89.9, 1.1])


def test_verdicts():
    ordering = Entry("small", "A claim.", SOURCE, better={"a": "b"}, rows={"a": {}, "b": {}})
    paper = replace(ordering, rule="paper", published={"": {"a": [90.0, 0.1]}})
    rows = {"a": [0.90, 0.91, 0.92, 0.93, 0.94], "b": [0.85, 0.86, 0.87, 0.88, 0.88]}
    ahead, behind = difference(rows["a"], rows["b"], ACCURACY), difference(rows["b"], rows["a"], ACCURACY)
    assert verdict(rows, ahead, {}, ordering) == "ordering"
    assert verdict(rows, behind, {}, ordering) == "not shown"
    assert verdict(rows, ahead, {"a": [92.0, 0.1], "b": [87.0, 0.1]}, paper) == "matches paper"
    assert verdict(rows, ahead, {"a": [92.0, 0.1], "b": [60.0, 0.1]}, paper) == "ordering"


def test_a_row_may_be_claimed_to_be_better_than_several():
    rows = {name: {"method": name} for name in ("local", "fedproto", "fedtgp")}
    source = {"where": "nowhere", "read": "ours"}
    made = Entry(
        "small", "Two orders.", source, better={"fedtgp": ["local", "fedproto"], "fedproto": "local"}, rows=rows
    )
    assert made.orders == [("fedtgp", "local"), ("fedtgp", "fedproto"), ("fedproto", "local")]
    with pytest.raises(InvalidInputError, match="says of no row"):
        Entry("small", "None.", source, rows=rows)


TINY = (
    "model.name=mlp data.clients=3 data.limit=300 data.public=none server.rounds=2 client.steps=3 client.batch=16 "
    "run.device=cpu"
)


def test_an_entry_is_run_judged_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    rows = {"local": {"method": "local"}, "fedavg": {"method": "fedavg"}}
    made = Entry(
        "small",
        "A mean is better.",
        {"where": "nowhere", "read": "ours"},
        better={"fedavg": "local"},
        rows=rows,
        set=TINY,
        settings={"alpha 0.1": "data.alpha=0.1"},
        seeds=3,
    )
    monkeypatch.setattr(reproduce, "entry", lambda name: made)
    command = ["reproduce", "small", "--quiet", "--out", str(tmp_path)]
    status = main(command)
    result = json.loads((tmp_path / "result.json").read_text())
    (found,) = result["variants"].values()
    summary = json.loads((tmp_path / "alpha-0.1-fedavg-seed1" / "summary.json").read_text())
    assert found["figures"]["fedavg"][1] == summary["accuracy"]["global"]["final"]
    (order,) = found["orders"]
    assert order["verdict"] == ("ordering" if status == 0 else "not shown")
    assert found["evaluated"] == {"local": "trained", "fedavg": "aggregated"}
    assert f"{order['verdict']}: fedavg less local" in capsys.readouterr().out
    assert (tmp_path / "result.png").stat().st_size > 0
    main(command)  # every run stands: nothing is run again
    assert json.loads((tmp_path / "result.json").read_text()) == result


@pytest.mark.parametrize(
    ("name", "row"),
    [("selective", "selectivefd"), ("mixed-models", "edgefd")],
)
def test_the_small_form_of_an_entry_orders_its_rows(name: str, row: str, tmp_path: Path):
    main(["reproduce", name, "--quick", "--quiet", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    ((order, *_),) = (found["orders"] for found in result["variants"].values())
    assert (order["better"], order["verdict"]) == (row, "ordering")
    kept = ledger.kept(name, quick=True)
    assert kept is not None
    if not ledger.elsewhere(result, kept):  # on another CPU or another torch the ordering is all that must stay
        assert ledger.against(result, kept) == [ledger.as_kept(result)]


@pytest.mark.slow
def test_the_cheapest_entry_run_from_nothing_has_the_kept_figures_bit_for_bit(shared_data: Any, tmp_path: Path):
    cheapest = min(ledger.results().values(), key=lambda result: result["hours"])
    if why := ledger.elsewhere({**cheapest, "arithmetic": arithmetic()}, cheapest):
        pytest.skip(f"the result of {cheapest['name']} was computed elsewhere: {'; '.join(why)}")
    folders = {shared_data(name).parent for name in entry(cheapest["name"]).sets}
    assert len(folders) == 1
    main(["reproduce", cheapest["name"], "--data", str(*folders), "--quiet", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    if why := ledger.elsewhere(result, cheapest):
        pytest.skip(f"the result of {cheapest['name']} is of other data: {'; '.join(why)}")
    assert ledger.against(result, cheapest) == [ledger.as_kept(result)]


def result_of(figures: dict[str, list[float]], **facts: Any) -> dict[str, Any]:
    """Return what of an entry's result is compared with the kept one."""
    about = {"data": ["35dc4480790d"], "arithmetic": {"torch": "2.14.1", "cpu": "AVX2"}, "seeds": [3, 4], **facts}
    return {**about, "variants": {"alpha 1": {"figures": figures}}}


def test_figures_are_compared_with_the_kept_ones_bit_for_bit():
    kept = result_of({"fd": [0.1 + 0.2, 0.5]})
    assert ledger.against(kept, kept) == ["as in the committed result, bit for bit (2 figures)"]
    assert ledger.against(result_of({"fd": [0.3, 0.5]}), kept) == [
        "1 of 2 figures differ from the committed result",
        "  alpha 1, fd, seed 3: 0.3, committed 0.30000000000000004",
        "  data, torch and CPU are the same",
    ]
    other = result_of({"fd": [0.3, 0.5]}, arithmetic={"torch": "2.14.1", "cpu": "AVX512"})
    assert ledger.against(other, kept)[-1] == "  which was computed elsewhere: cpu AVX2, here AVX512"


def test_a_result_with_fewer_figures_than_the_kept_one_is_not_the_same():
    kept = result_of({"fd": [0.5, 0.5], "local": [0.4, 0.4]})
    lines = ledger.against(result_of({"fd": [0.5, 0.5]}), kept)
    assert lines[0] == "2 of 4 figures differ from the committed result"
    assert "  alpha 1, local, seed 3: none, committed 0.4" in lines


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({}, []),
        ({"data": ["000000000000"]}, ["data ['35dc4480790d'], here ['000000000000']"]),
        ({"arithmetic": {"torch": "2.15.0", "cpu": "AVX2"}}, ["torch 2.14.1, here 2.15.0"]),
        ({"sources": "another"}, []),  # code that gives other figures is what is to be found
    ],
)
def test_where_data_torch_or_cpu_are_others_bits_are_not_compared(facts: dict[str, Any], why: list[str]):
    assert ledger.elsewhere(result_of({}, **facts), result_of({})) == why


def test_a_kept_result_that_does_not_say_where_it_was_computed_is_of_elsewhere():
    assert ledger.elsewhere(result_of({}), result_of({}, arithmetic=None)) == [
        "torch unknown, here 2.14.1",
        "cpu unknown, here AVX2",
    ]


def test_the_command_says_whether_figures_are_the_kept_ones(monkeypatch: pytest.MonkeyPatch, capsys):
    made = Entry("small", "A claim.", {"where": "nowhere", "read": "ours"}, rule="not testable here")
    found = {"figures": {"fd": [0.5, 0.5]}, "selected": {"fd": []}, "evaluated": {"fd": ""}, "published": {}}
    result = {**result_of({"fd": [0.5, 0.5]}), "quick": True, "variants": {"": {**found, "orders": []}}}
    monkeypatch.setattr(ledger, "kept", lambda name, *, quick: result if quick else None)
    reproduce.show(made, result, Console())
    assert "as in the committed result, bit for bit (2 figures)" in capsys.readouterr().out
    reproduce.show(made, {**result, "quick": False}, Console())
    assert "committed" not in capsys.readouterr().out


def test_pages_are_made_of_the_results_that_are_kept():
    kept = ledger.results()
    assert (DOCS / "claims.md").read_text() == ledger.page(kept)
    for page in (DOCS / "methods").glob("*.md"):
        assert page.read_text() == ledger.with_claims(page.read_text(), page.stem, kept)
        assert bool(ledger.of_method(page.stem, kept)) == (ledger.BEGIN in page.read_text())


def test_kept_results_are_of_whole_entries_as_these_are_now():
    for name, result in ledger.results().items():
        chosen = entry(name)
        assert not result["quick"]
        assert list(result["variants"]) == list(chosen.variants)
        assert result["seeds"] == list(chosen.numbers)
        for found in result["variants"].values():
            assert list(found["figures"]) == list(chosen.arms)
            assert [(order["better"], order["than"]) for order in found["orders"]] == chosen.orders
            for order in found["orders"]:  # the rule is that of the code as it is now
                figures = found["figures"]
                again = difference(figures[order["better"]], figures[order["than"]], chosen.measure)
                assert verdict(figures, again, found["published"], chosen) == order["verdict"]


def test_a_section_has_figures_beside_published_ones_and_a_verdict_for_each_order():
    made = Entry(
        "fedgen",
        "It is better.",
        {"where": "a paper", "read": "paper"},
        better={"fedmd": ["local", "fd"]},
        rows={name: {"method": name} for name in ("local", "fd", "fedmd")},
    )
    orders = [
        {"better": "fedmd", "than": "local", "verdict": "ordering", "mean": 0.1, "interval": [0.05, 0.15]},
        {"better": "fedmd", "than": "fd", "verdict": "not shown", "mean": -0.01, "interval": [-0.02, 0.0]},
    ]
    figures = {"local": [0.5, 0.6], "fd": [0.66, 0.66], "fedmd": [0.6, 0.7]}
    found = {
        "figures": figures,
        "selected": figures,
        "evaluated": dict.fromkeys(figures, "trained"),
        "published": {"local": [51.25, 0]},
        "orders": orders,
    }
    assert "| local | 55.0 ± 7.1 | 55.0 ± 7.1 | trained | 51.2 |" in ledger.table(made, found).markdown()
    assert ledger.sentence(made, orders[0], 2) == (
        "ordering: fedmd less local +10.0 points, 90 % interval +5.0 to +15.0, 2 seeds"
    )
    assert ledger.words(made, {"variants": {"alpha 1": found}}) == [
        "ordering (alpha 1, fedmd against local)",
        "not shown (alpha 1, fedmd against fd)",
    ]
    assert ledger.words(made, None) == ["not run in full"]

"""Progress: what the lines of a run say about how it is coming on."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from fd_flower.cli.progress import LiveBoard, PlainBoard, SilentBoard, Tail, board
from fd_flower.results.progress import Standing, clock


def round_line(number: int, *, seconds: float = 2.0, replied: str = "01", **more: object) -> dict[str, object]:
    return {"round": number, "seconds": seconds, "replied": list(replied), "failed": {}, "global": None, **more}


def client_line(number: int, client: str, **evaluations: float) -> dict[str, object]:
    return {"round": number, "client": client, "evaluations": {m: {"accuracy": a} for m, a in evaluations.items()}}


def hear(standing: Standing, *lines: dict[str, object]) -> list[bool]:
    return [standing.hear(line) for line in lines]


def test_a_round_is_complete_with_the_last_of_those_who_replied():
    standing = Standing(rounds=4)
    assert hear(standing, round_line(1), client_line(1, "0", trained=0.5), client_line(1, "1", trained=0.7)) == [
        False,
        False,
        True,
    ]
    assert standing.accuracy == "personal 60.0%"
    assert standing.left == 6.0


def test_the_servers_model_goes_before_the_clients():
    standing = Standing(rounds=2)
    hear(standing, round_line(1, **{"global": {"accuracy": 0.25}}), client_line(1, "0", trained=0.5))
    assert standing.accuracy == "global 25.0%"


def test_the_last_moment_counts_and_a_round_without_figures_keeps_the_old_ones():
    standing = Standing(rounds=3)
    hear(standing, round_line(1, replied="0"), client_line(1, "0", received=0.1, trained=0.9))
    hear(standing, round_line(2, replied="0"), client_line(2, "0"))
    assert standing.accuracy == "personal 90.0%"


def test_figures_that_are_missing_are_no_figures():
    standing = Standing(rounds=1)
    empty = {"round": 1, "client": "0", "evaluations": {"trained": {"accuracy": None}}}
    hear(standing, round_line(1, **{"global": {"evaluated": "aggregated"}}), empty)
    assert standing.accuracy == ""


def test_the_usual_round_says_what_is_left():
    """Rounds of 30, 2 and 4 seconds: the usual one takes 4, and 7 are left; the closing message is none."""
    standing = Standing(rounds=10)
    hear(standing, *(round_line(i, seconds=s) for i, s in enumerate((30.0, 2.0, 4.0), start=1)))
    hear(standing, round_line(3, seconds=100.0, closing=True))
    assert standing.left == 28.0


def test_a_log_has_one_line_a_round_however_narrow():
    file = io.StringIO()
    with PlainBoard(Console(file=file, width=20)).run("fd", 10) as hear:
        for line in (
            round_line(1, replied="0", failed={"4": "it fell"}),
            client_line(1, "0", trained=0.5),
            round_line(1, replied="0", closing=True),
            {**client_line(1, "0", trained=0.9), "closing": True},
        ):
            hear(line)
    assert file.getvalue() == "fd  round  1/10    2.00 s  personal 50.0%  18 s left  left out: 4\n"


def test_bars_show_round_accuracy_and_time():
    file = io.StringIO()
    with LiveBoard(Console(file=file, width=80, force_terminal=True)) as live, live.run("fd [x]", 4) as hear:
        hear(round_line(1, replied="0"))
        hear(client_line(1, "0", trained=0.5))
        live._bars.refresh()
        shown = file.getvalue()
    assert all(word in shown for word in ("fd [x]", "1/4", "personal 50.0%", "6 s left"))


@pytest.mark.parametrize(
    ("terminal", "quiet", "kind"),
    [(True, False, LiveBoard), (False, False, PlainBoard), (True, True, SilentBoard), (False, True, SilentBoard)],
)
def test_the_board_suits_where_it_stands(terminal, quiet, kind):
    with board(Console(file=io.StringIO(), force_terminal=terminal), quiet) as chosen:
        assert isinstance(chosen, kind)


def test_a_tail_waits_for_whole_lines(tmp_path: Path):
    path = tmp_path / "rounds.jsonl"
    tail = Tail(path)
    assert tail.new() == []
    path.write_text('{"round": 1}\n{"rou')
    assert tail.new() == [{"round": 1}]
    with path.open("a") as file:
        file.write('nd": 2}\n')
    assert tail.new() == [{"round": 2}]
    assert tail.new() == []


def test_a_tail_tells_of_new_rounds_alone_when_a_run_goes_on(tmp_path: Path):
    path = tmp_path / "rounds.jsonl"
    path.write_text("".join(f"{json.dumps({'round': i})}\n" for i in (1, 2, 2)))
    tail = Tail(path)
    assert tail.new() == []
    cut = tmp_path / "cut"
    cut.write_text('{"round": 1}\n{"round": 2}\n{"round": 3}\n')
    cut.replace(path)
    assert tail.new() == [{"round": 3}]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (185, "3:05 min"), (3725, "1:02 h")]
)
def test_clock(seconds, said):
    assert clock(seconds) == said

"""Whatever an option is given, it is refused in one line or is what was written."""

import multiprocessing
import os
import random
import resource
import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import Field, fields
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import brief

from fd_flower import methods
from fd_flower.cli import main
from fd_flower.config import SECTIONS, DataConfig, Settings, registry, settings
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import RULE
from fd_flower.results import reproduce

PLACES = ("run.resume", "run.out")
"""Where a run lives: they may be any path."""

UNFIT = ["nan", "inf", "-.inf", "1e999", "???", "${oc.env:HOME}", "${run.seed}", "[nan]", "[[1]]", "[???]", "'${x}'"]
"""What no option can be."""

VALUES = [*UNFIT, "null", "true", "no", "0", "1", "2", "-1", "3.5", "0.5", "1e-3", "1e30", "-0.0", "007", "0x10", "1_0"]
VALUES += [
    "''",
    "x",
    "[]",
    "{}",
    "[1]",
    "[0.5,0.5]",
    "[a,b]",
    "{a: 1}",
    "{a: {b: 1}}",
    "12:30",
    "2020-01-01",
    "é",
    "'7'",
]
VALUES += [
    "[[[[",
    "{",
    "a: b",
    "&a [*a]",
    "!!python/object:os.system x",
    '"\\n"',
    '"\\0"',
    "9" * 30,
    "x" * 300,
    "%",
    "#",
]
VALUES += ["digits", "iid", "classes", "none", "cnn", "mlp", "[mlp,mlp]", "cpu", "kl", "[0.8,0.1,0.1]", "noise", "adam"]


def options_of(method: str) -> dict[str, Field[Any]]:
    """Return every option of a method, by its dotted key."""
    own = {side: methods.config_class(method, side) for side in ("server", "client")}
    sections = {**SECTIONS, **own, **registry.kind_configs(method)}
    found = {f"{section}.{field.name}": field for section, cls in sections.items() for field in fields(cls)}
    return {key: field for key, field in found.items() if key not in PLACES}


def likely(field: Field[Any]) -> list[str]:
    """Return values that may be meant."""
    if known := getattr(field.metadata.get(RULE), "known", ()):
        return [str(word).lower() for word in known]
    if "int" in str(field.type):
        return ["0", "1", "2", "3", "7", "20"]
    if "float" in str(field.type):
        return ["0", "0.1", "0.3", "0.5", "0.9", "1", "2.5", "1e-3"]
    return ["true", "false"] if field.type in (bool, "bool") else VALUES


def drawn(count: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Yield so many methods with one or two options of random values, a few of them misspelled."""
    rng = random.Random(seed)
    for _ in range(count):
        method = rng.choice(methods.names())
        options = options_of(method)
        words = []
        for key in rng.sample(list(options), rng.choice([1, 1, 2])):
            value = rng.choice(likely(options[key]) if rng.random() < 0.6 else VALUES)
            if rng.random() < 0.05:
                place = rng.randrange(len(key))
                key = key[:place] + rng.choice("ab.=[ ") + key[place + rng.randrange(2) :]
            words.append(f"{key}={value}")
        yield method, words


@pytest.mark.parametrize("value", ["nan", "1e999", "???", "${oc.env:HOME}", "[???]"])
@pytest.mark.parametrize("method", ["fedlgd", "fede4rag"])
def test_no_option_can_be_endless_missing_a_reference_or_a_container_of_another_kind(method: str, value: str):
    for key in options_of(method):
        with pytest.raises(InvalidInputError, match=key.partition(".")[0]) as caught:
            settings(method, [f"{key}={value}"])
        assert "\n" not in str(caught.value)


def test_a_reference_is_not_looked_up_where_settings_are_read(monkeypatch: pytest.MonkeyPatch):
    """A server's words must not make a device say what its environment holds."""
    monkeypatch.setenv("SECRET", "4711")
    text = settings("fd").text.replace('"size": null', '"size": "${oc.env:SECRET}"')
    with pytest.raises(InvalidInputError, match=r"data.size is '\$\{oc.env:SECRET\}'; expected a value"):
        Settings.read(text)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.label=7", "data.label is 7; expected text (a number as text takes quotes of its own: \"'7'\")"),
        ("data.image=yes", "data.image is True; expected text (a number as text takes quotes of its own: \"'7'\")"),
        ("data.split={a: 1}", "data.split is {'a': 1}; expected no keys"),
        ("client.objective_args=[1]", "client.objective_args is [1]; expected keys with values"),
        ("data.source={a: 1}", "data.source is {'a': 1}; expected a name or a list of names"),
        ("model.name=[]", "model.name is []; expected a name or a list of names"),
        ("run.keep=2", "run.keep is 2; expected text (a number as text takes quotes of its own: \"'7'\")"),
        ("data.size=inf", "data.size is inf; expected a finite number"),
        ('data.source="a\\nb"', "data.source is 'a\\nb'; expected text without control characters"),
    ],
)
def test_a_value_of_another_kind_says_what_was_expected(word: str, said: str):
    with pytest.raises(InvalidInputError) as caught:
        settings("fd", [word])
    assert str(caught.value) == said


def test_text_that_no_path_could_have_is_refused():
    with pytest.raises(InvalidInputError, match="expected at most 255 bytes between slashes"):
        settings("fd", [f"data.source=/a/{'x' * 256}"])
    assert settings("fd", [f"data.source=/a/{'x' * 255}"]).data.source.count("x") == 255


@pytest.mark.parametrize("text", ["7", "true", "a b", "[a", "it's"])
def test_the_command_that_repeats_a_run_keeps_text_as_text(text: str):
    chosen = Settings("fd", data=DataConfig(label=text))
    words = shlex.split(reproduce.command(chosen.tree()))
    assert settings("fd", words[words.index("--set") + 1]).data.label == text


def test_a_number_in_quotes_is_text():
    assert settings("fd", ["data.label='7'"]).data.label == "7"


@pytest.mark.parametrize(("word", "known"), [("patience", "fraction"), ("gpu", "cpu"), ("beta", "batch"), ("x", "y")])
def test_a_hint_is_given_only_where_the_spelling_is_near(word: str, known: str):
    assert nearest(word, [known]) == f" (known: {known})"


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("sdg", "sgd"),
        ("temp", "temperature"),
        ("FedAvg", "fedavg"),
        ("num_clients", "clients"),
        ("exmaples", "examples"),
    ],
)
def test_a_hint_is_given_where_letters_are_swapped_few_are_wrong_or_it_begins_so(word: str, known: str):
    assert nearest(word, ["other", known]) == f" (did you mean '{known}'?)"


def taken_or_refused(method: str, words: list[str]) -> Settings | str:
    try:
        return settings(method, words)
    except InvalidInputError as error:
        return str(error)


def test_random_values_are_refused_in_one_line_or_survive_the_wire():
    taken = 0
    for method, words in drawn(150, seed=1):
        chosen = taken_or_refused(method, words)
        if isinstance(chosen, Settings):
            assert Settings.read(chosen.text) == chosen, words
            taken += 1
        else:
            assert chosen.count("\n") == 0, words
            assert chosen, words
    assert 30 < taken < 120


LIMIT = 8
"""Seconds after which a run that is going on is a sensible one."""


def ended(method: str, words: list[str], folder: Path) -> tuple[int, str]:
    """Run the command; return its status and what it said of errors."""
    chosen = [part for word in words for part in ("--set", shlex.quote(word))]
    short = f"{brief(method)} server.rounds=1"
    errors = StringIO()
    with redirect_stderr(errors), redirect_stdout(StringIO()):
        status = main(["run", method, "--quiet", "--set", short, *chosen, "--out", str(folder)])
    return status, errors.getvalue()


def ended_in_a_process(method: str, words: list[str], folder: Path) -> tuple[int, str]:
    """As above in a process of its own, whose memory and time are limited; a run that is still going on is fine."""

    def play() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.alarm(LIMIT)
        status, errors = ended(method, words, folder)
        said.write_text(errors)
        os._exit(status)

    said = folder.with_suffix(".err")
    process = multiprocessing.get_context("fork").Process(target=play)
    process.start()
    process.join()
    return process.exitcode or 0, said.read_text() if said.exists() else ""


def oddity(method: str, words: list[str], folder: Path) -> tuple[int, str] | None:
    """Return how a command ended that neither ran nor was refused in one line; None where it did."""
    try:
        settings(method, words)
    except InvalidInputError:
        status, said = ended(method, words, folder)  # it cannot run
    else:
        status, said = ended_in_a_process(method, words, folder)
    shutil.rmtree(folder, ignore_errors=True)
    line = said.count("\n") == 1 and said.startswith("fd-flower: ")
    small = status == 1 and "server.max_reply_mb is" in said  # no reply was as small: the run says so
    return None if status == 0 or (line and (status == 2 or small)) else (status, said[-300:])


@pytest.mark.slow
def test_random_values_end_in_one_line_or_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    ended("fd", [], tmp_path / "first")  # so that the others find everything imported
    wrong = [
        (method, words, found)
        for number, (method, words) in enumerate(drawn(2000, seed=2))
        if (found := oddity(method, words, tmp_path / str(number))) is not None
    ]
    assert not wrong

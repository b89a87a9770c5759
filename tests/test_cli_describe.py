"""methods, describe, data and doctor: what is shown is what there is."""

import io
from dataclasses import dataclass, fields

import pytest
import torch
from rich.console import Console

from fd_flower import methods
from fd_flower.cli import doctor, machine, main
from fd_flower.cli.data import table
from fd_flower.cli.describe import described, docstrings, exchanged, needed, options, type_words
from fd_flower.cli.machine import Gpu, federation_config
from fd_flower.config import SECTIONS, ClientConfig, registry
from fd_flower.data import Holdings
from fd_flower.server import Requirements


@pytest.mark.parametrize("width", ["80", "200"])
def test_every_method_is_listed(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= int(width)
    rows = [line.split()[0] for line in lines if line[:2].strip()]
    assert rows[0] == "method"
    assert rows[2:] == list(methods.names())


@pytest.mark.parametrize("stem", methods.names())
def test_every_knob_has_a_value_and_a_meaning(stem):
    found = [option for section in options(stem, []).values() for option in section]
    classes = {**SECTIONS, **{side: methods.config_class(stem, side) for side in ("server", "client")}}
    classes |= registry.kind_configs(stem)
    assert [option.key for option in found] == [
        f"{name}.{f.name}" for name, cls in classes.items() for f in fields(cls)
    ]
    assert [option.key for option in found if not option.meaning] == []


def test_a_value_comes_from_the_set_before_the_recipe_before_the_default(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("client: {lr: 0.5, objective_args: {temperature: 2.0}}\nserver: {rounds: 3}")
    found = {
        option.key: option
        for section in options("fd", [f"recipe={recipe}", "server.rounds=7"]).values()
        for option in section
    }
    told = {key: (found[key].value, found[key].source) for key in ("server.rounds", "client.lr", "client.batch")}
    assert told == {"server.rounds": (7, "set"), "client.lr": (0.5, "recipe"), "client.batch": (32, "default")}
    assert found["client.objective_args"].source == "recipe"


@pytest.mark.parametrize("stem", methods.names())
def test_a_kinds_options_are_shown_where_the_method_can_learn_it(stem):
    shown = {section for section in options(stem, []) if section in registry.kinds()}
    assert shown == set(methods.strategy(stem).requires.tasks) - {"classification"}


def test_docstrings_of_fields_are_read_from_the_source():
    @dataclass(frozen=True)
    class Own(ClientConfig):
        """A method's own."""

        own: int = 1
        """Its
        meaning."""
        bare: int = 2
        lr: float = 3.0
        """Another rate."""

    found = docstrings(Own)
    assert found["own"] == "Its meaning."
    assert found["lr"] == "Another rate."
    assert found["batch"] == "Batch size on private data."
    assert "bare" not in found


def test_types_as_they_are_written():
    assert [type_words(t) for t in (int, int | None, list[float], "str")] == ["int", "int | None", "list[float]", "str"]


def test_needs_and_kinds_in_words():
    assert needed(Requirements(public=True, same_model=True)) == "public samples, one architecture"
    assert needed(Requirements()) == "nothing"
    assert exchanged("fd") == "class-logits"
    assert exchanged("local") == "nothing"


@pytest.mark.parametrize(
    ("changes", "where"),
    [([], "on the server's model (aggregated)"), (["server.share=head"], "after local training (trained)")],
)
def test_describe_says_where_a_run_with_these_options_is_evaluated(changes: list[str], where: str):
    names, facts = (column.cells for column in list(described("fedgen", changes))[1].columns)
    assert dict(zip(names, facts, strict=True))["evaluated"] == where


@pytest.mark.parametrize("width", ["80", "200"])
def test_describe_shows_lists_with_their_brackets(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    assert main(["describe", "fd", "--set", "model.name=[mlp,cnn]"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= int(width)
    assert "(list[float])" in said
    assert "mlp, cnn" in said


def test_data_shows_who_holds_what(capsys, tmp_path):
    image = tmp_path / "deep" / "who.png"
    assert main(["data", "--set", "data.clients=3 data.limit=600", "--out", str(image)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line[:4].strip() in ("0", "1", "2", "all")}
    columns = zip(*([int(c.replace("·", "0")) for c in rows[who][:-1]] for who in ("0", "1", "2", "all")), strict=True)
    assert all(first + second + third == total for first, second, third, total in columns)
    assert lines[-1] == str(image)
    assert image.read_bytes().startswith(b"\x89PNG")


def test_many_classes_are_counted_not_listed():
    counts = torch.zeros(2, 100, dtype=torch.int64)
    counts[0, :30] = 1
    counts[0, 7] = 5
    counts[1, 99] = 2
    held = Holdings(
        ("0", "1"), tuple(f"class {i}" for i in range(100)), counts, torch.ones(2, 3, dtype=torch.int64), 0, 9
    )
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(held))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert ["0", "30", "class", "7", "(5)", "1", "1", "1", "0.028"] in rows
    assert ["1", "1", "class", "99", "(2)", "1", "1", "1", "0.843"] in rows


def test_a_healthy_machine_passes(capsys):
    status = main(["doctor"])
    said = capsys.readouterr().out
    assert status == (1 if "broken" in said else 0)
    assert "--federation-config 'num-supernodes=" in said


@pytest.mark.parametrize(("gpus", "told"), [(0, "--jobs 6"), (2, "--devices 0,1")])
def test_the_doctor_says_how_runs_fill_the_machine(capsys, monkeypatch, gpus, told):
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu("a", 24 * GIB)] * gpus)
    monkeypatch.setattr(machine, "cores", lambda: 6)
    main(["doctor"])
    said = capsys.readouterr().out
    assert said.endswith(f"compare and sweep use all of it with\n  {told}\n")
    assert said.count("a, 24 GiB") == gpus


def test_what_is_broken_is_named_with_its_cure(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "1.30.0" if name == "flwr" else "9.9")
    monkeypatch.setattr(doctor, "_importable", lambda: doctor.Finding("import", "from any folder"))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "broken: 1.30.0" in said
    assert "flwr: pip install 'flwr[simulation]>=1.41,<2'" in said


GIB = 2**30


@pytest.mark.parametrize(
    ("clients", "cores", "gpus", "expected"),
    [
        (10, 2, [], "num-supernodes=2 client-resources-num-cpus=1"),
        (3, 8, [], "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=3"),
        (
            100,
            16,
            [Gpu("big", 80 * GIB)],
            "num-supernodes=16 client-resources-num-cpus=1 client-resources-num-gpus=0.062",
        ),
        (
            100,
            16,
            [Gpu("small", 8 * GIB)],
            "num-supernodes=2 client-resources-num-cpus=1 client-resources-num-gpus=0.5 init-args-num-cpus=2",
        ),
        (
            100,
            6,
            [Gpu("a", 24 * GIB)] * 2,
            "num-supernodes=6 client-resources-num-cpus=1 client-resources-num-gpus=0.333",
        ),
    ],
)
def test_the_federation_fits_the_machine(clients, cores, gpus, expected):
    assert federation_config(clients, cores, gpus) == expected

"""What every method promises, found by name: whoever adds one has these tests for nothing."""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, RecordDict
from helpers.grids import Noted, Spoilt
from helpers.tiny import classifies, figures, play, rounds, start_toy, tiny_settings

from fd_flower import config, engine, methods, objectives
from fd_flower.client import App
from fd_flower.config import EVALUATION_POINTS, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder
from fd_flower.server import Requirements, Strategy
from fd_flower.tasks.retrieval.metrics import METRICS
from fd_flower.wire import unpack
from fd_flower.wire.envelope import unfold
from fd_flower.wire.exact import SUM

ROOT = Path(__file__).parents[1]
EVERY = pytest.mark.parametrize("method", methods.names())
in_a_checkout = pytest.mark.skipif(not (ROOT / "strategies").is_dir(), reason="looks at the checkout")


def client_module(method: str) -> Any:
    return import_module(f"fd_flower.client_apps.{method}")


def numbers(value: Any) -> Iterable[float]:
    """Yield every number in lines or knowledge."""
    if isinstance(value, bool | str) or value is None:
        return
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from numbers(inner)
    else:
        yield float(value)


# --- its pieces


@EVERY
def test_its_strategy_is_final_and_says_what_it_needs_and_when_it_measures(method: str):
    cls = methods.strategy(method)
    assert issubclass(cls, Strategy)
    assert getattr(cls, "__final__", False)
    assert isinstance(cls.requires, Requirements)
    assert cls.evaluated in EVALUATION_POINTS
    assert cls.exchanges[-1] == "train"
    assert "" not in (cls.__doc__, cls.aggregate.__doc__)


@EVERY
def test_its_client_has_an_app_and_an_objective(method: str):
    assert isinstance(methods.client_app(method), App)
    objective = client_module(method).objective
    assert list(inspect.signature(objective).parameters) == ["model", "x", "y", "teacher", "config"]
    assert objective.__doc__


@EVERY
def test_both_halves_name_the_method_and_its_source_in_one_line(method: str):
    first = [(module.__doc__ or "").splitlines()[0] for module in (_strategy_module(method), client_module(method))]
    assert first[0] == first[1]
    assert first[0].endswith(".")
    if method != "local":
        assert "arXiv" in first[0]


def _strategy_module(method: str) -> Any:
    return import_module(f"fd_flower.strategies.{method}")


@EVERY
@pytest.mark.parametrize("side", ["server", "client"])
def test_its_options_are_documented_frozen_and_the_cores_and_its_own(method: str, side: str):
    cls = methods.config_class(method, side)
    assert issubclass(cls, config.SECTIONS[side])
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    own = [f.name for f in fields(cls) if f.name not in {f.name for f in fields(config.SECTIONS[side])}]
    classes = cls.__mro__[: cls.__mro__.index(config.SECTIONS[side])]
    source = "".join(map(inspect.getsource, classes))  # the first to have a field has its newest default
    for name in own:
        after = source.partition(f"\n    {name}: ")[2].splitlines()
        assert after[1].strip().startswith('"""'), f"{side}.{name} has no description"


@EVERY
def test_its_recipe_fits_its_options(method: str):
    chosen = settings(method)
    for side, values in config.read_recipe(method).items():
        for key, value in values.items():
            assert getattr(chosen.kinds.get(side) or getattr(chosen, side), key) == value
    automatic = getattr(client_module(method), "AUTO", "")
    assert chosen.client.objective in (*objectives.names(), *objectives.names("tokens"), automatic)


@EVERY
def test_its_strategy_is_made_in_one_line_with_the_recipes_values(method: str):
    assert methods.strategy(method)().config == settings(method).server


@in_a_checkout
@EVERY
def test_it_has_a_test_file_and_a_page(method: str):
    assert (ROOT / "tests" / f"test_{method}.py").is_file()
    page = ROOT / "docs" / "methods" / f"{method}.md"
    assert page.is_file()
    assert page.read_text().startswith("# ")


# --- its runs


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Return the folder of a method's usual run, which several tests look at."""
    folders: dict[str, RunFolder] = {}

    def run(method: str) -> RunFolder:
        if method not in folders:
            folder = engine.run(tiny_settings(method), out=tmp_path_factory.mktemp(method) / "run")
            assert folder is not None
            folders[method] = folder
        return folders[method]

    return run


@EVERY
def test_the_same_seed_gives_the_same_result(method: str, usual: Callable[[str], RunFolder]):
    first = figures(usual(method).lines())
    assert figures(play(tiny_settings(method))) == first
    assert figures(play(tiny_settings(method, "run.seed=1"))) != first


@EVERY
def test_a_client_that_drops_out_is_survived(method: str):
    """Client 1 fails in round one, and client 2 in round two: round three finds it without what came between."""

    def drop(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return Error(2, "gone") if (client, round) in {("1", 1), ("2", 2)} else content

    lines = start_toy(method, "server.rounds=3", InProcessGrid(Spoilt(methods.client_app(method), drop)))[2]
    assert [line["replied"] for line in rounds(lines)] == [["0", "2"], ["0", "1"], ["0", "1", "2"]]
    assert all(map(math.isfinite, numbers(lines)))


@EVERY
def test_a_part_of_the_clients_at_a_time_is_enough(method: str):
    lines = play(tiny_settings(method, "server.fraction=0.34 server.rounds=4"))
    assert [len(line["replied"]) for line in rounds(lines)] == [1] * 4
    assert all(map(math.isfinite, numbers(lines)))


@EVERY
def test_mixed_architectures_run_or_are_refused_with_the_reason(method: str):
    requires = methods.strategy(method).requires
    mixed = "model.name=[mlp,cnn]" if classifies(method) else "model.name=[gpt:8,gpt:16]"
    if "retrieval" in requires.tasks and not classifies(method):
        with pytest.raises(InvalidInputError, match="retrievers have one encoder for all clients"):
            play(tiny_settings(method, mixed))
        return
    if requires.same_model:
        found = "cnn, mlp" if classifies(method) else "gpt:16, gpt:8"
        with pytest.raises(InvalidInputError, match=f"{method} needs one architecture for all clients; got {found}"):
            play(tiny_settings(method, mixed))
        return
    if requires.features:
        with pytest.raises(InvalidInputError, match=rf"{method} needs one feature size .*: set model\.features"):
            play(tiny_settings(method, mixed))
        mixed += " model.features=16"
    lines = play(tiny_settings(method, mixed))
    assert rounds(lines)[-1]["replied"] == ["0", "1", "2"]
    assert all(map(math.isfinite, numbers(lines)))


EDGES = {
    "one class each": "data.partition=classes data.classes=1 data.clients=10",
    "fewer samples than a batch": "client.batch=5000 client.public_batch=5000",
    "clients of few samples": "data.per_client=12 data.partition=iid",
    "no validation or test parts": "data.split=[1,0,0]",
    "one client": "data.clients=1",
    "batches with one left over": "data.per_client=20 data.partition=iid client.batch=13 client.steps=null",
    "half precision": "run.precision=bf16",
    "long steps": "client.lr=1.0 client.optimizer=sgd",
}


@EVERY
@pytest.mark.parametrize("edge", EDGES)
def test_numbers_stay_finite_at_the_edges(method: str, edge: str):
    column = "company data.clients=10" if "retrieval" in methods.strategy(method).requires.tasks else "notebook"
    without_classes = {"one class each": f"data.partition=column data.column={column}"}
    changes = EDGES[edge] if classifies(method) else without_classes.get(edge, EDGES[edge])
    lines = play(tiny_settings(method, changes))
    assert all(map(math.isfinite, numbers(lines)))
    assert len(rounds(lines)) == 2
    assert all(line["failed"] == {} for line in rounds(lines))


@EVERY
def test_everything_that_is_said_is_of_a_known_kind(method: str):
    grid = Noted(methods.client_app(method), 1)
    start_toy(method, grid=grid)
    for message in (*grid.sent, *grid.replies):
        for content in unfold(message.content).values() if message.metadata.message_type == "train" else ():
            assert isinstance(content, RecordDict)
            for payload in unpack(content):
                assert all(isinstance(tensor, torch.Tensor) for tensor in payload.tensors().values())
            assert set(content.config_records) <= {"config", SUM}
            assert set(content.metric_records) <= {"metrics"}


@pytest.mark.usefixtures("drawn")
@EVERY
def test_nothing_is_written_but_the_run_and_the_clients_memory(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual: Callable[[str], RunFolder]
):
    usual(method)  # the data's cache is there
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    folder = engine.run(tiny_settings(method, "run.keep=last"), out=tmp_path / "run")
    assert folder is not None
    assert not list((tmp_path / "home").iterdir())
    written = {path.relative_to(tmp_path).parts for path in tmp_path.rglob("*") if path.is_file()}
    kept = {parts for parts in written if parts[1] == "clients"}
    assert {parts[0] for parts in written} == {"run"}
    assert {parts[1] for parts in written - kept} == {
        ".lock", "config.yaml", "rounds.jsonl", "checkpoint", "curves.png", "models", "report.html", "summary.json",
    }  # fmt: skip
    assert all(len(parts) == 5 and parts[2] == folder.run_key and parts[3] in "012" for parts in kept)


@EVERY
def test_its_summary_has_the_figures_of_every_method(method: str, usual: Callable[[str], RunFolder]):
    folder = usual(method)
    if classifies(method):
        accuracy = folder.summary["accuracy"]
        for what in ("global", "pooled", "personal"):
            assert {"final", "selected", "best", "evaluated"} <= accuracy[what].keys()
            assert 0 <= accuracy[what]["final"] <= 1
        assert {"std", "worst10"} <= accuracy["personal"].keys()
    else:
        assert "accuracy" not in folder.summary
        (kind,) = methods.strategy(method).requires.tasks
        metrics, most = (METRICS, 1) if kind == "retrieval" else (("bits_per_byte",), 9)
        for what in ("global", "personal"):
            own = folder.summary[kind].get(what, {}).get("own") or folder.summary[kind]["personal"]["own"]
            assert all(0 <= own[metric][key] <= most for metric in metrics for key in ("final", "selected", "best"))
    said = sum(rounds(folder.lines())[0]["bytes"]["up"].values())
    assert (said == 0) == (method == "local")

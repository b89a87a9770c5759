"""Models that a run keeps: which they are, and that what is loaded or exported has the figures of the summary."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.grids import devices, hosts
from helpers.tasks import Small, samples
from helpers.tiny import TINY, start, toy_settings
from PIL import Image

import fd_flower
from fd_flower import export
from fd_flower.cli.app import main
from fd_flower.config import settings
from fd_flower.core import kept
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.kept import read_about
from fd_flower.core.storage import load
from fd_flower.export import KeptModel
from fd_flower.results import RunFolder
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.server.keeper import Keeper
from fd_flower.tasks.described import described, load_task
from fd_flower.tasks.world import World

MIXED = f"{TINY} model.name=[mlp,lenet] data.limit=500 server.evaluate=received,trained"


def world_of(folder: Path) -> World:
    chosen = RunFolder.open(folder).settings
    return World(chosen, load_task(chosen.task) if chosen.task else described(chosen))


def figures(folder: Path, client: str, model: KeptModel) -> dict[str, float]:
    """Return what a loaded model comes to where the run evaluated it."""
    here = world_of(folder)
    limit = 0 if "global" in model.about["figures"] else None
    return here.kind.figures(here, client, model, None, limit)


def own(folder: Path, key: str) -> tuple[float, float]:
    """Return the mean over clients of their kept models' own accuracy, and what the summary has for it."""
    clients = [path.stem.removeprefix("client-") for path in (folder / "models").glob("client-*")]
    found = [figures(folder, client, fd_flower.load(folder, client))["accuracy"] for client in clients]
    return fmean(found), RunFolder.open(folder).summary["accuracy"]["personal"][key]


def served(folder: Path, key: str) -> tuple[float, float]:
    """Return the accuracy of the server's kept model, and what the summary has for it."""
    here = world_of(folder)
    model = fd_flower.load(folder, "server")
    assert isinstance(model, KeptModel)
    return here.kind.judged(here, model, 0)["accuracy"], RunFolder.open(folder).summary["accuracy"]["global"][key]


@pytest.fixture(scope="module")
def fedmd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two architectures on images of digits."""
    folder = tmp_path_factory.mktemp("runs") / "fedmd"
    tiny.run("fedmd", MIXED, out=folder)
    return folder


# --- what is loaded


@pytest.mark.parametrize("client", ["0", "1"])
@pytest.mark.parametrize("name", ["", "model.safetensors", "model.pt2", "folder"])
def test_each_form_of_a_clients_model_has_its_figures_exactly(fedmd, tmp_path, client, name):
    source, model = fedmd, fd_flower.load(fedmd, client)
    if name:
        export.write(model, tmp_path / name, fedmd)
        source = tmp_path / name
        model = fd_flower.load(source)
    assert not model.training
    assert model.classes == tuple(map(str, range(10)))
    assert figures(fedmd, client, model) == model.about["figures"]
    last = [line for line in RunFolder.open(fedmd).lines() if line.get("client") == client][-2]
    assert model.about["figures"] == last["evaluations"]["trained"]


@pytest.mark.parametrize("client", ["0", "1"])
def test_an_onnx_model_gives_the_logits_and_the_accuracy(fedmd, tmp_path, client):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    model = fd_flower.load(fedmd, client)
    export.write(model, tmp_path / "model.onnx")
    onnx = fd_flower.load(tmp_path / "model.onnx")
    for batch in (1, 5):
        x = model.preprocess(torch.randint(256, (batch, 1, 8, 8), dtype=torch.uint8))
        torch.testing.assert_close(onnx(x), model(x), atol=1e-5, rtol=0)
    assert figures(fedmd, client, onnx)["accuracy"] == model.about["figures"]["accuracy"]


def test_the_kept_models_have_the_summarys_accuracy(fedmd):
    found, said = own(fedmd, "final")
    assert found == said


def test_an_image_is_prepared_as_in_the_run(fedmd, tmp_path):
    """A file, an image of PIL and the run's own bytes give one input; a larger one in colors is made small and gray."""
    model = fd_flower.load(fedmd, "0")
    test = world_of(fedmd).test
    rows = torch.arange(3)
    bytes_ = test.x[rows if test.index is None else test.index[rows]]
    Image.fromarray(bytes_[1, 0].numpy()).save(tmp_path / "one.png")
    assert torch.equal(model.preprocess(bytes_), test[rows].batch(rows)[0])
    assert torch.equal(model.preprocess(tmp_path / "one.png"), model.preprocess(bytes_[1]))
    assert model.preprocess([Image.new("RGB", (30, 20)), Image.new("L", (8, 8))]).shape == (2, 1, 8, 8)
    names = model.predict(bytes_)
    assert names == [model.classes[i] for i in model(model.preprocess(bytes_)).argmax(1)]
    (guesses,) = model.classify(tmp_path / "one.png", top=3)
    assert guesses[0].name == names[1]
    assert sorted((guess.probability for guess in guesses), reverse=True) == [guess.probability for guess in guesses]


def test_what_a_model_does_not_take_is_refused(fedmd, tmp_path):
    model = fd_flower.load(fedmd, "0")
    (tmp_path / "torn.png").write_bytes(b"torn")
    for given, reason in (
        (torch.zeros(1, 1, 8, 8), "the input is float32; expected images of bytes"),
        (torch.zeros(2, 1, 9, 9, dtype=torch.uint8), r"the input has the shape \[2, 1, 9, 9\]"),
        (tmp_path / "torn.png", "torn.png cannot be read as an image"),
        (Image.new("F", (8, 8)), "the image has the mode F"),
    ):
        with pytest.raises(InvalidInputError, match=reason):
            model.classify(given)


def test_models_of_a_users_own_task_are_loaded_by_its_name(tmp_path):
    start(toy_settings("fedavg", f"run.out={tmp_path}/run"), hosts("fedavg"))
    model = fd_flower.load(tmp_path / "run", "2")
    assert isinstance(model.module, Small)
    assert figures(tmp_path / "run", "2", model) == model.about["figures"]
    assert model.predict(samples("2 test", 4).x) == [str(n) for n in model(samples("2 test", 4).x).argmax(1).tolist()]
    with pytest.raises(InvalidInputError, match=r"takes tensors .* as its task makes them"):
        model.classify(Image.new("L", (8, 8)))
    assert type(fd_flower.load(tmp_path / "run", "2", network=Small()).module) is Small
    with pytest.raises(InvalidInputError, match="the weights are of another network than Small"):
        fd_flower.load(tmp_path / "run", "2", network=Small(7))


# --- which model it is


def test_a_servers_model_and_its_clients_are_those_of_the_summary(tmp_path):
    tiny.run("fedavg", f"{TINY} server.evaluate_every=1", out=tmp_path)
    for found, said in (served(tmp_path, "final"), own(tmp_path, "final")):
        assert found == said
    assert RunFolder.open(tmp_path).summary["state"] == "models/server.safetensors"


BEST = f"{TINY} run.keep=best server.rounds=4 server.evaluate_every=1 client.lr=0.5 data.limit=400 data.public_size=20 "


@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_models_are_those_that_the_summary_selects(tmp_path, seed):
    tiny.run("fedavg", f"{BEST} run.seed={seed}", out=tmp_path)
    for found, said in (served(tmp_path, "selected"), own(tmp_path, "selected")):
        assert found == said
    lines = RunFolder.open(tmp_path).lines()
    best = read_about(tmp_path / "models" / "server.safetensors")
    validation = {line["round"]: line["global"]["validation"] for line in lines if "client" not in line}
    assert best["round"] == max(validation, key=lambda number: validation[number])
    assert not list(tmp_path.glob("**/evaluated-*"))


def test_a_client_that_is_not_asked_at_last_keeps_its_newest_model(tmp_path):
    tiny.run("local", f"{TINY} server.rounds=4 server.fraction=0.34 server.evaluate_every=1", out=tmp_path)
    rounds = {path.stem: read_about(path)["round"] for path in (tmp_path / "models").glob("*")}
    asked: dict[str, int] = {}
    for line in RunFolder.open(tmp_path).lines():
        if "client" in line:
            asked[f"client-{line['client']}"] = line["round"]
    assert rounds == asked
    assert len(set(rounds.values())) > 1
    found, said = own(tmp_path, "final")
    assert found == said


def after(last: int) -> Callable[..., bool]:
    return lambda number, result: number == last


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(("method", "rule"), [("fedavg", "best"), ("fd", "last")])
def test_a_resumed_run_keeps_the_models_of_one_that_was_not_cut_off(tmp_path, method, rule, place, monkeypatch):
    """It is killed in round 3 before its models are settled: before or after the round is in the checkpoint."""
    words = f"server.rounds=4 server.evaluate_every=1 client.lr=0.5 run.keep={rule}"
    start(toy_settings(method, f"{words} run.out={tmp_path}/whole"), hosts(method))
    owner, name = (Checkpoint, "write") if place == "before" else (Keeper, "settle")
    played, calls = getattr(owner, name), []

    def killed(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        played(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            start(toy_settings(method, f"{words} run.out={tmp_path}/cut"), hosts(method))
    assert list((tmp_path / "cut").glob("**/evaluated-3.safetensors"))
    start(settings(method, f"run.resume={tmp_path}/cut"), hosts(method))
    models = sorted((tmp_path / "whole" / "models").iterdir())
    assert [path.name for path in models] == sorted(path.name for path in (tmp_path / "cut" / "models").iterdir())
    for path in models:
        (one, about), (other, also) = (
            load(folder / path.name) for folder in (path.parent, tmp_path / "cut" / "models")
        )
        assert about == also
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_a_run_that_is_stopped_keeps_the_models_it_ended_with(tmp_path):
    changes = f"server.rounds=5 server.evaluate_every=1 run.out={tmp_path}/run"
    start(toy_settings("fedavg", changes), hosts("fedavg"), should_stop=after(2))
    about = read_about(tmp_path / "run" / "models" / "server.safetensors")
    assert (about["round"], about["evaluated"]) == (2, "aggregated")
    found, said = served(tmp_path / "run", "final")
    assert found == said


def test_servers_models_of_several_architectures_are_each_kept(tmp_path):
    tiny.run("feddf", f"{TINY} model.name=[mlp,lenet] server.distill_steps=1", out=tmp_path)
    with pytest.raises(InvalidInputError, match="say which, 'server:lenet', 'server:mlp'"):
        fd_flower.load(tmp_path, "server")
    models = [fd_flower.load(tmp_path, f"server:{name}") for name in ("mlp", "lenet")]
    here = world_of(tmp_path)
    found = fmean(here.kind.judged(here, model, 0)["accuracy"] for model in models)
    assert found == RunFolder.open(tmp_path).summary["accuracy"]["global"]["final"]


# --- on devices


@pytest.mark.parametrize("method", ["fedavg", "fd"])
def test_a_device_keeps_its_model_and_exports_it(tmp_path, method, capsys):
    out = tmp_path / "run"
    start(toy_settings(method, f"run.out={out} server.nodes=2"), devices(method, str(tmp_path), "here", "there"))
    model = fd_flower.load(tmp_path / "here", "here")
    line = next(line for line in reversed(RunFolder.open(out).lines()) if line.get("client") == "here")
    assert model.about["figures"] == line["evaluations"]["trained"]
    assert main(["export", str(tmp_path / "there"), "--to", str(tmp_path / "model.safetensors")]) == 0
    assert (
        "client there's model, round 2, trained; accuracy on the client's own test samples" in capsys.readouterr().out
    )
    with pytest.raises(InvalidInputError, match="is no run's folder, and only there is a server's model"):
        fd_flower.load(tmp_path / "here", "server")


@pytest.mark.parametrize(
    ("rule", "higher", "figures", "round"),
    [
        ("best", True, (0.5, 0.5), 1),  # of equal ones the first
        ("best", False, (0.5, 0.5), 1),
        ("best", True, (1.52, 1.43, 1.47), 1),
        ("best", False, (1.52, 1.43, 1.47), 2),
        ("last", True, (0.5, 0.5), 2),
    ],
)
def test_a_device_keeps_the_model_of_its_own_best_validation_figure(tmp_path, rule, higher, figures, round):
    for number, figure in enumerate(figures, start=1):
        kept.offer(tmp_path, (number, False), {"w": torch.ones(1)}, {"figures": {"validation": figure}})
        kept.take_alone(tmp_path, rule, higher=higher)
    assert read_about(tmp_path / "model.safetensors")["round"] == round
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


# --- what is not kept


def test_where_nothing_is_kept_a_line_says_how(tmp_path, capsys):
    tiny.run("fd", f"{TINY} server.rounds=1 run.keep=none", out=tmp_path / "run")
    assert not (tmp_path / "run" / "models").exists()
    assert not (tmp_path / "run" / "clients").exists()
    assert main(["export", str(tmp_path / "run"), "--client", "0", "--to", "model.pt2"]) == 2
    said = capsys.readouterr().err
    assert "kept no model (run.keep=none, or nothing is evaluated yet): run again with run.keep=last" in said
    assert said.count("\n") == 1


def test_comparisons_keep_no_models_unless_they_are_asked_to(tmp_path):
    from fd_flower.cli import compare, sweep

    for changes, rule in (([], "none"), (["run.keep=best"], "best")):
        plan = compare.ordered(["fd", "local"], changes, None, "local", tmp_path / "a", "", 1)
        assert {order.settings.run.keep for order in plan.orders.values()} == {rule}
        search = sweep.ordered("fd", ["client.lr=1,2"], None, "global", changes, None, "local", tmp_path / "b", "", 1)
        assert {order.settings.run.keep for order in search.plan.orders.values()} == {rule}


def test_what_cannot_be_loaded_or_written_says_why(fedmd, tmp_path):
    model = fd_flower.load(fedmd, "0")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    for to, reason in (("model.bin", "expected a name that ends in .safetensors"), ("full", "holds something already")):
        with pytest.raises(InvalidInputError, match=reason):
            export.write(model, tmp_path / to)
    for source, client, reason in (
        (fedmd, None, "kept 3 models: say whose, one of 0, 1, 2"),
        (fedmd, "7", "kept no model of client '7'; it has those of 0, 1, 2"),
        (fedmd, "server", "has no model of a server: its method evaluates clients' own models"),
        (tmp_path / "nowhere", "0", "there is no .*nowhere"),
        (tmp_path / "full", "0", "neither a run's folder nor a state-dir with a model of client '0'"),
        (fedmd / "config.yaml", None, "is no model that FD-Flower wrote"),
    ):
        with pytest.raises(InvalidInputError, match=reason):
            fd_flower.load(source, client)


def test_the_command_exports_a_folder_with_a_card_and_classifies_with_it(fedmd, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8), 200).save(tmp_path / "a.png")
    assert main(["export", str(fedmd), "--client", "1", "--to", str(tmp_path / "model")]) == 0
    card = (tmp_path / "model" / "README.md").read_text()
    accuracy = fd_flower.load(fedmd, "1").about["figures"]["accuracy"]
    for line in (
        "| method | fedmd (official code) |",
        "| network | lenet |",
        "| evaluation point | `trained`: after it had trained on the client's own data |",
        f"| accuracy on the client's own test samples | {accuracy:.4f} |",
    ):
        assert line in card
    assert "source digits" in card
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"]["7"] == "7"
    assert config["preprocessing"]["size"] == {"height": 8, "width": 8}
    assert main(["classify", "model", "a.png", "--top", "1"]) == 0
    (name,) = fd_flower.load(fedmd, "1").predict(tmp_path / "a.png")
    assert ["a.png", name] in [line.split()[:2] for line in capsys.readouterr().out.splitlines()]

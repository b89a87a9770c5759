"""Runs under differential privacy: without noise those they were, refused where more would leave, alike in engines."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp import strategy as flowers
from helpers.grids import devices, hosts
from helpers.tiny import figures, play, rounds, run, start, start_toy, tiny_settings, toy_settings
from torch import Tensor

from fd_flower import methods
from fd_flower.cli import main
from fd_flower.cli.describe import replies
from fd_flower.client import App
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder
from fd_flower.server import HostGrid, Strategy

CENTRAL = "privacy.dp=central privacy.clip=3 privacy.epsilon=8 privacy.noise=seeded"
MASKS = "privacy.sum=masks privacy.dp=distributed privacy.clip=3 privacy.epsilon=8 privacy.noise=seeded"
QUIET = "privacy.dp=central privacy.clip=1000 privacy.noise_multiplier=0"
BOUNDED = ("fd", "fedavg", "fedmd", "fedprox", "fml")
MORE = ("fede4rag", "fedcollm", "offsite", "scaffold", "fedspeed", "ditto", "fedmrl")


def knowledge(strategy: Strategy[Any]) -> dict[str, Tensor]:
    return strategy.knowledge.flat()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def close(one: dict[str, Tensor], other: dict[str, Tensor], atol: float) -> None:
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, other[key], atol=atol, rtol=1e-4)


def played(method: str, options: str, nodes: int = 1) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    words = f"data.clients=4 data.partition=iid {options}"
    strategy, _, lines = start(tiny_settings(method, words), hosts(method, nodes))
    return knowledge(strategy), lines


# --- no noise


@pytest.mark.parametrize("method", ["fd", "fedavg"])
def test_a_wide_clip_and_no_noise_is_the_run_without(method: str):
    """Clients have equally many samples, so that all count the same in FedAvg, too."""
    words = "data.per_client=30"
    close(played(method, f"{words} {QUIET}")[0], played(method, words)[0], 2e-5)


def test_fedmd_without_noise_is_the_mean_of_probabilities():
    rule = "server.rule=mean_of_probabilities"
    close(played("fedmd", QUIET)[0], played("fedmd", rule)[0], 2e-3)


def test_every_client_counts_the_same_whatever_it_has():
    """In FedAvg without differential privacy a client with more samples moves the mean further."""
    unequal = "data.partition=dirichlet data.alpha=0.3 server.rounds=1"
    by_examples, equal = (played("fedavg", f"{unequal} {more}")[0] for more in ("", QUIET))
    assert not torch.allclose(next(iter(by_examples.values())), next(iter(equal.values())), atol=1e-4)


@pytest.mark.parametrize("method", ["fd", "fedmd", "fedavg"])
def test_clients_in_masks_add_what_the_server_would(method: str):
    masked = QUIET.replace("central", "distributed privacy.sum=masks")
    close(played(method, masked)[0], played(method, QUIET)[0], 1e-4)


def test_no_noise_has_no_source():
    seeded, secure = (played("fedmd", f"{QUIET} privacy.noise={source}")[0] for source in ("seeded", "secure"))
    assert same(seeded, secure)


def test_a_client_moves_the_mean_by_the_clip_at_most():
    """An attacker's weights are 10^6 times as far away as they were; there are six clients."""
    words = "data.clients=6 server.rounds=1 attack.name=scaled attack.args.factor=1e6 attack.fraction=0.17"
    options = "privacy.dp=central privacy.clip=0.5 privacy.noise_multiplier=0"
    before = knowledge(start_toy("fedavg", f"{words} client.lr=1e-30 {options}")[0])
    after = knowledge(start_toy("fedavg", f"{words} {options}")[0])
    moved = torch.cat([(after[key] - before[key]).flatten() for key in after]).double().norm()
    assert 0 < float(moved) <= 0.5 * (1 + 1e-5)


# --- noise


@pytest.mark.parametrize("options", [CENTRAL, MASKS])
def test_seeded_noise_is_the_same_on_one_host_and_two(options: str):
    one, two = played("fedmd", options), played("fedmd", options, 2)
    assert same(one[0], two[0])
    assert figures(one[1]) == figures(two[1])
    assert not same(one[0], played("fedmd", f"{options} run.seed=1")[0])


@pytest.mark.parametrize("options", [CENTRAL, MASKS])
@pytest.mark.parametrize("method", BOUNDED)
def test_methods_run_with_secure_noise(method: str, options: str):
    """Two runs differ, all else being equal."""
    words = f"{options} privacy.noise=secure server.rounds=1"
    (one, _, lines), (two, _, _) = start_toy(method, words), start_toy(method, words)
    assert not same(knowledge(one), knowledge(two))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in knowledge(one).values())
    assert rounds(lines)[0]["sum"]["clients"] == 3


def test_every_method_that_can_be_bounded_is_tried_here():
    with pytest.raises(InvalidInputError, match="take one of ") as caught:
        start_toy("fedproto", CENTRAL)
    able = str(caught.value).partition("take one of ")[2].split(", ")
    assert {*able} == {*BOUNDED, *MORE}


@pytest.mark.slow
@pytest.mark.parametrize("method", MORE)
def test_larger_methods_run_with_noise(method: str):
    quiet, noisy = (f"{options} server.rounds=1" for options in (QUIET, CENTRAL))
    one, other = (knowledge(start(tiny_settings(method, words), hosts(method))[0]) for words in (quiet, noisy))
    assert not same(one, other)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in other.values())


@pytest.mark.slow
def test_flowers_simulation_has_the_noise_of_one_process(tmp_path: Path):
    words = f"model.name=mlp data.clients=4 data.public_size=60 server.rounds=2 client.steps=3 run.device=cpu {CENTRAL}"
    run("fedmd", words, out=tmp_path / "process")
    assert main(["run", "fedmd", "--engine", "flower", "--set", words, "--out", str(tmp_path / "f"), "--quiet"]) == 0
    process, flower = (RunFolder.open(tmp_path / name) for name in ("process", "f"))
    assert figures(flower.lines()) == figures(process.lines())
    assert process.summary["resolved"] == flower.summary["resolved"]


# --- what is stated


def test_a_run_states_epsilon_and_noise_before_its_first_round(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    caplog.set_level(logging.INFO, logger="flwr")
    play(tiny_settings("fedmd", f"data.clients=4 {CENTRAL}"), out=tmp_path / "run")
    text = caplog.text
    assert "epsilon 8 at delta 1e-05 over 2 releases (multiplier 0.8489)" in text
    assert "in each of 320 numbers of the mean of 4 clients" in text
    assert "the run cannot help its clients: the noise is 3.8 times as large" in text
    assert "noise follows from run.seed" in text
    assert text.index("epsilon 8 at") < text.index("round 1 of 2")
    resolved = RunFolder.open(tmp_path / "run").summary["resolved"]
    assert float(resolved["privacy.epsilon"]) == pytest.approx(8, abs=1e-3)
    # sqrt(2) / mu with the mu of epsilon 8 at delta 1e-5 (1.6661).
    assert float(resolved["privacy.noise_multiplier"]) == pytest.approx(0.8489, abs=1e-3)


def test_noise_in_weights_is_no_verdict(caplog: pytest.LogCaptureFixture):
    start_toy("fedavg", CENTRAL)
    assert "times as large as the largest mean" in caplog.text
    assert "cannot help" not in caplog.text


def test_little_noise_is_no_warning(caplog: pytest.LogCaptureFixture):
    start_toy("fedmd", "privacy.dp=central privacy.clip=3 privacy.noise_multiplier=0.01")
    assert "cannot help" not in caplog.text
    assert "protects no one" not in caplog.text


# --- what is refused


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("edgefd", "", "edgefd needs individual replies"),
        (
            "fedmd",
            "server.rule=median",
            "fedmd needs individual replies with these options .*take fedmd's own rule, or one of",
        ),
        ("fedproto", "", "fedproto's clients send prototypes, which has no bound: take one of "),
        ("fedlgd", "", "fedlgd's clients send .*, which has no bound"),
        ("local", "", "local's clients send nothing that is summed"),
        ("fd", "client.weighting=examples", "takes client.weighting=clients client.output=probabilities"),
        ("fd", "client.weighting=clients client.output=logits", "takes client.weighting=clients"),
        ("fedmd", "wire.up=int8", "leave wire.up=int8 out"),
        ("fedmd", "server.clock=count server.buffer=2 client.steps=2", "take server.clock=rounds"),
        ("fedavg", "server.patience=1", "ends the run by clients' validation figures"),
        ("fedavg", "run.keep=best", "take run.keep=last"),
        ("fedavg", "model.name=resnet8 data.source=digits", "statistics of batch normalization"),
    ],
)
def test_what_would_leave_without_noise_is_one_line(method: str, changes: str, words: str):
    make = tiny_settings if "resnet8" in changes else toy_settings
    with pytest.raises(InvalidInputError, match=words) as caught:
        start(make(method, f"{CENTRAL} {changes}"), hosts(method))
    assert "\n" not in str(caught.value)


def test_normalization_may_stay_with_clients():
    start(
        tiny_settings("fedavg", f"{CENTRAL} model.name=resnet8 client.share=no_norm server.rounds=1"), hosts("fedavg")
    )


def test_strategies_of_flowers_raise_an_error():
    with pytest.raises(InvalidInputError, match=r"privacy.dp=central clips and adds noise in a strategy of FD-Flower"):
        HostGrid.open(hosts("fedavg"), toy_settings("fedavg", CENTRAL))


def test_flowers_wrappers_raise_an_error_that_names_the_option():
    own = Strategy.for_method(toy_settings("fedavg", "data.clients=3"))
    wrapped = flowers.DifferentialPrivacyServerSideFixedClipping(own, 0.1, 1.0, 3)
    arrays = ArrayRecord({"weight": torch.zeros(1)})
    with pytest.raises(InvalidInputError, match=r"start it itself, with privacy.dp=central or distributed"):
        wrapped.start(hosts("fedavg"), initial_arrays=arrays, num_rounds=1)


@pytest.mark.parametrize(
    ("mod", "name"), [(fixedclipping_mod, "fixedclipping_mod"), (LocalDpMod(1.0, 1.0, 1.0, 1e-5), "LocalDpMod")]
)
def test_flowers_mods_raise_an_error(mod: Any, name: str):
    own = methods.client_app("fedavg")
    app = App(mods=[mod])
    app._registered_funcs = own._registered_funcs  # its train and evaluate
    with pytest.raises(RunError, match=f"its app has Flower's {name}"):
        start(toy_settings("fedavg", CENTRAL), InProcessGrid(app))


def test_devices_take_noise_from_a_secure_source_alone(tmp_path: Path):
    three = str(tmp_path), "0", "1", "2"
    with pytest.raises(InvalidInputError, match=r"anyone who knows run.seed can subtract the noise"):
        start(toy_settings("fedavg", CENTRAL), devices("fedavg", *three))
    with pytest.raises(RunError, match="a device draws its noise in secret"):
        start(toy_settings("fedavg", MASKS), devices("fedavg", *three))


def test_devices_add_noise_within_masks(tmp_path: Path):
    words = MASKS.replace("seeded", "secure")
    _, _, lines = start(toy_settings("fedavg", words), devices("fedavg", str(tmp_path), "0", "1", "2"))
    assert [line["sum"]["clients"] for line in rounds(lines)] == [3, 3]


# --- resume


def test_more_rounds_than_epsilon_was_for_raise_an_error(tmp_path: Path):
    folder = tmp_path / "run"
    start(toy_settings("fedmd", f"run.out={folder} run.keep=last server.rounds=2 {CENTRAL}"), hosts("fedmd"))
    with pytest.raises(InvalidInputError, match=r"privacy.epsilon sized the noise of its 2 rounds"):
        start(settings("fedmd", f"run.resume={folder} server.rounds=3"), hosts("fedmd"))
    with pytest.raises(InvalidInputError, match=r"privacy.clip cannot be changed on resume"):
        settings("fedmd", f"run.resume={folder} privacy.clip=2")


def test_a_run_whose_server_adds_secure_noise_cannot_be_resumed(tmp_path: Path):
    folder = tmp_path / "run"
    words = f"run.out={folder} run.keep=last server.rounds=2 {CENTRAL} privacy.noise=secure"
    start(toy_settings("fedmd", words), hosts("fedmd"))
    with pytest.raises(InvalidInputError, match="one more release than the run accounts for"):
        start(settings("fedmd", f"run.resume={folder}"), hosts("fedmd"))


def test_describe_says_that_hosts_send_single_replies():
    assert replies("fedavg", tiny_settings("fedavg", CENTRAL)).startswith("each client's, of which")

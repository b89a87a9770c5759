"""Every option has one place: default, then recipe, then `set`; what cannot be meant is refused in one line."""

from pathlib import Path

import pytest
from helpers.tiny import tiny_settings, toy_settings

from fd_flower import engine, methods
from fd_flower.config import ClientConfig, Settings, settings
from fd_flower.core.errors import InvalidInputError


def test_set_wins_over_the_recipe_and_the_recipe_over_the_default():
    assert ClientConfig().batch == 32
    assert settings("fd").client.batch == 64  # recipes/fd.yaml
    assert settings("fd", "client.batch=5").client.batch == 5
    assert settings("fd").client.momentum == ClientConfig().momentum


def test_a_recipe_can_be_another_methods_or_a_file(tmp_path: Path):
    ours, theirs = (vars(found.client) for found in (settings("dsfl", "recipe=fedavg"), settings("fedavg")))
    alike = ours.keys() & theirs.keys()  # each has options of its own beside these
    assert {key: ours[key] for key in alike} == {key: theirs[key] for key in alike}
    file = tmp_path / "mine.yaml"
    file.write_text("server: {rounds: 7}\nclient: {batch: 3}\n")
    chosen = settings("local", ["client.batch=4"], recipe=str(file))
    assert (chosen.server.rounds, chosen.client.batch) == (7, 4)
    assert chosen.client.lr == ClientConfig().lr  # not local's own recipe


def test_values_with_blanks_lists_numbers_and_nothing():
    chosen = settings(
        "fd",
        'data.source="/data/my images" data.split=[0.5,0.25,0.25] model.name=[mlp,cnn] client.lr=1e-3 '
        "data.limit=null server.evaluate=received,trained",
    )
    assert chosen.data.source == "/data/my images"
    assert chosen.data.split == [0.5, 0.25, 0.25]
    assert chosen.model.name == ["mlp", "cnn"]
    assert chosen.client.lr == 0.001
    assert chosen.data.limit is None
    assert chosen.server.evaluation_points == ("received", "trained")


def test_another_loss_is_chosen_without_the_recipes_arguments():
    assert settings("fd").client.objective_args == {"temperature": 1.0}
    assert settings("fd", "client.objective_args.temperature=3").client.objective_args == {"temperature": 3}
    assert settings("fd", "client.objective=mae").client.objective_args == {}
    assert settings("fd", "client.objective=kl").client.objective_args == {"temperature": 1.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("server.round=3", "no key 'server.round' .did you mean 'server.rounds'"),
        ("sever.rounds=3", "no section 'sever' .did you mean 'server'"),
        ("client.outptu=logits", "no key 'client.outptu' .did you mean 'client.output'"),
        ("rounds=3", "no section 'rounds'"),
        ("server=3", "'server' is 3; expected keys like server.<key>"),
        ("server.rounds", "'server.rounds' says nothing: expected key=value"),
        ("server.rounds=many", "server.rounds is 'many'; expected at least 1"),
        ("server.rounds=2.5", "server.rounds is 2.5; expected a whole number"),
        ("server.rounds=0", "server.rounds is 0; expected at least 1"),
        ("server.rounds=", "server.rounds is None"),
        ("server.fraction=0", "server.fraction is 0"),
        ("server.fraction=1.1", "server.fraction is 1.1; expected a share"),
        ("server.timeout=0", "server.timeout"),
        ("server.grace=-1", "server.grace"),
        ("server.evaluate=receive", "server.evaluate has 'receive' .did you mean 'received'"),
        ("run.keep=perhaps", "run.keep is 'perhaps'"),
        ("run.device=gpu", "run.device is 'gpu'"),
        ("run.precision=fp16", "run.precision is 'fp16' .did you mean 'bf16'"),
        ("data.split=[0.5,0.5]", "data.split is .0.5, 0.5.; expected three shares"),
        ("data.split=[0.9,0.2,-0.1]", "data.split"),
        ("data.partition=dirichelt", "data.partition is 'dirichelt' .did you mean 'dirichlet'"),
        ("data.partition=column", "data.column is None"),
        ("data.alpha=0", "data.alpha is 0"),
        ("data.clients=0", "data.clients is 0"),
        ("data.public_size=0", "data.public_size is 0"),
        ("client.lr=0", "client.lr is 0"),
        ("client.batch=0", "client.batch is 0"),
        ("client.decay=1.5", "client.decay is 1.5"),
        ("client.optimizer=sdg", "client.optimizer is 'sdg' .did you mean 'sgd'"),
        ("client.schedule=cosin", "client.schedule is 'cosin' .did you mean 'cosine'"),
        ("client.objective=kll", "no objective 'kll' .did you mean 'kl'"),
        (
            "client.objective_args.temp=2",
            "no key 'client.objective_args.temp' .did you mean 'client.objective_args.temperature'",
        ),
        ("client.weighting=sample", "client.weighting is 'sample'"),
        ('data.source="a b', "set .* cannot be read: No closing quotation"),
        ("data.split=[0.5", "set 'data.split=.0.5' cannot be read"),
        ("server.rounds=${nothing}", "server.rounds is '..nothing.'; expected a value, references are not looked up"),
        ("recipe=fdd", "no recipe 'fdd' .did you mean"),
        ("run.resume=/nowhere", "run.resume: /nowhere holds no run"),
    ],
)
def test_what_cannot_be_meant_is_one_line(changes: str, words: str):
    with pytest.raises(InvalidInputError, match=words) as caught:
        settings("fd", changes)
    assert "\n" not in str(caught.value)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(InvalidInputError, match=r"no method 'fedavgg' .did you mean 'fedavg'"):
        settings("fedavgg")


@pytest.mark.parametrize("method", methods.names())
def test_settings_survive_the_wire(method: str):
    chosen = tiny_settings(
        method, 'data.source="/a b" server.grace=1.5 data.split=[0.5,0.5,0]', task="helpers.tasks:task"
    )
    again = Settings.read(chosen.text)
    assert again == chosen
    assert type(again.client) is methods.config_class(method, "client")
    assert type(again.server) is methods.config_class(method, "server")
    assert Settings.read(chosen.text) is again  # read once in a process


@pytest.mark.filterwarnings("error")
def test_whole_numbers_are_numbers():
    assert settings("fd", "client.lr=1 server.timeout=60 data.split=[1,0,0]").client.lr == 1.0


def test_learning_rates_over_rounds():
    """Exponential: lr * decay^(round - 1). Cosine over 4 rounds: 1, (1 + sqrt(1/2)) / 2, 1/2, (1 - sqrt(1/2)) / 2."""
    assert [ClientConfig(lr=1.0).lr_at(r, 4) for r in (1, 4)] == [1.0, 1.0]
    exponential = ClientConfig(lr=1.0, schedule="exponential", decay=0.5)
    assert [exponential.lr_at(r, 4) for r in (1, 2, 3)] == [1.0, 0.5, 0.25]
    cosine = ClientConfig(lr=1.0, schedule="cosine")
    assert [cosine.lr_at(r, 4) for r in (1, 2, 3, 4)] == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


# --- going on with a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    engine.run(toy_settings("fd", "client.batch=7 run.keep=last"), out=folder)
    return folder


def test_a_resumed_run_has_the_settings_of_the_first(finished: Path):
    again = settings("fd", f"run.resume={finished} server.rounds=5 run.device=cpu")
    assert (again.client.batch, again.server.rounds, again.run.device) == (7, 5, "cpu")
    assert (again.run.resume, again.run.out, again.task) == (str(finished), str(finished), "helpers.tasks:task")


@pytest.mark.parametrize("change", ["client.lr=1", "run.seed=3", "server.fraction=0.5", "recipe=fedavg"])
def test_nothing_else_can_be_changed_on_resume(finished: Path, change: str):
    key = change.partition("=")[0]
    others = "server.rounds, server.patience, server.min_delta, run.device and run.track"
    with pytest.raises(InvalidInputError, match=f"{key} cannot be changed on resume; only {others} can"):
        settings("fd", f"run.resume={finished} {change}")


def test_a_run_is_not_resumed_as_another_method(finished: Path):
    with pytest.raises(InvalidInputError, match="holds a run of another method than 'local'"):
        settings("local", f"run.resume={finished}")


def test_methods_config_gives_the_recipe_with_changes():
    assert methods.config("fedproto", "client", kd_weight=0.5).momentum == settings("fedproto").client.momentum
    with pytest.raises(InvalidInputError, match=r"no key 'client.kd_wieght'"):
        methods.config("fedproto", "client", kd_wieght=0.5)

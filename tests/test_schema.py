"""A range or a choice stands beside its option, and is checked wherever the option gets its value."""

from dataclasses import dataclass, replace
from math import inf, nan
from pathlib import Path

import pytest

from fd_flower import methods
from fd_flower.config import SECTIONS, ClientConfig, one_of, option, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.schema import Options, section
from fd_flower.core.trees import MISSING


@dataclass(frozen=True)
class Config(Options):
    section = "oven"

    heat: float = option(180.0, above=0, most=300)
    share: float = option(0.5, least=0, most=1)
    damp: float = option(0.5, least=0, below=1)
    minutes: int = option(20, least=1)
    rest: int | None = option(None, least=1)
    shelf: str = one_of("upper", "middle", "lower", default="middle")
    trays: int = one_of(1, 2, default=1)
    steps: list[float] = option([1.0, 2.0], above=0)
    parts: list[str] = one_of("door", "light", default=["door"])
    free: float = 0.0


@dataclass(frozen=True)
class Slow(Config):
    minutes: int = 90


OUTSIDE = [
    ({"heat": 0.0}, "oven.heat is 0.0; expected a number above 0 and at most 300"),
    ({"heat": 301.0}, "oven.heat is 301.0; expected a number above 0 and at most 300"),
    ({"share": 1.5}, "oven.share is 1.5; expected a share from 0 to 1"),
    ({"damp": 1.0}, "oven.damp is 1.0; expected at least 0 and below 1"),
    ({"minutes": 0}, "oven.minutes is 0; expected at least 1"),
    ({"rest": 0}, "oven.rest is 0; expected at least 1"),
    ({"shelf": "uper"}, "oven.shelf is 'uper' (did you mean 'upper'?)"),
    ({"shelf": "x"}, "oven.shelf is 'x' (known: lower, middle, upper)"),
    ({"trays": 3}, "oven.trays is 3 (known: 1, 2)"),
    ({"steps": [1.0, 0.0]}, "oven.steps is [1.0, 0.0]; expected one or more, each a number above 0"),
    ({"steps": []}, "oven.steps is []; expected one or more, each a number above 0"),
    ({"parts": ["door", "lihgt"]}, "oven.parts is ['door', 'lihgt'] (did you mean 'light'?)"),
    ({"heat": nan}, "oven.heat is nan; expected a finite number"),
    ({"free": -inf}, "oven.free is -inf; expected a finite number"),
    ({"steps": [1.0, nan]}, "oven.steps is [1.0, nan]; expected a finite number"),
    ({"heat": MISSING}, "oven.heat is '???'; expected a value"),
    ({"shelf": MISSING}, "oven.shelf is '???'; expected a value"),
    ({"parts": [MISSING]}, "oven.parts is ['???']; expected a value"),
]


@pytest.mark.parametrize(("values", "words"), OUTSIDE)
def test_a_value_out_of_range_is_refused_when_it_is_made_by_hand(values: dict, words: str):
    with pytest.raises(InvalidInputError) as caught:
        Config(**values)
    assert str(caught.value) == words


@pytest.mark.parametrize(("values", "words"), OUTSIDE)
def test_a_value_out_of_range_is_refused_in_the_same_words_when_it_is_read(values: dict, words: str):
    with pytest.raises(InvalidInputError) as caught:
        section(Config, "oven", values)
    assert str(caught.value) == words


def test_a_changed_copy_is_checked_as_well():
    with pytest.raises(InvalidInputError, match=r"oven.heat is -1; expected"):
        replace(Config(), heat=-1)


def test_bounds_themselves_are_allowed_and_nothing_where_the_type_says_so():
    made = Config(heat=300, share=0, damp=0, minutes=1, rest=None, trays=2, parts=[])
    assert section(Config, "oven", {"rest": None}).rest is None
    assert (made.heat, made.rest, made.parts) == (300, None, [])


def test_nothing_is_refused_where_the_type_does_not_say_so():
    with pytest.raises(InvalidInputError, match=r"oven.minutes is None; expected at least 1"):
        Config(minutes=None)
    with pytest.raises(InvalidInputError, match=r"oven.minutes is None"):
        section(Config, "oven", {"minutes": None})


def test_another_type_than_a_number_is_refused_by_hand():
    with pytest.raises(InvalidInputError, match=r"oven.heat is 'hot'; expected a number above 0 and at most 300"):
        Config(heat="hot")


def test_a_subclass_that_changes_a_default_alone_has_its_parents_range():
    assert Slow().minutes == section(Slow, "oven", {}).minutes == 90
    for make in (lambda: Slow(minutes=0), lambda: section(Slow, "oven", {"minutes": 0})):
        with pytest.raises(InvalidInputError, match=r"oven.minutes is 0; expected at least 1"):
            make()


def test_a_subclass_may_narrow_a_range():
    assert methods.config_class("fd", "client")(kd_weight=2.0).kd_weight == 2.0
    with pytest.raises(InvalidInputError, match=r"client.kd_weight is 2.0; expected a share from 0 to 1"):
        methods.config_class("kdstudy", "client")(kd_weight=2.0)


def test_instances_do_not_share_a_default_list():
    Config().steps.append(3.0)
    assert Config().steps == [1.0, 2.0]


@pytest.mark.parametrize("word", ["client.lr=???", "client.objective_args.temperature=???", "data.source=???"])
def test_a_value_still_to_be_given_is_refused_in_set(word: str):
    with pytest.raises(InvalidInputError) as caught:
        settings("fd", word)
    assert str(caught.value) == f"{word.partition('=')[0]} is '???'; expected a value"


def test_a_recipe_may_ask_for_a_value(tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("client:\n  lr: ???\n")
    with pytest.raises(InvalidInputError, match=r"client.lr is '\?\?\?'; expected a value"):
        settings("fd", recipe=str(recipe))
    assert settings("fd", "client.lr=0.5", recipe=str(recipe)).client.lr == 0.5


def test_a_recipe_without_sections_is_refused(tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("- client\n")
    with pytest.raises(InvalidInputError, match=r"mine.yaml holds list; expected keys"):
        settings("fd", recipe=str(recipe))


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("client.objective_args.temperature=nan", "client.objective_args.temperature is nan; expected a finite number"),
        ("client.lr=inf", "client.lr is inf; expected a finite number"),
        ("server.timeout=.inf", "server.timeout is inf; expected a finite number"),
        ("client.epochs=null client.steps=3", "client.epochs is None; expected at least 0"),
        ("client.clip=abc", "client.clip is 'abc'; expected a number above 0"),
        ("client.lr=fast", "client.lr is 'fast'; expected a number above 0"),
        ("server.rounds=null", "server.rounds is None; expected at least 1"),
        ("data.clients=[1,2]", "data.clients is [1, 2]; expected a whole number"),
    ],
)
def test_a_value_that_cannot_be_read_or_is_not_finite_is_refused_in_set(word: str, words: str):
    with pytest.raises(InvalidInputError) as caught:
        settings("fd", word)
    assert str(caught.value) == words


@pytest.mark.parametrize("stem", methods.names())
def test_every_methods_options_name_their_section(stem: str):
    for side in ("server", "client"):
        cls = methods.config_class(stem, side)
        assert issubclass(cls, Options)
        assert cls.section == side
    assert {name: cls.section for name, cls in SECTIONS.items()} == {name: name for name in SECTIONS}


def test_a_method_s_options_are_checked_by_hand():
    with pytest.raises(InvalidInputError, match=r"client.lr is -1; expected a number above 0"):
        ClientConfig(lr=-1)


def test_another_methods_recipe_is_named_where_its_keys_are_unknown():
    with pytest.raises(InvalidInputError, match=r"no key 'client.share'.*'fedper' is of fedavg, not of fedgen"):
        settings("fedgen", recipe="fedper")

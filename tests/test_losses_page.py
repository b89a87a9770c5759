"""The page of losses has every loss, with the arguments and the defaults that it has."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fd_flower import objectives

PAGE = Path(__file__).parents[1] / "docs" / "objectives.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")

ON_TOKENS = "### Losses on tokens"


def rows(heading: str = "## All losses") -> dict[str, str]:
    """Return the cell of arguments of each loss in the table below a heading."""
    table = PAGE.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2].partition("\n### ")[0]
    found = {}
    for line in table.splitlines():
        if line.startswith("| `"):
            cells = line.strip("| ").split(" | ")
            found |= dict.fromkeys(re.findall(r"`([a-z_]+)`", cells[0]), cells[2])
    return found


def test_the_table_has_every_loss():
    assert sorted(rows()) == sorted(objectives.names())
    assert sorted(rows(ON_TOKENS)) == sorted(objectives.names("tokens"))


@pytest.mark.parametrize("name", [*objectives.names(), *objectives.names("tokens")])
def test_the_table_has_a_losss_arguments_and_defaults(name: str):
    on_classes = name in objectives.names()
    loss = (objectives.named if on_classes else objectives.token_named)(name)
    cell = (rows() if on_classes else rows(ON_TOKENS))[name]
    listed = dict(re.findall(r"`([a-z_]+)`(?: \$[^$]*\$)?(?: \(([^)]*)\))?", re.sub(r"\(`([^`]*)`\)", r"(\1)", cell)))
    assert set(listed) == {f.name for f in fields(loss)}
    for key, default in listed.items():
        value = getattr(loss, key)
        if value not in ([], {}):
            assert default == (value if isinstance(value, str) else f"{value:g}")
        else:
            assert default in ("none", "")

"""What docs/data.md shows of one's own data and network, run from a user's directory as the page has it."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from fd_flower.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "data.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")


def commands() -> list[str]:
    """Return the page's commands, but for that on somebody else's files."""
    blocks = re.findall(r"```\n(fd-flower .*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if " convert " not in line]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("clinic", "nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("command", commands() if PAGE.is_file() else [])
def test_the_pages_commands_run(command: str, here: Path, capsys: pytest.CaptureFixture[str]):
    words = shlex.split(command)[1:]
    writes = words[0] in ("run", "compare")
    assert main([*words, *(["--quiet", "--out", "out"] if writes else [])]) == 0
    assert "clinic" in capsys.readouterr().out or writes
    for path in here.glob("out/**/summary.json"):
        summary = json.loads(path.read_text())
        task = "--task" in words
        assert summary["data"].get("task") == (words[words.index("--task") + 1] if task else None)
        assert summary["data"].get("source") == (None if task else "digits")
        assert summary["model"] == ("nets:Net" if "nets:Net" in command else "mlp")

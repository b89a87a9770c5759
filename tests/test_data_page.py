"""What docs/data.md shows of images, tables, windows and rows in memory, run from a user's directory."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from fd_flower.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "data.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")


def commands() -> list[str]:
    """Return the page's commands, but for those on files that the page does not make."""
    blocks = re.findall(r"```bash\n(fd-flower .*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if "/data/" not in line]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    images, table, windows, clinic = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[:4]
    (tmp_path / clinic.split()[1]).write_text(clinic)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.delitem(sys.modules, "clinic", raising=False)
    for block in (images, table, windows):
        exec(compile(block, "docs/data.md", "exec"), {})
    return tmp_path


@pytest.mark.parametrize("command", commands() if PAGE.is_file() else [])
def test_the_pages_commands_run(command: str, here: Path, capsys: pytest.CaptureFixture[str]):
    words = shlex.split(os.path.expandvars(command))[1:]
    writes = words[0] in ("run", "compare")
    assert main([*words, *(["--quiet", "--out", "out"] if writes else [])]) == 0
    assert re.search("clinic|photos", capsys.readouterr().out) or writes
    for path in here.glob("out/**/summary.json"):
        summary = json.loads(path.read_text())
        task = "--task" in words
        assert summary["data"].get("task") == (words[words.index("--task") + 1] if task else None)
        source = None if task else next(word for word in " ".join(words).split() if word.startswith("data.source="))
        assert summary["data"].get("source") == (source and source.removeprefix("data.source="))
        named = re.search(r"model.name=(\w+)", command)
        assert summary["model"] == (named[1] if named else "mlp" if task else "cnn")

"""The notebooks: kept with the outputs of one run, without traces of a machine, and each runs again."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NAMES = (
    "a-retriever",
    "classify-texts",
    "from-zero",
    "heterogeneous-models",
    "language-models",
    "write-a-method",
    "your-own-model-and-data",
)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="looks at the checkout")


@pytest.fixture(scope="module")
def execute() -> ModuleType:
    """Return the module that runs and checks notebooks."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kept(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def kinds(notebook: NotebookNode) -> list[list[str]]:
    """Return, by code cell, what it put out: a stream's name or the MIME types."""
    return [
        [output.get("name") or " ".join(sorted(output.get("data", {}))) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_these_are_all_the_notebooks():
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept_with_the_outputs_of_one_run(name: str, execute: ModuleType):
    assert not execute.faults(kept(name))


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_with_a_badge_that_opens_it_on_colab_and_a_cell_that_installs(name: str):
    title, install = kept(name).cells[:2]
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    there = repository.replace("https://github.com/", "https://colab.research.google.com/github/")
    assert title.source.startswith("# ")
    assert f"]({there}/blob/main/notebooks/{name}.ipynb)" in title.source
    assert 'if find_spec("fd_flower") is None:' in install.source
    extra, address = re.findall(r'%pip install --quiet "fd-flower\[(\w+)\] @ git\+(\S+)"', install.source)[0]
    assert (extra, address) == ("notebooks", repository)
    assert not install.outputs


# --- what must not be committed is found


def one_cell(**output: Any) -> NotebookNode:
    return new_notebook(cells=[new_code_cell("1", execution_count=1, outputs=[new_output(**output)])])


@pytest.mark.parametrize(
    ("notebook", "words"),
    [
        (new_notebook(cells=[new_code_cell("1")]), "were not run once each"),
        (new_notebook(cells=[new_code_cell("1", execution_count=1)]), "has no outputs"),
        (one_cell(output_type="stream", name="stderr", text="noise"), "cell 1 wrote errors or warnings"),
        (one_cell(output_type="stream", text="in /home/me/runs"), "a path of one machine: /home/me/runs"),
        (one_cell(output_type="display_data", data={"image/png": "A" * 300_000}), "images of 225,000 bytes"),
    ],
)
def test_what_must_not_be_committed_is_found(notebook: NotebookNode, words: str, execute: ModuleType):
    assert any(words in fault for fault in execute.faults(notebook))


# --- run


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_puts_out_the_same_kinds_of_things(name: str, execute: ModuleType, tmp_path: Path):
    notebook = execute.execute(FOLDER / f"{name}.ipynb", tmp_path)
    assert not execute.faults(notebook)
    assert kinds(notebook) == kinds(kept(name))

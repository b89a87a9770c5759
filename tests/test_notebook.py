"""Each notebook runs from its first cell to its last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ("from-zero", "private-collections")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="looks at the checkout")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept_without_outputs(name: str):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def played(name: str, folder: Path) -> list[nbformat.NotebookNode]:
    """Run a notebook in a folder; return what its cells put out."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


@pytest.mark.slow
def test_from_zero_draws_three_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    images = [output for output in played("from-zero", tmp_path) if "image/png" in output.get("data", {})]
    assert len(images) == 3


@pytest.mark.slow
def test_private_collections_end_with_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    said = "".join(output.get("text", "") for output in played("private-collections", tmp_path))
    assert "Answer the question from the passages below" in said

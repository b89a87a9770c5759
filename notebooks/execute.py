"""Run notebooks from the first cell to the last and keep what they put out.

``python notebooks/execute.py`` runs all of them, ``python notebooks/execute.py from-zero`` one. With
``--check FILE ...`` it runs nothing and reports what must not be committed, as the pre-commit hook does.
"""

import base64
import json
import os
import platform
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
LARGEST_IMAGE = 200_000
"""Bytes of the images that one cell may put out."""
ABSOLUTE = re.compile(r"(?<![\w.:/~])/(?:data|home|mnt|opt|private|root|tmp|usr|Users|var|work)/\S*")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path, folder: Path) -> NotebookNode:
    """Return a notebook with the outputs of its cells, run in a folder."""
    notebook = nbformat.read(path, as_version=4)
    quiet = "ignore:IProgress not found"  # a progress bar of Hugging Face's, where ipywidgets is missing
    for name, value in {"OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "PYTHONWARNINGS": quiet}.items():
        os.environ.setdefault(name, value)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=3600, kernel_name="python3", resources=resources, record_timing=False).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def faults(notebook: NotebookNode) -> list[str]:
    """Return what must not be committed, a line each; [] is a notebook in order."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its cells were not run once each from the first to the last")
    if not any(cell.outputs for cell in code):
        found.append("it has no outputs")
    for number, cell in enumerate(code, 1):
        texts, images = [cell.source], 0
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {number} wrote errors or warnings")
            texts.append(output.get("text", ""))
            for kind, content in output.get("data", {}).items():
                if kind == "image/png":
                    images += len(base64.b64decode(content))
                else:
                    texts.append(content if isinstance(content, str) else json.dumps(content))
        if images > LARGEST_IMAGE:
            found.append(f"cell {number} has images of {images:,} bytes; {LARGEST_IMAGE:,} are allowed")
        found += [f"cell {number} has a path of one machine: {path}" for path in ABSOLUTE.findall("\n".join(texts))]
        if len(platform.node()) > 2 and platform.node() in "\n".join(texts):
            found.append(f"cell {number} has the name of this machine")
    return found


def main(words: list[str]) -> int:
    """Run, or check, the notebooks that are named."""
    status = 0
    if words[:1] == ["--check"]:
        chosen = [Path(word) for word in words[1:]]
    else:
        chosen = [HERE / f"{Path(word).stem}.ipynb" for word in words] or sorted(HERE.glob("*.ipynb"))
    for path in chosen:
        if words[:1] != ["--check"]:
            with TemporaryDirectory() as folder:
                nbformat.write(execute(path, Path(folder)), path)
        for fault in faults(nbformat.read(path, as_version=4)):
            print(f"{path.name}: {fault}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

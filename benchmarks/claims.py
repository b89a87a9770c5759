"""Keep results of ``fd-flower reproduce`` beside their entries, and make docs/claims.md of all that are kept.

    python benchmarks/claims.py [FOLDER ...]

The pages of methods get the verdicts of theirs, too. Each folder is that of an entry's runs, with its ``result.json``.
Results of small forms (``--quick``) are kept for comparison; no page is made of them.
"""

import json
import shutil
import sys
from pathlib import Path

from fd_flower.claims import entry, ledger
from fd_flower.claims.picture import picture

DOCS = Path(__file__).resolve().parent.parent / "docs"
IMAGES = DOCS / "images"


def main(folders: list[str]) -> None:
    """Keep the results of these folders, then write the page."""
    for folder in folders:
        path = Path(folder) / "result.json"
        result = json.loads(path.read_text())
        place = ledger.place(result["name"], quick=result["quick"])
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        if result["quick"]:
            continue
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / f"{result['name']}.png").write_bytes(picture(entry(result["name"]), result).png)
    kept = ledger.results()
    (DOCS / "claims.md").write_text(ledger.page(kept))
    for page in sorted((DOCS / "methods").glob("*.md")):
        page.write_text(ledger.with_claims(page.read_text(), page.stem, kept))


if __name__ == "__main__":
    main(sys.argv[1:])

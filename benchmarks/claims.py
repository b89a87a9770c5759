"""Keep results of ``fd-flower reproduce`` beside their entries, and make docs/claims.md of all that are kept.

    python benchmarks/claims.py [FOLDER ...]

Each folder is that of an entry's runs, with its ``result.json``; small forms (``--quick``) are refused.
"""

import json
import shutil
import sys
from pathlib import Path

from fd_flower.claims import ledger

PAGE = Path(__file__).resolve().parent.parent / "docs" / "claims.md"


def main(folders: list[str]) -> None:
    """Keep the results of these folders, then write the page."""
    for folder in folders:
        path = Path(folder) / "result.json"
        result = json.loads(path.read_text())
        if result["quick"]:
            raise SystemExit(f"{path} is of the small form: run the entry without --quick")
        ledger.RESULTS.mkdir(exist_ok=True)
        shutil.copyfile(path, ledger.RESULTS / f"{result['name']}.json")
    PAGE.write_text(ledger.page(ledger.results()))


if __name__ == "__main__":
    main(sys.argv[1:])

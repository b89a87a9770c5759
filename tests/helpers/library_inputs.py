"""Small collections that tests of retrieval write."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = Mapping[str, Any]


def write(folder: Path, corpus: Sequence[Row], queries: Sequence[Row], **qrels: Sequence[Row]) -> Path:
    """Write a collection in BEIR's layout; ``qrels`` by split."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"corpus": corpus, "queries": queries, **{f"qrels_{split}": rows for split, rows in qrels.items()}}
    for name, rows in parts.items():
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / f"{name}-00000-of-00001.parquet")
    return folder


def animals(folder: Path, count: int = 12, shift: int = 0) -> Path:
    """Write a collection whose question i is answered by document i, and by nothing else, without a split."""
    names = [f"animal{i + shift}" for i in range(count)]
    corpus = [{"_id": f"d{i}", "title": name, "text": f"the {name} sleeps"} for i, name in enumerate(names)]
    queries = [{"_id": f"q{i}", "text": f"where does the {name} rest"} for i, name in enumerate(names)]
    return write(folder, corpus, queries, test=[judgment(f"q{i}", f"d{i}") for i in range(count)])


def judgment(question: str, document: str, score: int = 1, **more: Any) -> Row:
    return {"query-id": question, "corpus-id": document, "score": score, **more}

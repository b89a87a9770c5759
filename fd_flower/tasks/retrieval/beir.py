"""Collections in BEIR's layout: documents, questions, and judgments of which documents answer which questions."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from logging import INFO
from pathlib import Path
from typing import Any

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.flower import log
from fd_flower.core.hub import unavailable
from fd_flower.tasks.retrieval import companies

Judgments = dict[int, dict[int, int]]
"""Question -> document -> its score, 1 and above; both by their places in the collection."""
Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Collection:
    """Documents, questions and judgments.

    Attributes
    ----------
    name : str
        Where it comes from.
    documents, titles, texts : tuple[str, ...]
        The documents' ids, titles and texts.
    questions, asked : tuple[str, ...]
        The questions' ids and texts.
    judged : Mapping[str, Judgments]
        By split: the documents that answer a question.
    hidden : Mapping[int, frozenset[int]]
        The documents without which a question is ranked: it was taken from them.
    groups : tuple[str, ...] | None
        The values of ``data.column``, of each document.
    """

    name: str
    documents: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    questions: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    judged: Mapping[str, Judgments] = field(default_factory=dict)
    hidden: Mapping[int, frozenset[int]] = field(default_factory=dict)
    groups: tuple[str, ...] | None = None

    @cached_property
    def passages(self) -> tuple[str, ...]:
        """What is embedded of each document: title and text; empty where there is neither."""
        return tuple(f"{title} {text}".strip() for title, text in zip(self.titles, self.texts, strict=True))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything in it, in hexadecimal."""
        judged = {split: sorted((q, sorted(d.items())) for q, d in of.items()) for split, of in self.judged.items()}
        hidden = sorted((question, sorted(documents)) for question, documents in self.hidden.items())
        text = repr((self.documents, self.passages, self.questions, self.asked, sorted(judged.items()), hidden))
        return hashlib.sha256(text.encode()).hexdigest()

    def only(self, documents: Sequence[int], name: str) -> "Collection":
        """Return the part with these documents, and the questions that one of them answers."""
        place = {document: new for new, document in enumerate(documents)}
        found = {q for of in self.judged.values() for q, answers in of.items() if answers.keys() & place.keys()}
        kept = {question: new for new, question in enumerate(sorted(found))}
        judged = {
            split: {
                kept[q]: {place[d]: score for d, score in answers.items() if d in place}
                for q, answers in of.items()
                if q in kept and answers.keys() & place.keys()
            }
            for split, of in self.judged.items()
        }
        hidden = {kept[q]: frozenset(place[d] for d in of if d in place) for q, of in self.hidden.items() if q in kept}
        documentary = {key: tuple(getattr(self, key)[d] for d in documents) for key in ("documents", "titles", "texts")}
        asking = {key: tuple(getattr(self, key)[q] for q in sorted(found)) for key in ("questions", "asked")}
        return replace(self, name=name, judged=judged, hidden=hidden, groups=None, **documentary, **asking)


def holds(source: str) -> bool:
    """Whether a source is a collection: the embedded one, or such as has a corpus and queries."""
    if source == companies.NAME:
        return True
    if Path(source).is_absolute():
        return all(_files(Path(source), part) for part in ("corpus", "queries"))
    return "/" in source and {"corpus", "queries"} <= _parts_on_hub(source)


@lru_cache(maxsize=16)
def read(source: str, column: str | None = None) -> Collection:
    """Read a collection: ``companies``, the absolute path of a folder of Parquet files, or a name on the hub.

    A folder holds ``corpus-*.parquet`` (``_id``, ``title``, ``text``), ``queries-*.parquet`` (``_id``, ``text``) and
    ``qrels_<split>-*.parquet`` (``query-id``, ``corpus-id``, ``score``). Documents with a judgment below 0, in
    ``score`` or in a column ``code``, are those that a question was taken from (Cranfield's): it is ranked without.

    Parameters
    ----------
    source : str
        What to read.
    column : str | None
        A column of the corpus to read, too.

    Raises
    ------
    InvalidInputError
        Where a part or a column is missing, an id is there twice, or a judgment is about an id that is not there.
    """
    if source == companies.NAME:
        return _collection(source, *companies.rows(), column)
    corpus, queries, qrels = _of_folder(Path(source)) if Path(source).is_absolute() else _of_hub(source)
    return _collection(source, corpus, queries, qrels, column)


def _collection(
    source: str, corpus: list[Row], queries: list[Row], qrels: Mapping[str, list[Row]], column: str | None
) -> Collection:
    documents, questions = _ids(source, "corpus", corpus), _ids(source, "queries", queries)
    if column is not None and (not corpus or column not in corpus[0]):
        known = corpus[0].keys() if corpus else ()
        raise InvalidInputError(
            f"data.column is '{column}', but the corpus of {source} has no such column{nearest(column, known)}"
        )
    judged: dict[str, Judgments] = {}
    hidden: dict[int, set[int]] = {}
    for split, rows in qrels.items():
        judged[split] = {}
        for row in rows:
            question, document = (
                _known(source, split, row, *of) for of in (("query-id", questions), ("corpus-id", documents))
            )
            if int(row["score"]) < 0 or int(row.get("code") or 0) < 0:
                hidden.setdefault(question, set()).add(document)
            elif int(row["score"]) > 0:
                judged[split].setdefault(question, {})[document] = int(row["score"])
    for split, of in judged.items():
        seen = {q: {d: s for d, s in answers.items() if d not in hidden.get(q, ())} for q, answers in of.items()}
        judged[split] = {question: answers for question, answers in seen.items() if answers}
    if hidden:
        log(INFO, "%s: %s questions are ranked without the document that they were taken from", source, len(hidden))
    found = Collection(
        source,
        tuple(documents),
        tuple(str(row.get("title") or "").strip() for row in corpus),
        tuple(str(row["text"] or "").strip() for row in corpus),
        tuple(questions),
        tuple(str(row["text"]) for row in queries),
        {split: of for split, of in judged.items() if of},
        {question: frozenset(of) for question, of in hidden.items()},
        None if column is None else tuple(str(row[column]) for row in corpus),
    )
    if empty := sum(not passage for passage in found.passages):
        log(INFO, "%s: %s documents are empty and come last in every ranking", source, empty)
    return found


def _ids(source: str, part: str, rows: Iterable[Row]) -> dict[str, int]:
    """Return the place of each id, which is a text: '7' and '007' are two."""
    places: dict[str, int] = {}
    for row in rows:
        if not {"_id", "text"} <= row.keys():
            raise InvalidInputError(f"the {part} of {source} have the columns {', '.join(row)}; expected _id and text")
        name = str(row["_id"])
        if name in places:
            raise InvalidInputError(f"the {part} of {source} have the id '{name}' twice; expected each once")
        places[name] = len(places)
    return places


def _known(source: str, split: str, row: Row, column: str, places: Mapping[str, int]) -> int:
    if column not in row or "score" not in row:
        raise InvalidInputError(
            f"the {split} qrels of {source} have the columns {', '.join(row)}; expected query-id, corpus-id and score"
        )
    name = str(row[column])
    if name not in places:
        raise InvalidInputError(f"the {split} qrels of {source} have the {column} '{name}', which is not there")
    return places[name]


# --- a folder


def _files(folder: Path, part: str) -> list[Path]:
    return sorted(folder.glob(f"{part}-*.parquet")) + sorted(folder.glob(f"{part}.parquet"))


def _of_folder(folder: Path) -> tuple[list[Row], list[Row], dict[str, list[Row]]]:
    for part in ("corpus", "queries", "qrels*"):
        if not _files(folder, part):
            raise InvalidInputError(
                f"the folder {folder} holds no {part}-*.parquet; expected corpus, queries and qrels_<split>"
            )
    splits = sorted(
        {path.stem.partition("-")[0].removeprefix("qrels").removeprefix("_") for path in _files(folder, "qrels*")}
    )
    qrels = {split or "test": _rows(folder, f"qrels_{split}" if split else "qrels") for split in splits}
    return _rows(folder, "corpus"), _rows(folder, "queries"), qrels


def _rows(folder: Path, part: str) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[Row] = []
    for path in _files(folder, part):
        try:
            rows += pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise InvalidInputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    return rows


# --- the hub: queries and corpus are configurations; judgments are the default one, or those of `<name>-qrels`


@lru_cache
def _parts_on_hub(name: str) -> frozenset[str]:
    import datasets

    try:
        return frozenset(datasets.get_dataset_config_names(name))
    except Exception:  # reading it as another kind of set raises a clear error
        return frozenset()


def _of_hub(name: str) -> tuple[list[Row], list[Row], dict[str, list[Row]]]:
    import datasets

    home, part = (name, "default") if "default" in _parts_on_hub(name) else (f"{name}-qrels", None)
    try:
        corpus, queries = (datasets.load_dataset(name, which)[which].to_list() for which in ("corpus", "queries"))
        qrels = {split: rows.to_list() for split, rows in datasets.load_dataset(home, part).items()}
    except Exception as error:
        instead = "the absolute path of a folder of Parquet files"
        raise unavailable(f"the collection '{name}'", error, instead) from None
    return corpus, queries, qrels

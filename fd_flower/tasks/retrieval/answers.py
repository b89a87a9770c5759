"""Ask a finished run: the passages of any folder that a client's own retriever finds for a question."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.retrieval import beir
from fd_flower.tasks.retrieval.beir import Collection
from fd_flower.tasks.retrieval.encoders import PASSAGE, QUESTION
from fd_flower.tasks.retrieval.kept import retriever

TEXTS = (".txt", ".md")
FOUND = 5  # passages, if not given


@dataclass(frozen=True)
class Passage:
    """A passage that was found.

    Attributes
    ----------
    score : float
        The cosine of its vector and the question's.
    source : str
        Where it comes from: the document's id, or the file and the number of its paragraph, from 1.
    title, text : str
        What it says.
    """

    score: float
    source: str
    title: str
    text: str


def ask(run: str | Path, question: str, client: str, corpus: str | Path, count: int = FOUND) -> list[Passage]:
    """Return the passages that a client's own retriever finds for a question, best first.

    Parameters
    ----------
    run : str | Path
        The folder of a run that kept its models (``run.keep``); on a device its ``state-dir``.
    question : str
        The question.
    client : str
        Whose retriever searches; ``server``: the server's.
    corpus : str | Path
        What is searched: a collection in BEIR's layout, or a folder of ``.txt`` and ``.md`` files, whose paragraphs
        are the passages. It is embedded once.
    count : int
        Passages to return, at most.

    Raises
    ------
    InvalidInputError
        Where the run kept no retriever of this client's, or the folder holds nothing to search.
    """
    found = retriever(Path(run).absolute(), client)
    library = read(Path(corpus).absolute())
    passages = found.encode(library.passages, PASSAGE, cached=True)
    scores = (found.encode([question], QUESTION) @ passages.T)[0]
    scores[[place for place, passage in enumerate(library.passages) if not passage]] = -torch.inf
    best = scores.argsort(descending=True, stable=True)[:count].tolist()
    return [
        Passage(float(scores[d]), library.documents[d], library.titles[d], library.texts[d])
        for d in best
        if library.passages[d]
    ]


def prompt(question: str, passages: Sequence[Passage]) -> str:
    """Return a prompt for a generator: the passages, numbered, then the question, to be answered from them alone."""
    listed = "\n\n".join(f"[{i}] {f'{p.title}: ' if p.title else ''}{p.text}" for i, p in enumerate(passages, start=1))
    return (
        "Answer the question from the passages below and name the numbers of those that you used. "
        f"If they do not answer it, say so.\n\n{listed}\n\nQuestion: {question}\nAnswer:"
    )


def read(folder: Path) -> Collection:
    """Return what a folder holds to search: a collection, or the paragraphs of its texts.

    Raises
    ------
    InvalidInputError
        Where there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise InvalidInputError(
            f"there is no folder {folder}: expected one with a collection, or with .txt and .md files"
        )
    if beir.holds(str(folder)):
        return beir.read(str(folder))
    found: list[tuple[str, str, str]] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in TEXTS and path.is_file()):
        paragraphs = re.split(r"\n\s*\n", path.read_text(encoding="utf-8", errors="replace"))
        kept = [" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip()]
        place = path.relative_to(folder)
        found += [(f"{place}#{number}", path.stem, text) for number, text in enumerate(kept, start=1)]
    if not found:
        raise InvalidInputError(
            f"{folder} holds nothing to search: expected corpus-*.parquet with queries, or .txt and .md files"
        )
    sources, titles, texts = zip(*found, strict=True)
    return Collection(str(folder), sources, titles, texts)

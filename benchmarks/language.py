"""Texts for the language models' tables, and differences between runs, paired over texts.

    python benchmarks/language.py corpora --data FOLDER --to FOLDER
    python benchmarks/language.py paired --texts held-out.jsonl --part report --runs RUN... --controls RUN...

``corpora`` cuts texts of at most 240 bytes, at a blank, out of data sets as Parquet files (newsgroups20, ag_news,
scifact). It writes ``corpora.jsonl``, three corpora that lie apart with 200 texts each (messages of newsgroups about
computers, AG News, abstracts of SciFact); ``topics.jsonl``, messages of newsgroups about recreation and science; and
``held-out.jsonl``, other messages of these two topics from the test split: 100 to select by, 200 to report.

``paired`` takes runs that kept their clients' models, a run and its control for each seed in the same order. Bits of a
text are means over clients and seeds; the interval is the 95 % t interval of their difference over texts, by all bytes.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import load_dataset
from numpy.typing import NDArray
from scipy.stats import t

import fd_flower
from fd_flower.data.texts import cleaned

BYTES = 240
LEAST = 120
EACH = 200
PARTS = {"select": 100, "report": 200}


def short(text: str) -> str | None:
    """Return the first words of a text, of at most 240 bytes in all; None where it has fewer than 120 bytes."""
    if len(text.encode()) > BYTES:
        text = text.encode()[: BYTES + 1].decode(errors="ignore").rpartition(" ")[0]
    return text if len(text.encode()) >= LEAST else None


def texts(data: Path, name: str, split: str, column: str, *, group: str | None = None) -> Iterator[str]:
    """Yield short texts of a data set, without repetitions; ``group``: of newsgroups whose names begin with it."""
    rows = load_dataset("parquet", data_files={"rows": str(data / name / f"{split}-*.parquet")}, split="rows")
    clean, seen = "newsgroups" if name == "newsgroups20" else None, set()
    for row in rows:
        if group is not None and not rows.features["label"].int2str(row["label"]).startswith(f"{group}."):
            continue
        (text,) = cleaned(clean, [" ".join(row[column].split()) if clean is None else row[column]])
        if (cut := short(text)) is not None and cut not in seen:
            seen.add(cut)
            yield cut


def corpora(data: Path, to: Path) -> None:
    """Write the three tables."""
    to.mkdir(parents=True, exist_ok=True)
    sources = {
        "computers": texts(data, "newsgroups20", "train", "text", group="comp"),
        "news": texts(data, "ag_news", "test", "text"),
        "science": texts(data, "scifact", "corpus", "text"),
    }
    write(to / "corpora.jsonl", ({"text": x, "corpus": name} for name, of in sources.items() for x in first(of, EACH)))
    topics = ("rec", "sci")
    train = {topic: texts(data, "newsgroups20", "train", "text", group=topic) for topic in topics}
    write(to / "topics.jsonl", ({"text": x, "topic": name} for name, of in train.items() for x in first(of, EACH)))
    held = {topic: texts(data, "newsgroups20", "test", "text", group=topic) for topic in topics}
    parts = ((part, topic, count // len(topics)) for part, count in PARTS.items() for topic in topics)
    write(
        to / "held-out.jsonl",
        ({"text": x, "topic": topic, "part": part} for part, topic, n in parts for x in first(held[topic], n)),
    )


def first(of: Iterator[str], count: int) -> Iterator[str]:
    """Yield so many texts, and leave the others for the next one who asks."""
    for _ in range(count):
        yield next(of)


def write(path: Path, rows: Iterator[dict[str, str]]) -> None:
    """Write rows as lines of JSON."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def bits(run: str, held: list[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the bits of each text [N], the mean over the run's clients, and its bytes [N]."""
    clients = sorted(path.stem.removeprefix("client-") for path in Path(run, "models").glob("client-*"))
    scores = [fd_flower.load(run, client=client).scores(held) for client in clients]
    nats = np.mean([one.nats.numpy() for one in scores], axis=0)
    return nats / np.log(2), scores[0].bytes.numpy()


def paired(path: Path, part: str, runs: list[str], controls: list[str]) -> None:
    """Print bits per byte of runs and controls, and their difference with its interval over texts."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    held = [row["text"] for row in rows if row["part"] == part]
    all_bits = {run: bits(run, held) for run in dict.fromkeys([*runs, *controls])}
    count = next(iter(all_bits.values()))[1]
    for run, (own, _) in all_bits.items():
        print(f"{run}: {own.sum() / count.sum():.4f} bits per byte")
    differences = [all_bits[run][0] - all_bits[control][0] for run, control in zip(runs, controls, strict=True)]
    for run, one in zip(runs, differences, strict=True):
        print(f"{run}: {one.sum() / count.sum():+.4f} against its control")
    mean = np.mean(differences, axis=0)
    ratio = mean.sum() / count.sum()
    # A ratio of sums: its error is that of the mean of what each text adds beyond its bytes' share.
    error = (mean - ratio * count).std(ddof=1) / np.sqrt(len(held)) / count.mean()
    half = t.ppf(0.975, len(held) - 1) * error
    print(f"mean of {len(runs)} seeds over {len(held)} texts: {ratio:+.4f} [{ratio - half:+.4f}, {ratio + half:+.4f}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("corpora")
    make.add_argument("--data", type=Path, required=True)
    make.add_argument("--to", type=Path, required=True)
    compare = commands.add_parser("paired")
    compare.add_argument("--texts", type=Path, required=True)
    compare.add_argument("--part", choices=PARTS, required=True)
    compare.add_argument("--runs", nargs="+", required=True)
    compare.add_argument("--controls", nargs="+", required=True)
    given = parser.parse_args()
    if given.command == "corpora":
        corpora(given.data, given.to)
    else:
        paired(given.texts, given.part, given.runs, given.controls)

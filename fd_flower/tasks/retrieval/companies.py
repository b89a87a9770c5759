"""The embedded collection ``companies``: made-up reports, and questions that ask for them in other words.

Ten companies report on eight topics in six years, a passage each. A question names company and year as its passage
does, but the topic in other words, so that a bag of words finds the company and training has to teach the topics.
"""

from collections.abc import Mapping
from typing import Any

from fd_flower.core.rng import numpy_rng

Row = Mapping[str, Any]
NAME = "companies"
NAMES = ("Alder", "Brock", "Calder", "Dunmore", "Elwood", "Farrow", "Garnet", "Holm", "Ivers", "Juno")
YEARS = tuple(str(year) for year in range(2018, 2024))
TOPICS = (
    (
        ("revenue reached {n} million", "turnover stood at {n} million"),
        ("how much did {c} sell", "what were sales of {c}"),
    ),
    (
        ("headcount was {n} hundred", "{n} hundred staff were employed"),
        ("how many people worked for {c}", "what size was the workforce of {c}"),
    ),
    (
        ("borrowings amounted to {n} million", "bank debt came to {n} million"),
        ("how much money did {c} owe", "what loans had {c} taken"),
    ),
    (
        ("the dividend per share was {n} cents", "shareholders received {n} cents a share"),
        ("what payout did investors of {c} get", "what did {c} pay its owners"),
    ),
    (
        ("research expenditure totalled {n} million", "development costs were {n} million"),
        ("what did {c} spend on new products", "how costly was innovation at {c}"),
    ),
    (
        ("carbon emissions fell to {n} kilotonnes", "greenhouse gases declined to {n} kilotonnes"),
        ("how large was the climate footprint of {c}", "how much pollution did {c} cause"),
    ),
    (
        ("{n} factories were in operation", "production ran at {n} plants"),
        ("at how many sites did {c} manufacture", "where did {c} make its goods"),
    ),
    (
        ("litigation provisions rose to {n} million", "lawsuits were provided for with {n} million"),
        ("what legal risks did {c} see", "what were court cases expected to cost {c}"),
    ),
)


def rows() -> tuple[list[Row], list[Row], dict[str, list[Row]]]:
    """Return corpus, queries and qrels by split: one question a passage, three in ten of them for tests."""
    rng = numpy_rng(NAME)
    corpus: list[Row] = []
    queries: list[Row] = []
    qrels: dict[str, list[Row]] = {"train": [], "test": []}
    for company in NAMES:
        for year in YEARS:
            for reported, asked in TOPICS:
                number = str(len(corpus))
                words = {"n": int(rng.integers(2, 90)), "c": company}
                passage, question = (str(rng.choice(of)).format(**words) for of in (reported, asked))
                corpus.append(
                    {
                        "_id": number,
                        "title": f"{company} annual report {year}",
                        "text": f"In {year} {passage}.",
                        "company": company,
                    }
                )
                queries.append({"_id": f"q{number}", "text": f"{question} in {year}?"})
                split = "test" if rng.random() < 0.3 else "train"
                qrels[split].append({"query-id": f"q{number}", "corpus-id": number, "score": 1})
    return corpus, queries, qrels

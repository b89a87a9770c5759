"""The part of a run's page about figures that a user's own code reports."""

from collections.abc import Mapping
from typing import Any

from fd_flower.core.client import natural
from fd_flower.results import pictures
from fd_flower.results.history import curve, last
from fd_flower.results.page import Markup, element, folded, rounded, table
from fd_flower.results.panels import panel
from fd_flower.results.pictures import Picture
from fd_flower.results.reported import CLIENTS, HOW, MEANING, WORDS, Lines, tracks


def sections(summary: Mapping[str, Any], lines: Lines) -> list[Markup]:
    """Return such figures at the end, over rounds and by client, for a run's page; nothing where there are none."""
    found = summary.get("reported") or {}
    if not found:
        return []
    over_time = {whose: of for whose, of in tracks(lines).items() if of}
    rows = [
        (name, WORDS[whose], rounded(of["final"]), rounded(of.get("std")))
        for whose, named in found.items()
        for name, of in named.items()
    ]
    drawn = [
        panel(f"Reported by {WORDS[whose]}, {name}", {name: curve(of, from_first=True)}, name)
        for whose, named in over_time.items()
        for name, of in named.items()
    ]
    parts = [
        element("h2", "Reported by your own code"),
        table(["figure", "by", "final", "std over clients"], rows, texts=(0, 1)),
        *(element("p", MEANING[whose], "soft") for whose in found),
        pictures.beside([Picture.of(one) for one in drawn]),
    ]
    if named := over_time.get(CLIENTS):
        clients = sorted({who for of in named.values() for who in of}, key=natural)
        cells = [(who, *(rounded(last(of[who])) if who in of else None for of in named.values())) for who in clients]
        parts.append(folded("By client", table(["client", *named], cells, kind="tall")))
    if CLIENTS in found and all(summary["accuracy"][scope]["final"] is None for scope in ("global", "personal")):
        parts.append(element("p", HOW, "soft"))
    return parts

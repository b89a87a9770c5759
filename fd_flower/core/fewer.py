"""Names of models from files that ask for fewer blocks than the files have: ``/models/a.gguf:15``."""

import re

FEWER = re.compile(r"(?P<name>.*[^:]):(?P<count>[1-9]\d{0,3})", re.DOTALL)


def split(name: str) -> tuple[str, int | None]:
    """Return a model's name without the number of blocks behind a colon, and this number; None: all of them."""
    found = FEWER.fullmatch(name)
    return (found["name"], int(found["count"])) if found else (name, None)

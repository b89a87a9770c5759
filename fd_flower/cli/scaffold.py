"""``fd-flower new``: a method or a Flower project of the user's own, as a folder that runs and is tested."""

import keyword
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from string import Template

from fd_flower.config import registry
from fd_flower.core.errors import InvalidInputError

TEMPLATES = Path(__file__).with_name("templates")
ENDING = ".template"
PACKAGE = "package"
"""What templates call the package, in their paths."""

LONGEST = 32  # of the name of a Flower app
WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")
TAKEN = ("tests", "docs", "runs", "flwr")
"""Names that other folders of the new one, or Flower's command, have."""


@dataclass(frozen=True)
class Name:
    """A name as each place wants it.

    Attributes
    ----------
    project : str
        The folder and the distribution, with hyphens: Flower takes no underscores there.
    package : str
        What Python imports, in lower case with underscores.
    title : str
        The class.
    short : str
        The class in lower case: the method in commands, folders and tables.
    """

    project: str
    package: str
    title: str
    short: str

    @classmethod
    def of(cls, text: str) -> "Name":
        """Return the names made of what a user gives.

        Raises
        ------
        InvalidInputError
            For a text that can name no package, or that names another one.
        """
        if not WORD.fullmatch(text) or len(text) > LONGEST:
            raise InvalidInputError(
                f"the name is {text!r}; expected a letter, then letters and digits, with single '-' or '_' between "
                f"words, at most {LONGEST} characters"
            )
        package = text.lower().replace("-", "_")
        title = "".join(word if word != word.lower() else word.title() for word in re.split("[-_]", text))
        name = cls(package.replace("_", "-"), package, title, title.lower())
        if keyword.iskeyword(package) or keyword.iskeyword(title) or package in TAKEN:
            raise InvalidInputError(f"'{text}' can name no package; take another name")
        if package in sys.stdlib_module_names or find_spec(package) is not None:
            raise InvalidInputError(
                f"there is a package '{package}' already, which a new one would hide; take another name"
            )
        return name


def method(text: str, folder: Path) -> Path:
    """Write the skeleton of a method below a folder, and return where.

    Raises
    ------
    InvalidInputError
        For a name that cannot be taken, and where the new folder is there already.
    """
    short = text.lower().replace("-", "").replace("_", "")
    for taken, whose in ((registry.names(), "a built-in"), (registry.installed(), "an installed")):
        if short in taken:
            raise InvalidInputError(f"'{short}' is the name of {whose} method; take another name")
    return _write("method", Name.of(text), folder)


def project(text: str, folder: Path) -> Path:
    """Write the skeleton of a Flower project below a folder, and return where; errors as of ``method``."""
    return _write("project", Name.of(text), folder)


def _write(kind: str, name: Name, folder: Path) -> Path:
    target = folder / name.project
    if target.exists():
        raise InvalidInputError(f"{target} is there already; take another name or another directory")
    words = {"project": name.project, PACKAGE: name.package, "title": name.title, "short": name.short}
    texts = {
        path.relative_to(TEMPLATES / kind).as_posix().removesuffix(ENDING).replace(PACKAGE, name.package): Template(
            path.read_text(encoding="utf-8")
        ).substitute(words)
        for path in sorted((TEMPLATES / kind).rglob(f"*{ENDING}"))
    }
    for path, text in texts.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_text(text, encoding="utf-8")
    return target

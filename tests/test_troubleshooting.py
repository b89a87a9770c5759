"""docs/troubleshooting.md quotes messages that the code really has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")


def messages() -> list[str]:
    """Return the page's first column: the fixed parts of messages."""
    return re.findall(r"^\| `(.+?)` \| ", PAGE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def literals() -> str:
    """Return all string literals of the code, an f-string's without its values, one a line."""
    found = []
    for room in ("fd_flower", "strategies", "client_apps"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_the_page_has_the_errors_that_users_meet():
    assert len(messages()) >= 30
    assert len(set(messages())) == len(messages())


@pytest.mark.parametrize("message", messages() if PAGE.is_file() else [])
def test_a_quoted_message_is_one_of_the_code(message: str, literals: str):
    parts = [part for part in message.split("...") if part.strip(" ;,:'")]
    assert parts
    for part in parts:
        assert part.strip() in literals, f"{message!r}: no literal has {part.strip()!r}"


def test_a_message_that_the_code_lacks_is_found(literals: str):
    assert "the nodes are singing" not in literals

"""What is shipped: one import name everywhere, the wheel, the app that Flower builds, and what the pages say of it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.metadata import packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import pytest

import fd_flower
from fd_flower import methods
from fd_flower.cli import describe

ROOT = Path(__file__).parents[1]
ROOMS = ("strategies", "client_apps")
MOST_FILES, MOST_BYTES_A_FILE, MOST_BYTES, DEEPEST = 1000, 1_000_000, 10_000_000, 10  # what Flower's hub takes

COMMAND = """
from fd_flower.cli import main
try:
    assert not main()
except SystemExit as done:
    assert not done.code
"""


in_checkout = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="looks at the checkout")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a checkout holds into a folder whose name Flower accepts."""
    folder = tmp_path_factory.mktemp("copy") / "fd-flower"
    shutil.copytree(
        ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "runs", "dist", "*.fab")
    )
    return folder


@pytest.fixture(scope="module")
def wheel(copy: Path) -> zipfile.ZipFile:
    _succeed([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], copy)
    return zipfile.ZipFile(*(copy / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def fab(copy: Path) -> zipfile.ZipFile:
    out = copy.with_name("fab")
    out.mkdir()
    quiet = {"FLWR_HOME": str(out / "home"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    _succeed([sys.executable, "-c", "from flwr.cli.app import app; app()", "build", "--app", str(copy)], out, **quiet)
    return zipfile.ZipFile(*out.glob("*.fab"))


def _succeed(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _files(folder: Path, *patterns: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for pattern in patterns for path in folder.rglob(pattern)}


def _sources() -> set[str]:
    """Return every file that the package needs, as it lies in a checkout."""
    rooms = [_files(ROOT / room, "*.py") for room in ROOMS]
    return _files(ROOT / "fd_flower", "*.py", "*.yaml").union(*rooms)


# --- one name


def test_a_method_has_one_name():
    for stem in methods.names():
        assert methods.strategy(stem).__module__ == f"fd_flower.strategies.{stem}"
        assert methods.client_app(stem) is sys.modules[f"fd_flower.client_apps.{stem}"].app


@pytest.mark.parametrize(
    "code",
    [
        "import fd_flower",
        "import fd_flower.strategies",
        *(f"import sys; sys.argv[1:] = ['{word}']; " + COMMAND for word in ("--help", "--version")),
    ],
)
def test_importing_the_package_and_asking_the_command_for_help_loads_nothing_heavy(code: str, tmp_path: Path):
    heavy = "{'torch', 'ray', 'datasets', 'matplotlib', 'sklearn'}"
    said = _succeed(
        [sys.executable, "-c", f"{code}\nimport sys; print('heavy:', *({heavy} & set(sys.modules)))"], tmp_path
    )
    assert said.splitlines()[-1].strip() == "heavy:"


def test_strategies_are_imported_by_their_names_and_no_other_module_with_them(tmp_path: Path):
    code = "import sys; from fd_flower.strategies import FedDF; print(*(m for m in sys.modules if '.strategies.' in m))"
    assert _succeed([sys.executable, "-c", code], tmp_path).split() == ["fd_flower.strategies.feddf"]
    with pytest.raises(ImportError, match="FedXY"):
        exec("from fd_flower.strategies import FedXY")


def test_the_public_face_is_what_it_stands_for():
    for name in fd_flower.__all__:
        assert getattr(fd_flower, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="no attribute 'Grid'"):
        _ = fd_flower.Grid


def test_nothing_else_that_lies_beside_the_package_is_in_it():
    for name in ("tests", "docs", "benchmarks", "fd_flower"):
        assert find_spec(f"fd_flower.{name}") is None


@in_checkout
def test_the_stub_of_the_strategies_is_current():
    lines = [
        f"from fd_flower.strategies.{stem} import {(name := methods.strategy(stem).__name__)} as {name}"
        for stem in methods.names()
    ]
    assert (ROOT / "strategies" / "__init__.pyi").read_text().splitlines() == lines, "\n".join(lines)


@in_checkout
@pytest.mark.parametrize("kind", ["wheel", "fab"])
def test_what_is_unpacked_is_the_checkout_under_the_same_names(
    kind: str, copy: Path, request: pytest.FixtureRequest, tmp_path: Path
):
    request.getfixturevalue(kind).extractall(tmp_path)
    code = (
        "import json; from importlib.util import find_spec; from fd_flower.core import versions;"
        f"homes = [find_spec('fd_flower.' + room + '.fd').origin for room in {ROOMS}];"
        "print(json.dumps([versions.sources(), versions.__file__, *homes]))"
    )
    unpacked, checkout = (json.loads(_succeed([sys.executable, "-c", code], place)) for place in (tmp_path, copy))
    assert all(Path(file).is_relative_to(tmp_path) for file in unpacked[1:]), "found elsewhere"
    assert unpacked[0] == checkout[0], "the hash of the sources depends on where they lie"


USER = """
from fd_flower import Run, Task, settings
from fd_flower.strategies import FedDF
from torch import nn

strategy = FedDF(task=Task(lambda name: nn.Linear(2, 2)), run=Run(clients=3))
reveal_type(strategy.config.distill_steps)
reveal_type(settings("feddf").client.lr)
FedDF(rounds=3)
Run(clients="three")
"""


@in_checkout
@pytest.mark.slow
def test_a_users_type_checker_sees_real_types_through_the_installed_wheel(wheel: zipfile.ZipFile, tmp_path: Path):
    pytest.importorskip("mypy", reason="needs the extra dev")
    _succeed([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], tmp_path)
    python = str(tmp_path / "venv" / "bin" / "python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    home = Path(_succeed([python, "-c", where], tmp_path).strip())
    wheel.extractall(home)
    (home / "borrowed.pth").write_text(_succeed([sys.executable, "-c", where], tmp_path))
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--python-executable", python, "--ignore-missing-imports", "user.py"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout.splitlines()
    expected = [
        'user.py:7: note: Revealed type is "int"',
        'user.py:8: note: Revealed type is "float"',
        'user.py:9: error: Unexpected keyword argument "rounds" for "FedDF"',
        'user.py:10: error: Argument "clients" to "Run" has incompatible type "str"; expected "int | None"',
    ]
    found = [line.replace("builtins.", "") for line in told if line.startswith("user.py") and " defined " not in line]
    assert len(found) == len(expected), "\n".join(told)
    assert all(line.startswith(wanted) for line, wanted in zip(found, expected, strict=True)), "\n".join(told)


# --- what is in it


@in_checkout
def test_a_wheel_installs_the_package_alone_with_the_rooms_inside(wheel: zipfile.ZipFile):
    needed = _sources() | _files(ROOT / "deploy", "*.*", "Dockerfile")
    needed |= _files(ROOT / "fd_flower", "*.template", "*.json") | {"strategies/__init__.pyi", "fd_flower/py.typed"}
    expected = {name if name.startswith("fd_flower/") else f"fd_flower/{name}" for name in needed}
    info = f"fd_flower-{fd_flower.__version__}.dist-info/"
    assert {name for name in wheel.namelist() if not name.startswith(info)} == expected
    assert f"{info}licenses/LICENSE" in wheel.namelist()
    assert "fd-flower = fd_flower.cli:main" in wheel.read(f"{info}entry_points.txt").decode()


@in_checkout
def test_the_app_that_flower_builds_has_the_sources_and_nothing_else(fab: zipfile.ZipFile):
    beside = {"pyproject.toml", "LICENSE", "README.md", ".info/CONTENT"}
    assert _sources() <= set(fab.namelist()) <= _sources() | beside
    assert re.search(r"fab-format-version = 1\b", fab.read("pyproject.toml").decode())


@in_checkout
def test_the_app_that_flower_builds_is_within_the_hubs_limits(fab: zipfile.ZipFile):
    files = fab.infolist()
    assert len(files) <= MOST_FILES
    assert max(file.file_size for file in files) <= MOST_BYTES_A_FILE
    assert Path(str(fab.filename)).stat().st_size <= MOST_BYTES
    assert max(file.filename.count("/") for file in files) < DEEPEST
    for file in files:
        fab.read(file).decode("utf-8")


def test_what_is_imported_is_declared():
    rooms = [Path(import_module(f"fd_flower.{room}").__path__[0]) for room in ROOMS]
    files = [file for folder in (Path(fd_flower.__file__).parent, *rooms) for file in folder.rglob("*.py")]
    imported = set().union(*(_imported(ast.parse(file.read_text(encoding="utf-8"))) for file in files))
    needed = [line for line in requires("fd-flower") or () if not re.search("extra == .dev", line)]
    declared = {_plain(re.split(r"[^\w.-]", line)[0]) for line in needed}
    homes = packages_distributions()
    outside = imported - sys.stdlib_module_names - {"fd_flower"}
    missing = [name for name in outside if not declared & {_plain(home) for home in homes.get(name, [name])}]
    assert not missing, f"imported and neither a dependency nor an extra: {', '.join(sorted(missing))}"


def _imported(tree: ast.Module) -> set[str]:
    """Return the top-level names that a file imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- the README


@in_checkout
def test_the_readme_has_the_current_table_of_methods():
    begin, end = "<!-- methods: begin -->", "<!-- methods: end -->"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = text.partition(begin)[2].partition(end)[0].strip()
    assert found == methods_table(), f"put this between the marks in README.md:\n\n{methods_table()}\n"
    assert f"Each of the {len(methods.names())} methods" in text


def methods_table() -> str:
    """Return the table of methods in Markdown: their docstrings' first lines, and what the classes declare."""
    rows = ["| method | status | what it does | needs | exchanges | evaluated |", f"|{' --- |' * 6}"]
    for stem in methods.names():
        strategy = methods.strategy(stem)
        evaluated = describe.EVALUATED[strategy.evaluated]
        cells = (
            str(strategy.status),
            describe.idea(stem),
            describe.needed(strategy.requires),
            describe.exchanged(stem),
            evaluated,
        )
        rows.append(f"| [`{stem}`](docs/methods/{stem}.md) | {' | '.join(cells)} |")
    return "\n".join(rows)


# --- pages

FOLDERS = ("docs", "benchmarks", "deploy", "notebooks", "examples", "hub", "baselines", "tests", ".github")
NAMED = rf"`((?:fd_flower|strategies|client_apps|{'|'.join(FOLDERS[:-1])})/[\w/.-]+\.\w+)`"


def _pages() -> dict[Path, str]:
    """Return the text of every page and notebook."""
    below = [page for folder in FOLDERS for kind in ("*.md", "*.ipynb") for page in (ROOT / folder).rglob(kind)]
    return {page: page.read_text(encoding="utf-8") for page in (*ROOT.glob("*.md"), *below)}


@in_checkout
def test_the_links_of_the_pages_lead_somewhere():
    pages = _pages()
    for page, text in pages.items():
        for target, heading in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
            there = (page.parent / target).resolve() if target else page
            assert there.exists(), f"{page.relative_to(ROOT)} links to {target}"
            if heading:
                assert heading in _anchors(pages[there]), f"{page.relative_to(ROOT)} links to {target}#{heading}"


def _anchors(text: str) -> set[str]:
    """Return what the headings of a page in Markdown are linked by."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@in_checkout
def test_what_the_pages_call_by_a_dotted_name_can_be_imported():
    for page, text in _pages().items():
        names = set(re.findall(r"\bfd_flower(?:\.\w+)+", text))
        for module, imported in re.findall(r"from (fd_flower[\w.]*) import ([\w, ]+)", text):
            names |= {f"{module}.{name.split()[0]}" for name in imported.split(",")}
        for name in names:
            try:
                resolve_name(name)
            except (ImportError, AttributeError) as error:
                pytest.fail(f"{page.relative_to(ROOT)} speaks of {name}: {error}")


@in_checkout
def test_the_files_that_the_pages_name_are_there():
    for page, text in _pages().items():
        for name in re.findall(NAMED, text):
            here = page.parent / name  # of an example
            assert (ROOT / name).is_file() or here.is_file(), f"{page.relative_to(ROOT)} speaks of {name}"

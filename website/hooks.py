"""Extensions of MkDocs for pages that are also read on GitHub.

The address of the repository comes from ``pyproject.toml``. ``CONTRIBUTING.md`` and ``CHANGELOG.md`` become pages.
The methods in the navigation are those of the folder. KaTeX comes from npm, once, and is kept in ``build/npm``. Lists,
HTML around Markdown and links to code, which GitHub and Python-Markdown read differently, take a form that both share.
"""

import logging
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
BORROWED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that lie outside of docs/, and what they are called on the site."""

NPM = {
    "katex@0.16.22": ("dist/katex.min.css", "dist/katex.min.js", "dist/fonts/*.woff2", "LICENSE"),
    "iframe-worker@1.0.4": ("shim/index.js", "LICENSE"),
}
"""Packages of npm by name and version, and their files that the site carries below ``vendor/``."""

SECONDS = 60
"""How long npm may take to load a package."""

log = logging.getLogger("mkdocs.hooks.fd_flower")
_parser = MarkdownIt("commonmark").enable("table")


def on_startup(command: str, dirty: bool) -> None:
    """Lay out the package before mkdocstrings looks for it."""
    _lay_out_package()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the repository's address, the methods of the navigation, and what comes from npm."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = {name.lower(): url for name, url in project.get("urls", {}).items()}
    if address := urls.get("repository") or urls.get("source"):
        config.repo_url, config.repo_name = address, "/".join(address.rstrip("/").split("/")[-2:])
    config.site_url = config.site_url or urls.get("documentation")
    config.nav = _expanded(config.nav or [], Path(config.docs_dir))

    if "MIKE_DOCS_VERSION" not in os.environ:  # a plain build has no list of versions to choose from
        config.extra.pop("version")

    loaded = [package for package in NPM if _loaded(package) is not None]
    if len(loaded) < len(NPM):
        log.info("npm is missing or cannot load packages: equations stay LaTeX source, files opened without a server "
                 "have no search")  # fmt: skip
    vendored = [_folder(package) for package in loaded]
    config.extra["polyfills"] = [url for url in config.extra["polyfills"] if url.split("/")[1] in vendored]
    if "katex" in vendored:
        config.extra_css.insert(0, "vendor/katex/dist/katex.min.css")
        config.extra_javascript.insert(0, "vendor/katex/dist/katex.min.js")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside of docs/ and the files from npm."""
    for name, page in BORROWED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for package, patterns in NPM.items():
        folder = _loaded(package)
        for path in [path for pattern in patterns for path in folder.glob(pattern)] if folder else []:
            url = f"vendor/{_folder(package)}/{path.relative_to(folder).as_posix()}"
            files.append(File.generated(config, url, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Bring a page's Markdown to what Python-Markdown reads as GitHub does."""
    here = next((name for name, url in BORROWED.items() if url == page.file.src_uri), f"docs/{page.file.src_uri}")
    markdown = markdown.replace("<!-- every strategy -->", _strategies())
    inside = _with_links(markdown, here, page.file.src_uri, config.repo_url or "")
    return "\n".join(_for_python_markdown(inside.split("\n")))


# --- navigation and package


def _expanded(nav: list[Any], docs: Path) -> list[Any]:
    """Return the navigation with patterns replaced by the pages that they match."""
    found: list[Any] = []
    for item in nav:
        if isinstance(item, str) and "*" in item:
            found += [{path.stem: path.relative_to(docs).as_posix()} for path in sorted(docs.glob(item))]
        elif isinstance(item, dict):
            found.append({k: _expanded(v, docs) if isinstance(v, list) else v for k, v in item.items()})
        else:
            found.append(item)
    return found


def _lay_out_package() -> None:
    """Copy the package and, into it, both packages of methods, as a wheel has them: that is how they are imported."""
    package = BUILD / "api" / "fd_flower"
    shutil.rmtree(package, ignore_errors=True)
    for source, target in (("fd_flower", "."), ("strategies", "strategies"), ("client_apps", "client_apps")):
        for path in (ROOT / source).rglob("*.py"):
            copy = package / target / path.relative_to(ROOT / source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _strategies() -> str:
    """Return what mkdocstrings needs to describe every strategy: its module has the class's name in lower case."""
    found = []
    for path in sorted((ROOT / "strategies").glob("[a-z]*.py")):
        names = re.findall(r"^class (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        found += [f"::: fd_flower.strategies.{path.stem}.{name}" for name in names if name.lower() == path.stem]
    return "\n\n".join(found)


# --- npm


def _folder(package: str) -> str:
    return package.rpartition("@")[0]


def _loaded(package: str) -> Path | None:
    """Return the folder of a package from npm, loaded once, or None where npm cannot."""
    target = BUILD / "npm" / package
    if target.is_dir():
        return target
    npm = shutil.which("npm")
    if npm is None:
        return None
    loading = BUILD / "npm" / f"{package}.loading"
    shutil.rmtree(loading, ignore_errors=True)
    loading.mkdir(parents=True)
    try:
        command = [npm, "pack", package, "--silent", "--fetch-retries=0"]
        subprocess.run(command, cwd=loading, check=True, capture_output=True, timeout=SECONDS)
    except (subprocess.SubprocessError, OSError):
        shutil.rmtree(loading)
        return None
    with tarfile.open(next(loading.glob("*.tgz"))) as archive:
        archive.extractall(loading, filter="data")
    (loading / "package").rename(target)
    shutil.rmtree(loading)
    return target


# --- Markdown


def _with_links(markdown: str, here: str, page: str, repository: str) -> str:
    """Return the page with links to files outside of docs/ turned to their pages, or to the repository."""

    def turned(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        path = os.path.normpath(PurePosixPath(here).parent / target)
        if path in BORROWED:
            inside = BORROWED[path]
        elif path.startswith("docs/") and not (ROOT / path).is_dir():
            inside = path.removeprefix("docs/")
        elif (ROOT / path).exists():
            kind = "tree" if (ROOT / path).is_dir() else "blob"
            address = f"{repository}/{kind}/main/{path}{anchor}"
            return f"[{match['text']}]({address})" if repository else match["text"]
        else:
            return match[0]
        return f"[{match['text']}]({os.path.relpath(inside, PurePosixPath(page).parent)}{anchor})"

    link = r"(?<!!)\[(?P<text>(?:`[^`]*`|[^\[\]`])*)\]\((?!\w+:)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]+)?\)"
    return re.sub(link, turned, markdown)


def _for_python_markdown(lines: list[str], *, in_item: bool = False) -> list[str]:
    """Return lines with lists indented by four spaces, blank lines before blocks, and Markdown read inside of HTML."""
    found: list[str] = []
    end = 0
    for token in _blocks(_parser.parse("\n".join(lines))):
        begin, after = token.map or [0, 0]
        found += lines[end:begin]
        block, end = lines[begin:after], after
        is_list = token.type in ("bullet_list_open", "ordered_list_open")
        apart = token.type in ("table_open", "blockquote_open") or (is_list and not in_item)
        if apart and found and found[-1].strip():
            found.append("")
        if is_list:
            found += _list(block)
            if not block[-1].strip():  # the blank line that ends a list is part of the parser's range
                found.append("")
        elif token.type == "blockquote_open":
            inner = _for_python_markdown([re.sub(r"^ {0,3}> ?", "", line) for line in block])
            found += [f"> {line}".rstrip() for line in inner]
        elif token.type == "html_block":
            found += [re.sub(r"^<(details|div|figure)(?![^>]*markdown)", r'<\1 markdown="1"', line) for line in block]
        else:
            found += block
    return found + lines[end:]


def _blocks(tokens: list[Token]) -> list[Token]:
    """Return the tokens of the outermost blocks."""
    return [token for token in tokens if token.level == 0 and token.map is not None and token.nesting >= 0]


def _list(lines: list[str]) -> list[str]:
    """Return one list with each item's lines four spaces behind its marker."""
    found: list[str] = []
    tokens = _parser.parse("\n".join(lines))
    items = [token for token in tokens if token.type == "list_item_open" and token.level == 1]
    for item in items:
        begin, after = item.map or [0, 0]
        match = re.match(r"( *)([*+-]|\d+[.)])( *)", lines[begin])
        if match is None:
            return lines
        space = len(match[3]) if 1 <= len(match[3]) <= 4 else 1
        offset = len(match[1]) + len(match[2]) + space
        body = [lines[begin][offset:], *(_stripped(line, offset) for line in lines[begin + 1 : after])]
        first, *others = _for_python_markdown(body, in_item=True)
        marker = match[2] if match[2] in "*+-" else f"{match[2][:-1]}."
        found.append(f"{marker:<4}{first}")
        found += [f"    {line}" if line else "" for line in others]
    return found


def _stripped(line: str, offset: int) -> str:
    """Return a line without up to ``offset`` spaces before it."""
    return line[min(offset, len(line) - len(line.lstrip(" "))) :]

"""One self-contained HTML page: text is escaped where it enters, images travel inside."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light; --ink: #1c2530; --soft: #5c6773; --line: #dfe4ea; --tint: #f5f7fa; --mark: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.5rem 4rem; max-width: 1120px; color: var(--ink); background: #fff;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
p { margin: .45rem 0; max-width: 105ch; }
.soft { color: var(--soft); font-size: .92em; }
.wide { overflow-x: auto; }
.tall { overflow: auto; max-height: 36rem; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .95em; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .65rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; background: var(--tint); vertical-align: bottom; white-space: normal; }
.wide td:first-child, .wide th:first-child { position: sticky; left: 0; background: #fff; }
.wide th:first-child { background: var(--tint); }
.tall th { position: sticky; top: 0; }
td.text, th.text { text-align: left; white-space: normal; }
td.bar { background: linear-gradient(90deg, #cfe5f3 var(--share), transparent var(--share)); min-width: 7rem; }
.narrow td.bar { min-width: 3.4rem; }
.second { text-decoration: underline; text-underline-offset: .2em; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 1rem; }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; margin: .6rem 0;
  overflow-x: auto; font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--mark); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: .6rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { padding: 1.2rem .8rem 3rem; } .wide td.text { min-width: 8rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; } }
@media print { .tall { max-height: none; } body { padding: 0; } }
"""


NOTHING = "-"  # where nothing was measured


class Markup(str):
    """Text that is HTML already; everything else is escaped on its way into a page."""


def text(content: object) -> Markup:
    """Escape what is not markup; None reads as a dash."""
    if isinstance(content, Markup):
        return content
    return Markup(NOTHING if content is None else escape(str(content)))


def page(title: str, sections: Iterable[Markup]) -> str:
    """Return the whole page."""
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def element(tag: str, content: object, kind: str = "") -> Markup:
    """Return one element, of a CSS class where ``kind`` names one."""
    return Markup(f'<{tag} class="{kind}">{text(content)}</{tag}>' if kind else f"<{tag}>{text(content)}</{tag}>")


def joined(*parts: Markup) -> Markup:
    """Return parts one after the other."""
    return Markup("\n".join(parts))


@dataclass(frozen=True)
class Share:
    """A share (0 to 1) in a table: its cell is filled that far."""

    value: float | None


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, texts: Sequence[int] = (0,), kind: str = "wide"
) -> Markup:
    """Return a table; columns in ``texts`` are words, all others numbers."""

    def cell(tag: str, column: int, content: object) -> str:
        if isinstance(content, Share) and content.value is not None:
            share = f"{100 * content.value:.1f}"
            return f'<td class="bar" style="--share:{share}%">{share}</td>'
        content = None if isinstance(content, Share) else content
        return element(tag, content, "text" if column in texts else "")

    top = "".join(cell("th", column, name) for column, name in enumerate(head))
    body = "\n".join(f"<tr>{''.join(cell('td', i, content) for i, content in enumerate(row))}</tr>" for row in rows)
    return Markup(
        f'<div class="{kind}"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def terms(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Return names with what they are."""
    return Markup("<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(what)}</dd>" for name, what in pairs) + "</dl>")


def image(png: bytes, description: str) -> Markup:
    """Return an image that travels inside the page."""
    return Markup(f'<img alt="{escape(description)}" src="data:image/png;base64,{b64encode(png).decode()}">')


def folded(title: str, content: Markup) -> Markup:
    """Return content that opens on a click."""
    return Markup(f"<details><summary>{escape(title)}</summary>\n{content}\n</details>")


def percent(share: float | None, spread: float | None = None) -> str | None:
    """Return ``63.2`` for 0.632, ``63.2 ± 1.1`` with a spread, None for None."""
    if share is None:
        return None
    return f"{100 * share:.1f}" if spread is None else f"{100 * share:.1f} ± {100 * spread:.1f}"


def rounded(value: float | None, digits: int = 3) -> str | None:
    """Return a number with this many decimals, None for None."""
    return None if value is None else f"{value:,.{digits}f}"


def megabytes(count: float | None) -> str | None:
    """Return bytes in megabytes (10^6), with three significant digits below 100."""
    if count is None:
        return None
    megabytes = count / 1e6
    return f"{megabytes:,.0f}" if megabytes >= 100 or not count else f"{megabytes:#.3g}".rstrip(".")


def words(value: object) -> str:
    """Return a plain value as a reader wants it: ``name: what, name: what`` for a mapping."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {words(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value))
    return "none" if value is None else str(value)

"""``fd-flower attack``: methods under attacks x rules x shares of attackers."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fd_flower import attacks
from fd_flower.cli import compare
from fd_flower.cli.plan import Plan, place
from fd_flower.cli.progress import told
from fd_flower.cli.run import words_of
from fd_flower.config import settings
from fd_flower.config.registry import full_name, short_name
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.storage import replace_file
from fd_flower.results import attack_tables
from fd_flower.results.attack_tables import FILE, LOCAL, Variant


@dataclass
class Trials:
    """The runs of all attacks, and which cell of a table each is in."""

    plan: Plan
    cells: dict[Variant, list[str]]
    attacks: Sequence[str]


def ordered(
    methods: Sequence[str],
    names: Sequence[str],
    rules: Sequence[str],
    fractions: Sequence[str],
    changes: Sequence[str],
    recipe: str | None,
    engine: str,
    out: Path | None,
    task: str,
    seeds: int,
) -> Trials:
    """Return the runs that a user asks for, checked as ``fd-flower compare`` checks them.

    Every method is run with ``honest`` and ``absent`` attackers, too, and ``local`` with honest ones.

    Parameters
    ----------
    names, rules, fractions : Sequence[str]
        Attacks, values of ``server.rule`` for methods that have it (none: the method's own), and shares of attackers.
    methods, changes, recipe, engine, out, task, seeds
        As of ``fd-flower compare``.

    Raises
    ------
    InvalidInputError
        For anything that no run can be made of.
    """
    words = words_of(changes, recipe)
    if own := [word for word in words if word.startswith(("attack.name=", "attack.fraction=", "server.rule="))]:
        raise InvalidInputError(f"{own[0]} is what is varied here: use --attacks, --fractions or --rules")
    if not fractions:
        raise InvalidInputError("--fractions is empty; expected shares of clients, like --fractions 0.2,0.3")
    path = place(words, out, "attack")
    asked = list(dict.fromkeys([*map(full_name, methods), LOCAL]))
    cells: dict[Variant, list[str]] = {}
    plan = Plan(path, {})
    names = [name for name in dict.fromkeys(names) if attacks.mark(name).targets]
    for method in asked:
        for variant in _variants(method, names, rules, fractions):
            plans = compare.ordered(asked, [*words, *_words(variant)], None, engine, path / variant.folder, task, seeds)
            for name, order in plans.orders.items():
                if name.rpartition("-seed")[0] == short_name(method):
                    called = f"{variant.folder}/{name}"
                    plan.orders[called] = order
                    cells.setdefault(variant, []).append(called)
    return Trials(plan, cells, names)


def _variants(method: str, names: Sequence[str], rules: Sequence[str], fractions: Sequence[str]) -> Iterator[Variant]:
    for rule in rules if rules and hasattr(settings(method).server, "rule") else [""]:
        for fraction in fractions:
            for name in (attacks.HONEST,) if method == LOCAL else (attacks.HONEST, attacks.ABSENT, *names):
                yield Variant(method, name, fraction, rule)


def _words(variant: Variant) -> Collection[str]:
    """Return the options of a variant, the rule for its method alone."""
    rule = [f"{short_name(variant.method)}.server.rule={variant.rule}"] if variant.rule else []
    name = f"{short_name(variant.method)}.attack.name={variant.attack}"
    return (name, f"attack.fraction={variant.fraction}", *rule)


def write(trials: Trials, console: Console) -> None:
    """Show the tables, and write them and all that a comparison of the same runs leaves behind."""
    plan = trials.plan
    if plan.finished:
        runs = {
            variant: [plan.folders[name] for name in names if name in plan.folders]
            for variant, names in trials.cells.items()
        }
        parts = attack_tables.tables(runs, trials.attacks)
        compare.compare.write(plan.finished, plan.path, plan.command, plan.notes)
        replace_file(plan.path / FILE, attack_tables.markdown(parts, plan.command, plan.notes))
        for title, table in parts:
            console.print(f"\n{title}", table, sep="\n")
        told(console, attack_tables.MEANING)
    for note in plan.notes:
        told(console, note)

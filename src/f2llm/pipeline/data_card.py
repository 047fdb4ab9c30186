"""The data of a build as facts, as a card for people, and in the terminal.

`stats` reads what the finished steps have written: converted rows and their drops, where the rows of cleaning went,
duplicates, leaks and languages as far as they were looked at, what mining found, and the mixture that a training reads.
`make_card` is the step after tokenising: README.md with the header of Hugging Face's data cards, card.json with the
same facts, and pictures. Cost: no row is read, only counts; some seconds for the pictures.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2llm.core.config import Recipe, SourceConfig
from f2llm.core.errors import DataError
from f2llm.core.files import atomic_path, read_json, write_json, write_text
from f2llm.core.log import log
from f2llm.data.flow import flow_png, flow_table
from f2llm.data.mining_picture import combined, mining_png
from f2llm.pipeline.data_card_text import card_text, mining_cells, reasons
from f2llm.pipeline.data_charts import languages_png, mixture_png
from f2llm.pipeline.data_mixture import StageMixture, stage_mixtures
from f2llm.pipeline.language_table import LanguageRow, finished, language_rows, languages_json, select_languages
from f2llm.pipeline.runner import Workplace

Facts = dict[str, Any]
_REPORTS = ("duplicates", "leaks", "langid")
_SIDES = ("train", "evaluation")
_SHOWN = 12  # languages of each end that the terminal shows


@dataclass(frozen=True)
class _Data:
    """What the finished data steps have written; what is not finished is empty."""

    recipe: Recipe
    converted: Mapping[str, Any]
    drops: Mapping[str, Any]
    reports: Mapping[str, Any]
    mining: Mapping[str, Any]
    languages: Sequence[LanguageRow]
    mixtures: Sequence[StageMixture]


def stats(recipe: Recipe, out: Path) -> Facts:
    """The facts of the card, as far as the steps of the build in `out` are finished; DataError where none is.

    The recipe's registry is already among its sources.
    """
    return _facts(_read(recipe, out))


def make_card(place: Workplace, recipe: Recipe, command: str) -> None:
    """README.md, card.json and pictures of drops, languages, mining and mixture from the finished data steps."""
    data = _read(recipe, place.out)
    facts = _facts(data) | {"command": command}
    pictures = {
        "flow.png": flow_png(data.drops),
        "languages.png": languages_png(data.languages),
        "mining.png": mining_png(combined(data.mining.values())),
        "mixture.png": mixture_png(data.mixtures),
    }
    for name, content in pictures.items():
        with atomic_path(place.directory / name) as temporary:
            temporary.write_bytes(content)
    write_json(place.directory / "card.json", facts)
    write_text(place.directory / "README.md", card_text(facts, list(pictures)))
    log(f"  {place.artifact('card') / 'README.md'}")


def _read(recipe: Recipe, out: Path) -> _Data:
    ids = [source.id for source in recipe.sources]
    converted = {name: found for name in ids if (found := _json(out / "convert" / name, "drops.json"))}
    if not converted:
        raise DataError(f"no data step of {recipe.name} is finished in {out}; run: f2llm build RECIPE --until clean")
    clean, drops = out / "clean", _json(out / "clean", "drops.json")
    counts = _json(clean, "languages.json")
    return _Data(
        recipe=recipe,
        converted=converted,
        drops={name: drops[name] for name in ids if name in drops},
        reports={name: found for name in _REPORTS if (found := _json(clean, f"{name}.json"))},
        mining={name: found for name in ids if (found := _json(out / "mine" / name, "mining.json"))},
        languages=select_languages(language_rows(recipe, out, scored=False)) if counts else [],
        mixtures=stage_mixtures(recipe, out, counts) if counts else [],
    )


def _json(directory: Path, name: str) -> Any:
    """What a finished step has written under this name; an empty object where it has not."""
    return read_json(directory / name) if finished(directory) and (directory / name).exists() else {}


def _facts(data: _Data) -> Facts:
    recipe = data.recipe
    facts: Facts = {
        "name": recipe.name,
        "description": recipe.description,
        "seed": recipe.seed,
        "sources": [_source(source, data) for source in recipe.sources],
        "clean": recipe.clean.model_dump(),
        "mine": recipe.mine.model_dump(),
    }
    if data.drops:
        facts |= {"drops": dict(data.drops), "families": _families(data.languages), **languages_json(data.languages)}
    return facts | {
        **data.reports,
        "mining": dict(data.mining),
        "mixture": [mixture.to_json() for mixture in data.mixtures],
    }


def _source(source: SourceConfig, data: _Data) -> Facts:
    """A source: what the recipe says of it, and its rows as far as they are counted."""
    told = ("id", "converter", "task_type", "stages", "symmetric", "instruction", "license", "max_rows")
    counted = data.converted.get(source.id, {})
    cleaned = data.drops.get(source.id, {})
    stored = {
        f"stage{mixture.stage}": next((part.stored for part in mixture.sources if part.name == source.id), 0)
        for mixture in data.mixtures
        if mixture.stage in source.stages
    }
    return {
        **source.model_dump(include=set(told)),
        "max_rows_per": source.max_rows_per,
        "language_alpha": source.language_alpha,
        "converted": counted.get("rows"),
        "not_converted": counted.get("dropped", {}),
        "train": cleaned.get("train"),
        "eval": cleaned.get("eval"),
        "stored": stored,
    }


def _families(rows: Sequence[LanguageRow]) -> list[Facts]:
    """Languages and rows by family, the largest first."""
    languages, train = Counter(row.family for row in rows), defaultdict[str, int](int)
    for row in rows:
        train[row.family] += row.train_rows
    order = sorted(languages, key=lambda name: (-train[name], name))
    return [{"family": name, "languages": languages[name], "train": train[name]} for name in order]


def print_stats(console: Console, facts: Facts) -> None:
    """Print the facts as tables: sources, drops, what was looked for, negatives, languages, mixture."""
    console.print(f"[bold]{escape(facts['name'])}[/bold]: {escape(facts['description'])}", highlight=False)
    console.print(_sources_table(facts["sources"]))
    if "drops" in facts:
        console.print(flow_table(facts["drops"]))
        _print_findings(console, facts)
    if facts["mining"]:
        rows = [(name, *mining_cells(found)) for name, found in facts["mining"].items()]
        console.print(_table("hard negatives of", ("rows", "mined", "given", "at random", "rows short"), rows))
    if "languages" in facts:
        console.print(_languages_table(facts["languages"]))
        rows = [(f["family"], f"{f['languages']:,}", f"{f['train']:,}") for f in facts["families"]]
        console.print(_table("family", ("languages", "train"), rows))
    for mixture in facts["mixture"]:
        title = (
            f"Stage {mixture['stage']} as {mixture['model']} reads it, {mixture['steps']:,} steps. {mixture['rule']}"
        )
        console.print(f"\n{escape(title)}", highlight=False)
        for name in ("tasks", "sources", "languages"):
            console.print(_mixture_table(name, mixture[name]))


def _table(first: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _sources_table(sources: Sequence[Facts]) -> Table:
    columns = ("task", "stages", "converted", "train", "eval", "licence")
    rows = []
    for source in sources:
        counts = [_number(source[name]) for name in ("converted", "train", "eval")]
        stages = ", ".join(map(str, source["stages"]))
        rows.append((source["id"], source["task_type"], stages, *counts, source["license"] or "not stated"))
    return _table("source", columns, rows)


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _print_findings(console: Console, facts: Facts) -> None:
    for title, found in reasons(facts).items():
        if found:
            console.print(_table(title, ("rows",), [(name, f"{count:,}") for name, count in found.items()]))
        else:
            console.print(f"{title}: none\n", highlight=False)


def _languages_table(languages: Sequence[Facts]) -> Table:
    rows = [
        (entry["tag"], entry["name"], entry["family"], *(f"{sum(entry[side].values()):,}" for side in _SIDES))
        for entry in languages
    ]
    table = _table("language", ("name", "family", *_SIDES), _ends(rows))
    table.columns[1].justify = table.columns[2].justify = "left"
    return table


def _mixture_table(name: str, parts: Sequence[Facts]) -> Table:
    rows = []
    for part in parts:
        counts = (f"{part['cleaned']:,}", f"{part['stored']:,}")
        rows.append((part["name"], *counts, f"{part['wanted']:.2%}", f"{part['drawn']:.2%}", f"{part['passes']:.2f}"))
    return _table(name, ("rows clean", "in the store", "wanted", "drawn", "passes"), _ends(rows))


def _ends(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The first and the last rows, with a line that says how many are between."""
    if len(rows) <= 2 * _SHOWN + 1:
        return list(rows)
    between = (f"... {len(rows) - 2 * _SHOWN:,} more ...", *[""] * (len(rows[0]) - 1))
    return [*rows[:_SHOWN], between, *rows[-_SHOWN:]]

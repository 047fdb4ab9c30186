"""The sources as people look at them: a table, a picture of rows by task and language, and one object for machines.

The sources are those of the paper's registry, or those of a recipe: of its own ones the rows are known where a build
has converted them. Cost: a second for the picture of the registry; a recipe's languages are read from its converted
rows, some million a second.

`language_rows.tsv` beside this module has the rows of the 50 largest natural and 16 programming languages of the whole
data set, as the paper gives them (F2LLM-v2, tables 5 to 7); of single sources it tells none.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2llm.core.config import SourceConfig
from f2llm.core.extras import optional
from f2llm.core.languages import is_programming, language
from f2llm.core.pictures import COLOURS, MUTED, STYLE
from f2llm.core.types import TASK_TYPES, TaskType
from f2llm.data.examples import count_examples, count_languages
from f2llm.data.sources import (
    CAP,
    UNKNOWN_LICENSE,
    Source,
    Totals,
    is_bound,
    registry,
    rows_after_cap,
    totals,
)

OWN = "own"
"""The category of a recipe's own sources."""
_WIDTH = 160
_LICENCE_WIDTH = 20
_MOST_LANGUAGES = 40
_LANGUAGE_OPTIONS = ("language", "doc_language")


@dataclass(frozen=True)
class ListedSource:
    """A source as it is shown. `rows` is None where no build has converted it; `cap` is that of each of its `units`.

    `released`: what the registry knows of it, if it is one of the paper's. `path` and `converter` are as in the recipe.
    """

    id: str
    name: str
    category: str
    task_type: TaskType
    codes: tuple[str, ...]
    language_count: int
    rows: int | None
    units: int
    cap: int | None
    stages: tuple[int, ...]
    symmetric: bool
    instruction: str | None
    converter: str
    options: Mapping[str, Any]
    path: str | None
    license: str
    evaluation_overlap: tuple[str, ...]
    released: Source | None

    @property
    def rows_after_cap(self) -> int | None:
        if self.released is not None:
            return rows_after_cap(self.released, self.cap)
        return self.rows if self.rows is None or self.cap is None else min(self.rows, self.cap)

    @property
    def rows_after_cap_is_bound(self) -> bool:
        return self.released is not None and is_bound(self.released, self.cap)

    @property
    def holds_test_texts(self) -> bool:
        return self.released is not None and self.released.holds_test_texts


def list_registry(cap: int | None = CAP) -> list[ListedSource]:
    """The paper's 157 sources, with at most `cap` rows of a unit in stage 2."""
    return [_listed(source, cap) for source in registry()]


def list_recipe(sources: Iterable[SourceConfig], build: Path | None = None) -> list[ListedSource]:
    """The sources of a recipe (with those of its registry); `build` is its output directory, where there is one."""
    return [_configured(source, build) for source in sources]


def _listed(source: Source, cap: int | None) -> ListedSource:
    return ListedSource(
        id=source.id,
        name=source.name,
        category=source.category,
        task_type=source.task_type,
        codes=source.codes,
        language_count=source.language_count,
        rows=source.rows,
        units=source.units,
        cap=cap,
        stages=source.stages,
        symmetric=source.symmetric,
        instruction=source.instruction,
        converter=source.converter,
        options=source.options,
        path=None,
        license=source.license,
        evaluation_overlap=source.evaluation_overlap,
        released=source,
    )


def _configured(config: SourceConfig, build: Path | None) -> ListedSource:
    """A source of a recipe; one of the paper's keeps what the registry knows of it."""
    released = {source.id: source for source in registry()}.get(config.id)
    if released is not None and config.converter == released.converter:
        kept = _listed(released, config.max_rows)
        return replace(kept, path=config.path, stages=tuple(config.stages), instruction=config.instruction)
    codes = tuple(str(config.options[name]) for name in _LANGUAGE_OPTIONS if name in config.options)
    return ListedSource(
        id=config.id,
        name=config.id,
        category=OWN,
        task_type=config.task_type,
        codes=codes,
        language_count=len(codes),
        rows=_converted_rows(config.id, build),
        units=1,
        cap=config.max_rows,
        stages=tuple(config.stages),
        symmetric=config.symmetric,
        instruction=config.instruction,
        converter=config.converter,
        options=config.options,
        path=config.path,
        license=config.license or UNKNOWN_LICENSE,
        evaluation_overlap=(),
        released=None,
    )


def _converted(name: str, build: Path | None) -> Path | None:
    """The directory of converted rows of a source; its drops.json is written last."""
    directory = None if build is None else build / "convert" / name
    return directory if directory is not None and (directory / "drops.json").exists() else None


def _converted_rows(name: str, build: Path | None) -> int | None:
    directory = _converted(name, build)
    return None if directory is None else count_examples(directory)


def sums(sources: Sequence[ListedSource]) -> Totals:
    """Sums over those sources whose rows are known; the paper's have one cap."""
    released = [source.released for source in sources if source.released is not None]
    cap = next((source.cap for source in sources if source.released is not None), CAP)
    own = [source for source in sources if source.released is None]
    paper = totals(released, cap)
    return Totals(
        rows=paper.rows + sum(source.rows or 0 for source in own),
        units=paper.units + len(own),
        rows_after_cap=paper.rows_after_cap + sum(source.rows_after_cap or 0 for source in own),
        rows_after_cap_is_bound=paper.rows_after_cap_is_bound,
    )


def sources_json(sources: Sequence[ListedSource]) -> dict[str, Any]:
    """`sources`, the sums `rows`, `units`, `rows_after_cap`, `rows_after_cap_is_bound`; `unknown`: not converted."""
    return {
        "sources": [_object(source) for source in sources],
        **vars(sums(sources)),
        "unknown": [source.id for source in sources if source.rows is None],
    }


def _object(source: ListedSource) -> dict[str, Any]:
    known = source.released
    shown = {name: value for name, value in vars(source).items() if name != "released"}
    return shown | {
        "rows_after_cap": source.rows_after_cap,
        "rows_after_cap_is_bound": source.rows_after_cap_is_bound,
        "files": None if known is None else list(known.released_names),
        "upstream": None if known is None else known.upstream,
        "license_from": None if known is None else known.license_from,
        "evaluated_on_train": [] if known is None else list(known.evaluated_on_train),
        "holds_test_texts": source.holds_test_texts,
    }


def print_sources(console: Console, sources: Sequence[ListedSource]) -> None:
    """Print the table; a terminal that is narrower than it wraps its lines."""
    out = Console(file=console.file, width=max(console.width, _WIDTH), highlight=False)
    out.print(sources_table(sources))


def sources_table(sources: Sequence[ListedSource]) -> Table:
    """One line a source and the sums; own sources show their path and converter as well."""
    own = any(source.released is None for source in sources)
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True, caption=_notes(sources), caption_justify="left"
    )
    total = sums(sources)
    table.add_column("source", f"{len(sources)} sources", no_wrap=True)
    table.add_column("category", no_wrap=True)
    table.add_column("format", no_wrap=True)
    table.add_column("languages", justify="right", no_wrap=True)
    table.add_column("rows", f"{total.rows:,}", justify="right", no_wrap=True)
    table.add_column("units", f"{total.units:,}", justify="right", no_wrap=True)
    after = _bounded(total.rows_after_cap, total.rows_after_cap_is_bound)
    table.add_column("after the cap", after, justify="right", no_wrap=True)
    table.add_column("licence", overflow="fold", min_width=9, max_width=_LICENCE_WIDTH)
    table.add_column("MTEB", justify="right", no_wrap=True)
    for name in ("converter", "path") if own else ():
        table.add_column(name, overflow="fold")
    for source in sources:
        table.add_row(*map(escape, _cells(source)), *map(escape, _own_cells(source) if own else ()))
    return table


def _cells(source: ListedSource) -> list[str]:
    rows, after = source.rows, source.rows_after_cap
    languages = " ".join(source.codes) if len(source.codes) in (1, 2) else str(source.language_count or "")
    return [
        source.id,
        source.category,
        source.task_type,
        languages,
        "" if rows is None else f"{rows:,}",
        str(source.units),
        "" if after is None else _bounded(after, source.rows_after_cap_is_bound),
        source.license,
        f"{len(source.evaluation_overlap) or ''}{'!' if source.holds_test_texts else ''}",
    ]


def _own_cells(source: ListedSource) -> tuple[str, str]:
    return source.converter, source.path or ""


def _bounded(rows: int, bound: bool) -> str:
    return f"≤ {rows:,}" if bound else f"{rows:,}"


def _notes(sources: Sequence[ListedSource]) -> str:
    """What the columns mean, as far as it is asked for."""
    notes = []
    caps = [source.cap for source in sources if source.released is not None]
    if caps:
        notes.append("no cap" if caps[0] is None else f"the cap: {caps[0]:,} rows of a unit")
        notes.append("MTEB: how many of its tasks come from the same data set (!: test texts are among the rows)")
    if any(source.rows_after_cap_is_bound for source in sources):
        notes.append("≤: at most, for the rows of a unit are not published")
    unknown = sum(source.rows is None for source in sources)
    if unknown:
        notes.append(f"{unknown} not yet converted")
    return "\n".join(notes)


@cache
def published_languages() -> dict[str, int]:
    """Rows of the paper's data by the tag of the language, the 66 that are published."""
    text = (resources.files(__package__) / "language_rows.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {language(row["code"]).tag: int(row["rows"]) for row in rows}


def converted_languages(sources: Iterable[ListedSource], build: Path) -> dict[str, int]:
    """Rows by the language of their query, of those sources that a build has converted."""
    found: Counter[str] = Counter()
    for source in sources:
        directory = _converted(source.id, build)
        if directory is not None:
            found.update(count_languages(directory))
    return dict(found)


def sources_png(sources: Sequence[ListedSource], languages: Mapping[str, int] | None = None) -> bytes:
    """The picture on white, 150 dots per inch: rows by category (of own sources, by source) and by language.

    `languages`: rows by tag; where it is not given, the published ones if `sources` are all of the paper's, or none.
    """
    if languages is None:
        whole = {source.id for source in sources} == {source.id for source in registry()}
        languages = published_languages() if whole else {}
    buffer = io.BytesIO()
    with optional("matplotlib", "report").rc_context(STYLE):
        _draw(sources, languages).savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _draw(sources: Sequence[ListedSource], languages: Mapping[str, int]) -> Any:
    rows = _by_category(sources)
    natural = {tag: count for tag, count in languages.items() if not is_programming(tag)}
    programming = {tag: count for tag, count in languages.items() if is_programming(tag)}
    panels = [(name, part) for name, part in (("natural", natural), ("programming", programming)) if part]
    longest = max([len(rows), *(min(len(part), _MOST_LANGUAGES) for _, part in panels)])
    size = (5.4 + 3.6 * len(panels), max(2.2, 1.1 + 0.185 * longest))
    figure = optional("matplotlib.figure", "report").Figure(figsize=size, layout="constrained")
    ratios = [5.4, *[3.6] * len(panels)]
    axes = figure.subplots(1, 1 + len(panels), width_ratios=ratios, squeeze=False)[0]
    _draw_categories(axes[0], rows, sources)
    for place, (name, part) in zip(axes[1:], panels, strict=True):
        _draw_languages(place, f"rows by {name} language", part, COLOURS[4 if name == "natural" else 6])
    return figure


def _by_category(sources: Sequence[ListedSource]) -> dict[str, Counter[TaskType]]:
    """Rows of each format by category, or by the id of an own source; the most first."""
    found: dict[str, Counter[TaskType]] = {}
    for source in sources:
        name = source.id if source.category == OWN else source.category
        found.setdefault(name, Counter())[source.task_type] += source.rows or 0
    return dict(sorted(found.items(), key=lambda item: -item[1].total()))


def _draw_categories(axes: Any, rows: Mapping[str, Counter[TaskType]], sources: Sequence[ListedSource]) -> None:
    """Stacked bars with their rows behind them."""
    names, total = list(rows), max(sum(found.total() for found in rows.values()), 1)
    ends = [0] * len(names)
    for kind, colour in zip(TASK_TYPES, COLOURS, strict=False):
        widths = [rows[name][kind] for name in names]
        if any(source.task_type == kind for source in sources):
            axes.barh(range(len(names)), widths, left=ends, color=colour, height=0.7, label=kind)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for place, end in enumerate(ends):
        text = f"{end:,}  {end / total:.1%}" if end else "no rows yet"
        axes.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set_yticks(range(len(names)), names)
    axes.set(title=f"rows by task: {total:,} in {len(sources)} sources", xlim=(0, 1.32 * max([*ends, 1])))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(_short_numbers())
    axes.legend(loc="lower right")


def _draw_languages(axes: Any, title: str, languages: Mapping[str, int], colour: str) -> None:
    """Dots on a logarithmic scale, for the largest language has a hundred times the rows of the fiftieth."""
    order = sorted(languages, key=lambda tag: (-languages[tag], tag))[:_MOST_LANGUAGES]
    rows = [languages[tag] for tag in order]
    low = min(rows) / 2.5
    axes.hlines(range(len(order)), low, rows, color=MUTED, alpha=0.35, linewidth=0.8)
    axes.plot(rows, range(len(order)), "o", color=colour, markersize=4.5)
    for place, count in enumerate(rows):
        axes.annotate(f"{count:,}", (count, place), (6, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_xscale("log")
    axes.set_yticks(range(len(order)), [language(tag).name for tag in order])
    axes.set(title=_headed(title, len(order), len(languages)), xlabel="logarithmic", xlim=(low, max(rows) * 9))
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(_short_numbers())
    axes.minorticks_off()


def _headed(title: str, shown: int, there_are: int) -> str:
    return f"{title}: the {shown} largest" if shown < there_are else title


def _short_numbers() -> Any:
    """1000 -> 1K, 2500000 -> 2.5M."""
    return optional("matplotlib.ticker", "report").EngFormatter(sep="")

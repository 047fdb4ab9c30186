"""What is known of each language: family, rows for training and evaluation by task type, scores of the models.

Of a recipe, all from what its build has finished: `clean/languages.json` counts rows by the language of their query,
`evaluate/MODEL/scores.json` has the mean over a language's tasks. A language appears with what was counted and no more:
without evaluation rows it has no score, which is not the same as a score of 0. Without a recipe: the languages of CLDR
and the rows that the paper has in the largest of them. Cost: milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2llm.core.config import Recipe
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.families import family
from f2llm.core.files import read_json
from f2llm.core.languages import Language, known_languages, language
from f2llm.core.log import print_wide
from f2llm.core.types import TASK_TYPES, TaskType
from f2llm.data.sources_view import published_languages

Order = Literal["rows", "tag", "score"]
NOTHING = "-"


@dataclass(frozen=True)
class LanguageRow:
    """A language and what there is in it: rows by task type, scores by model; what has none is absent.

    `paper`, only where no build is looked at: rows of the paper's data, as far as published; the paper counts by
    language, so they stand at its usual script.
    """

    language: Language
    family: str
    train: Mapping[TaskType, int] = field(default_factory=dict)
    evaluation: Mapping[TaskType, int] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    paper: int | None = None

    @property
    def tag(self) -> str:
        return self.language.tag

    @property
    def train_rows(self) -> int:
        return sum(self.train.values())

    @property
    def evaluation_rows(self) -> int:
        return sum(self.evaluation.values())

    @property
    def rows(self) -> int:
        """Rows for training, of the build or of the paper."""
        return self.train_rows or self.paper or 0


def language_rows(recipe: Recipe | None, out: Path | None, *, scored: bool = True) -> list[LanguageRow]:
    """Every language of a recipe's build in `out`, with the recipe's registry already among its sources.

    `scored=False` leaves the models' scores alone. Without a recipe every language that the package knows. DataError
    where the build has not cleaned its data.
    """
    if recipe is None:
        if out is not None:
            raise ConfigError(f"which recipe was built in {out}? give it too: f2llm languages RECIPE --out {out}")
        paper = published_languages()
        return [LanguageRow(own, family(own.tag), paper=paper.get(own.tag)) for own in known_languages()]
    directory = out / "clean" if out is not None else None
    if directory is None or not finished(directory):
        place = f"in {out}" if out is not None else "yet"
        raise DataError(f"the data of {recipe.name} are not clean {place}; run: f2llm build RECIPE --until clean")
    counts: dict[str, dict[str, list[int]]] = read_json(directory / "languages.json")
    scores = model_scores(directory.parent) if scored else {}
    tags = sorted({*counts, *(tag for by_language in scores.values() for tag in by_language)})
    return [_counted(tag, counts.get(tag, {}), recipe, scores) for tag in tags]


def model_scores(out: Path) -> dict[str, dict[str, float]]:
    """Mean score over its tasks of each language, by model, from the finished evaluations of a build."""
    found = {}
    for directory in sorted((out / "evaluate").glob("*")):
        if finished(directory):
            found[directory.name] = dict(read_json(directory / "scores.json")["by_language"])
    return found


def finished(directory: Path) -> bool:
    """Whether a step's artifact is whole."""
    from f2llm.pipeline.runner import MANIFEST  # brings torch, which a list of languages need not wait for

    return (directory / MANIFEST).exists()


def _counted(
    tag: str, by_source: Mapping[str, Sequence[int]], recipe: Recipe, scores: Mapping[str, Mapping[str, float]]
) -> LanguageRow:
    kinds = {source.id: source.task_type for source in recipe.sources}
    sides: tuple[dict[TaskType, int], dict[TaskType, int]] = ({}, {})
    for source, rows in by_source.items():
        if source not in kinds:
            raise DataError(f"the build has rows of {source!r}, which the recipe has not; run f2llm build RECIPE again")
        for side, count in zip(sides, rows, strict=True):
            if count:
                side[kinds[source]] = side.get(kinds[source], 0) + count
    own = {model: by_language[tag] for model, by_language in scores.items() if tag in by_language}
    return LanguageRow(language(tag), family(tag), train=sides[0], evaluation=sides[1], scores=own)


def select_languages(
    rows: Sequence[LanguageRow],
    *,
    sort: str = "rows",
    model: str | None = None,
    family: str | None = None,
    script: str | None = None,
) -> list[LanguageRow]:
    """Rows of one family and script, the largest, the first or the best first; languages without a score come last.

    `sort` "score" goes by `model`, or by the mean over all models. ConfigError for what no row has.
    """
    if sort not in get_args(Order):
        raise ConfigError(f"--sort {sort}: write one of {', '.join(get_args(Order))}")
    kept = _of(rows, "family", family, lambda row: row.family)
    kept = _of(kept, "script", script, lambda row: row.language.script)
    keys: dict[str, Callable[[LanguageRow], Any]] = {
        "rows": lambda row: (-row.rows, row.tag),
        "tag": lambda row: row.tag,
        "score": lambda row: (-_score(row, model), -row.rows, row.tag),
    }
    return sorted(kept, key=keys[sort])


def _of(
    rows: Sequence[LanguageRow], name: str, wanted: str | None, value: Callable[[LanguageRow], str]
) -> list[LanguageRow]:
    if wanted is None:
        return list(rows)
    kept = [row for row in rows if value(row).lower() == wanted.lower()]
    if not kept:
        known = sorted({value(row) for row in rows} - {""})
        near = get_close_matches(wanted.title(), known, n=3) or known[:8]
        raise ConfigError(f"--{name} {wanted}: no language here has it; there are {', '.join(near)}")
    return kept


def _score(row: LanguageRow, model: str | None) -> float:
    scores = [score for name, score in row.scores.items() if model in (None, name)]
    return sum(scores) / len(scores) if scores else -2.0  # below any score


def languages_json(rows: Sequence[LanguageRow]) -> dict[str, Any]:
    """The rows as plain values; a task type, a model or a number of the paper that a language has not is absent."""
    return {"totals": _totals(rows), "languages": [_row_json(row) for row in rows]}


def _row_json(row: LanguageRow) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "tag": row.tag,
        "name": row.language.name,
        "iso639_3": row.language.iso639_3,
        "script": row.language.script,
        "family": row.family,
        "train": dict(row.train),
        "evaluation": dict(row.evaluation),
        "scores": dict(row.scores),
    }
    return entry | ({} if row.paper is None else {"paper_rows": row.paper})


def _totals(rows: Sequence[LanguageRow]) -> dict[str, int]:
    return {
        "languages": len(rows),
        "families": len({row.family for row in rows}),
        "scripts": len({row.language.script for row in rows} - {""}),
        "train_rows": sum(row.train_rows for row in rows),
        "evaluation_rows": sum(row.evaluation_rows for row in rows),
    }


def print_languages(console: Console, rows: Sequence[LanguageRow], models: Sequence[str] | None = None) -> None:
    """Print the table and its sums; `models` says whose scores are shown (default: all that there are).

    The table is as wide as it needs; a narrower terminal wraps its lines.
    """
    scored = sorted({name for row in rows for name in row.scores})
    shown = scored if models is None else [name for name in models if name in scored]
    kinds = [kind for kind in TASK_TYPES if any(kind in row.train or kind in row.evaluation for row in rows)]
    paper = any(row.paper is not None for row in rows)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("tag", "name", "family"):
        table.add_column(column)
    columns = [f"{side}\n{kind}" for side in ("train", "eval") for kind in kinds]
    for column in [*columns, *(["rows of\nthe paper"] if paper else []), *(f"score\n{name}" for name in shown)]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(escape, _cells(row, kinds, paper, shown)))
    print_wide(console, table)
    console.print(_summary(rows), highlight=False)


def _cells(row: LanguageRow, kinds: Sequence[TaskType], paper: bool, models: Sequence[str]) -> list[str]:
    counts = [side.get(kind) for side in (row.train, row.evaluation) for kind in kinds]
    counts += [row.paper] if paper else []
    scores = [f"{row.scores[name]:.3f}" if name in row.scores else NOTHING for name in models]
    numbers = [NOTHING if count is None else f"{count:,}" for count in counts]
    return [row.tag, row.language.name, row.family, *numbers, *scores]


def _summary(rows: Sequence[LanguageRow]) -> str:
    sums = _totals(rows)
    text = ", ".join(f"{name} {sums[name]:,}" for name in ("languages", "families", "scripts"))
    if not sums["train_rows"]:
        return text
    without = sum(not row.evaluation_rows for row in rows)
    held_out = f"{sums['evaluation_rows']:,} for evaluation"
    return f"{text}; rows: {sums['train_rows']:,} for training, {held_out} ({without:,} languages have none)"

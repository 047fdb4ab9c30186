"""What a grid found, in numbers: mean and spread over seeds, difference to the base; as JSON, CSV, Markdown, a table.

The spread is the sample standard deviation. A difference is paired by seed, over the seeds that both variants
finished, and its interval is Student's t (f2llm.eval.significance): with three seeds it is wide, and rightly so. The
intervals are of single comparisons; of twenty variants that change nothing, one is expected to look clear.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2llm.core.files import atomic_path, write_json, write_text
from f2llm.core.log import print_wide
from f2llm.eval.significance import paired_t
from f2llm.pipeline.data_card_text import markdown_table
from f2llm.pipeline.grid import Grid, Run
from f2llm.pipeline.grid_chart import grid_png

MACRO = "macro"
_HEADS = ("variant", "model", "seeds", "macro", "to the base", "95% interval")


@dataclass(frozen=True)
class Row:
    """One score of one model in one variant: by seed, and to the base as (mean, low, high) of `pairs` seeds."""

    variant: str
    model: str
    score: str
    by_seed: Mapping[int, float]
    difference: float | None
    low: float | None
    high: float | None
    pairs: int

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.by_seed.values()) if self.by_seed else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for fewer than two seeds."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


def rows_of(grid: Grid) -> list[Row]:
    """Of every variant and model: its macro score, each task's, and the macro score at each smaller dimension."""
    found = []
    for variant in grid.variants:
        for model in grid.models:
            own, base = (_scores(grid.of(name), model) for name in (variant.name, grid.base.name))
            found += [_row(variant.name, model, score, own, base, grid) for score in _names(grid, model)]
    return found


def _scores(runs: Mapping[int, Run], model: str) -> dict[int, dict[str, float]]:
    """Score by name, of each seed that was finished."""
    return {seed: _flat(run.scores[model]) for seed, run in runs.items() if run.failed is None}


def _flat(scores: Mapping[str, Any]) -> dict[str, float]:
    tasks = {name: task["score"] for name, task in scores["tasks"].items()}
    smaller = list(scores["by_dim"].items())[:-1]  # the last one is the full width
    return {MACRO: scores["macro"], **tasks, **{f"{MACRO} at {dim} dims": score for dim, score in smaller}}


def _names(grid: Grid, model: str) -> list[str]:
    """All scores that a model has in any variant, in the order of the first."""
    every = [_flat(run.scores[model]) for run in grid.runs if run.failed is None]
    return list(dict.fromkeys(name for scores in every for name in scores)) or [MACRO]


def _row(
    variant: str, model: str, score: str, own: Mapping[int, Mapping[str, float]],
    base: Mapping[int, Mapping[str, float]], grid: Grid,
) -> Row:  # fmt: skip
    by_seed = {seed: scores[score] for seed, scores in own.items() if score in scores}
    pairs = [(value, base[seed][score]) for seed, value in by_seed.items() if score in base.get(seed, {})]
    if variant == grid.base.name or not pairs:
        return Row(variant, model, score, by_seed, None, None, None, 0)
    ours, theirs = zip(*pairs, strict=True)
    difference, low, high = paired_t(ours, theirs) or (ours[0] - theirs[0], None, None)
    return Row(variant, model, score, by_seed, difference, low, high, len(pairs))


def content(grid: Grid) -> dict[str, Any]:
    """grid.json: the same grid gives the same object, for it holds neither times nor paths of artifacts."""
    rows = rows_of(grid)
    return {
        "recipe": grid.recipe,
        "base": grid.base.name,
        "seeds": list(grid.seeds),
        "models": list(grid.models),
        "variants": [
            {
                "name": variant.name,
                "directory": variant.directory,
                "changes": dict(variant.changes),
                "failed": {str(run.seed): run.failed for run in grid.of(variant.name).values() if run.failed},
                "scores": [_entry(row) for row in rows if row.variant == variant.name],
            }
            for variant in grid.variants
        ],
    }


def _entry(row: Row) -> dict[str, Any]:
    compared = {"mean": row.difference, "low": row.low, "high": row.high, "pairs": row.pairs}
    return {
        "model": row.model,
        "score": row.score,
        "mean": row.mean,
        "sd": row.deviation,
        "by_seed": {str(seed): value for seed, value in row.by_seed.items()},
        "difference": None if row.difference is None else compared,
    }


def write_grid(grid: Grid) -> None:
    """grid.json, grid.csv, grid.md and grid.png into the grid's directory."""
    rows = rows_of(grid)
    write_json(grid.out / "grid.json", content(grid))
    write_text(grid.out / "grid.csv", csv_text(grid, rows))
    write_text(grid.out / "grid.md", markdown(grid, rows))
    panels = {
        model: {row.variant: row.by_seed for row in rows if row.model == model and row.score == MACRO}
        for model in grid.models
    }
    if any(scores for panel in panels.values() for scores in panel.values()):
        with atomic_path(grid.out / "grid.png") as temporary:
            temporary.write_bytes(grid_png(panels))


def csv_text(grid: Grid, rows: Sequence[Row]) -> str:
    """A line for each row, with a column for each seed; an empty field where a run failed."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = ["mean", "sd", "difference", "low", "high", "pairs"]
    writer.writerow(["variant", "model", "score", *heads, *(f"seed {seed}" for seed in grid.seeds)])
    for row in rows:
        numbers = [row.mean, row.deviation, row.difference, row.low, row.high, row.pairs]
        writer.writerow([row.variant, row.model, row.score, *numbers, *map(row.by_seed.get, grid.seeds)])
    return buffer.getvalue()


def markdown(grid: Grid, rows: Sequence[Row]) -> str:
    """The table of macro scores, what each variant changes, and which runs failed."""
    seeds = ", ".join(map(str, grid.seeds))
    parts = [f"# Grid of {grid.recipe}", f"Mean ± standard deviation of the macro score; seeds {seeds}."]
    parts.append(markdown_table(_HEADS, [_cells(row, grid) for row in rows if row.score == MACRO]))
    if len(grid.seeds) > 1:
        parts.append("Differences are paired by seed, with Student's t interval, each for itself alone.")
    parts.append("\n".join(_about(grid)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(grid: Grid) -> list[str]:
    """What each variant changes, and why runs failed."""
    lines = [
        f"- {variant.name}: " + ", ".join(f"`{key} = {value!r}`" for key, value in variant.changes.items())
        for variant in grid.variants
        if variant.changes
    ]
    return lines + [f"- failed: {run.variant}, seed {run.seed}: {run.failed}" for run in grid.failed]


def _cells(row: Row, grid: Grid) -> list[str]:
    count = f"{len(row.by_seed)} of {len(grid.seeds)}" if len(row.by_seed) < len(grid.seeds) else str(len(row.by_seed))
    if row.mean is None:
        return [row.variant, row.model, count, "failed", "-", "-"]
    spread = "-" if row.deviation is None else f"{row.deviation:.3f}"
    difference = "-" if row.difference is None else f"{row.difference:+.3f}"
    interval = "-" if row.low is None or row.high is None else f"{row.low:+.3f} to {row.high:+.3f}"
    return [row.variant, row.model, count, f"{row.mean:.3f} ± {spread}", difference, interval]


def print_grid(out: Console, grid: Grid) -> None:
    """The table of macro scores, and where all of it lies."""
    table = Table(box=None, padding=(0, 1))
    for number, head in enumerate(_HEADS):
        table.add_column(head, justify="left" if number < 2 else "right", no_wrap=number > 1)
    for row in rows_of(grid):
        if row.score == MACRO:
            table.add_row(*map(escape, _cells(row, grid)))
    print_wide(out, table)
    for run in grid.failed:
        out.print(f"failed: {escape(run.variant)}, seed {run.seed}: {escape(str(run.failed))}")
    steps = grid.steps
    up_to_date = len(steps.skipped) - len(steps.shared)
    out.print(
        f"\n{len(grid.runs)} runs: {len(steps.ran)} steps ran, {len(steps.shared)} were shared, "
        f"{up_to_date} were up to date, {steps.seconds:.0f} s"
    )
    out.print(f"results: {grid.out / 'grid.md'}, and grid.csv, grid.json, grid.png beside it")

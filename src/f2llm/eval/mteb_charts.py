"""The pictures of the report on benchmarks, each a matplotlib figure made from plain numbers (see charts.py).

Scores are shown times 100, as MTEB does. Cost: about half a second a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from f2llm.core.extras import optional
from f2llm.core.pictures import INK, MUTED
from f2llm.eval.charts import figure, label_at, short, spread, styled
from f2llm.eval.significance import PairedTest

LINES = {"float": "-", "int8": (0, (5, 2)), "uint8": (0, (5, 2)), "binary": (0, (1, 1.6)), "ubinary": (0, (1, 1.6))}

_TICKS = ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), [n / 2 for n in range(2, 20)], [n / 10 for n in range(10, 100)])


@dataclass(frozen=True)
class Dot:
    """A model in a scatter picture; `ours` is filled and named, others are small and grey."""

    name: str
    x: float
    score: float
    colour: str = MUTED
    ours: bool = True


@dataclass(frozen=True)
class Pair:
    """Student and teacher on one task or one task type."""

    name: str
    student: float
    teacher: float


@styled
def heat(scripts: Sequence[str], types: Sequence[str], scores: Sequence[Sequence[float | None]]) -> Any:
    """Script x task type, the score written into each cell; the colour is the distance from the type's mean."""
    values = np.array([[np.nan if v is None else 100 * v for v in row] for row in scores], dtype=float)
    away = values - np.nanmean(values, axis=0, keepdims=True)
    reach = max(5.0, float(np.nanmax(np.abs(away))))
    drawn, ((axes,),) = figure(2.6 + 1.02 * len(types), 1.35 + 0.27 * len(scripts))
    shown = axes.imshow(np.ma.masked_invalid(away), aspect="auto", cmap=_diverging(), vmin=-reach, vmax=reach)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = abs(away[row, column]) > 0.55 * reach
            axes.text(
                column, row, f"{value:.1f}", ha="center", va="center", fontsize=8,
                color="white" if dark else "#222222",
            )  # fmt: skip
    axes.set_yticks(range(len(scripts)), scripts)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(types)), [_broken(name) for name in types])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    bar = drawn.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.6, aspect=34, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("above or below the task type's mean over scripts")
    return drawn


def _diverging() -> Any:
    maker = optional("matplotlib.colors", "report").LinearSegmentedColormap
    made = maker.from_list("house", ["#9c2f22", "#dd8a6a", "#f4efe6", "#7fb0dc", "#1d5594"])
    return made.with_extremes(bad="none")


def _broken(name: str) -> str:
    """`PairClassification` on two lines."""
    cut = next((i for i in range(2, len(name)) if name[i].isupper() and name[i - 1].islower()), 0)
    return f"{name[:cut]}\n{name[cut:]}" if cut else name


def _wrapped(title: str, room: int) -> str:
    """A title that names two models, on two lines where it is longer than its panel is wide."""
    return title if len(title) <= room else "\n".join(title.split(" ", 1))


@styled
def sizes(dots: Sequence[Dot], where: str) -> Any:
    """Score against parameters, on a logarithmic scale; ours named, published models grey and named where it fits."""
    drawn, ((axes,),) = figure(8.4, 4.8)
    _scatter(axes, dots)
    axes.set(xlabel="parameters", ylabel=f"mean score, {where}")
    _count_ticks(axes)
    return drawn


@styled
def pareto(speed: Sequence[Dot], memory: Sequence[Dot], where: str) -> Any:
    """Score against tokens/s and against memory; the line joins the models that no other beats in both."""
    panels = [(dots, label, better) for dots, label, better in (
        (speed, "tokens per second", 1), (memory, "memory in MB", -1),
    ) if dots]  # fmt: skip
    drawn, grid = figure(5.2 * len(panels), 4.2, 1, len(panels), sharey=True)
    for axes, (dots, label, better) in zip(grid.flat, panels, strict=True):
        front = pareto_front([(better * dot.x, dot.score) for dot in dots])
        points = sorted((dots[index].x, 100 * dots[index].score) for index in front)
        axes.plot(*zip(*points, strict=True), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        _scatter(axes, dots)
        axes.set_xlabel(f"{label} ({'more' if better > 0 else 'less'} is better)")
        _count_ticks(axes)
    grid[0, 0].set_ylabel(f"mean score, {where}")
    return drawn


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point reaches in both coordinates, more being better in both."""
    return [
        index
        for index, (x, y) in enumerate(points)
        if not any(a >= x and b >= y and (a > x or b > y) for a, b in points)
    ]


def _scatter(axes: Any, dots: Sequence[Dot]) -> None:
    """Dots and their names; a published model whose name finds no free place stays unnamed."""
    scores, xs = [100 * dot.score for dot in dots], [dot.x for dot in dots]
    air = max(0.08 * (max(scores) - min(scores)), 0.5)
    axes.set_ylim(min(scores) - air, max(scores) + air)
    width, height = (float(side) for side in axes.get_figure().get_size_inches() * 72)
    columns = axes.get_subplotspec().get_gridspec().ncols
    wide = 0.88 * width / columns
    names = min(0.45, (max(map(_name_width, dots)) + 10) / wide)  # share of the width that is left to names
    whole = max(float(np.log(max(xs) / min(xs))), 0.15) / (0.94 - names)
    axes.set_xlim(min(xs) * np.exp(-0.06 * whole), max(xs) * np.exp(names * whole))
    axes.set_xscale("log")
    for dot in dots:
        axes.scatter(dot.x, 100 * dot.score, s=64 if dot.ours else 16, color=dot.colour, zorder=3 + dot.ours, lw=0)
    low, high = np.log(axes.get_xlim())
    points = [
        (
            float((np.log(dot.x) - low) / (high - low)) * wide,
            (100 * dot.score - min(scores) + air) / (max(scores) - min(scores) + 2 * air) * 0.85 * height,
        )
        for dot in dots
    ]
    for dot, (dx, dy, side) in name_places(dots, points):
        axes.annotate(
            dot.name, (dot.x, 100 * dot.score), (dx, dy), textcoords="offset points", color=dot.colour, va="center",
            ha=side, fontsize=_font(dot), annotation_clip=False,
        )  # fmt: skip


def _font(dot: Dot) -> float:
    return 9.0 if dot.ours else 7.0


def _name_width(dot: Dot) -> float:
    """Points, estimated from the letters."""
    return 0.58 * _font(dot) * len(dot.name)


def name_places(
    dots: Sequence[Dot], points: Sequence[tuple[float, float]]
) -> list[tuple[Dot, tuple[float, float, str]]]:
    """Where names go that cover neither each other nor a dot: offset in points, and the side of the text at it.

    Ours come first and always have a place. Widths of names are estimated from their letters.
    """
    taken = [(x - 3.0, y - 3.0, x + 3.0, y + 3.0) for x, y in points]
    placed = []
    for index in sorted(range(len(dots)), key=lambda index: (not dots[index].ours, -dots[index].score)):
        dot, (x, y) = dots[index], points[index]
        wide, high, away = _name_width(dot), 1.1 * _font(dot), 7.0 if dot.ours else 4.0
        choices = [(away, 0.0, "left"), (-away, 0.0, "right"), (0.0, high, "center"), (0.0, -high, "center")]
        choices += [
            (step * away, rise * high, side) for step, side in ((1, "left"), (-1, "right")) for rise in (0.8, -0.8)
        ]
        for dx, dy, side in choices:
            left = x + dx - wide * {"left": 0.0, "right": 1.0, "center": 0.5}[side]
            box = (left, y + dy - high / 2, left + wide, y + dy + high / 2)
            others = taken[:index] + taken[index + 1 :]
            if left > 0 and not any(_cover(box, other) for other in others):
                break
        else:
            if not dot.ours:
                continue
            dx, dy, side = choices[0]
            box = (x + dx, y - high / 2, x + dx + wide, y + high / 2)
        taken.append(box)
        placed.append((dot, (dx, dy, side)))
    return placed


def _cover(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _count_ticks(axes: Any) -> None:
    """Three round numbers or more along a logarithmic axis, however short it is."""
    low, high = axes.get_xlim()
    found: list[float] = []
    for steps in _TICKS:
        found = [step * 10.0**power for power in range(13) for step in steps if low <= step * 10.0**power <= high]
        if len(found) >= 3:
            break
    axes.set_xticks(found, [short(tick) for tick in found])
    axes.minorticks_off()


@styled
def dimensions(lines: Mapping[tuple[str, str], Mapping[int, float]], palette: Mapping[str, str], where: str) -> Any:
    """Score against dimensions kept: a colour for each model, a kind of line for each precision."""
    drawn, ((axes,),) = figure(8.0, 4.4)
    ends = [100 * line[max(line)] for line in lines.values()]
    every = [100 * score for line in lines.values() for score in line.values()]
    air = max(0.05 * (max(every) - min(every)), 0.5)
    widest = max(max(line) for line in lines.values())
    places = spread(ends, (max(every) - min(every) + 2 * air) * 0.05)
    axes.set_ylim(min(*every, *places) - air, max(*every, *places) + air)  # names beside the axes, not below them
    for ((model, precision), line), place in zip(lines.items(), places, strict=True):
        colour, name = palette[model], model if precision == "float" else f"{model}, {precision}"
        xs, ys = list(line), [100 * score for score in line.values()]
        axes.plot(xs, ys, marker="o", markersize=4, color=colour, linestyle=LINES.get(precision, "-"))
        label_at(axes, name, (max(line), 100 * line[max(line)]), (widest * 1.13, place), colour)
    axes.set_xscale("log", base=2)
    ticks = sorted({dim for line in lines.values() for dim in line})
    axes.set_xticks(ticks, [str(tick) for tick in ticks], rotation=45 if len(ticks) > 9 else 0)
    axes.minorticks_off()
    axes.set(xlabel="dimensions kept", ylabel=f"mean score, {where}")
    return drawn


@styled
def students(panels: Mapping[str, Sequence[Pair]]) -> Any:
    """One panel a student: its score and its teacher's on every task, the largest loss first."""
    length = max(len(pairs) for pairs in panels.values())
    drawn, grid = figure(4.5 * len(panels) + 0.3, 0.21 * length + 1.4, 1, len(panels), sharex=True)
    for axes, (title, pairs) in zip(grid.flat, panels.items(), strict=True):
        ordered = sorted(pairs, key=lambda pair: pair.student - pair.teacher)
        heights = np.arange(len(ordered))
        student, teacher = ([100 * getattr(pair, side) for pair in ordered] for side in ("student", "teacher"))
        axes.hlines(heights, student, teacher, color=MUTED, alpha=0.45, linewidth=1.3)
        axes.scatter(teacher, heights, s=24, facecolor="none", edgecolor=INK, linewidth=1.1, label="teacher", zorder=3)
        axes.scatter(student, heights, s=24, color="#3f7fdc", linewidth=0, label="student", zorder=4)
        axes.set_yticks(heights, [pair.name for pair in ordered])
        axes.set(title=_wrapped(title, 56), ylim=(len(ordered) - 0.4, -0.6), xlabel="score")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
    drawn.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return drawn


@styled
def significance(columns: Mapping[str, Sequence[PairedTest]]) -> Any:
    """A forest: one column a pair of models, one row a task, mean difference and 95% interval, clear ones in colour."""
    names = list(dict.fromkeys(test.task or "mean of tasks" for tests in columns.values() for test in tests))
    drawn, grid = figure(2.4 + 3.1 * len(columns), 0.23 * len(names) + 1.2, 1, len(columns), sharex=True, sharey=True)
    for axes, (title, tests) in zip(grid.flat, columns.items(), strict=True):
        for test in tests:
            row, overall = names.index(test.task or "mean of tasks"), test.task is None
            colour = MUTED if not test.clear else "#1f66c1" if test.difference > 0 else "#c0473a"
            low, high, mean = (100 * value for value in (test.low, test.high, test.difference))
            axes.plot([low, high], [row, row], color=colour, linewidth=3.2 if overall else 1.6, solid_capstyle="butt")
            axes.scatter(mean, row, s=44 if overall else 18, color=colour, linewidth=0, zorder=3)
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set(title=_wrapped(title, 38), xlabel="difference in score")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
    grid[0, 0].set_yticks(range(len(names)), names)
    grid[0, 0].set_ylim(len(names) - 0.4, -0.6)
    return drawn

"""The pictures of the report, each a matplotlib figure made from plain numbers.

`svg` gives a picture whose text takes the colour and the font of the page around it, so one drawing serves light and
dark; `png` gives the same on white. Cost: about half a second a picture. Non-Latin letters are not needed: languages
appear by their English names.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import numpy as np

from f2llm.core.extras import optional
from f2llm.core.pictures import COLOURS, INK, MUTED, STYLE

_STYLE = STYLE | {"figure.facecolor": "none", "axes.facecolor": "none"}
P = ParamSpec("P")


@dataclass(frozen=True)
class Point:
    """A model in the picture of quality against size."""

    name: str
    parameters: int
    score: float
    colour: str
    role: str


@dataclass(frozen=True)
class Group:
    """A script: its languages' scores by the reference model and by the baseline, and the mean of every model."""

    name: str
    reference: Sequence[float]
    baseline: float
    means: Sequence[float]


@dataclass(frozen=True)
class Dumbbell:
    """A language: scores of the baseline, the smallest and the reference model."""

    name: str
    baseline: float
    small: float
    reference: float


@dataclass(frozen=True)
class Difference:
    """A comparison: title, difference per language, mean and its 95% interval."""

    title: str
    values: Sequence[float]
    mean: float
    low: float
    high: float


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in order; repeated after ten."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def styled(draw: Callable[P, Any]) -> Callable[P, Any]:
    """Run a drawing function in the house style; the settings of the process stay as they were."""

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Any:
        with optional("matplotlib", "report").rc_context(_STYLE):
            return draw(*args, **kwargs)

    return in_style


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure (inches) and its array of axes [rows, columns]."""
    made = optional("matplotlib.figure", "report").Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(rows, columns, squeeze=False, **options)


def png(drawn: Any) -> bytes:
    """The picture on white, 150 dots per inch."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def svg(drawn: Any, name: str) -> str:
    """The picture as an SVG element for a page; `name` keeps its inner ids apart from those of other pictures."""
    buffer = io.StringIO()
    with optional("matplotlib", "report").rc_context(_STYLE | {"svg.hashsalt": name}):
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing refers to groups, and their ids are the same in every picture
    return re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", text)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Positions near `values` that are at least `gap` apart, for labels that must not cover each other."""
    order = np.argsort(values, kind="stable")
    blocks: list[tuple[float, list[int]]] = []  # centre of a run of labels, and which labels it holds
    for index in order:
        blocks.append((float(values[index]), [int(index)]))
        while len(blocks) > 1 and _overlap(blocks[-2], blocks[-1], gap):
            (_, upper), (_, lower) = blocks.pop(), blocks.pop()
            members = lower + upper
            blocks.append((float(np.mean([values[member] for member in members])), members))
    places = [0.0] * len(values)
    for centre, members in blocks:
        for rank, member in enumerate(members):
            places[member] = centre + (rank - (len(members) - 1) / 2) * gap
    return places


def _overlap(below: tuple[float, list[int]], above: tuple[float, list[int]], gap: float) -> bool:
    return above[0] - below[0] < gap * (len(below[1]) + len(above[1])) / 2


@styled
def dimensions(lines: Mapping[str, Mapping[int, float]], palette: Mapping[str, str], baseline: float) -> Any:
    """Score against the number of dimensions kept, one line a model, the baseline dashed."""
    drawn, ((axes,),) = figure(7.6, 4.2)
    widest = max(max(line) for line in lines.values())
    low, high = _limits([*(score for line in lines.values() for score in line.values()), baseline])
    ends = [line[max(line)] for line in lines.values()]
    for (name, line), place in zip(lines.items(), spread(ends, (high - low) * 0.05), strict=True):
        axes.plot(list(line), list(line.values()), marker="o", markersize=4, color=palette[name])
        label_at(axes, name, (max(line), line[max(line)]), (widest * 1.13, place), palette[name])
    axes.axhline(baseline, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
    axes.annotate(
        "TF-IDF", (0.01, baseline), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color=MUTED
    )
    axes.set_xscale("log", base=2)
    ticks = sorted({dim for line in lines.values() for dim in line})
    axes.set_xticks(ticks, [str(dim) for dim in ticks])
    axes.minorticks_off()
    axes.set(xlabel="dimensions kept", ylabel="score, mean over languages", ylim=(low, high))
    return drawn


def label_at(axes: Any, text: str, point: tuple[float, float], place: tuple[float, float], colour: str) -> None:
    """A label right of the data at `place`, tied to `point` by a thin line."""
    axes.annotate(
        text, point, place, color=colour, va="center", ha="left", annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.45, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 2},
    )  # fmt: skip


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Axis limits for scores: a little air on both sides, inside 0..1."""
    low, high = min(values), max(values)
    air = max(0.08 * (high - low), 0.01)
    return max(0.0, low - air), min(1.0, high + air) if high <= 1 - air else high + air


@styled
def sizes(points: Sequence[Point], baseline: float) -> Any:
    """Score against parameters: the family filled, ablations and intermediate models hollow."""
    drawn, ((axes,),) = figure(7.6, 4.2)
    low, high = _limits([*(point.score for point in points), baseline])
    marks = {"family": "o", "ablation": "D", "intermediate": "s"}
    places = _label_places(points, (high - low) * 0.052)
    for point, place in zip(points, places, strict=True):
        filled = point.role == "family"
        axes.scatter(
            point.parameters, point.score, s=62 if filled else 30, marker=marks.get(point.role, "o"), zorder=3,
            facecolor=point.colour if filled else "none", edgecolor=point.colour, linewidth=1.3,
        )  # fmt: skip
        label_at(axes, point.name, (point.parameters, point.score), (point.parameters * 1.09, place), point.colour)
    axes.axhline(baseline, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
    axes.annotate(
        "TF-IDF", (0.01, baseline), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color=MUTED
    )
    axes.set_xscale("log")
    smallest, largest = min(p.parameters for p in points), max(p.parameters for p in points)
    axes.set(ylabel="score, mean over languages", xlabel="parameters", ylim=(low, high))
    axes.set_xlim(smallest / 1.25, largest * max(1.6, (largest / smallest) ** 0.3))
    ticks = sorted({point.parameters for point in points})
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    axes.minorticks_off()
    return drawn


def _label_places(points: Sequence[Point], gap: float) -> list[float]:
    """Label heights: models of about the same size share a column of labels."""
    places = [0.0] * len(points)
    order = sorted(range(len(points)), key=lambda index: points[index].parameters)
    column: list[int] = []
    for index in [*order, None]:
        if column and (index is None or points[index].parameters > 1.8 * points[column[0]].parameters):
            for member, place in zip(column, spread([points[m].score for m in column], gap), strict=True):
                places[member] = place
            column = []
        if index is not None:
            column.append(index)
    return places


def short(count: float) -> str:
    """A count in three digits: 1,250,000 -> 1.25M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


@styled
def curves(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], palette: Mapping[str, str]) -> Any:
    """Loss against step: one panel a training run, one line a source, in the sources' colours."""
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    rows = -(-len(panels) // columns)
    drawn, grid = figure(3.5 * columns + 0.6, 2.3 * rows + 0.5, rows, columns)
    for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(title)
        for source, points in lines.items():
            axes.plot(*zip(*points, strict=True), color=palette[source], linewidth=1.5)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.02)
    for number, axes in enumerate(grid.flat):
        axes.set(xlabel="step" if number + columns >= len(panels) else "", ylabel="" if number % columns else "loss")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    lines_of = optional("matplotlib.lines", "report").Line2D
    handles = [lines_of([], [], color=colour, label=source) for source, colour in palette.items()]
    drawn.legend(handles=handles, loc="outside upper left", ncols=4)
    return drawn


@styled
def progress(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], palette: Mapping[str, str]) -> Any:
    """Score against step while models train: one panel a stage, one line a model."""
    drawn, grid = figure(3.8 * len(panels) + 2.2, 3.2, 1, len(panels), sharey=True)
    for axes, (title, lines) in zip(grid.flat, panels.items(), strict=True):
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), color=palette[name], linewidth=1.5, marker="o", markersize=2.5)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.margins(x=0.02)
    grid[0, 0].set(ylabel="nDCG@10, mean over languages", ylim=(0, None))
    lines_of = optional("matplotlib.lines", "report").Line2D
    handles = [lines_of([], [], color=colour, label=name) for name, colour in palette.items()]
    drawn.legend(handles=handles, loc="outside right upper")
    return drawn


@styled
def scripts(groups: Sequence[Group], models: Sequence[str], reference: str, colour: str) -> Any:
    """By script: every language's score by the reference model on the left, the mean of every model on the right."""
    height = 0.23 * len(groups) + 1.5
    drawn, ((left, right),) = figure(
        6.4 + 0.62 * (len(models) + 1), height, 1, 2, sharey=True, width_ratios=[4.6, 0.62 * (len(models) + 1)]
    )
    generator = np.random.default_rng(0)
    for row, group in enumerate(groups):
        heights = row + generator.uniform(-0.22, 0.22, len(group.reference)) * (len(group.reference) > 1)
        left.scatter(group.reference, heights, s=13, color=colour, alpha=0.6, linewidth=0, label="a language")
        if len(group.reference) > 2:
            left.plot(
                [np.median(group.reference)] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=1.6, label="median"
            )
        left.scatter(group.baseline, row, s=42, marker="|", color=MUTED, linewidth=1.6, label="TF-IDF, mean")
    left.set_yticks(range(len(groups)), [f"{_clip(group.name, 26)}  ({len(group.reference)})" for group in groups])
    left.set(ylim=(len(groups) - 0.4, -0.6), xlabel=f"score of each language, {reference}")
    left.set_xlim(-0.02, 1.02)
    left.tick_params(axis="y", length=0)
    left.grid(axis="y", visible=False)
    _heat(right, groups, [*models, "TF-IDF"])
    entries = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    drawn.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=3)
    return drawn


def _heat(axes: Any, groups: Sequence[Group], names: Sequence[str]) -> None:
    """Cells with the mean score of each model on each script, written out."""
    values = np.array([[*group.means, group.baseline] for group in groups])
    axes.imshow(values, aspect="auto", cmap=_blues(), vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if value > 0.5 else "#222222",
        )
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), names, rotation=38, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _blues() -> Any:
    maker = optional("matplotlib.colors", "report").LinearSegmentedColormap
    return maker.from_list("house", ["#f3efe6", "#b9d3e6", "#5f9bd1", "#2463a8", "#123a6f"])


@styled
def languages(rows: Sequence[Dumbbell], small: str, reference: str, palette: Mapping[str, str]) -> Any:
    """Every language on a line, worst first: baseline, smallest model and reference model."""
    columns = max(1, min(3, -(-len(rows) // 20)))
    length = -(-len(rows) // columns)
    drawn, grid = figure(3.35 * columns + 0.4, 0.165 * length + 1.1, 1, columns)
    for number, axes in enumerate(grid.flat):
        part = rows[number * length : (number + 1) * length]
        heights = np.arange(len(part))
        axes.hlines(
            heights,
            [row.baseline for row in part],
            [row.reference for row in part],
            color=MUTED,
            alpha=0.35,
            linewidth=1,
        )
        axes.scatter(
            [row.baseline for row in part], heights, s=16, marker="|", color=MUTED, linewidth=1.4, label="TF-IDF"
        )
        if small != reference:
            axes.scatter(
                [row.small for row in part],
                heights,
                s=13,
                facecolor="none",
                edgecolor=palette[small],
                linewidth=1,
                label=small,
            )
        axes.scatter(
            [row.reference for row in part], heights, s=15, color=palette[reference], linewidth=0, label=reference
        )
        axes.set_yticks(heights, [_clip(row.name) for row in part], fontsize=7.5)
        axes.set(ylim=(length - 0.4, -0.6), xlim=(-0.03, 1.03))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.tick_params(axis="both", length=0, labelsize=7.5)
        axes.xaxis.set_ticks_position("both")
        axes.tick_params(labeltop=True)
        axes.grid(axis="y", visible=False)
        axes.spines[:].set_visible(False)
    drawn.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return drawn


def _clip(name: str, length: int = 21) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


@styled
def comparisons(rows: Sequence[Difference]) -> Any:
    """Differences per language as dots, their mean and its 95% interval in bold, one row a comparison."""
    drawn, ((axes,),) = figure(7.6, 0.85 * len(rows) + 0.9)
    generator = np.random.default_rng(0)
    for row, found in enumerate(rows):
        colour = COLOURS[row % len(COLOURS)]
        axes.scatter(
            found.values,
            row + generator.uniform(-0.26, 0.26, len(found.values)),
            s=9,
            color=colour,
            alpha=0.28,
            linewidth=0,
        )
        axes.plot([found.low, found.high], [row, row], color=INK, linewidth=3, solid_capstyle="butt")
        axes.scatter(found.mean, row, s=46, color=colour, edgecolor=INK, linewidth=1.2, zorder=3)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_yticks(
        range(len(rows)),
        [f"{found.title}\n{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})" for found in rows],
    )
    widest = max(abs(value) for found in rows for value in found.values) * 1.08 or 0.01
    axes.set(ylim=(len(rows) - 0.45, -0.55), xlim=(-widest, widest), xlabel="difference in score, a dot a language")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    return drawn

"""The pictures of the data card: how many rows each language has, and what of them a training reads.

Each is a matplotlib figure of plain numbers, made for 3 languages as for 300: the largest and the smallest are named,
all are drawn. Needs the extra `report`. Cost: a second a picture.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from f2llm.core.languages import language
from f2llm.core.pictures import COLOURS, INK, MUTED
from f2llm.eval.charts import figure, png, short, styled
from f2llm.pipeline.data_mixture import Part, StageMixture
from f2llm.pipeline.language_table import LanguageRow

_ALL_NAMED = 44  # so many languages stand in one column, each with its name
_NAMED = 20  # of more languages, so many of the largest and of the smallest
_LARGEST, _SMALLEST = 20, 12  # languages that the mixture's picture names
_FAMILIES = 8  # families with a colour of their own
_ROOM = 5  # the axis of rows ends at so many times the largest: room for a number behind its bar
_FLOOR = 0.7  # where a logarithmic axis of rows begins, so that one row can be seen


def languages_png(rows: Sequence[LanguageRow]) -> bytes:
    """`languages_picture` on white, 150 dots per inch."""
    return png(languages_picture(rows))


def mixture_png(stages: Sequence[StageMixture]) -> bytes:
    """`mixture_picture` on white, 150 dots per inch."""
    return png(mixture_picture(stages))


@styled
def languages_picture(rows: Sequence[LanguageRow]) -> Any:
    """Rows of each language on a logarithmic scale, coloured by family: bars for training, dots for evaluation."""
    ranked = sorted(rows, key=lambda row: (-row.train_rows, -row.evaluation_rows, row.tag))
    palette = _palette(ranked)
    if len(ranked) <= _ALL_NAMED:
        drawn, ((axes,),) = figure(8.6, 0.2 * len(ranked) + 1.5)
        _named_bars(axes, ranked, palette, ranked)
    else:
        drawn, _ = figure(11.0, 0.2 * _NAMED + 4.6)
        drawn.clear()
        grid = drawn.add_gridspec(2, 2, height_ratios=(2.6, 0.2 * _NAMED))
        _profile(drawn.add_subplot(grid[0, :]), ranked, palette)
        for column, part in enumerate((ranked[:_NAMED], ranked[-_NAMED:])):
            axes = drawn.add_subplot(grid[1, column])
            _named_bars(axes, part, palette, ranked)
            axes.set_title(f"the {_NAMED} largest" if column == 0 else f"the {_NAMED} smallest")
    _family_legend(drawn, palette, ranked)
    return drawn


def _palette(rows: Sequence[LanguageRow]) -> dict[str, str]:
    """A colour for each of the families with most languages, grey for the others."""
    counts = Counter(row.family for row in rows)
    return {name: COLOURS[place] for place, (name, _) in enumerate(counts.most_common(_FAMILIES))}


def _profile(axes: Any, rows: Sequence[LanguageRow], palette: Mapping[str, str]) -> None:
    """All languages side by side, largest first."""
    colours = [palette.get(row.family, MUTED) for row in rows]
    heights = [max(row.train_rows - _FLOOR, 0) for row in rows]
    axes.bar(range(len(rows)), heights, width=1.0, bottom=_FLOOR, color=colours, linewidth=0)
    places = [place for place, row in enumerate(rows) if row.evaluation_rows]
    axes.scatter(places, [rows[place].evaluation_rows for place in places], s=3, color=INK, linewidth=0, zorder=3)
    axes.set_yscale("log")
    axes.set(xlim=(-1, len(rows)), ylabel="rows", xlabel=f"{len(rows)} languages, by their rows for training")
    axes.set_ylim(_FLOOR, 1.6 * max(_largest(rows), 1))
    axes.grid(axis="x", visible=False)


def _named_bars(
    axes: Any, rows: Sequence[LanguageRow], palette: Mapping[str, str], all_rows: Sequence[LanguageRow]
) -> None:
    """A bar for each language, with its name on the left and its rows on the right."""
    colours = [palette.get(row.family, MUTED) for row in rows]
    widths = [max(row.train_rows - _FLOOR, 0) for row in rows]
    axes.barh(range(len(rows)), widths, height=0.74, left=_FLOOR, color=colours, linewidth=0)
    for place, row in enumerate(rows):
        if row.evaluation_rows:
            axes.scatter(row.evaluation_rows, place, s=11, color=INK, edgecolor="white", linewidth=0.5, zorder=3)
        end = max(row.train_rows, row.evaluation_rows, _FLOOR)
        text = f"{row.train_rows:,}" + (f" + {row.evaluation_rows:,}" if row.evaluation_rows else "")
        axes.annotate(text, (end, place), (6, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set_yticks(range(len(rows)), [_name(row.tag) for row in rows], fontsize=7.5)
    axes.set_xscale("log")
    axes.set(xlim=(_FLOOR, _ROOM * max(_largest(all_rows), 1)), ylim=(len(rows) - 0.4, -0.6), xlabel="rows")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _largest(rows: Sequence[LanguageRow]) -> int:
    return max(max(row.train_rows, row.evaluation_rows) for row in rows)


def _name(tag: str, length: int = 26) -> str:
    name = language(tag).name
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _family_legend(drawn: Any, palette: Mapping[str, str], rows: Sequence[LanguageRow]) -> None:
    others = {"other families": MUTED} if any(row.family not in palette for row in rows) else {}
    colours = {**palette, **others}
    marks = [drawn.axes[0].bar(0, 0, bottom=_FLOOR, color=colour) for colour in colours.values()]
    names = list(colours)
    if any(row.evaluation_rows for row in rows):
        marks.append(drawn.axes[0].scatter([], [], s=14, color=INK))
        names.append("rows for evaluation")
    drawn.legend(marks, names, loc="outside upper left", ncols=5)


@styled
def mixture_picture(stages: Sequence[StageMixture]) -> Any:
    """Share of each task type and language: of the clean rows, as the mixture asks for, as the training draws it.

    Behind each name is how often the training reads a row of it.
    """
    shown = [_shown(mixture.languages) for mixture in stages]
    heights = [0.2 * max(len(mixture.tasks) for mixture in stages) + 0.3, 0.2 * max(map(len, shown)) + 0.3]
    heights += [1.5] if any(None in parts for parts in shown) else []
    size = (5.6 * len(stages) + 0.4, sum(heights) + 0.55 * len(heights) + 0.7)
    drawn, grid = figure(*size, len(heights), len(stages), height_ratios=heights)
    for column, (mixture, named) in enumerate(zip(stages, shown, strict=True)):
        tasks, languages = grid[:2, column]
        _shares(tasks, mixture.tasks, mixture.tasks, 0.0)
        tasks.set(xlim=(0, 1.03), title=f"stage {mixture.stage}, {mixture.model}: {mixture.steps:,} steps")
        tasks.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        shares = [share for part in mixture.languages for share in (part.wanted, part.drawn) if share]
        limits = min(shares) / 1.5, max(shares) * 1.5
        _shares(languages, named, mixture.languages, limits[0])
        _share_axis(languages, "x", *limits)
        languages.set_xlabel("share of the batches, by language of the query")
        if len(heights) > 2:
            _share_profile(grid[2, column], mixture.languages, limits)
    drawn.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return drawn


def _share_profile(axes: Any, parts: Sequence[Part], limits: tuple[float, float]) -> None:
    """The shares of all languages, in the order of what is wanted."""
    rows, places = sum(part.cleaned for part in parts), range(len(parts))
    axes.scatter(places, [part.cleaned / rows for part in parts], s=14, marker="_", color=MUTED, linewidth=1.0)
    axes.scatter(places, [part.drawn for part in parts], s=6, color=COLOURS[0], linewidth=0)
    axes.plot(places, [part.wanted for part in parts], color=INK, linewidth=0.8)
    _share_axis(axes, "y", *limits)
    axes.set(xlim=(-1, len(parts)), xlabel=f"all {len(parts):,} languages; the line is what is wanted")


def _shown(parts: Sequence[Part]) -> list[Part | None]:
    """The largest and the smallest; None stands for those in between."""
    if len(parts) <= _LARGEST + _SMALLEST + 1:
        return list(parts)
    return [*parts[:_LARGEST], None, *parts[-_SMALLEST:]]


def _shares(axes: Any, parts: Sequence[Part | None], everything: Sequence[Part], low: float) -> None:
    """A line for each part, from the share that is wanted to the one that is drawn; none is shown below `low`."""
    rows = max(sum(part.cleaned for part in everything), 1)
    there = [(place, part) for place, part in enumerate(parts) if part is not None]
    places = [place for place, _ in there]
    clean, wanted, drawn = (
        [max(value, low) for value in values]
        for values in zip(*((part.cleaned / rows, part.wanted, part.drawn) for _, part in there), strict=True)
    )
    axes.scatter(clean, places, s=90, marker="|", color=MUTED, linewidth=1.6, label="of the rows that cleaning left")
    axes.hlines(places, wanted, drawn, color=COLOURS[0], linewidth=1.4)
    axes.scatter(wanted, places, s=30, facecolor="white", edgecolor=INK, linewidth=1.0, label="wanted", zorder=3)
    axes.scatter(drawn, places, s=15, color=COLOURS[0], label="drawn", zorder=4, linewidth=0)
    names = [_part_name(part, len(everything) - len(there)) for part in parts]
    axes.set_yticks(range(len(parts)), names, fontsize=7.5)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _share_axis(axes: Any, which: str, low: float, high: float) -> None:
    """Logarithmic, with a label at 1, 2 and 5 of each power of ten, or at each power where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(powers) < 4 else (1,)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    getattr(axes, f"{which}axis").set_ticks(ticks, [f"{100 * tick:.3g}%" for tick in ticks])
    axes.minorticks_off()


def _part_name(part: Part | None, left_out: int) -> str:
    if part is None:
        return f"… {left_out} more …"
    name = part.name if "_" not in part.name else _name(part.name)
    return f"{name}  ×{part.passes:.2g}" if part.passes < 10 else f"{name}  ×{short(part.passes)}"

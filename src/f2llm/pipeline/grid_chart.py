"""The picture of a grid: a panel for each model, a line for each variant, a dot for each seed; of the extra `report`.

Dots of one seed have one colour, so that it shows whether the seeds agree on a difference; the bar is the mean, the
grey band one standard deviation to either side, the dashed line the mean of the base.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from f2llm.core.pictures import INK, MUTED
from f2llm.eval.charts import colours, figure, png, styled

Panel = Mapping[str, Mapping[int, float]]  # variant -> seed -> score
_LONGEST = 44  # characters of a variant's name


def grid_png(panels: Mapping[str, Panel]) -> bytes:
    """`grid_picture` on white, 150 dots per inch."""
    return png(grid_picture(panels))


@styled
def grid_picture(panels: Mapping[str, Panel]) -> Any:
    """Macro score of each variant, the base on top; `panels` is model -> variant -> seed -> score."""
    first = next(iter(panels.values()))
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in first]
    labels = 0.075 * max(map(len, names)) + 0.3
    drawn, (row,) = figure(labels + 3.6 * len(panels), 0.38 * len(names) + 1.25, 1, len(panels), sharey=True)
    seeds = sorted({seed for panel in panels.values() for scores in panel.values() for seed in scores})
    palette = colours([str(seed) for seed in seeds])
    for axes, (model, panel) in zip(row, panels.items(), strict=True):
        _panel(axes, panel, palette)
        axes.set(title=model, xlabel="macro score: each seed, mean, ± one standard deviation")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
    row[0].set_yticks(range(len(names)), names)
    row[0].set_ylim(len(names) - 0.5, -0.5)
    marks = [row[0].scatter([], [], s=26, color=colour, label=f"seed {seed}") for seed, colour in palette.items()]
    drawn.legend(handles=marks, loc="outside upper right", ncols=min(len(marks), 8))
    return drawn


def _panel(axes: Any, panel: Panel, palette: Mapping[str, str]) -> None:
    axes.use_sticky_edges = False  # bands do not end at the frame
    axes.margins(x=0.06)
    base = list(next(iter(panel.values())).values())
    if base:
        axes.axvline(statistics.fmean(base), color=MUTED, linestyle=(0, (4, 3)), linewidth=1.0)
    for place, scores in enumerate(panel.values()):
        values = list(scores.values())
        if not values:
            axes.annotate("failed", (0.5, place), xycoords=("axes fraction", "data"), color=MUTED, va="center")
            continue
        mean = statistics.fmean(values)
        if len(values) > 1:
            reach = statistics.stdev(values)
            axes.barh(place, 2 * reach, left=mean - reach, height=0.5, color=MUTED, alpha=0.25, linewidth=0)
        axes.vlines(mean, place - 0.3, place + 0.3, color=INK, linewidth=2.0)
        axes.scatter(values, [place] * len(values), s=26, color=[palette[str(seed)] for seed in scores], zorder=3)

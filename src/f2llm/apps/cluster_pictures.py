"""The pictures of a clustering: the map with its labels, and the curves that the number of clusters was chosen by.

Colours are those of Okabe and Ito (2008), which people with any colour vision tell apart; after eight of them the mark
changes, so 48 groups differ. Labels keep their distance and are in fonts that have the letters; a label for which no
font is installed here is the number alone. Cost: a second for 3,000 points and 30 labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from f2llm.apps.cluster_count import Choice, highest
from f2llm.apps.cluster_fit import EXTRA, NOISE, Floats, Ints
from f2llm.apps.cluster_map import anchors, place_labels
from f2llm.core.extras import optional
from f2llm.core.files import atomic_path
from f2llm.core.fonts import families_for
from f2llm.core.log import warn
from f2llm.core.pictures import INK, MUTED, STYLE

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A7A00", "#444B54")
MARKS = ("o", "s", "^", "D", "v", "P")
LABELLED, LABEL_CHARS, LEGEND = 40, 30, 40  # labels on a map, letters of a label, entries of a legend


@dataclass(frozen=True)
class Groups:
    """What the points of a map are coloured by: group of each point [S] (-1 for none), and the groups' names."""

    of_point: Ints
    names: Sequence[str]
    on_the_map: bool


def style_of(group: int) -> tuple[str, str]:
    """Colour and mark of a group."""
    return PALETTE[group % len(PALETTE)], MARKS[group // len(PALETTE) % len(MARKS)]


def draw_map(path: Path, places_S2: Floats, groups: Groups, title: str) -> None:
    """Write a PNG of the map: names on it, or in a legend beside it."""
    names = [_clip(name) for name in groups.names]
    families, missing = families_for([title, *names])
    if missing:
        warn(
            f"no font here has {len(missing)} of the letters on {path.name}, such as {min(missing)}; labels in them "
            "show the number alone. Install the Noto fonts (report.html needs none)"
        )
    with optional("matplotlib", EXTRA).rc_context(STYLE | {"font.family": families, "axes.grid": False}):
        figure = optional("matplotlib.figure", EXTRA).Figure(figsize=(10, 7.6), layout="constrained")
        axes = figure.subplots()
        axes.set_title("".join("?" if char in missing else char for char in title))
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        _points(axes, places_S2, groups)
        shown = [name if not missing & set(name) else "" for name in names]
        if groups.on_the_map:
            _labels(figure, axes, places_S2, groups, shown)
        else:
            _legend(figure, groups, shown)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None})


def _points(axes: Any, places_S2: Floats, groups: Groups) -> None:
    size = float(np.clip(12_000 / len(places_S2), 5, 40))
    for group in np.unique(groups.of_point).tolist():
        own = places_S2[groups.of_point == group]
        colour, mark = style_of(group) if group != NOISE else (MUTED, ".")
        alpha = 0.7 if group != NOISE else 0.35
        axes.scatter(
            own[:, 0], own[:, 1], s=size, color=colour, marker=mark, alpha=alpha, linewidth=0, label=str(group)
        )


def _labels(figure: Any, axes: Any, places_S2: Floats, groups: Groups, names: Sequence[str]) -> None:
    """Names near the middle of their points, the largest groups first, with a line where they had to move away."""
    found = anchors(places_S2, groups.of_point, len(names))
    largest = sorted(found, key=lambda group: (-int((groups.of_point == group).sum()), group))[:LABELLED]
    halo = optional("matplotlib.patheffects", EXTRA).withStroke(linewidth=2.6, foreground="white")
    texts = [
        axes.text(*found[group], f"{group} {names[group]}".strip(), fontsize=8, color=INK, ha="center", va="center",
                  path_effects=[halo], zorder=4)
        for group in largest
    ]  # fmt: skip
    canvas = optional("matplotlib.backends.backend_agg", EXTRA).FigureCanvasAgg(figure)
    canvas.draw()  # the layout is settled and letters have their sizes
    boxes = [text.get_window_extent(canvas.get_renderer()).padded(2) for text in texts]
    frame = axes.get_window_extent()
    pixels = [tuple(axes.transData.transform(found[group])) for group in largest]
    spots = place_labels(pixels, [(box.width, box.height) for box in boxes], tuple(frame.extents))
    for text, group, pixel, spot in zip(texts, largest, pixels, spots, strict=True):
        if spot is None:
            text.remove()
            continue
        place = axes.transData.inverted().transform(spot)
        text.set_position(place)
        if np.hypot(spot[0] - pixel[0], spot[1] - pixel[1]) > 18:
            axes.plot(*zip(found[group], place, strict=True), color=style_of(group)[0], linewidth=0.8, zorder=3)


def _legend(figure: Any, groups: Groups, names: Sequence[str]) -> None:
    counts = np.bincount(groups.of_point[groups.of_point != NOISE], minlength=len(names))
    largest = np.argsort(-counts, kind="stable")[:LEGEND].tolist()
    line = optional("matplotlib.lines", EXTRA).Line2D
    handles = [
        line(
            [], [], linestyle="", color=style_of(group)[0], marker=style_of(group)[1], label=names[group] or str(group)
        )
        for group in largest
        if counts[group]
    ]
    figure.legend(handles=handles, loc="outside right upper")


def draw_choice(path: Path, choice: Choice) -> None:
    """Write a PNG of silhouette and stability against the number of clusters, the chosen one marked, and the band
    below the highest silhouette that luck alone makes.
    """
    best = highest(choice.trials)
    numbers = [trial.clusters for trial in choice.trials]
    with optional("matplotlib", EXTRA).rc_context(STYLE):
        figure = optional("matplotlib.figure", EXTRA).Figure(figsize=(7.2, 4.4), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        curves = {
            "silhouette": [trial.silhouette for trial in choice.trials],
            "stability (AMI of two halves)": [trial.stability for trial in choice.trials],
        }
        for axes, colour, (name, values) in zip(panels, PALETTE, curves.items(), strict=False):
            axes.plot(numbers, values, marker="o", markersize=4, color=colour)
            axes.axvline(choice.clusters, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
            axes.set_ylabel(name)
            axes.set_xscale("log")
        band = (best.silhouette - choice.error, best.silhouette)
        panels[0].axhspan(
            *band, color=PALETTE[0], alpha=0.15, linewidth=0, label=f"within luck ({choice.error:.3f}) of the highest"
        )
        panels[0].legend(loc="best")
        ticks = numbers[:: max(1, len(numbers) // 12)]
        panels[1].set_xticks(ticks, [str(number) for number in ticks])
        panels[1].minorticks_off()
        panels[1].set_xlabel("number of clusters")
        why = (
            "the highest"
            if best.clusters == choice.clusters
            else f"the smallest within luck of the highest ({best.clusters})"
        )
        panels[0].set_title(f"chosen: {choice.clusters}, {why}")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None})


def _clip(name: str) -> str:
    """The keywords that fit, whole where there are several."""
    head = name[: LABEL_CHARS + 1]
    if len(name) <= LABEL_CHARS or ", " not in head:
        return name if len(name) <= LABEL_CHARS else name[: LABEL_CHARS - 1] + "…"
    return head.rsplit(", ", 1)[0]

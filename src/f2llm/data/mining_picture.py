"""How hard the negatives are: a picture of `mining.json`.

Two histograms of cosines to the query (or to the positive, where it is the anchor): of the positives and of the
negatives that were mined, each as shares of its own number; the ceiling, above which none is taken; below them the
share of the rows that had to take some at random, and of those that have too few. Cost: a third of a second.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from f2llm.core.extras import optional
from f2llm.core.pictures import COLOURS, INK, STYLE

_POSITIVE, _NEGATIVE, _RANDOM, _SHORT = COLOURS[0], COLOURS[4], COLOURS[3], COLOURS[5]


def combined(reports: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """The reports of several sources as one, as far as the picture shows it."""
    counts = {name: sum(found[name] for found in reports) for name in ("rows", "rows_topped_up", "rows_short")}
    scores = ("positive_scores", "negative_scores")
    added = {name: np.sum([found[name] for found in reports], axis=0).tolist() for name in scores}
    first = next(iter(reports))
    return counts | added | {"score_bins": first["score_bins"], "max_score": first["max_score"]}


def mining_picture(mining: Mapping[str, Any], title: str = "") -> Any:
    """A matplotlib figure of what `MineReport.to_json` gives; needs the extra `report`."""
    with optional("matplotlib", "report").rc_context(STYLE):
        figure = optional("matplotlib.figure", "report").Figure(figsize=(7.2, 4.2), layout="constrained")
        scores, rows = figure.subplots(2, 1, height_ratios=[6, 1])
        scores.set_title(title)
        _histograms(scores, mining)
        _rows(rows, mining)
        return figure


def mining_png(mining: Mapping[str, Any], title: str = "") -> bytes:
    """The picture on white, 150 dots per inch."""
    buffer = io.BytesIO()
    figure = mining_picture(mining, title)
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _histograms(axes: Any, mining: Mapping[str, Any]) -> None:
    bins = np.array(mining["score_bins"])
    shown = np.flatnonzero(np.array(mining["positive_scores"]) + np.array(mining["negative_scores"]))
    for name, key, colour in (("positives", "positive_scores", _POSITIVE), ("negatives", "negative_scores", _NEGATIVE)):
        counts = np.array(mining[key])
        total = counts.sum()
        axes.stairs(counts / max(total, 1), bins, fill=True, color=colour, alpha=0.3)
        axes.stairs(counts / max(total, 1), bins, color=colour, linewidth=1.6, label=f"{name} ({total:,})")
    axes.axvline(mining["max_score"], color=INK, linewidth=1, linestyle="--", label=f"ceiling {mining['max_score']:g}")
    low = bins[shown[0]] if len(shown) else -1.0
    axes.set(xlim=(min(low, mining["max_score"] - 0.1), 1.0), ylabel="share of each", xlabel="cosine")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=6, steps=[1, 2, 5, 10])
    axes.yaxis.set_major_formatter(optional("matplotlib.ticker", "report").PercentFormatter(1.0))
    axes.legend(loc="best", frameon=True, facecolor="white", edgecolor="none", framealpha=1.0)


def _rows(axes: Any, mining: Mapping[str, Any]) -> None:
    """Shares of the rows that had to take some at random, and that have too few all the same."""
    rows = max(mining["rows"], 1)
    parts = {"some at random": (mining["rows_topped_up"], _RANDOM), "too few": (mining["rows_short"], _SHORT)}
    for name, (count, colour) in parts.items():
        axes.barh(name, count / rows, color=colour, height=0.7)
        text = f" {_share(count, rows)} of {mining['rows']:,} rows"
        inside = count / rows > 0.7
        axes.text(count / rows, name, text + " " * inside, ha="right" if inside else "left", va="center", fontsize=8)
    axes.set(xlim=(0, 1))
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(optional("matplotlib.ticker", "report").PercentFormatter(1.0, decimals=0))


def _share(count: int, rows: int) -> str:
    return f"{count / rows:.1%}" if 1000 * count >= rows or not count else "<0.1%"

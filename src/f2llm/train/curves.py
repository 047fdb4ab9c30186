"""A picture of a run from its metrics.jsonl: losses, validation, scores, learning rate, gradient norm and speed.

Cost: about a second, and memory for eight numbers a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from f2llm.core.errors import DataError
from f2llm.core.extras import optional
from f2llm.core.files import atomic_path
from f2llm.core.pictures import COLOURS, INK, MUTED, STYLE
from f2llm.train.metrics import PARTS, Entry, read_metrics

NAMES = {
    "loss": "total",
    "hard": "hard negatives",
    "in_batch": "in-batch",
    "distill": "distillation",
    "hidden": "hidden states",
    "spread_out": "spread-out",
}
SCORES = {"ndcg@10": "nDCG@10", "accuracy@1": "accuracy@1"}
POINTS = 1500  # more a line than its pixels show nothing
Array = npt.NDArray[np.float64]
Line = tuple[Array, Array]


def training_curves(metrics_path: Path, out_png: Path) -> None:
    """Draw the run that `metrics_path` records; DataError if it holds no training step."""
    steps, columns, validation, scores = _read(metrics_path)
    with optional("matplotlib", "report").rc_context(STYLE):
        drawn = optional("matplotlib.figure", "report").Figure(figsize=(10, 6), layout="constrained")
        above = ["loss", *(["validation"] if validation else []), *(["scores"] if scores else [])]
        below = ["lr", "norm", "speed"]
        rows = [[name for name in names for _ in range(6 // len(names))] for names in (above, below)]
        axes = drawn.subplot_mosaic(rows)
        _losses(axes["loss"], steps, columns)
        if validation:
            _validation(axes["validation"], validation)
        if scores:
            _scores(axes["scores"], scores)
        _single(axes["lr"], "learning rate", steps, columns["lr"], window=1)
        _single(axes["norm"], "gradient norm", steps, columns["grad_norm"])
        _single(axes["speed"], "tokens per second", steps, columns["tokens"], columns["seconds"])
        for panel in axes.values():
            panel.margins(x=0.02)
            panel.set_xlabel("step")
        with atomic_path(out_png) as temporary:
            drawn.savefig(temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None})


def _read(path: Path) -> tuple[Array, dict[str, Array], dict[str, Line], dict[str, Line]]:
    """Steps, columns of the training entries (NaN where an entry has none), validation loss by source, and scores."""
    names = ("step", "loss", *PARTS, "lr", "grad_norm", "tokens", "seconds")
    rows: list[list[float]] = []
    losses: dict[str, list[tuple[float, float]]] = {}
    scores: dict[str, list[tuple[float, float]]] = {}
    for entry in read_metrics(path):
        if "kind" not in entry:
            rows.append([_number(entry.get(name)) for name in names])
        elif entry["kind"] == "validation":
            for source, loss in _by_source(entry).items():
                losses.setdefault(source, []).append((entry["step"], loss))
        elif entry["kind"] == "evaluation":
            for name in (name for name in SCORES if name in entry):
                scores.setdefault(name, []).append((entry["step"], _number(entry[name])))
    if not rows:
        raise DataError(f"{path} records no training step; train first, or name the metrics.jsonl of another run")
    steps, *columns = np.array(rows, dtype=np.float64).T
    return steps, dict(zip(names[1:], columns, strict=True)), _lines(dict(sorted(losses.items()))), _lines(scores)


def _lines(points: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Line]:
    columns = {name: np.array(found, dtype=np.float64).T for name, found in points.items()}
    return {name: (steps, values) for name, (steps, values) in columns.items()}


def _by_source(entry: Entry) -> dict[str, float]:
    """The validation loss of each source."""
    found: dict[str, Any] = entry.get("by_source", {})
    return {name: _number(value["loss"] if isinstance(value, Mapping) else value) for name, value in found.items()}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def smooth(values: Array, weights: Array | None = None, window: int | None = None) -> Array:
    """Centred running mean over `window` values (a fortieth of them if not given), NaN passed over.

    With `weights`, the running sum of the values by that of the weights.
    """
    window = window or max(1, len(values) // 40)
    weights = np.ones_like(values) if weights is None else weights
    known = np.isfinite(values) & np.isfinite(weights)
    places = np.arange(len(values))
    low, high = np.maximum(places - window // 2, 0), np.minimum(places + window - window // 2, len(values))
    sums, counts = (
        np.concatenate([[0.0], np.cumsum(np.where(known, column, 0.0))]) for column in (values, weights)
    )  # fmt: skip
    span = counts[high] - counts[low]
    return np.where(span > 0, (sums[high] - sums[low]) / np.where(span > 0, span, 1.0), np.nan)


def _thin(steps: Array, values: Array) -> Line:
    """At most about POINTS points, those without a value left out."""
    known = np.flatnonzero(np.isfinite(values))
    kept = known[:: max(1, len(known) // POINTS)]
    return steps[kept], values[kept]


def _losses(axes: Any, steps: Array, columns: Mapping[str, Array]) -> None:
    axes.plot(*_thin(steps, columns["loss"]), color=MUTED, alpha=0.25, linewidth=0.6)
    present = [name for name in ("loss", *PARTS) if np.isfinite(columns[name]).any()]
    for name in present:
        colour = INK if name == "loss" else COLOURS[PARTS.index(name)]
        axes.plot(*_thin(steps, smooth(columns[name])), color=colour, label=NAMES[name])
    _frame(axes, "training loss (running mean)", [smooth(columns[name]) for name in present])
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", ncols=2)


def _validation(axes: Any, lines: Mapping[str, Line]) -> None:
    """One coloured line a source, or, where colours run out, all in grey; their mean in black."""
    few = len(lines) <= len(COLOURS)
    for number, (source, line) in enumerate(lines.items()):
        look = {"color": COLOURS[number], "label": source} if few else {"color": MUTED, "alpha": 0.4, "linewidth": 0.8}
        axes.plot(*line, marker="o", markersize=2.5, **look)
    if len(lines) > 1:
        label = "mean" if few else f"mean of {len(lines)} sources"
        axes.plot(*_mean_line(list(lines.values())), color=INK, linestyle=(0, (4, 2)), label=label)
    _frame(axes, "validation loss", [values for _, values in lines.values()])
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", ncols=2)


def _scores(axes: Any, lines: Mapping[str, Line]) -> None:
    for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
        axes.plot(*line, marker="o", markersize=2.5, color=colour, label=SCORES[name])
    _frame(axes, "held-out search, mean over languages", [values for _, values in lines.values()])
    axes.set_ylim(0, min(1.02, axes.get_ylim()[1]))
    axes.legend(loc="lower right")


def _mean_line(lines: Sequence[Line]) -> Line:
    """The mean over all lines, each at its newest value: a validation may leave sources out for want of time."""
    steps = np.unique(np.concatenate([line[0] for line in lines]))
    newest = [np.searchsorted(places, steps, side="right") - 1 for places, _ in lines]
    known = np.min(newest, axis=0) >= 0
    values = [line[1][places[known]] for line, places in zip(lines, newest, strict=True)]
    return steps[known], np.mean(values, axis=0)


def _single(
    axes: Any, title: str, steps: Array, values: Array, weights: Array | None = None, *, window: int | None = None
) -> None:
    """One quantity: its values in grey, their running mean in colour."""
    raw = values if weights is None else values / np.where(weights > 0, weights, np.nan)
    mean = smooth(values, weights, window)
    if window != 1:
        axes.plot(*_thin(steps, raw), color=MUTED, alpha=0.35, linewidth=0.6)
    axes.plot(*_thin(steps, mean), color=COLOURS[0])
    _frame(axes, title, [mean])
    axes.set_ylim(bottom=0)


def _frame(axes: Any, title: str, shown: Sequence[Array]) -> None:
    """The title, and a height set by the smoothed lines: a few wild steps must not flatten them."""
    axes.set_title(title)
    values = np.concatenate(shown)
    values = values[np.isfinite(values)]
    if len(values) and values.max() > 0:
        axes.set_ylim(top=1.25 * float(values.max()))

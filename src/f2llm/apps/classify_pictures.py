"""Two pictures of a classifier: which labels it takes for which, and how far it carries over to other languages.

Both are squares of shades with the numbers written in them where there is room. Rows of the confusion are shares of the
true label. Of more than 40 labels the 40 with the most mistakes are shown, in their order. Cost: half a second.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.apps.classify_transfer import Transfer
from f2llm.core.extras import optional
from f2llm.core.pictures import INK, STYLE

SHOWN = 40
WRITTEN = 16
"""Labels up to which every cell has its number."""


def confusion_png(confusion: Mapping[str, Any], title: str) -> bytes:
    """The `confusion` of a report: rows true, columns predicted."""
    labels, counts = list(confusion["labels"]), np.array(confusion["counts"])
    if len(labels) > SHOWN:
        mistakes = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diagonal(counts)
        worst = np.sort(np.argsort(-mistakes, kind="stable")[:SHOWN])
        labels, counts = [labels[place] for place in worst], counts[np.ix_(worst, worst)]
        title += f" ({SHOWN} of {len(mistakes)} labels, those with the most mistakes)"
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    written = [[f"{count:,}" if count else "" for count in row] for row in counts]
    return _png(shares, labels, labels, written, title, ("predicted", "true label"), (0.0, 1.0))


def transfer_png(transfer: Transfer, title: str) -> bytes:
    """Macro F1 by language of training (rows) and of asking (columns), with chance as the last row."""
    values = np.array([*transfer.macro_f1, [chance["macro_f1"] for chance in transfer.chance]])
    written = [[f"{value * 100:.0f}" for value in row] for row in values]
    span = (float(values.min()), max(float(values.max()), float(values.min()) + 0.01))
    sources = [*transfer.sources, "chance"]
    return _png(values, sources, transfer.languages, written, title, ("asked in", "trained on"), span)


def _png(
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    written: Sequence[Sequence[str]],
    title: str,
    names: tuple[str, str],
    span: tuple[float, float],
) -> bytes:
    longest = max(map(len, rows))
    side = min(0.42 * len(columns) + 2.0, 12.0)
    with optional("matplotlib", "apps").rc_context(STYLE | {"axes.grid": False}):
        figure = optional("matplotlib.figure", "apps").Figure(
            figsize=(side + 0.06 * longest, 0.8 * side * len(rows) / len(columns) + 0.05 * longest + 0.6),
            layout="constrained",
        )
        axes = figure.subplots()
        axes.imshow(values, cmap="Blues", vmin=span[0], vmax=span[1], aspect="auto")
        size = 8 if len(columns) <= WRITTEN + 4 else 5.5
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
        axes.set_yticks(range(len(rows)), rows, fontsize=size)
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.set_title(title)
        axes.tick_params(length=0)
        if len(columns) <= WRITTEN:
            _write(axes, values, written, span)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _write(axes: Any, values: NDArray[np.float64], written: Sequence[Sequence[str]], span: tuple[float, float]) -> None:
    dark = span[0] + 0.6 * (span[1] - span[0])
    for place, text in np.ndenumerate(np.array(written, dtype=object)):
        colour = "white" if values[place] > dark else INK
        axes.text(place[1], place[0], text, ha="center", va="center", fontsize=7.5, color=colour)

"""The picture of a grid: a panel a model, a dot a seed, the mean where it is, and a word where nothing is."""

from __future__ import annotations

import pytest

from f2llm.pipeline.grid_chart import grid_picture, grid_png

PANEL = {"base": {1: 0.4, 2: 0.5, 3: 0.6}, "not distilled": {1: 0.3, 3: 0.4}, "broken": {}, "once": {2: 0.45}}


def test_dots_mean_and_spread() -> None:
    drawn = grid_picture({"tiny": PANEL, "small": PANEL})
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["tiny", "small"]
    axes = drawn.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(PANEL)
    dots = [collection for collection in axes.collections if len(collection.get_offsets()) > 1]
    assert [[round(x, 6) for x, _ in own.get_offsets()] for own in dots] == [[0.4, 0.5, 0.6], [0.3, 0.4]]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.2, 0.02**0.5])
    assert [text.get_text() for text in axes.texts] == ["failed"]
    assert list(axes.lines[0].get_xdata()) == [0.5, 0.5], "the mean of the base"
    assert [text.get_text() for text in drawn.legends[0].texts] == ["seed 1", "seed 2", "seed 3"]


def test_a_picture_of_a_failed_base_and_of_long_names() -> None:
    assert grid_png({"tiny": {"base": {}, "n" * 90: {7: 0.5}}}).startswith(b"\x89PNG")

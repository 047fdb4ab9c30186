"""The table and the picture of where rows went: every number is there, and they add up."""

from __future__ import annotations

import io
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from f2llm.core.errors import DataError
from f2llm.data.clean import SourceCounts
from f2llm.data.flow import _apart, _flows, _merge_ends, _merge_sources, flow_picture, flow_png, flow_table


def source(train: int, evaluation: int = 0, **dropped: int) -> dict[str, Any]:
    reasons = {reason.replace("_", " "): count for reason, count in dropped.items()}
    counts = SourceCounts(train + evaluation + sum(reasons.values()), train, evaluation, Counter(reasons))
    counts.check()
    return counts.to_json()


COUNTS = {
    "big": source(90_000, 1_000, duplicate=8_000, too_long=1_000), "small": source(700, 0, empty=300),
    "none": source(0), "gone": source(0, 0, excluded_source=5_000),
}  # fmt: skip


def cells(counts: dict[str, Any]) -> list[list[str]]:
    """The rows of the table, its titles first; printing it must not fail in a narrow terminal either."""
    table = flow_table(counts)
    Console(file=io.StringIO(), width=40).print(table)
    return [[str(cell) for cell in row] for row in zip(*([c.header, *c.cells] for c in table.columns), strict=True)]


def labels(counts: dict[str, Any], **options: int) -> list[str]:
    return [text.get_text() for text in flow_picture(counts, **options).axes[0].texts]


def test_the_table_shows_every_reason_with_its_largest_sources() -> None:
    assert cells(COUNTS) == [
        ["what became of the rows", "rows", "share", "most of them from"],
        ["training", "90,700", "85.6%", "big 90,000, small 700"],
        ["evaluation", "1,000", "0.9%", "big 1,000"],
        ["duplicate", "8,000", "7.5%", "big 8,000"],
        ["excluded source", "5,000", "4.7%", "gone 5,000"],
        ["too long", "1,000", "0.9%", "big 1,000"],
        ["empty", "300", "0.3%", "small 300"],
        ["all", "106,000", "", "4 sources"],
    ]


def test_of_many_sources_the_table_names_three() -> None:
    rows = cells({f"source {number}": source(number, 1, duplicate=2) for number in range(30)})
    assert rows[1] == ["training", "435", "82.9%", "source 29 29, source 28 28, source 27 27"]
    assert rows[-1] == ["all", "525", "", "30 sources"]


def test_counts_that_do_not_add_up_are_refused() -> None:
    wrong = {"a": {"rows": 10, "train": 3, "eval": 3, "dropped": {"empty": 3}}}
    for draw in (flow_table, flow_picture, flow_png):
        with pytest.raises(DataError, match=r"'a': 10 rows in, 9 accounted for"):
            draw(wrong)


def test_the_picture_names_all_that_is_drawn() -> None:
    assert labels(COUNTS) == [
        "big  100,000 (94.3%)", "gone  5,000 (4.7%)", "small  1,000 (0.9%)", "training  90,700 (85.6%)",
        "evaluation  1,000 (0.9%)", "duplicate  8,000 (7.5%)", "excluded source  5,000 (4.7%)",
        "too long  1,000 (0.9%)", "empty  300 (0.3%)",
    ]  # fmt: skip
    assert labels(COUNTS, most_sources=2, most_reasons=2) == [
        "big  100,000 (94.3%)", "2 other sources  6,000 (5.7%)", "training  90,700 (85.6%)", "evaluation  1,000 (0.9%)",
        "duplicate  8,000 (7.5%)", "3 other reasons  6,300 (5.9%)",
    ]  # fmt: skip
    assert labels({}) == labels({"none": source(0)}) == []
    assert labels({"a": source(9_999, empty=1)})[-1] == "empty  1 (<0.1%)"


def test_leaks_are_drawn_as_one_reason() -> None:
    two = {"a": source(80, leaks_b=10, leaks_c=10)}
    assert labels(two)[1:] == ["training  80 (80.0%)", "leaks 2 evaluation sets  20 (20.0%)"]
    assert [row[0] for row in cells(two)][1:] == ["training", "evaluation", "leaks b", "leaks c", "all"]
    assert labels({"a": source(80, leaks_b=20)})[-1] == "leaks b  20 (20.0%)"


def test_labels_lie_on_the_picture() -> None:
    long = "a_source_with_quite_a_long_name_indeed_and_more"
    figure = flow_picture({f"{number}_{long}": source(10_000_000, **{long: 10_000_000}) for number in range(30)})
    figure.draw_without_rendering()
    inside = figure.bbox
    for label in figure.axes[0].texts:
        box = label.get_window_extent()
        assert inside.x0 <= box.x0
        assert box.x1 <= inside.x1, label.get_text()


def test_bands_are_as_wide_as_their_rows() -> None:
    axes = flow_picture(COUNTS).axes[0]
    heights = sorted(float(band.get_paths()[0].get_extents().height) for band in axes.collections)
    assert len(axes.collections) == 7
    bars = [bar for bar in axes.patches if bar.get_height() > 0.003]
    assert all(bar.get_y() > -0.001 and bar.get_y() + bar.get_height() < 1.001 for bar in bars)
    assert heights[-1] > 0.5


def test_png() -> None:
    assert flow_png(COUNTS).startswith(b"\x89PNG")
    assert flow_png(COUNTS) == flow_png(COUNTS)


reasons = st.dictionaries(st.sampled_from([f"reason {number}" for number in range(6)]), st.integers(0, 50), max_size=6)
any_counts = st.dictionaries(
    st.sampled_from([f"source {number}" for number in range(9)]),
    st.tuples(st.integers(0, 50), st.integers(0, 50), reasons).map(
        lambda parts: SourceCounts(
            parts[0] + parts[1] + sum(parts[2].values()), *parts[:2], Counter(parts[2])
        ).to_json()
    ),
)


@settings(max_examples=60, deadline=None)
@given(any_counts, st.integers(1, 6), st.integers(1, 6))
def test_no_row_is_lost_by_putting_together(counts: dict[str, Any], most_sources: int, most_reasons: int) -> None:
    merged = _merge_ends(_merge_sources(_flows(counts), most_sources), most_reasons)
    assert len(merged) <= most_sources
    assert len({end for flow in merged.values() for end in flow} - {"training", "evaluation"}) <= most_reasons
    assert sum(flow.total() for flow in merged.values()) == sum(found["rows"] for found in counts.values())
    assert sum(flow["training"] for flow in merged.values()) == sum(found["train"] for found in counts.values())


@given(st.lists(st.floats(0, 1), max_size=20).map(lambda places: sorted(places, reverse=True)))
def test_labels_keep_apart(places: list[float]) -> None:
    apart = _apart(places, 0.04)
    assert all(upper - lower >= 0.04 - 1e-9 for upper, lower in pairwise(apart))
    assert min(apart, default=0) >= 0

"""The picture of mining shows the counts that it is given, whole and at the right places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from f2llm.core.types import Example
from f2llm.data.mine import mine
from f2llm.data.mine_report import MineReport
from f2llm.data.mining_picture import mining_picture, mining_png
from f2llm.data.ngrams import ngram_encoder

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def mining() -> dict[str, Any]:
    names = [
        f"{place} {kind}" for place in ("Oslo", "Lima", "Accra", "Hanoi") for kind in ("port", "city", "bay", "hill")
    ]
    rows = [
        Example(name, name, f"{name} of old", (), "retrieval", "s", "eng_Latn", "eng_Latn" if n else "deu_Latn")
        for n, name in enumerate(names)
    ]
    report = mine(rows, ngram_encoder(), per_query=15, skip_top=1)[1].to_json()
    assert 0 < report["rows_short"] < report["rows_topped_up"]
    return report


def test_histograms_are_shares_of_each(mining: dict[str, Any]) -> None:
    scores = mining_picture(mining, "Names").axes[0]
    filled, outlines = scores.patches[::2], scores.patches[1::2]
    for patch, outline, key in zip(filled, outlines, ("positive_scores", "negative_scores"), strict=True):
        counts = np.array(mining[key])
        for drawn in (patch, outline):
            assert np.allclose(drawn.get_data().values, counts / counts.sum())
            assert np.allclose(drawn.get_data().edges, mining["score_bins"])
    (ceiling,) = scores.lines
    assert list(ceiling.get_xdata()) == [0.8, 0.8]
    assert scores.get_title(loc="left") == "Names"
    texts = [text.get_text() for text in scores.get_legend().get_texts()]
    assert texts == ["positives (16)", f"negatives ({mining['mined']:,})", "ceiling 0.8"]


def test_rows_that_are_short_are_drawn(mining: dict[str, Any]) -> None:
    rows = mining_picture(mining).axes[1]
    assert [bar.get_width() * 16 for bar in rows.patches] == [mining["rows_topped_up"], mining["rows_short"]]
    assert [text.get_text().strip() for text in rows.texts][1] == f"{mining['share_short']:.1%} of 16 rows"


def test_png(mining: dict[str, Any]) -> None:
    assert mining_png(mining).startswith(b"\x89PNG")
    assert mining_png(mining) == mining_png(mining)
    assert mining_png(MineReport().to_json()).startswith(b"\x89PNG"), "nothing was mined"

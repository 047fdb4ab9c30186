"""What mining found: counts, histograms of scores, and rows to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from f2llm.data.mine_rules import Ints, Vectors, mix

BINS = np.round(np.arange(-1.0, 1.0001, 0.05), 2)
SAMPLES = 8
_SAMPLE_CHARS, _SAMPLE_NEGATIVES = 240, 3
_COUNTS = ("rows", "rows_searched", "given", "mined", "topped_up", "rows_topped_up", "rows_short")


def _no_scores() -> Ints:
    return np.zeros(len(BINS) - 1, np.int64)


@dataclass
class MineReport:
    """Counts of rows and negatives; scores are cosines of rows that were searched for, in bins of 0.05 from -1 to 1.

    A row that brings all its negatives along, or has none to be found for, is not searched for. `rows_short` have
    fewer than they should even with those at random. `samples` are rows with their hardest negatives.
    """

    rows: int = 0
    rows_searched: int = 0
    given: int = 0
    mined: int = 0
    topped_up: int = 0
    rows_topped_up: int = 0
    rows_short: int = 0
    max_score: float = 1.0
    positive_scores: Ints = field(default_factory=_no_scores)
    negative_scores: Ints = field(default_factory=_no_scores)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _COUNTS} | {
            "share_topped_up": self.rows_topped_up / max(self.rows, 1),
            "share_short": self.rows_short / max(self.rows, 1),
            "max_score": self.max_score,
            "score_bins": BINS.tolist(),
            "positive_scores": self.positive_scores.tolist(),
            "negative_scores": self.negative_scores.tolist(),
            "samples": self.samples,
        }

    def add(self, other: dict[str, Any], seed: int) -> None:
        """Add what `to_json` of another part of the source gave; of all samples, those that the seed draws stay."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + other[name])
        self.positive_scores = self.positive_scores + np.array(other["positive_scores"], np.int64)
        self.negative_scores = self.negative_scores + np.array(other["negative_scores"], np.int64)
        samples = self.samples + other["samples"]
        self.samples = [samples[place] for place in drawn([sample["row"] for sample in samples], seed)]

    def summary(self) -> str:
        share = self.rows_topped_up / max(self.rows, 1)
        text = f"{self.rows:,} rows: {self.mined:,} negatives mined, {self.given:,} given, {self.topped_up:,} at random"
        return f"{text} ({share:.0%} of the rows needed some; {self.rows_short:,} stay short)"


def drawn(rows: Sequence[int] | Ints, seed: int) -> list[int]:
    """Which of some rows (places in their source) are shown: those of the smallest hashes, in this order."""
    found: list[int] = np.argsort(mix(np.asarray(rows, np.uint64), seed), kind="stable")[:SAMPLES].tolist()
    return found


def sample(row: int, query: str, positive: str, score: float, texts: list[str], scores: Vectors) -> dict[str, Any]:
    """A row to look at; `texts` are its mined negatives, nearest first."""
    nearest = [
        {"text": text[:_SAMPLE_CHARS], "score": round(float(own), 4)}
        for text, own in list(zip(texts, scores, strict=True))[:_SAMPLE_NEGATIVES]
    ]
    return {
        "row": row,
        "query": query[:_SAMPLE_CHARS],
        "positive": positive[:_SAMPLE_CHARS],
        "positive_score": round(float(score), 4),
        "negatives": nearest,
    }


def histogram(scores: Vectors) -> Ints:
    """Scores by bin; what lies on an edge, or by rounding a little below it, counts to the upper bin."""
    return np.histogram(np.clip(scores + np.float32(5e-6), -1, 1), BINS)[0].astype(np.int64)

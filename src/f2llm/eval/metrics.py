"""The measures of the evaluation: nDCG, MRR, recall, accuracy, averages, bootstrap.

Equal similarities are scored by their expectation over all orders of the tie, as scikit-learn does, so a model that
gives every document the same vector (or a baseline that shares no character with any document) gets chance, not luck.
Cost: two comparisons per similarity and relevant document; no sorting. Limit: relevance is binary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.integer]
TIE = 1e-6  # similarities this close are a tie: float32 products of equal vectors differ in the last bits
DRAWN_AT_ONCE = 2_000_000  # values of the bootstrap in memory at a time


@dataclass(frozen=True)
class Places:
    """Where the relevant documents of a batch of queries stand; three arrays with one entry per relevant document.

    `row` is the query, `above` the number of documents with a higher score, `tied` the number with the same score
    (the document itself included).
    """

    row: Indices
    above: Indices
    tied: Indices


def places(scores_BN: Floats, relevant: Sequence[Sequence[int]]) -> Places:
    """The place of every relevant document: `scores_BN` [queries, documents], `relevant` one index list per query."""
    row = np.repeat(np.arange(len(relevant)), [len(columns) for columns in relevant])
    column = np.fromiter((c for columns in relevant for c in columns), dtype=np.intp, count=len(row))
    own = scores_BN[row, column][:, None]
    rows = scores_BN if len(row) == len(scores_BN) and (np.diff(row) == 1).all() else scores_BN[row]
    above = np.count_nonzero(rows > own + TIE, axis=1)
    return Places(row, above, np.count_nonzero(rows >= own - TIE, axis=1) - above)


def ndcg_at_k(found: Places, relevant: Sequence[Sequence[int]], k: int = 10) -> Floats:
    """Normalised discounted cumulative gain of the first `k` places, binary relevance; [queries], each in 0..1."""
    counts = np.array([len(columns) for columns in relevant])
    longest = int(max((found.above + found.tied).max(initial=0), counts.max(initial=0), k))
    discounts = 1 / np.log2(np.arange(longest) + 2)
    discounts[k:] = 0
    gained = np.concatenate([[0.0], np.cumsum(discounts)])
    gain = (gained[found.above + found.tied] - gained[found.above]) / found.tied
    normalised: Floats = np.bincount(found.row, gain, minlength=len(relevant)) / gained[np.maximum(counts, 1)]
    return normalised


def accuracy_at_1(found: Places, relevant: Sequence[Sequence[int]]) -> Floats:
    """Chance that the first document is relevant; [queries], 0 or 1 except at ties."""
    share = np.where(found.above == 0, 1 / found.tied, 0.0)
    return np.bincount(found.row, share, minlength=len(relevant)).astype(float)


def recall_at_k(found: Places, relevant: Sequence[Sequence[int]], k: int = 10) -> Floats:
    """Share of the relevant documents among the first `k`; [queries]."""
    share = np.clip((k - found.above) / found.tied, 0, 1)
    counts = np.array([len(columns) for columns in relevant])
    recall: Floats = np.bincount(found.row, share, minlength=len(relevant)) / np.maximum(counts, 1)
    return recall


def mrr_at_k(found: Places, relevant: Sequence[Sequence[int]], k: int = 10) -> Floats:
    """Reciprocal rank of the first relevant document, 0 where it is not among the first `k`; [queries].

    Within a tie of t documents, r of them relevant, the first relevant one stands at place j (from 0) with the chance
    C(t-1-j, r-1) / C(t, r).
    """
    first = np.full(len(relevant), np.iinfo(np.intp).max)
    np.minimum.at(first, found.row, found.above)
    top = found.above == first[found.row]
    share = np.bincount(found.row[top], minlength=len(relevant))
    tied = np.zeros(len(relevant), dtype=np.intp)
    tied[found.row[top]] = found.tied[top]
    values = np.zeros(len(relevant))
    alone = tied == 1
    values[alone] = np.where(first[alone] < k, 1 / (first[alone] + 1.0), 0.0)
    for row in np.flatnonzero(tied > 1):
        values[row] = _tied_reciprocal(int(first[row]), int(tied[row]), int(share[row]), k)
    return values


def _tied_reciprocal(above: int, tied: int, share: int, k: int) -> float:
    """Expected reciprocal rank of the first of `share` documents in a tie of `tied` behind `above` others."""
    total, chance = 0.0, share / tied  # chance that the first relevant one stands at this place of the tie
    for place in range(min(tied - share + 1, k - above)):
        total += chance / (above + place + 1)
        chance *= (tied - share - place) / (tied - 1 - place) if tied - 1 - place else 0.0
    return total


def pair_accuracy(right_N: Floats, wrong_N: Floats) -> Floats:
    """1 where the right label scores higher than the wrong one, 0.5 at a tie, else 0; [N]."""
    gap = right_N - wrong_N
    return np.where(np.abs(gap) <= TIE, 0.5, (gap > 0).astype(float))


def mean_ranks(values_N: Floats) -> Floats:
    """Rank of each value from 1 for the smallest, equal values sharing the mean of their ranks; [N]."""
    _, index, counts = np.unique(np.asarray(values_N), return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return ranks


def mean_by_language(values_N: Floats, langs: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Count and mean of the values of each language, languages in alphabetical order."""
    names, index = np.unique(np.array(langs), return_inverse=True)
    counts = np.bincount(index)
    means = np.bincount(index, values_N) / counts
    return {str(name): (int(n), float(mean)) for name, n, mean in zip(names, counts, means, strict=True)}


def mean_over_tasks(tasks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each language's mean over the tasks that have it; languages in alphabetical order."""
    languages = sorted({language for scores in tasks for language in scores})
    return {lang: float(np.mean([scores[lang] for scores in tasks if lang in scores])) for lang in languages}


def macro(by_language: Mapping[str, float]) -> float:
    """Mean over languages, each counting the same; 0 where there is none."""
    return float(np.mean(list(by_language.values()))) if by_language else 0.0


def resampled_means(values_N: Floats, rounds: int, seed: int | Sequence[int]) -> Floats:
    """Means of `rounds` samples of size N drawn from the values with replacement; [rounds]."""
    generator = np.random.default_rng(seed)
    block = max(1, DRAWN_AT_ONCE // len(values_N))
    means = [
        values_N[generator.integers(len(values_N), size=(min(block, rounds - start), len(values_N)))].mean(axis=1)
        for start in range(0, rounds, block)
    ]
    return np.concatenate(means)

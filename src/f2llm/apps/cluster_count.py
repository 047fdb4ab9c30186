"""How many clusters: silhouette and stability over a grid of numbers, on a sample, with one sentence that says why.

Silhouette (Rousseeuw 1987): how much nearer a row is to its own cluster than to the next one, -1..1, here with cosine
distance. The mean cosine of a row to all rows of a cluster is one product with the cluster's sum, so the figure is
exact and costs no more than an assignment. Stability: two clusterings learnt from separate halves of the sample are
each applied to all of it; how far they agree (AMI: 0 chance, 1 the same) says whether the clusters are in the texts
or in the luck of the draw.

Cost: three k-means of 4,000 rows for each of about 20 numbers, some 15 s on one core at 384 dims. Limit: no number
above 150 is tried, nor one that leaves fewer than eight rows a cluster; give a larger one yourself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from f2llm.apps.cluster_fit import Floats, Ints, fit_centres, nearest, sums
from f2llm.core.agreement import adjusted_mutual_information
from f2llm.core.log import track
from f2llm.model.vectors import Vectors

SAMPLE, LARGEST, ROWS_EACH, GROWTH = 4_000, 150, 8, 1.25
WEAK = 0.05  # a silhouette below this is that of texts without clear groups


@dataclass(frozen=True)
class Trial:
    """One number of clusters: mean silhouette (-1..1) and stability (AMI, about 0..1) on the sample."""

    clusters: int
    silhouette: float
    stability: float


@dataclass(frozen=True)
class Choice:
    """The number of clusters, why in one sentence, and what was tried."""

    clusters: int
    reason: str
    trials: Sequence[Trial]


def choose(V_ND: Vectors, different: int, seed: int = 0) -> Choice:
    """The number of clusters for k-means of unit vectors; `different` is how many of the rows differ."""
    sample = V_ND[np.sort(np.random.default_rng(seed).permutation(len(V_ND))[:SAMPLE])]
    numbers = grid(min(different, len(sample)))
    if not numbers:
        return Choice(1, f"One cluster: {different:,} different texts are too few to be divided by a measure.", ())
    found = [trial(sample, number, seed) for number in track(numbers, "how many clusters")]
    best = max(found, key=lambda entry: (entry.silhouette, -entry.clusters))
    return Choice(best.clusters, _reason(best, found, len(sample)), found)


def _reason(best: Trial, found: Sequence[Trial], rows: int) -> str:
    second = max((entry for entry in found if entry is not best), key=lambda entry: entry.silhouette, default=best)
    text = (
        f"{best.clusters} clusters: of {len(found)} numbers from {found[0].clusters} to {found[-1].clusters} the mean "
        f"silhouette of {rows:,} rows is highest there ({best.silhouette:.3f}; next {second.clusters}: "
        f"{second.silhouette:.3f}), and clusterings of two halves agree to {best.stability:.2f} "
        "(0 is chance, 1 the same)."
    )
    if best.silhouette < WEAK:
        text += " The silhouette is low: there are no clearly separate groups, so take the number as a suggestion."
    if best is found[-1]:
        text += " It is the largest number that was tried; more may be better, by --clusters."
    return text


def trial(V_SD: Vectors, clusters: int, seed: int = 0) -> Trial:
    """Silhouette and stability of one number of clusters on unit vectors [S, D]."""
    whole = nearest(V_SD, fit_centres(V_SD, clusters, seed))[0]
    halves = [nearest(V_SD, fit_centres(V_SD[part::2], clusters, seed))[0] for part in (0, 1)]
    return Trial(clusters, float(silhouettes(V_SD, whole).mean()), adjusted_mutual_information(*halves))


def grid(rows: int) -> list[int]:
    """The numbers to try for so many different rows, each about a quarter larger than the one before."""
    number, found = 2.0, list[int]()
    while round(number) <= min(LARGEST, rows // ROWS_EACH):
        found.append(round(number))
        number = max(number * GROWTH, number + 1)
    return found


def silhouettes(V_ND: Vectors, cluster_N: Ints) -> Floats:
    """The silhouette of each unit vector [N] in cosine distance; 0 for one that is alone in its cluster."""
    sizes = np.bincount(cluster_N)
    S_NK = V_ND @ sums(V_ND, cluster_N).T  # summed cosines of each row to all rows of each cluster
    rows, own_sizes = np.arange(len(V_ND)), sizes[cluster_N]
    inner = 1 - (S_NK[rows, cluster_N] - 1) / np.maximum(own_sizes - 1, 1)  # without the row itself, whose cosine is 1
    D_NK = 1 - S_NK / np.maximum(sizes, 1)
    D_NK[:, sizes == 0] = np.inf
    D_NK[rows, cluster_N] = np.inf
    outer = D_NK.min(axis=1)
    scale = np.maximum(np.maximum(outer, inner), 1e-9)
    return np.where((own_sizes > 1) & np.isfinite(outer), (outer - inner) / scale, 0).astype(np.float32)

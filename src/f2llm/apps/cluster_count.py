"""How many clusters: silhouette and stability over a grid of numbers, on a sample, with sentences that say why.

Silhouette (Rousseeuw 1987): how much nearer a row is to its own cluster than to the next one, -1..1, here with cosine
distance. The mean cosine of a row to all rows of a cluster is one product with the cluster's sum, so the figure is
exact and costs no more than an assignment. Stability: two clusterings learnt from separate halves of the sample are
each applied to all of it; how far they agree (AMI: 0 chance, 1 the same) says whether the clusters are in the texts
or in the luck of the draw.

The choice is the smallest number whose silhouette is within one error of the highest, as one chooses a tree
(Breiman et al. 1984). The error is the median difference between the silhouettes of the two halves' clusterings: it
holds the draw of the rows and the start of k-means, which is the larger part (docs/results/cluster.md).

Cost: three k-means of at most 4,000 rows for each of about 20 numbers, some 8 s on one core at 384 dims. Limit: no
number above 150 is tried, nor one that leaves fewer than eight rows a cluster; give a larger one yourself.
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
    """One number of clusters on the sample: mean silhouette (-1..1), how far those of the two halves' clusterings
    differ, and how far the two agree (AMI, about 0..1).
    """

    clusters: int
    silhouette: float
    spread: float
    stability: float


@dataclass(frozen=True)
class Choice:
    """The number of clusters, why, what was tried, and by how much silhouettes differ by luck alone."""

    clusters: int
    reason: str
    trials: Sequence[Trial]
    error: float = 0.0


def choose(V_ND: Vectors, different: int, seed: int = 0) -> Choice:
    """The number of clusters for k-means of unit vectors; `different` is how many of the rows differ."""
    sample = V_ND[np.sort(np.random.default_rng(seed).permutation(len(V_ND))[:SAMPLE])]
    numbers = grid(min(different, len(sample)))
    if not numbers:
        return Choice(
            1, f"One cluster: fewer than 16 different texts ({different:,}) are too few to be divided by a measure.", ()
        )
    found = [trial(sample, number, seed) for number in track(numbers, "how many clusters")]
    error = float(np.median([entry.spread for entry in found]))
    chosen = smallest_within(found, error)
    return Choice(chosen.clusters, _reason(chosen, found, error, len(sample)), found, error)


def highest(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest silhouette, of equal ones that with the fewest clusters."""
    return max(trials, key=lambda entry: (entry.silhouette, -entry.clusters))


def smallest_within(trials: Sequence[Trial], error: float) -> Trial:
    """The trial with the fewest clusters whose silhouette is at most `error` below the highest."""
    least = highest(trials).silhouette - error
    return min((entry for entry in trials if entry.silhouette >= least), key=lambda entry: entry.clusters)


def _reason(chosen: Trial, found: Sequence[Trial], error: float, rows: int) -> str:
    best, first, last = highest(found), found[0].clusters, found[-1].clusters
    text = (
        f"{chosen.clusters} clusters: of {len(found)} numbers from {first} to {last} the mean "
        f"silhouette of {rows:,} rows is highest for {best.clusters} ({best.silhouette:.3f})"
    )
    if chosen is best:
        text += f", and no smaller number comes within {error:.3f} of it, which is what luck alone makes."
    else:
        text += (
            f", and {chosen.clusters} is the smallest number ({chosen.silhouette:.3f}) that is within {error:.3f} of "
            "it, which is what luck alone makes."
        )
    text += f" Clusterings of two halves agree to {chosen.stability:.2f} (0 is chance, 1 the same)."
    if best.silhouette < WEAK:
        text += " The silhouette is low: there are no clearly separate groups, so take the number as a suggestion."
    if chosen is found[-1]:
        text += " It is the largest number that was tried; more may be better, by --clusters."
    return text


def trial(V_SD: Vectors, clusters: int, seed: int = 0) -> Trial:
    """Silhouette and stability of one number of clusters on unit vectors [S, D]."""
    parts = (V_SD, V_SD[0::2], V_SD[1::2])
    whole, *halves = [nearest(V_SD, fit_centres(part, clusters, seed))[0] for part in parts]
    mean, one, other = [float(silhouettes(V_SD, cluster).mean()) for cluster in (whole, *halves)]
    return Trial(clusters, mean, abs(one - other), adjusted_mutual_information(*halves))


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

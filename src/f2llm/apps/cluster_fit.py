"""Vectors to clusters: k-means over unit vectors, or HDBSCAN, with a distance and a probability for every row.

k-means of up to 20,000 rows runs all of Lloyd's iterations, of more rows in mini-batches (Sculley 2010); one more pass
gives every row to the centre with the highest cosine. HDBSCAN (Campello et al. 2013) looks at the first principal
components of at most 20,000 rows, for it compares all pairs; each further row goes where its nearest neighbour among
those went. Clusters are numbered by size, 0 the largest; -1 is noise. scikit-learn's OpenMP loops run on one thread:
on several they add up in another order at each run, and the same command would give other clusters.

Cost (D dims, K clusters): k-means 2 * N * K * D FLOP a pass, mini-batches about one and a half passes; HDBSCAN 20,000
rows once against each other and the others once against them in 30 dims. Memory: blocks of 4 million similarities.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.extras import optional
from f2llm.core.log import log, track
from f2llm.model.vectors import Vectors, normalize

EXTRA = "apps"
NOISE = -1
FULL_ROWS = 20_000  # more are clustered in mini-batches, or by their nearest neighbours among so many
BLOCK_VALUES = 4_000_000
COMPONENTS, MIN_SAMPLES = 30, 5  # of HDBSCAN: density says nothing in hundreds of dimensions (docs/log.md)
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Partition:
    """Cluster [N] (-1 for noise), cosine distance to the cluster's centre [N] (0..2, of noise to the nearest centre),
    probability of belonging [N] (0..1, 0 for noise), and the centres of unit length [K, D].
    """

    cluster: Ints
    distance: Floats
    probability: Floats
    centres: Vectors

    @property
    def sizes(self) -> Ints:
        """Rows of each cluster [K], noise not counted."""
        return np.bincount(self.cluster[self.cluster != NOISE], minlength=len(self.centres))


def k_means(V_ND: Vectors, clusters: int, seed: int = 0) -> Partition:
    """Clusters of unit vectors around `clusters` centres, fewer where the vectors have fewer different values."""
    log(f"k-means: rows {len(V_ND):,}, clusters {clusters:,}")
    centres = fit_centres(V_ND, clusters, seed, starts=4)
    cluster, cosine = nearest(V_ND, centres, "assigning")
    order, cluster = by_size(cluster)
    centres = centres[order]
    return Partition(cluster, 1 - cosine, _mixture_probability(V_ND, centres, cluster), centres)


def fit_centres(V_ND: Vectors, clusters: int, seed: int, starts: int = 1) -> Vectors:
    """Centres of unit length [clusters, D] by k-means, the best of `starts` beginnings."""
    package = optional("sklearn.cluster", EXTRA)
    if len(V_ND) > FULL_ROWS:
        model = package.MiniBatchKMeans(clusters, batch_size=4096, n_init=starts, random_state=seed)
    else:
        model = package.KMeans(clusters, n_init=starts, max_iter=100, random_state=seed)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer different vectors than clusters: empty ones are dropped by `by_size`
        wide = V_ND if len(V_ND) > FULL_ROWS else V_ND.astype(float)  # float32 is seeded through slow small casts
        return normalize(model.fit(wide).cluster_centers_)


def nearest(V_ND: Vectors, centres_KD: Vectors, told: str = "") -> tuple[Ints, Floats]:
    """The centre with the highest cosine to each row [N], and that cosine [N]; `told` names a progress bar."""
    cluster, cosine = np.empty(len(V_ND), np.int64), np.empty(len(V_ND), np.float32)
    parts = list(blocks(len(V_ND), len(centres_KD)))
    for rows in track(parts, told) if told else parts:
        S_BK = V_ND[rows] @ centres_KD.T
        cluster[rows], cosine[rows] = S_BK.argmax(axis=1), S_BK.max(axis=1)
    return cluster, cosine


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of `rows` that keep a matrix of so many columns within 4 million values."""
    step = max(1, BLOCK_VALUES // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def by_size(cluster_N: Ints) -> tuple[Ints, Ints]:
    """The old numbers of the clusters that have rows, the largest first, and each row's new number; noise stays."""
    found, counts = np.unique(cluster_N[cluster_N != NOISE], return_counts=True)
    order = found[np.argsort(-counts, kind="stable")]
    new = np.full(int(cluster_N.max(initial=NOISE)) + 2, NOISE, np.int64)  # the last entry is that of noise, -1
    new[order] = np.arange(len(order))
    return order, new[cluster_N]


def _mixture_probability(V_ND: Vectors, centres_KD: Vectors, cluster_N: Ints) -> Floats:
    """Probability of each row's own cluster in the model that k-means fits: Gaussians of equal size and variance.

    The variance is measured in the subspace of the centres, the only one in which distances to them differ.
    """
    if len(centres_KD) == 1:
        return np.ones(len(V_ND), np.float32)
    axes_RD = np.linalg.svd(centres_KD - centres_KD.mean(axis=0), full_matrices=False)[2][: len(centres_KD) - 1]
    inner_KR = centres_KD @ axes_RD.T
    total = 0.0
    for rows in blocks(len(V_ND), len(centres_KD)):
        total += float(np.square(V_ND[rows] @ axes_RD.T - inner_KR[cluster_N[rows]]).sum())
    variance = max(total / len(V_ND) / len(axes_RD), 1e-6)
    found, squares_K = np.empty(len(V_ND), np.float32), np.square(inner_KR).sum(axis=1)
    for rows in blocks(len(V_ND), len(centres_KD)):
        D_BK = squares_K - 2 * (V_ND[rows] @ axes_RD.T) @ inner_KR.T  # squared distances but for a constant of the row
        own_B1 = np.take_along_axis(D_BK, cluster_N[rows, None], axis=1)
        found[rows] = 1 / np.exp(np.minimum((own_B1 - D_BK) / (2 * variance), 50)).sum(axis=1)
    return found


def hdbscan(V_ND: Vectors, min_size: int, seed: int = 0) -> Partition:
    """Clusters of at least `min_size` rows (of the sample, where there are more than 20,000) that are dense; the rest
    is noise.
    """
    if len(V_ND) < min_size:
        nothing = np.zeros(len(V_ND), np.float32)
        return Partition(np.full(len(V_ND), NOISE), nothing + np.nan, nothing, np.empty((0, V_ND.shape[1]), np.float32))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(V_ND))[:FULL_ROWS])
    log(f"HDBSCAN: {len(chosen):,} of {len(V_ND):,} rows, clusters of at least {min_size:,}")
    reduce = principal_components(V_ND[chosen], COMPONENTS, seed)
    P_SC = reduce(V_ND[chosen])
    model = optional("sklearn.cluster", EXTRA).HDBSCAN(
        min_cluster_size=min_size, min_samples=min(MIN_SAMPLES, len(P_SC)), copy=True
    )
    with one_thread():
        model.fit(P_SC.astype(float))
    cluster, strength = model.labels_.astype(np.int64), model.probabilities_.astype(np.float32)
    if len(chosen) < len(V_ND):
        place = _nearest_rows(reduce, V_ND, P_SC)
        place[chosen] = np.arange(len(chosen))
        cluster, strength = cluster[place], strength[place]
    _, cluster = by_size(cluster)
    centres = normalize(sums(V_ND, cluster))
    return Partition(cluster, _distances(V_ND, centres, cluster), strength, centres)


def sums(V_ND: Vectors, cluster_N: Ints) -> Vectors:
    """The sum of the rows of each cluster [K, D]; noise is left out."""
    found = np.zeros((int(cluster_N.max(initial=NOISE)) + 1, V_ND.shape[1]), np.float32)
    for number in range(len(found)):
        found[number] = V_ND[cluster_N == number].sum(axis=0)
    return found


def principal_components(V_SD: Vectors, components: int, seed: int = 0) -> Any:
    """A function from vectors [N, D] to their first `components` principal components, as found in `V_SD`."""
    mean = V_SD.mean(axis=0)
    count = min(components, *V_SD.shape)
    with np.errstate(divide="ignore", invalid="ignore"):  # shares of a variance that is 0: one row, or equal ones
        model = optional("sklearn.decomposition", EXTRA).PCA(count, random_state=seed).fit(V_SD - mean)
    axes_DC = model.components_.T.astype(np.float32)
    return lambda rows: (rows - mean) @ axes_DC


def _nearest_rows(reduce: Any, V_ND: Vectors, P_SC: Floats) -> Ints:
    """The number of the sampled row nearest to each row [N], by distance in principal components."""
    found, squares_S = np.empty(len(V_ND), np.int64), np.square(P_SC).sum(axis=1)
    for rows in track(list(blocks(len(V_ND), len(P_SC))), "assigning"):
        found[rows] = (squares_S - 2 * reduce(V_ND[rows]) @ P_SC.T).argmin(axis=1)
    return found


def _distances(V_ND: Vectors, centres_KD: Vectors, cluster_N: Ints) -> Floats:
    """Cosine distance to the own centre, of noise to the nearest; NaN where there is no cluster."""
    if not len(centres_KD):
        return np.full(len(V_ND), np.nan, np.float32)
    found = 1 - nearest(V_ND, centres_KD)[1]
    for rows in blocks(len(V_ND), V_ND.shape[1]):
        inside = cluster_N[rows] != NOISE
        own = np.einsum("nd,nd->n", V_ND[rows], centres_KD[cluster_N[rows]])  # of noise: the last centre, not used
        found[rows] = np.where(inside, 1 - own, found[rows])
    return found


def one_thread() -> Any:
    """A context in which scikit-learn's own loops run on one thread, and so give the same result at each run."""
    return optional("threadpoolctl", EXTRA).threadpool_limits(1, user_api="openmp")

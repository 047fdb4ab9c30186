"""How far two groupings of the same rows agree: V-measure, adjusted mutual information, each language by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from f2llm.core.extras import optional

Indices = npt.NDArray[np.integer]
Labels = Sequence[object] | Indices
MIN_TEXTS, MIN_LABELS = 5, 2  # below this a language's clustering score says nothing


def v_measure(labels: Labels, clusters: Labels) -> float:
    """Harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg, 2007), 0..1.

    It equals twice the mutual information over the sum of the two entropies.
    """
    own, other, joint = entropies(labels, clusters)
    return float(max(0.0, 2 * (own + other - joint) / (own + other))) if own + other else 1.0


def explained(labels: Labels, by: Labels) -> float:
    """Share of the entropy of `labels` that knowing `by` takes away (homogeneity), 0..1; 0 where there is none."""
    own, other, joint = entropies(labels, by)
    return float(max(0.0, (own + other - joint) / own)) if own else 0.0


def entropies(labels: Labels, clusters: Labels) -> tuple[float, float, float]:
    """Entropy in nats of each of two groupings, and of both together."""
    first, second = (np.unique(np.asarray(side), return_inverse=True)[1] for side in (labels, clusters))
    return entropy(first), entropy(second), entropy(first * (second.max(initial=0) + 1) + second)


def entropy(codes_N: Indices) -> float:
    """Entropy in nats of the values of an integer array."""
    share = np.unique(codes_N, return_counts=True)[1] / len(codes_N)
    return float(-(share * np.log(share)).sum())


def adjusted_mutual_information(labels: Labels, clusters: Labels) -> float:
    """V-measure corrected for chance (Vinh et al., 2010): random clusters get 0 on average, few texts or many."""
    return float(optional("sklearn.metrics", "report").adjusted_mutual_info_score(labels, clusters))


def clusters_by_language(
    labels: Sequence[str], clusters: Indices, langs: Sequence[str], measure: Callable[[Indices, Indices], float]
) -> dict[str, tuple[int, float]]:
    """Count and `measure` (of labels, clusters) within each language that has at least 5 texts and 2 labels."""
    codes = np.unique(np.array(labels), return_inverse=True)[1]
    names, index = np.unique(np.array(langs), return_inverse=True)
    result = {}
    for number, name in enumerate(names):
        rows = np.flatnonzero(index == number)
        if len(rows) >= MIN_TEXTS and len(np.unique(codes[rows])) >= MIN_LABELS:
            result[str(name)] = (len(rows), measure(codes[rows], clusters[rows]))
    return result

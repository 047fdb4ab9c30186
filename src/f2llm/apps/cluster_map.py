"""Places of texts on a flat map: t-SNE of a sample, and where its labels go so that they do not cover each other.

t-SNE (van der Maaten and Hinton 2008) of the first 30 principal components keeps neighbours together; distances between
far groups and the sizes of groups on the map mean nothing. Cost: about 10 s for 3,000 texts on one core. Fewer than ten
texts are placed by their first two principal components.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from f2llm.apps.cluster_fit import EXTRA, Floats, Ints, one_thread, principal_components
from f2llm.core.extras import optional
from f2llm.core.log import log
from f2llm.model.vectors import Vectors

COMPONENTS, PERPLEXITY, FEW = 30, 30, 10
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def sample(rows: int, wanted: int, seed: int = 0) -> Ints:
    """Numbers of the rows to be drawn, ascending: all, or `wanted` of them at random."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:wanted])


def layout(V_SD: Vectors, seed: int = 0) -> Floats:
    """Places [S, 2] in 0..1 of unit vectors."""
    if len(V_SD) < FEW:
        return _in_unit_square(_start(principal_components(V_SD, 2, seed)(V_SD)))
    log(f"map of {len(V_SD):,} texts (t-SNE)")
    P_SC = principal_components(V_SD, COMPONENTS, seed)(V_SD)
    perplexity = min(PERPLEXITY, (len(V_SD) - 1) / 3)
    model = optional("sklearn.manifold", EXTRA).TSNE(perplexity=perplexity, init=_start(P_SC), random_state=seed)
    with one_thread():
        return _in_unit_square(model.fit_transform(P_SC))


def _in_unit_square(places_S2: Floats) -> Floats:
    low, high = places_S2.min(axis=0), places_S2.max(axis=0)
    scaled: Floats = ((places_S2 - low) / np.maximum(high - low, 1e-9)).astype(np.float32)
    return scaled


def _start(P_SC: Floats) -> Floats:
    """The first two components with the small spread that t-SNE starts from; equal rows stay equal."""
    flat = np.zeros((len(P_SC), 2), np.float32)
    flat[:, : min(2, P_SC.shape[1])] = P_SC[:, :2]
    return (flat / max(float(flat[:, 0].std()), 1e-9) * 1e-4).astype(np.float32)


def anchors(places_S2: Floats, cluster_S: Ints, clusters: int) -> dict[int, tuple[float, float]]:
    """For each cluster that is on the map the place of the row nearest to the median of its rows."""
    found = {}
    for number in range(clusters):
        own = places_S2[cluster_S == number]
        if len(own):
            nearest = np.square(own - np.median(own, axis=0)).sum(axis=1).argmin()
            found[number] = (float(own[nearest, 0]), float(own[nearest, 1]))
    return found


def place_labels(
    anchors: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], frame: Box
) -> list[tuple[float, float] | None]:
    """Centres for labels of `sizes` near `anchors`, in order of importance; None for one that finds no room.

    Each label takes the first free place on circles around its anchor, so that no two overlap and all lie in `frame`.
    """
    taken: list[Box] = []
    found: list[tuple[float, float] | None] = []
    for (x, y), (width, height) in zip(anchors, sizes, strict=True):
        spot = None
        for dx, dy in _spiral(height):
            box = _inside((x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2), frame)
            if box and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                spot = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                break
        found.append(spot)
    return found


def _spiral(step: float) -> list[tuple[float, float]]:
    """Offsets, nearest first: the anchor itself, then eight rings of sixteen."""
    angles = np.arange(16) * np.pi / 8 + np.pi / 2
    rings = [(step * ring * np.cos(a) * 1.6, step * ring * np.sin(a)) for ring in range(1, 9) for a in angles]
    return [(0.0, 0.0), *((float(x), float(y)) for x, y in rings)]


def _inside(box: Box, frame: Box) -> Box | None:
    """The box moved into the frame; None where it is larger than the frame."""
    left, bottom, right, top = box
    if right - left > frame[2] - frame[0] or top - bottom > frame[3] - frame[1]:
        return None
    dx = max(frame[0] - left, 0) + min(frame[2] - right, 0)
    dy = max(frame[1] - bottom, 0) + min(frame[3] - top, 0)
    return left + dx, bottom + dy, right + dx, top + dy


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

"""Planted groups of vectors, and an encoder that puts texts where their first word says."""

from __future__ import annotations

import numpy as np

from f2llm.apps.encoding import TextEncoder
from f2llm.model.vectors import Vectors, normalize

DIMS = 12
TOPICS = ("card", "weather", "music")


def planted(groups: int, rows: int, spread: float = 0.25, seed: int = 0) -> tuple[Vectors, np.ndarray]:
    """Unit vectors around `groups` axes, group g with `rows` + 10 * g rows, shuffled; and the group of each."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(groups), [rows + 10 * group for group in range(groups)])
    generator.shuffle(truth)
    noise = generator.normal(0, spread, (len(truth), DIMS))
    return normalize(np.eye(DIMS)[truth] + noise), truth


def topic_encoder(calls: list[int] | None = None, fingerprint: str = "topics") -> TextEncoder:
    """A text that names a topic lies near the topic's axis; equal texts get equal vectors."""

    def encode(texts: list[str]) -> Vectors:
        if calls is not None:
            calls.append(len(texts))
        return normalize(np.array([_vector(text) for text in texts]))

    return TextEncoder(encode, "topics", fingerprint, DIMS)


def _vector(text: str) -> np.ndarray:
    generator = np.random.default_rng(list(text.encode()))
    axis = next((number for number, topic in enumerate(TOPICS) if topic in text), DIMS - 1)
    found: np.ndarray = np.eye(DIMS)[axis] + generator.normal(0, 0.12, DIMS)
    return found

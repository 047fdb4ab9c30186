"""Vectors of a table's texts for clustering: each distinct text once, kept beside the result.

A second run over the same texts with the same model finds them there (vectors.npy, 4 bytes * distinct texts * dims) and
starts with the clustering. Cost: encoding, then one pass; memory twice the vectors where texts repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from f2llm.apps.encoding import TextEncoder, encode_texts
from f2llm.core.errors import DataError
from f2llm.core.files import atomic_path, digest_json, read_json, write_json
from f2llm.core.log import log
from f2llm.model.vectors import Vectors


def text_vectors(texts: Sequence[str], encoder: TextEncoder, folder: Path) -> tuple[Vectors, int]:
    """Unit vectors of the texts [N, D], and how many texts are distinct; read from `folder` where it has them.

    ModelError where the model gives numbers that are not finite.
    """
    places: dict[str, int] = {}
    index = np.array([places.setdefault(text, len(places)) for text in texts])
    distinct = list(places)
    key = digest_json([encoder.fingerprint, distinct])
    found = _stored(folder, key)
    if found is None:
        found = encode_texts(encoder, distinct)
        with atomic_path(folder / "vectors.npy") as temporary, open(temporary, "wb") as handle:
            np.save(handle, found)
        write_json(folder / "vectors.json", {"key": key, "texts": len(found), "dims": found.shape[1]})
    return (found if len(distinct) == len(texts) else found[index]), len(distinct)


def _stored(folder: Path, key: str) -> Vectors | None:
    """The vectors that an earlier run left; None where there are none, or others."""
    try:
        if read_json(folder / "vectors.json")["key"] != key:
            return None
        found: Vectors = np.load(folder / "vectors.npy", allow_pickle=False)
    except (DataError, OSError, ValueError, KeyError, TypeError):  # unreadable ones are made again
        return None
    log(f"the vectors of {len(found):,} distinct texts are those of {folder / 'vectors.npy'}")
    return found

"""Teacher vectors, computed once per distinct text and kept as a float16 memory map beside the ids they belong to.

The directory holds ids.npy (sorted store indices), vectors.f16 [len(ids), D] and done.json (texts finished so far), so
a killed computation continues where the last chunk ended. Vectors are not normalised: distillation compares raw ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from f2llm.core.errors import DataError
from f2llm.core.files import read_json, write_json
from f2llm.core.log import Bar
from f2llm.data.store import TokenStore, union_ids
from f2llm.model.decoder import Decoder
from f2llm.model.pack import embed
from f2llm.train.batch import length_order, pack_texts
from f2llm.train.sampler import BatchSampler, draw_rows

_CHUNK_TEXTS = 16_384


def needed_texts(
    store: TokenStore, sampler: BatchSampler, steps: int, negatives: dict[str, int], seed: int
) -> NDArray[np.int64]:
    """Sorted indices of every text that `steps` steps of the sampler will use."""
    seen = np.zeros(len(store), dtype=bool)
    for step in range(steps):
        draw = sampler.draw(step)
        seen[union_ids([draw_rows(store, draw, negatives[draw.source], seed)])] = True
    return np.flatnonzero(seen)


@torch.no_grad()
def compute_teacher_vectors(
    directory: Path, decoder: Decoder, store: TokenStore, ids: NDArray[np.int64], *, batch_tokens: int
) -> None:
    """Fill `directory` with the vectors of the texts `ids`; continues a computation that was cut off."""
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "ids.npy", ids)
    vectors, done = _open_vectors(directory, len(ids), decoder.shape.hidden)
    order = length_order(store, ids)
    with Bar("teacher vectors", len(ids)) as bar:
        bar.advance(done)
        for start in range(done, len(ids), _CHUNK_TEXTS):
            chunk = order[start : start + _CHUNK_TEXTS]
            vectors[chunk] = _vectors(decoder, store, ids[chunk], batch_tokens)
            vectors.flush()
            write_json(directory / "done.json", {"texts": start + len(chunk), "dim": decoder.shape.hidden})
            bar.advance(len(chunk))


class TeacherVectors:
    """Read access: `teacher[text_ids]` gives float32 [N, D_teacher]."""

    def __init__(self, directory: Path) -> None:
        self.ids: NDArray[np.int64] = np.load(directory / "ids.npy", mmap_mode="r")
        self.dim = int(read_json(directory / "done.json")["dim"])
        self.vectors: NDArray[np.float16] = np.memmap(
            directory / "vectors.f16", dtype=np.float16, mode="r", shape=(len(self.ids), self.dim)
        )

    def __getitem__(self, text_ids: NDArray[np.int64]) -> Tensor:
        places = np.minimum(np.searchsorted(self.ids, text_ids), len(self.ids) - 1)
        if not np.array_equal(self.ids[places], text_ids):
            raise DataError("the teacher's vectors do not cover the texts of this batch; compute them again")
        return torch.from_numpy(np.asarray(self.vectors[places], dtype=np.float32))


def _open_vectors(directory: Path, count: int, dim: int) -> tuple[np.memmap[Any, np.dtype[np.float16]], int]:
    """The vectors' memory map and how many texts (in length order) it already holds."""
    path, progress = directory / "vectors.f16", directory / "done.json"
    if progress.exists() and path.exists() and path.stat().st_size == 2 * count * dim:
        return np.memmap(path, dtype=np.float16, mode="r+", shape=(count, dim)), int(read_json(progress)["texts"])
    return np.memmap(path, dtype=np.float16, mode="w+", shape=(count, dim)), 0


def _vectors(decoder: Decoder, store: TokenStore, ids: NDArray[np.int64], batch_tokens: int) -> NDArray[np.float16]:
    """Vectors of texts that are already in length order, in packs of at most `batch_tokens`."""
    ends = np.cumsum(store.lengths(ids))
    parts, start = [], 0
    while start < len(ids):
        base = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, base + batch_tokens, side="right")))
        parts.append(embed(decoder, pack_texts(store, ids[start:end])).numpy().astype(np.float16))
        start = end
    return np.concatenate(parts)

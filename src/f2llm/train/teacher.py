"""What a teacher says of the texts of a batch: from vectors that were computed once, or on the spot.

Stored vectors are kept, one per distinct text, as a float16 memory map beside the ids they belong to. Vectors computed
on the spot are rounded to float16 too, so both ways give the same loss (up to the last bit of that rounding).

With hidden states to match, those of the teacher's first layers at the last token follow its embedding.
A directory of stored vectors holds ids.npy (sorted store indices), vectors.f16 [len(ids), D] and done.json (texts
finished so far), so a killed computation continues where the last chunk ended. Vectors are not normalised:
distillation compares raw ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from f2llm.core.errors import DataError
from f2llm.core.files import digest_json, read_json, write_json
from f2llm.core.log import Bar
from f2llm.data.store import TokenStore, union_ids
from f2llm.model.decoder import Decoder
from f2llm.model.pack import embed
from f2llm.train.batch import PackedBatch, length_order, pack_texts
from f2llm.train.distributed import Precision, Replica, Strategy, World
from f2llm.train.gradcache import embed_batch
from f2llm.train.sampler import BatchSampler, draw_rows

_CHUNK_TEXTS = 16_384


@dataclass(frozen=True)
class HiddenMatch:
    """What a student that was cut from its teacher compares: for each of its layers but the last, the number of the
    teacher's layer that it was (from 0), and the channels that it has of it."""

    layers: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        """How many of its first layers the teacher must tell of."""
        return max(self.layers, default=-1) + 1

    def select(self, vectors: Tensor, states: int) -> Tensor:
        """[N, (1 + states) D_T] -> [N, D_T + L D]: the embedding and the states and channels that are compared."""
        parts = vectors.view(len(vectors), 1 + states, -1)
        places = torch.tensor([layer + 1 for layer in self.layers], dtype=torch.long, device=vectors.device)
        channels = torch.tensor(self.channels, dtype=torch.long, device=vectors.device)
        chosen = parts.index_select(1, places).index_select(2, channels)
        return torch.cat([parts[:, 0], chosen.flatten(1)], dim=1)


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
    directory: Path, decoder: Decoder, store: TokenStore, ids: NDArray[np.int64], *, batch_tokens: int, states: int = 0
) -> None:
    """Fill `directory` with the vectors of the texts `ids`; continues a computation that was cut off.

    `states`: of how many first layers the hidden states are kept too.
    """
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "ids.npy", ids)
    decoder.append_states = states
    about = {"dim": decoder.shape.hidden, "states": states}
    vectors, done = _open_vectors(directory, len(ids), decoder.shape.hidden * (1 + states))
    order = length_order(store, ids)
    with Bar("teacher vectors", len(ids)) as bar:
        bar.advance(done)
        for start in range(done, len(ids), _CHUNK_TEXTS):
            chunk = order[start : start + _CHUNK_TEXTS]
            vectors[chunk] = _vectors(decoder, store, ids[chunk], batch_tokens)
            vectors.flush()
            write_json(directory / "done.json", {"texts": start + len(chunk), **about})
            bar.advance(len(chunk))


class StoredTeacher:
    """Vectors that `compute_teacher_vectors` wrote: `teacher[text_ids]` gives float32 [N, D_T], or [N, D_T + L D]."""

    def __init__(self, directory: Path, match: HiddenMatch | None = None) -> None:
        about = read_json(directory / "done.json")
        self.ids: NDArray[np.int64] = np.load(directory / "ids.npy", mmap_mode="r")
        self.dim, self.states, self.match = int(about["dim"]), int(about.get("states", 0)), match
        width = self.dim * (1 + self.states)
        self._vectors: NDArray[np.float16] = np.memmap(
            directory / "vectors.f16", dtype=np.float16, mode="r", shape=(len(self.ids), width)
        )

    @property
    def name(self) -> str:
        return digest_json([len(self.ids), self.dim] if self.match is None else [len(self.ids), self.dim, self.states])

    def __getitem__(self, text_ids: NDArray[np.int64]) -> Tensor:
        places = np.minimum(np.searchsorted(self.ids, text_ids), len(self.ids) - 1)
        if not np.array_equal(self.ids[places], text_ids):
            raise DataError("the teacher's vectors do not cover the texts of this batch; compute them again")
        found = torch.from_numpy(np.asarray(self._vectors[places], dtype=np.float32))
        return found[:, : self.dim] if self.match is None else self.match.select(found, self.states)


class OnlineTeacher:
    """A frozen teacher that embeds each batch itself, spread over the processes as the student is."""

    def __init__(
        self,
        decoder: Decoder,
        world: World,
        strategy: Strategy,
        precision: Precision,
        max_tokens: int,
        match: HiddenMatch | None = None,
    ) -> None:
        self.match, self.max_tokens, self.dim = match, max_tokens, decoder.shape.hidden
        decoder.append_states = match.depth if match else 0
        self.states = decoder.append_states
        self.replica = Replica(decoder.requires_grad_(False), world, strategy, precision)

    @property
    def name(self) -> str:
        return digest_json(["online", self.dim, self.states])

    def __call__(self, batch: PackedBatch) -> Tensor:
        """Of the texts of a batch, in every process."""
        found = embed_batch(self.replica, batch, self.max_tokens).half().float()
        return found if self.match is None else self.match.select(found, self.states)


Teacher = StoredTeacher | OnlineTeacher
"""`name` tells one from another in checkpoints."""


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
        pack = pack_texts(store, ids[start:end])
        found = embed(decoder, pack._replace(input_ids=pack.input_ids.to(decoder.embed_tokens.weight.device)))
        parts.append(found.cpu().numpy().astype(np.float16))
        start = end
    return np.concatenate(parts)

"""What the decoder reads at once: token ids of several texts end to end, perhaps with one prefix that many continue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from f2llm.model.decoder import Decoder

MIN_SHARED = 4  # tokens; a shorter prefix costs more in attention calls than it saves


class Pack(NamedTuple):
    """`input_ids` [T] with boundaries `cu_seqlens`.

    With `continuations`, the first sequence is a prefix, not a text, and so many texts after it continue it.
    """

    input_ids: Tensor
    cu_seqlens: list[int]
    continuations: int = 0


def embed(decoder: Decoder, pack: Pack) -> Tensor:
    """Un-normalised embeddings [N, D] in float32 of the texts of a pack: the last token's hidden state."""
    E_ND: Tensor = decoder(pack.input_ids, pack.cu_seqlens, last_token_only=True, continuations=pack.continuations)
    return E_ND.float()


def make_pack(texts: Sequence[NDArray[np.integer]], prefix: int = 0) -> Pack:
    """Pack of texts (token ids), all of which start with the same `prefix` tokens, which are then kept once."""
    pieces = [texts[0][:prefix], *(text[prefix:] for text in texts)] if prefix else texts
    cu_seqlens = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).tolist()
    ids = torch.from_numpy(np.concatenate(pieces).astype(np.int64))
    return Pack(ids, cu_seqlens, len(texts) if prefix else 0)


def shared_prefix(texts: Sequence[NDArray[np.integer]]) -> int:
    """Tokens that all texts start with, so that each keeps one of its own; 0 where sharing would not pay."""
    limit = min(len(text) for text in texts) - 1
    if len(texts) < 2 or limit < MIN_SHARED:
        return 0
    starts = np.stack([text[:limit] for text in texts])
    same = (starts == starts[0]).all(axis=0)
    length = limit if same.all() else int(same.argmin())
    return length if length >= MIN_SHARED else 0

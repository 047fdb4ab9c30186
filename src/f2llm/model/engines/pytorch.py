"""The engine that runs PyTorch: on a CPU a pass written for inference (`engines.cpu`), on a GPU the decoder's own.

A prefix is computed once, on a CPU: its keys and values are kept for the prefixes used last. The first call with a
prefix costs a pass over it, the next ones do not. Memory of it: 2 * layers * kv_heads * head_dim numbers a token.

Limits: weights must not change while an engine is used; on a CPU all but the token table are copied when it is made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from f2llm.model.decoder import Decoder
from f2llm.model.engines.base import Ids
from f2llm.model.engines.cpu import CpuDecoder, KeysValues
from f2llm.model.pack import embed, make_pack
from f2llm.model.vectors import Vectors

KEPT_PREFIXES = 8


class TorchEngine:
    """See the module; `f2llm.model.engines.base.Engine` says what `embed` promises. Safe to call from many threads.

    `kind` is the type that weights are kept in on a CPU: float32, bfloat16, float16 or int8; default: as they come.
    """

    name = "torch"

    def __init__(self, decoder: Decoder, kind: torch.dtype | None = None) -> None:
        self.width, weight = decoder.shape.hidden, decoder.embed_tokens.weight
        self._place = weight.device
        self.device = str(self._place)
        on_cpu = self._place.type == "cpu"
        self._decoder: Decoder | CpuDecoder = CpuDecoder(decoder, kind or weight.dtype) if on_cpu else decoder
        self._kept: OrderedDict[bytes, KeysValues] = OrderedDict()
        self._lock = Lock()

    @torch.inference_mode()
    def embed(self, texts: Sequence[Ids], prefix: Ids | None = None) -> Vectors:
        """Last-token states [N, width] of token ids, each text read after `prefix`; see the protocol."""
        found = np.empty((len(texts), self.width), dtype=np.float32)
        if not len(texts):
            return found
        # Neighbours of equal length are one call of attention.
        rows = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        ordered = [texts[row] for row in rows]
        found[rows] = self._states(ordered, prefix if prefix is not None and len(prefix) else None).numpy()
        return found

    def _states(self, texts: Sequence[Ids], prefix: Ids | None) -> Tensor:
        if isinstance(self._decoder, CpuDecoder):
            return self._pass(texts, None if prefix is None else self._keys_values(prefix))
        whole = texts if prefix is None else [np.concatenate([prefix, text]) for text in texts]
        pack = make_pack(whole, 0 if prefix is None else len(prefix))
        return embed(self._decoder, pack._replace(input_ids=pack.input_ids.to(self._place))).cpu()

    def _keys_values(self, prefix: Ids) -> KeysValues:
        """Keys and values of a prefix, computed where it is not among the kept."""
        name = np.asarray(prefix, dtype=np.int64).tobytes()
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        made: KeysValues = []
        self._pass([prefix], None, made)
        with self._lock:
            self._kept[name] = made
            while len(self._kept) > KEPT_PREFIXES:
                self._kept.popitem(last=False)
        return made

    def _pass(self, texts: Sequence[Ids], before: KeysValues | None, keep: KeysValues | None = None) -> Tensor:
        """States [N, width] of texts in this order; `keep` receives the keys and values of all tokens."""
        assert isinstance(self._decoder, CpuDecoder)
        return self._decoder.states(make_pack(texts), before, keep)

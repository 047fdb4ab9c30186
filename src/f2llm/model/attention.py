"""Causal attention inside each sequence of a pack, without padding.

A pack is several sequences laid end to end: `cu_seqlens` [N+1] holds their boundaries, `cu_seqlens[0] == 0`. Neighbours
of equal length form a *run*, which is a [n, L] batch in place: no copy, no mask. One fused attention call per run.

Cost: one call per run and layer, so sort a pack by length (the order decides the speed, never the result).
Limits: the number of distinct lengths bounds the efficiency; on CUDA very many short runs are launch-bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """Where the runs of a pack lie; made once per forward pass, used by every layer.

    `runs` holds (number of sequences, length) in pack order; `sizes` the tokens of each run.
    """

    runs: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]

    @classmethod
    def from_cu_seqlens(cls, cu_seqlens: Sequence[int]) -> AttentionPlan:
        """Plan for the sequences bounded by `cu_seqlens`; every sequence has at least one token."""
        lengths = [end - start for start, end in pairwise(cu_seqlens)]
        if not lengths or cu_seqlens[0] != 0 or min(lengths) < 1:
            raise ValueError("cu_seqlens must start at 0 and rise with every sequence; drop the empty sequences")
        runs = tuple((len(list(group)), length) for length, group in groupby(lengths))
        return cls(runs, tuple(count * length for count, length in runs))

    @property
    def tokens(self) -> int:
        """T, the tokens of the whole pack."""
        return sum(self.sizes)

    def positions(self, device: torch.device) -> Tensor:
        """[T] position of each token in its own sequence."""
        longest = torch.arange(max(length for _, length in self.runs), device=device)
        return torch.cat([longest[:length].repeat(count) for count, length in self.runs])

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention: query [T, heads, head_dim], key and value [T, kv_heads, head_dim] -> [T, heads * head_dim].

        `split` and not slices: its gradient is one concatenation, that of a slice is a zero tensor per run.
        """
        split = (torch.split_with_sizes(x, self.sizes) for x in (query, key, value))
        return torch.cat([_attend_run(*run, *qkv) for run, *qkv in zip(self.runs, *split, strict=True)])

    def attend_last(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The rows of `attend` at the last token of each sequence; query [N, heads, head_dim] holds those tokens only.

        The last token sees its whole sequence, so there is no mask.
        """
        queries = torch.split_with_sizes(query, [count for count, _ in self.runs])
        split = (torch.split_with_sizes(x, self.sizes) for x in (key, value))
        return torch.cat([_attend_run(*run, *qkv) for run, *qkv in zip(self.runs, queries, *split, strict=True)])


def _attend_run(count: int, length: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of `count` sequences of `length` tokens: all tokens ask, causally, or the last of each sequence."""
    q, k, v = (x.view(count, -1, x.shape[1], x.shape[2]).transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] == length, enable_gqa=True)
    return out.transpose(1, 2).reshape(query.shape[0], -1)

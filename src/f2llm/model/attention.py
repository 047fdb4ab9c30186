"""Causal attention inside each sequence of a pack, without padding.

A pack is several sequences laid end to end: `cu_seqlens` [N+1] holds their boundaries, `cu_seqlens[0] == 0`. Neighbours
of equal length form a *run*, which is a [n, L] batch in place: no copy, no mask. One fused attention call per run.

The first sequence may be a *prefix*: the `continuations` sequences after it read on where it ends, as if each started
with it. Attention is causal, so the keys and values of an instruction that opens many queries are the same for all of
them; they are computed once, and the gradient of all comes together in them.

Cost: one call per run and layer, so sort a pack by length (the order decides the speed, never the result); the number
of distinct lengths bounds the efficiency. On CUDA in half precision all runs are one call of `varlen_attn`, whatever
their lengths; the keys of a prefix are then copied to each sequence that continues it. No sequence of that call is
without tokens that ask: kernels differ in what they do with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn


class Run(NamedTuple):
    """Neighbouring sequences of `length` tokens each; they continue the prefix or stand alone."""

    sequences: int
    length: int
    continues: bool

    @property
    def tokens(self) -> int:
        return self.sequences * self.length

    @property
    def lengths(self) -> list[int]:
        return [self.length] * self.sequences


@dataclass(frozen=True)
class AttentionPlan:
    """Where the runs of a pack lie; made once per forward pass, used by every layer.

    `prefix` is the number of tokens of the prefix, which is then the first run; 0 where there is none.
    """

    runs: tuple[Run, ...]
    prefix: int = 0

    @classmethod
    def from_cu_seqlens(cls, cu_seqlens: Sequence[int], continuations: int = 0) -> AttentionPlan:
        """Plan for the sequences bounded by `cu_seqlens`; every sequence has at least one token.

        With `continuations`, the first sequence is the prefix of so many sequences after it.
        """
        lengths = [end - start for start, end in pairwise(cu_seqlens)]
        if not lengths or cu_seqlens[0] != 0 or min(lengths) < 1:
            raise ValueError("cu_seqlens must start at 0 and rise with every sequence; drop the empty sequences")
        if not 0 <= continuations < len(lengths):
            raise ValueError(f"{continuations} continuations, but {len(lengths) - 1} sequences after the first")
        kinds = ((length, 1 <= place <= continuations) for place, length in enumerate(lengths))
        runs = tuple(Run(len(list(group)), *kind) for kind, group in groupby(kinds))
        return cls(runs, lengths[0] if continuations else 0)

    @property
    def tokens(self) -> int:
        """T, the tokens of the whole pack."""
        return sum(run.tokens for run in self.runs)

    def positions(self, device: torch.device) -> Tensor:
        """[T] position of each token in its own sequence, the prefix before it included."""
        longest = torch.arange(self.prefix + max(run.length for run in self.runs), device=device)
        starts = (self.prefix if run.continues else 0 for run in self.runs)
        return torch.cat(
            [
                longest[start : start + run.length].repeat(run.sequences)
                for run, start in zip(self.runs, starts, strict=True)
            ]
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention: query [T, heads, head_dim], key and value [T, kv_heads, head_dim] -> [T, heads * head_dim].

        On a CPU the queries of the prefix may be left out, where only its keys and values are wanted.
        `split` and not slices: its gradient is one concatenation, that of a slice is a zero tensor per run.
        """
        if _has_varlen(query):
            return self._attend_varlen(query, key, value, last=False)
        asking = self.runs if len(query) == self.tokens else self.runs[1:]
        queries = torch.split_with_sizes(query, [run.tokens for run in asking])
        return self._attend_runs(asking, queries, key, value)

    def attend_last(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The rows of `attend` at the last token of each sequence; query [N, heads, head_dim] holds those tokens only.

        The last token sees its whole sequence, so there is no mask. The prefix is no sequence of its own here.
        """
        if _has_varlen(query):
            return self._attend_varlen(query, key, value, last=True)
        asking = self.runs[1:] if self.prefix else self.runs
        return self._attend_runs(asking, torch.split_with_sizes(query, [run.sequences for run in asking]), key, value)

    def _attend_runs(self, asking: Sequence[Run], queries: Sequence[Tensor], key: Tensor, value: Tensor) -> Tensor:
        keys, values = (torch.split_with_sizes(x, [run.tokens for run in self.runs]) for x in (key, value))
        skipped = len(self.runs) - len(asking)
        return torch.cat(
            [
                _attend_run(run, q, k, v, keys[0], values[0])
                for run, q, k, v in zip(asking, queries, keys[skipped:], values[skipped:], strict=True)
            ]
        )

    def _attend_varlen(self, query: Tensor, key: Tensor, value: Tensor, *, last: bool) -> Tensor:
        """All sequences in one call: all tokens ask, or the last of each sequence but the prefix."""
        made = self._varlen(last, query.device)
        if made.places is not None:
            key, value = (self._with_prefix(x).index_select(0, made.places) for x in (key, value))
        # A causal window counts from the end of the keys, so the tokens that ask are a sequence's last.
        out = varlen_attn(
            query, key, value, made.ends_q, made.ends_k, made.max_q, made.max_k, window_size=(-1, 0), enable_gqa=True
        )
        assert isinstance(out, Tensor)
        return out.flatten(1)

    def _with_prefix(self, x: Tensor) -> Tensor:
        """The rows of x [T, ...] and the prefix's once more for each sequence that continues it.

        Each row is then selected once at most. On CUDA the gradient of a row that `index_select` takes many times is
        added up in half precision, where the sum of some hundred terms swallows the next; `repeat` sums in float32.
        """
        before, own = x.split_with_sizes([self.prefix, len(x) - self.prefix])
        return torch.cat([before, own, before.repeat(self._continuations, 1, 1)])

    def _varlen(self, last: bool, device: torch.device) -> _Varlen:
        """What `varlen_attn` needs beside the tensors; made once for all layers."""
        if (last, device) not in self._made:
            skipped = int(last and self.prefix > 0)
            seen = [length + self.prefix * run.continues for run in self.runs for length in run.lengths][skipped:]
            asking = [1] * len(seen) if last else [length for run in self.runs for length in run.lengths]
            ends_q, ends_k = (_offsets(lengths, device) for lengths in (asking, seen))
            places = torch.tensor(self._places(last), device=device) if self.prefix else None
            self._made[last, device] = _Varlen(ends_q, ends_k, max(asking), max(seen), places)
        return self._made[last, device]

    def _places(self, last: bool) -> list[int]:
        """Rows of `_with_prefix` that each sequence sees, one after the other; if `last`, the prefix is no sequence."""
        places: list[int] = []
        start, copy = 0, self.tokens
        for number, run in enumerate(self.runs):
            for length in run.lengths:
                if run.continues:
                    places += range(copy, copy + self.prefix)
                    copy += self.prefix
                if number or not last:
                    places += range(start, start + length)
                start += length
        return places

    @property
    def _continuations(self) -> int:
        return sum(run.sequences for run in self.runs if run.continues)

    @cached_property
    def _made(self) -> dict[tuple[bool, torch.device], _Varlen]:
        return {}


class _Varlen(NamedTuple):
    """Offsets, int32 [N+1], of the tokens that ask and of those that they see, and the most in any sequence."""

    ends_q: Tensor
    ends_k: Tensor
    max_q: int
    max_k: int
    places: Tensor | None


def _has_varlen(query: Tensor) -> bool:
    """Whether `varlen_attn` takes it: half precision, heads of 8, 16, ... 256 numbers, an Ampere GPU or a newer one."""
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    fits = query.shape[-1] % 8 == 0 and query.shape[-1] <= 256
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _offsets(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _attend_run(
    run: Run, query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor
) -> Tensor:
    """Attention of one run: all tokens ask, causally, or the last of each sequence, which sees everything."""
    q, k, v = (x.view(run.sequences, -1, x.shape[1], x.shape[2]).transpose(1, 2) for x in (query, key, value))
    causal, mask = q.shape[2] == run.length > 1, None
    if run.continues:
        k, v = (
            torch.cat([before.transpose(0, 1).expand(run.sequences, -1, -1, -1), own], 2)
            for before, own in ((prefix_key, k), (prefix_value, v))
        )
        if causal:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(len(prefix_key))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=True)
    return out.transpose(1, 2).reshape(query.shape[0], -1)

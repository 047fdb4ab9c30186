"""Texts to vectors: what a user of a model calls.

encode: prompt + text -> ids -> packs of about `batch_tokens` tokens, sorted by length -> decoder -> last token ->
truncate -> normalise -> float32. Tokens that all texts of a pack start with (the instruction) are computed once. There
is no padding, so a text has the same vector in whatever company it comes (up to
rounding, 1e-6). The verbs follow sentence-transformers, and so do the vectors.

Cost: 2 * non-embedding parameters FLOP per token; memory one pack's activations plus the result [N, dim].
Limits: a text longer than `max_seq_length` tokens is cut, counted in `last_stats` and warned about once per call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError
from f2llm.core.log import Bar, warn
from f2llm.model import checkpoint, sizes, vectors
from f2llm.model.decoder import Decoder
from f2llm.model.pack import embed, make_pack, shared_prefix
from f2llm.text.prompts import DEFAULT_INSTRUCTION, query_prompt, with_prompt
from f2llm.text.tokenizer import Tokenizer

BATCH_TOKENS = 8192
# Texts tokenised and sorted together: enough for long runs of equal lengths, little enough to hold as Python lists.
_WINDOW = 65_536


@dataclass(frozen=True)
class EncodeStats:
    """What the last call did: texts, tokens read by the model, texts cut at `max_seq_length`, seconds in all."""

    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0


class Embedder:
    """A decoder with its tokenizer and prompts.

    `dims` is the length of the vectors (after `truncate_dim`), `matryoshka_dims` the lengths the model was trained for.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        prompts: Mapping[str, str] | None = None,
        truncate_dim: int | None = None,
        matryoshka_dims: Sequence[int] | None = None,
    ) -> None:
        self.decoder, self.tokenizer = decoder, tokenizer
        chosen = {"query": query_prompt(DEFAULT_INSTRUCTION)} if prompts is None else prompts
        self.prompts = {"query": "", "document": "", **chosen}
        self.truncate_dim = truncate_dim
        self.matryoshka_dims = list(matryoshka_dims or sizes.matryoshka_dims(decoder.shape.hidden))
        self.dims = self._dim(None)
        self.last_stats = EncodeStats()

    @classmethod
    def load(
        cls,
        path_or_hub_id: Path | str,
        *,
        truncate_dim: int | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> Embedder:
        """From a model directory, or from the Hugging Face Hub by id (`owner/name`, `revision` pins a commit)."""
        directory = checkpoint.resolve(path_or_hub_id, revision)
        decoder = checkpoint.load(directory, dtype=dtype, device=device)
        settings = checkpoint.read_settings(directory)
        return cls(decoder, settings.tokenizer, settings.prompts, truncate_dim, settings.matryoshka_dims)

    @property
    def max_seq_length(self) -> int:
        """Tokens that the model reads of one text, prompt and EOS included."""
        return self.tokenizer.max_seq_length

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str = "",
        truncate_dim: int | None = None,
        normalize: bool = True,
        progress: bool = False,
        batch_tokens: int = BATCH_TOKENS,
    ) -> vectors.Vectors:
        """Vectors [N, dim] of `texts`, `prompt` put before each; [dim] for a single text.

        `truncate_dim` overrides the embedder's own; `normalize=False` leaves the length as the model gave it.
        """
        if isinstance(texts, str):
            one = self.encode([texts], prompt=prompt, truncate_dim=truncate_dim, normalize=normalize)
            return one.reshape(-1)
        started, truncated, tokens = time.perf_counter(), 0, 0
        found = np.empty((len(texts), self._dim(truncate_dim)), dtype=np.float32)
        with _bar(progress, len(texts)) as bar:
            for first in range(0, len(texts), _WINDOW):
                window = [with_prompt(text, prompt) for text in texts[first : first + _WINDOW]]
                ids, cut = self.tokenizer.encode_counted(window)
                self._encode_window(ids, found[first : first + _WINDOW], normalize, batch_tokens, bar)
                truncated, tokens = truncated + cut, tokens + sum(map(len, ids))
        if truncated:
            warn(f"{truncated:,} of {len(texts):,} texts are longer than {self.max_seq_length} tokens and were cut")
        self.last_stats = EncodeStats(len(texts), tokens, truncated, time.perf_counter() - started)
        return found

    def encode_query(
        self,
        texts: str | Sequence[str],
        *,
        instruction: str | None = None,
        prompt_name: str | None = None,
        **options: Any,
    ) -> vectors.Vectors:
        """`encode` with a prompt: the `instruction` in the template, or else the one named `prompt_name` (`query`)."""
        if instruction is not None and prompt_name is not None:
            raise ConfigError("both instruction and prompt_name are given; give one of them")
        prompt = self._prompt(prompt_name or "query") if instruction is None else query_prompt(instruction)
        return self.encode(texts, prompt=prompt, **options)

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> vectors.Vectors:
        """`encode` with the prompt named `document`, which is empty unless the model says otherwise."""
        return self.encode(texts, prompt=self._prompt("document"), **options)

    def encode_ids(
        self,
        ids: Sequence[Sequence[int]],
        *,
        normalize: bool = True,
        truncate_dim: int | None = None,
        progress: bool = False,
        batch_tokens: int = BATCH_TOKENS,
    ) -> vectors.Vectors:
        """Vectors [N, dim] of token ids that already end in EOS; not cut, not counted."""
        found = np.empty((len(ids), self._dim(truncate_dim)), dtype=np.float32)
        with _bar(progress, len(ids)) as bar:
            self._encode_window(ids, found, normalize, batch_tokens, bar)
        return found

    def similarity(self, a: NDArray[Any], b: NDArray[Any]) -> vectors.Vectors:
        """Cosine similarities [A, B] in float32."""
        return vectors.cosine(a, b)

    def _dim(self, truncate_dim: int | None) -> int:
        hidden = self.decoder.shape.hidden
        dim = next((dim for dim in (truncate_dim, self.truncate_dim) if dim is not None), hidden)
        if not 1 <= dim <= hidden:
            raise ConfigError(f"truncate_dim is {dim}; give 1 to {hidden}, best one of {self.matryoshka_dims}")
        return dim

    def _prompt(self, name: str) -> str:
        if name not in self.prompts:
            raise ConfigError(f"the model has no prompt {name!r}; it has {sorted(self.prompts)}")
        return self.prompts[name]

    def _encode_window(
        self, ids: Sequence[Sequence[int]], out: vectors.Vectors, normalize: bool, batch_tokens: int, bar: Bar | None
    ) -> None:
        device = next(self.decoder.parameters()).device
        for rows in packs([len(sequence) for sequence in ids], batch_tokens):
            texts = [np.asarray(ids[row]) for row in rows]
            pack = make_pack(texts, shared_prefix(texts))
            with torch.inference_mode():
                pooled = embed(self.decoder, pack._replace(input_ids=pack.input_ids.to(device)))
            found = pooled[:, : out.shape[1]].cpu().numpy()
            out[rows] = vectors.normalize(found) if normalize else found
            if bar is not None:
                bar.advance(len(rows))


def packs(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers in packs of at most `batch_tokens` tokens (or one row), the longest first: memory peaks at once."""
    pack: list[int] = []
    room = batch_tokens
    for row in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        if pack and lengths[row] > room:
            yield pack
            pack, room = [], batch_tokens
        pack.append(row)
        room -= lengths[row]
    if pack:
        yield pack


def _bar(progress: bool, total: int) -> AbstractContextManager[Bar | None]:
    return Bar("encoding", total) if progress else nullcontext()

"""Texts to vectors: what a user of a model calls.

encode: prompt + text -> ids -> packs of about `batch_tokens` tokens, sorted by length -> engine -> last token ->
truncate -> normalise -> float32, float16, int8 or bits. There is no padding, so a text has the same vector in whatever
company it comes (up to rounding, 1e-6). The verbs follow sentence-transformers, and so do the vectors.

The prompt is computed once and kept: of `Instruct: ...\\nQuery: ` and a short query, each call computes the query. The
tokenizer may join the last characters of the prompt with the text, so a text is tokenised whole, and what is shared are
the tokens that its ids and the prompt's start with.

Cost: 2 * non-embedding parameters FLOP per token; memory one pack's activations plus the result [N, dim], or one block
of texts for `encode_stream`. A text is tokenised whole before it is cut: a second for a megabyte.
Limits: a text longer than `max_seq_length` tokens is cut, counted in `last_stats` and warned about once per call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from f2llm.core.allocator import tune_allocator
from f2llm.core.errors import ConfigError
from f2llm.core.log import Bar, warn
from f2llm.model import checkpoint, sizes, vectors
from f2llm.model.decoder import Decoder
from f2llm.model.engines.base import Engine, Ids
from f2llm.model.engines.load import load_engine
from f2llm.model.engines.pytorch import TorchEngine
from f2llm.model.pack import MIN_SHARED
from f2llm.model.precision import Precision, check_precision, empty, from_precision, to_precision
from f2llm.model.workers import Workers
from f2llm.text.prompts import DEFAULT_INSTRUCTION, TASK_INSTRUCTIONS, query_prompt, with_prompt
from f2llm.text.tokenizer import Tokenizer

BATCH_TOKENS = 8192
"""Tokens computed together on a GPU."""
CPU_BATCH_TOKENS = 2048
"""The same on a CPU: as fast as more, and what lies between two layers takes 290 MB less (80M shape, 96 texts)."""
BLOCK = 4096
"""Texts that `encode_stream` reads, sorts and gives back together."""
# Texts tokenised and sorted together: enough for long runs of equal lengths, little enough to hold as Python lists.
_WINDOW = 65_536
_LONGEST_PREFIX = 512  # tokens; of a longer prompt only the beginning is kept between calls
_WORTH_PASS = 64  # tokens saved, from which on a pass of its own for a prefix pays that no later call may ask for

# Packs of token ids and the prefix of all -> states [N, width] of each pack, in order.
_Compute = Callable[[Iterable[Sequence[Ids]], Ids | None], Iterator[vectors.Vectors]]


@dataclass(frozen=True)
class EncodeStats:
    """What the last call did: texts, tokens of them, texts cut at `max_seq_length`, seconds in all.

    `tokens` counts the prompt with every text, whether it was computed or kept.
    """

    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0


class Embedder:
    """An engine with its tokenizer and prompts.

    `dims` is the length of the vectors (after `truncate_dim`), `matryoshka_dims` the lengths the model was trained for.
    `precision` is the number type of what the encode functions return (see `f2llm.model.precision`).
    """

    def __init__(
        self,
        model: Decoder | Engine,
        tokenizer: Tokenizer,
        prompts: Mapping[str, str] | None = None,
        truncate_dim: int | None = None,
        matryoshka_dims: Sequence[int] | None = None,
        precision: str = "float32",
    ) -> None:
        self.engine: Engine = TorchEngine(model) if isinstance(model, Decoder) else model
        self.tokenizer = tokenizer
        chosen = {"query": query_prompt(DEFAULT_INSTRUCTION)} if prompts is None else prompts
        self.prompts = {"query": "", "document": "", **chosen}
        self.truncate_dim = truncate_dim
        self.matryoshka_dims = list(matryoshka_dims or sizes.matryoshka_dims(self.engine.width))
        self.dims = self._dim(None)
        self.precision = check_precision(precision, self.dims)
        self.last_stats = EncodeStats()
        self._make_engine: Callable[[], Engine] | None = None
        self._last_prompt: tuple[str, Sequence[int]] = "", ()

    @classmethod
    def load(
        cls,
        path_or_hub_id: Path | str,
        *,
        truncate_dim: int | None = None,
        precision: str = "float32",
        engine: str = "auto",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> Embedder:
        """From a model directory, or from the Hugging Face Hub by id (`owner/name`, `revision` pins a commit).

        `engine`, `device` and `dtype` as in `f2llm.model.engines.load`. On a CPU the process's allocator is told to
        keep freed memory (`f2llm.core.allocator`; F2LLM_ALLOCATOR=system leaves it alone).
        """
        if device == "cpu":
            tune_allocator()
        directory = checkpoint.resolve(path_or_hub_id, revision)
        settings = checkpoint.read_settings(directory)
        make = partial(load_engine, directory, engine, device=device, dtype=dtype)
        found = cls(make(), settings.tokenizer, settings.prompts, truncate_dim, settings.matryoshka_dims, precision)
        found._make_engine = make
        return found

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
        precision: str | None = None,
        progress: bool = False,
        batch_tokens: int | None = None,
        processes: int = 1,
    ) -> NDArray[Any]:
        """Vectors [N, dim] of `texts`, `prompt` put before each; [dim] for a single text. Bits are [N, dim / 8].

        `truncate_dim` and `precision` override the embedder's own; `normalize=False` leaves the length as the model
        gave it. `batch_tokens` are computed at a time, by default 2,048 on a CPU and 8,192 on a GPU. `processes`
        encode with an engine each (a model loaded from a directory, on a CPU).
        """
        if isinstance(texts, str):
            one = self.encode(
                [texts], prompt=prompt, truncate_dim=truncate_dim, normalize=normalize, precision=precision
            )
            return one.reshape(-1)
        call = self._call(prompt, truncate_dim, normalize, precision, batch_tokens)
        found = empty(len(texts), call.dim, call.precision)
        with self._computing(processes) as call.compute, _bar(progress, len(texts)) as call.bar:
            for first in range(0, len(texts), _WINDOW):
                window = slice(first, first + _WINDOW)
                self._encode_texts(texts[window], found[window], call)
        self._close(call)
        return found

    def encode_stream(
        self,
        texts: Iterable[str],
        *,
        prompt: str = "",
        truncate_dim: int | None = None,
        normalize: bool = True,
        precision: str | None = None,
        progress: bool = False,
        batch_tokens: int | None = None,
        processes: int = 1,
        block: int = BLOCK,
    ) -> Iterator[NDArray[Any]]:
        """`encode` of texts without end: vectors [up to `block`, dim] of the next texts, in order.

        `texts` is read a block at a time, so memory is that of one. `last_stats` is up to date after each block.
        """
        if block < 1:
            raise ConfigError(f"block is {block}; give the number of texts to encode together, 1 or more")
        call = self._call(prompt, truncate_dim, normalize, precision, batch_tokens)
        return self._stream(iter(texts), call, processes, block, progress)

    def encode_query(
        self,
        texts: str | Sequence[str],
        *,
        instruction: str | None = None,
        prompt_name: str | None = None,
        task: str | None = None,
        **options: Any,
    ) -> NDArray[Any]:
        """`encode` with a prompt; give one of the three, or none for the prompt named `query`.

        `instruction`: put into the template. `prompt_name`: one of the model's prompts. `task`: the same, or a type of
        task that MTEB has ("STS", "Retrieval", "Classification", ...), with the instruction of F2LLM-v2 for it.
        """
        return self.encode(texts, prompt=self.query_prompt(instruction, prompt_name, task), **options)

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> NDArray[Any]:
        """`encode` with the prompt named `document`, which is empty unless the model says otherwise."""
        return self.encode(texts, prompt=self._prompt("document"), **options)

    def encode_ids(
        self,
        ids: Sequence[Sequence[int]],
        *,
        normalize: bool = True,
        truncate_dim: int | None = None,
        progress: bool = False,
        batch_tokens: int | None = None,
    ) -> vectors.Vectors:
        """Vectors [N, dim], float32, of token ids that already end in EOS; not cut, not counted."""
        call = self._call("", truncate_dim, normalize, "float32", batch_tokens)
        found = empty(len(ids), call.dim, call.precision)
        with _bar(progress, len(ids)) as call.bar:
            self._encode_ids(ids, found, call)
        return found

    def query_prompt(
        self, instruction: str | None = None, prompt_name: str | None = None, task: str | None = None
    ) -> str:
        """What `encode_query` puts before a text; ConfigError for more than one of the three, and for unknown names."""
        given = {"instruction": instruction, "prompt_name": prompt_name, "task": task}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise ConfigError(f"both {named[0]} and {named[1]} are given; give one of them")
        if instruction is not None:
            return query_prompt(instruction)
        if task is None or task in self.prompts:
            return self._prompt(prompt_name or task or "query")
        if task not in TASK_INSTRUCTIONS:
            raise ConfigError(
                f"task {task!r} is neither a prompt of the model ({', '.join(sorted(self.prompts))}) nor a type of "
                f"task ({', '.join(TASK_INSTRUCTIONS)}); give one of these, or instruction=..."
            )
        return query_prompt(TASK_INSTRUCTIONS[task])

    def similarity(self, a: NDArray[Any], b: NDArray[Any], precision: str | None = None) -> vectors.Vectors:
        """Cosine similarities [A, B] in float32 of vectors as the encode functions give them.

        Floating-point ones are taken as they are, so a float32 query meets stored bytes or bits. Integers are read as
        `precision`, by default the embedder's own; ConfigError where it has another type.
        """
        return vectors.cosine(self._floats(a, precision), self._floats(b, precision))

    def _floats(self, stored: NDArray[Any], precision: str | None) -> vectors.Vectors:
        found = np.atleast_2d(stored)
        if np.issubdtype(found.dtype, np.floating):
            return found
        return from_precision(found, check_precision(precision or self.precision, 8))

    def _dim(self, truncate_dim: int | None) -> int:
        hidden = self.engine.width
        dim = next((dim for dim in (truncate_dim, self.truncate_dim) if dim is not None), hidden)
        if not 1 <= dim <= hidden:
            raise ConfigError(f"truncate_dim is {dim}; give 1 to {hidden}, best one of {self.matryoshka_dims}")
        return dim

    def _call(
        self, prompt: str, truncate_dim: int | None, normalize: bool, precision: str | None, batch_tokens: int | None
    ) -> _Call:
        dim = self._dim(truncate_dim)
        kind = check_precision(precision or self.precision, dim)
        usual = CPU_BATCH_TOKENS if self.engine.device == "cpu" else BATCH_TOKENS
        return _Call(prompt, dim, normalize, kind, batch_tokens or usual, self._here)

    def _prompt(self, name: str) -> str:
        if name not in self.prompts:
            raise ConfigError(f"the model has no prompt {name!r}; it has {sorted(self.prompts)}")
        return self.prompts[name]

    def _stream(
        self, texts: Iterator[str], call: _Call, processes: int, block: int, progress: bool
    ) -> Iterator[NDArray[Any]]:
        with self._computing(processes) as call.compute, _bar(progress, None) as call.bar:
            while window := list(islice(texts, block)):
                found = empty(len(window), call.dim, call.precision)
                self._encode_texts(window, found, call)
                self.last_stats = call.stats()
                yield found
        self._close(call)

    def _encode_texts(self, texts: Sequence[str], out: NDArray[Any], call: _Call) -> None:
        ids, cut = self.tokenizer.encode_counted([with_prompt(text, call.prompt) for text in texts])
        self._encode_ids(ids, out, call)
        call.texts, call.truncated = call.texts + len(texts), call.truncated + cut
        call.tokens += sum(map(len, ids))

    def _encode_ids(self, ids: Sequence[Sequence[int]], out: NDArray[Any], call: _Call) -> None:
        shared = self._shared(ids, call.prompt)
        prefix = np.asarray(ids[0][:shared]) if shared else None
        rows = list(packs([len(sequence) - shared for sequence in ids], call.batch_tokens))
        jobs = ([np.asarray(ids[row][shared:]) for row in pack] for pack in rows)
        for pack, states in zip(rows, call.compute(jobs, prefix), strict=True):
            cut = vectors.truncate(states, call.dim, renormalize=call.normalize)
            out[pack] = to_precision(cut, call.precision)
            if call.bar is not None:
                call.bar.advance(len(pack))

    def _shared(self, ids: Sequence[Sequence[int]], prompt: str) -> int:
        """How many first tokens of all the texts to compute once; 0 where that would not pay."""
        if prompt:
            known, start = self._last_prompt
            if prompt != known:
                start = self.tokenizer.encode([prompt])[0][:-1]
                self._last_prompt = prompt, start
            return common_prefix(start, ids)
        found = common_prefix(ids[0], ids) if len(ids) > 1 else 0
        return found if found * (len(ids) - 1) >= _WORTH_PASS else 0

    @contextmanager
    def _computing(self, processes: int) -> Iterator[_Compute]:
        if processes == 1:
            yield self._here
            return
        if processes < 1:
            raise ConfigError(f"processes is {processes}; give 1 or more")
        if self._make_engine is None or self.engine.name != "torch" or self.engine.device != "cpu":
            raise ConfigError(
                f"processes is {processes}; several need a model that Embedder.load read with engine torch on cpu"
            )
        with Workers(self._make_engine, processes) as workers:
            yield workers.embed

    def _here(self, packs: Iterable[Sequence[Ids]], prefix: Ids | None) -> Iterator[vectors.Vectors]:
        return (self.engine.embed(pack, prefix) for pack in packs)

    def _close(self, call: _Call) -> None:
        self.last_stats = call.stats()
        if call.truncated:
            longer = f"longer than {self.max_seq_length} tokens"
            warn(f"{call.truncated:,} of {call.texts:,} texts are {longer} and were cut")


@dataclass
class _Call:
    """What one call asks for, how it computes, and what it has done so far."""

    prompt: str
    dim: int
    normalize: bool
    precision: Precision
    batch_tokens: int
    compute: _Compute
    bar: Bar | None = None
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    started: float = field(default_factory=time.perf_counter)

    def stats(self) -> EncodeStats:
        return EncodeStats(self.texts, self.tokens, self.truncated, time.perf_counter() - self.started)


def common_prefix(start: Sequence[int], texts: Sequence[Sequence[int]]) -> int:
    """How many of the tokens `start` all texts begin with, each keeping one of its own; 0 below `MIN_SHARED`."""
    length = min(len(start), _LONGEST_PREFIX)
    for text in texts:
        length = min(length, len(text) - 1)
        if list(text[:length]) != list(start[:length]):
            length = next(place for place in range(length) if text[place] != start[place])
    return length if texts and length >= MIN_SHARED else 0


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


def _bar(progress: bool, total: int | None) -> AbstractContextManager[Bar | None]:
    return Bar("encoding", total) if progress else nullcontext()

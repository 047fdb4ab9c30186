"""`f2llm bench tokenize`: texts to ids, beside the loop of the published script and the tokenizer library's own peak.

The texts are those of the rows of real sources, as the published script (`tokenize_data_qwen.py` of F2LLM) takes them:
the query of each row with its instruction, and each distinct document of a source once. Without real files they are
names of things in 330 languages (CLDR), by a vocabulary trained on them. In every round, one after the other:

  peer     a call of the transformers tokenizer a text, truncation, EOS appended by hand, as the script's loop does it;
           the script may run the loop in many processes, which is as true of ours (`--workers`), so none does here
  library  `encode_batch_fast` of the tokenizers package over all texts, on all cores, the result thrown away
  ours     `Tokenizer.encode_arrays`, what a store is built with: on all cores, to arrays, truncated, EOS at the end;
           with Qwen3's vocabulary through tiktoken, so that it may be faster than the library
  store    a whole token store from the rows in memory: distinct texts found, tokenised, numbered and written

The ids of peer and ours are compared; a difference is an error.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer

from f2llm.bench.workload import MAX_TOKENS, NEGATIVES, SOURCES, data_folder
from f2llm.core.errors import ModelError
from f2llm.core.extras import optional
from f2llm.core.log import track
from f2llm.core.machine import cores
from f2llm.core.types import Example
from f2llm.data.convert import convert
from f2llm.data.store import StageSource, build_store
from f2llm.text.prompts import query_prompt, with_prompt
from f2llm.text.tokenizer import EOS_TOKEN, Tokenizer

_BATCH = 4096
_VOCABULARY = 8192
_NAMES = StageSource("cldr", "retrieval", "Find the same name in another language.", symmetric=False)
_Rows = list[tuple[StageSource, list[Example]]]


@dataclass(frozen=True)
class _Work:
    """Rows with the tokenizer they are for, and the texts that the published script tokenises of them."""

    rows: _Rows
    tokenizer: Tokenizer
    texts: list[str]


def bench_tokenize(data: Path | None, *, texts: int, runs: int) -> dict[str, Any]:
    """Medians over `runs` rounds; about `texts` texts (fewer where the files hold fewer). Rates are per second.

    `ratio`: how often faster ours is than the peer; `store_ratio`: a whole store than the peer's loop over the texts of
    its rows; `share`: of the library's peak that ours reaches; `mentions`: texts counted as often as rows name them.
    """
    work = _make_work(data_folder(data), texts)
    with tempfile.TemporaryDirectory() as folder:
        work.tokenizer.save(Path(folder))
        ids = _equal_ids(work, Path(folder))
        found = _measure(work, Path(folder), runs)
    size = sum(len(text.encode()) for text in work.texts) / 1e6
    rates = {name: _rates(name, found[name], len(work.texts), len(ids), size) for name in ("ours", "peer", "library")}
    documents = sum(1 + len(row.negatives) for _, rows in work.rows for row in rows)
    return {
        "workload": ", ".join(source.id for source, _ in work.rows),
        "texts": len(work.texts),
        "distinct_texts": len(set(work.texts)),
        "mentions": sum(len(rows) for _, rows in work.rows) + documents,
        "tokens": len(ids),
        "megabytes": round(size, 4),
        "cores": cores(),
        "threads": int(os.environ.get("RAYON_NUM_THREADS") or cores()),
        "runs": runs,
        **rates["ours"],
        **rates["peer"],
        **rates["library"],
        "ratio": round(found["peer"] / found["ours"], 2),
        "share": round(found["library"] / found["ours"], 3),
        "store_seconds": round(found["store"], 4),
        "store_ratio": round(found["peer"] / found["store"], 2),
        "equal_ids": True,
    }


def _rates(name: str, seconds: float, texts: int, tokens: int, megabytes: float) -> dict[str, float]:
    prefix = "" if name == "ours" else f"{name}_"
    return {
        f"{prefix}seconds": round(seconds, 4),
        f"{prefix}texts_per_second": round(texts / seconds, 1),
        f"{prefix}tokens_per_second": round(tokens / seconds, 1),
        f"{prefix}mb_per_second": round(megabytes / seconds, 3),
    }


def _make_work(data: Path | None, texts: int) -> _Work:
    generator = np.random.default_rng(0)
    if data is None:
        rows = [(_NAMES, _drawn(list(convert("cldr_translation", None, _NAMES.id, {}, 0)), texts // 2, generator))]
        tokenizer = Tokenizer.train(_script_texts(rows), _VOCABULARY, MAX_TOKENS)
        return _Work(rows, tokenizer, _script_texts(rows))
    rows = []
    for source in SOURCES:
        found = list(convert(source.converter, data / source.folder, source.id, source.options, 0))
        stage_source = StageSource(source.id, "retrieval", source.instruction, symmetric=False)
        rows.append((stage_source, _drawn(found, texts // (2 * len(SOURCES)), generator)))
    return _Work(rows, Tokenizer.load(data / "qwen3-tokenizer", MAX_TOKENS), _script_texts(rows))


def _drawn(found: list[Example], count: int, generator: np.random.Generator) -> list[Example]:
    """Rows at random, with documents of other drawn rows as negatives, as mining gives them."""
    places = generator.permutation(len(found))[: max(count, 1)]
    documents = [found[place].positive for place in places]
    negatives = generator.integers(len(documents), size=(len(places), NEGATIVES))
    return [
        replace(found[place], negatives=tuple(documents[i] for i in own if documents[i] != found[place].positive))
        for place, own in zip(places, negatives.tolist(), strict=True)
    ]


def _script_texts(rows: _Rows) -> list[str]:
    """The query of each row with its instruction, and each distinct document of a source once."""
    texts: list[str] = []
    for source, own in rows:
        texts += [with_prompt(row.query, query_prompt(source.instruction)) for row in own]
        texts += dict.fromkeys(document for row in own for document in (row.positive, *row.negatives))
    return texts


def _measure(work: _Work, folder: Path, runs: int) -> dict[str, float]:
    """Median seconds of each way, all of them in every round."""
    backend = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    build = partial(build_store, folder / "store", work.rows, work.tokenizer)
    ways: dict[str, Callable[[], object]] = {
        "peer": partial(_peer, _transformers(folder), work),
        "library": partial(_library, backend, work),
        "ours": partial(_ours, work),
        "store": partial(build, negatives=NEGATIVES, instruction_share=0.0, seed=0),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in track(range(runs), "measuring"):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            found[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _transformers(folder: Path) -> Any:
    transformers = optional("transformers", "dev")
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token=EOS_TOKEN)


def _peer(tokenizer: Any, work: _Work) -> list[NDArray[np.int64]]:
    """The loop of the published script."""
    limit, eos = work.tokenizer.max_seq_length - 1, tokenizer.eos_token_id
    return [
        np.array([*tokenizer(text, max_length=limit, truncation=True, add_special_tokens=False).input_ids, eos])
        for text in work.texts
    ]


def _library(backend: Any, work: _Work) -> None:
    for start in range(0, len(work.texts), _BATCH):
        backend.encode_batch_fast(work.texts[start : start + _BATCH], add_special_tokens=False)


def _ours(work: _Work) -> list[tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.bool_]]]:
    starts = range(0, len(work.texts), _BATCH)
    return [work.tokenizer.encode_arrays(work.texts[start : start + _BATCH]) for start in starts]


def _equal_ids(work: _Work, folder: Path) -> NDArray[np.uint32]:
    """The ids of all texts; ModelError where the peer has others."""
    parts = _ours(work)
    ids, lengths = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    start = 0
    for text, length, theirs in zip(work.texts, lengths.tolist(), _peer(_transformers(folder), work), strict=True):
        if not np.array_equal(ids[start : start + length], theirs):
            raise ModelError(f"transformers gives other ids than f2llm for the text that begins {text[:40]!r}")
        start += length
    return ids

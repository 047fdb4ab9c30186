"""`f2llm bench encode` and `bench query`: texts to vectors, beside sentence-transformers and the machine's own floor.

Both sides read the same model directory: by default a size of the family with random weights (speed does not depend on
them), the full token table and Qwen3's tokenizer, or without the real files one of 8,192 tokens. Documents are joined
CLDR names in 300 languages of log-normal length (median 64 tokens, at most 400), queries have about ten tokens and
carry the model's prompt. Float32 on the CPU, all sides with the same threads, in turn, each in a process of its own:

  f2llm    as it comes: `Embedder.load` tells the allocator to keep freed memory
  float16  f2llm with weights of 16 bits, which are those of a checkpoint in bfloat16 exactly (torch engine)
  int8     f2llm with weights of 8 bits (either engine): other vectors, how far is `min_cosine`
  default  sentence-transformers as it comes: PyTorch, batches of 32, the system's allocator settings
  equal    sentence-transformers with f2llm's allocator settings and the fastest batch size of 8, 32 and 128
  peer8    sentence-transformers' OpenVINO backend with 8-bit weights, where optimum-intel is installed

The floor is 2 * non-embedding parameters * tokens over the rate of a large matrix product, measured beside; attention
is not counted in it. Vectors in float32 must agree (cosine > 0.99999), or there is no figure.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from f2llm.bench.sides import PEER_DEFAULT, Side, openvino_peer
from f2llm.bench.training import make_decoder
from f2llm.bench.workload import data_folder
from f2llm.core.errors import ModelError
from f2llm.core.log import track
from f2llm.core.machine import cores, hardware
from f2llm.data.cldr import load_cells
from f2llm.model import checkpoint
from f2llm.model.sizes import matryoshka_dims
from f2llm.text.prompts import DEFAULT_INSTRUCTION, query_prompt
from f2llm.text.tokenizer import Tokenizer

MAX_TOKENS, VOCABULARY = 512, 8192
MIN_COSINE = 0.99999
_QUERY_TOKENS = 10
_UNCUT = 2**20  # tokens; to know how long a text is before it is cut
_OURS, _PEERS = "f2llm", ("default", "equal")
_WEIGHTS = {"torch": ("float16", "int8"), "openvino": ("int8",)}
"""Types of weights besides float32 that an engine is measured with."""


@dataclass(frozen=True)
class Setup:
    """What is measured: a size of the family or an own `model`, how many texts, rounds to take the median of."""

    size: str = "80M"
    model: Path | str | None = None
    engine: str = "torch"
    texts: int = 96
    runs: int = 5
    threads: int | None = None


def bench_encode(setup: Setup, data: Path | None = None) -> dict[str, Any]:
    """Documents: seconds, tokens a second, how often faster than the peer, share of the floor, resident memory.

    Ratios above 1 mean that f2llm is faster. ModelError where the vectors differ.
    """
    with _sides(setup, data) as (directory, names, sides):
        texts = make_texts(names, _tokenizer_of(directory), setup.texts)
        cosines = _compared(sides, texts, ())
        batches = dict.fromkeys(sides, PEER_DEFAULT)
        batches["equal"] = sides["equal"].best_batch(texts)
        found, rates = _rounds(setup.runs, sides, lambda name: sides[name].document_seconds(texts, batches[name]))
        medians = {name: statistics.median(values) for name, values in found.items()}
        shape, tokens = checkpoint.read_shape(directory), _tokens(directory, texts)
        floor = 2 * (shape.parameters - shape.embedding_parameters) * tokens / max(rates)
        share = round(floor / medians[_OURS], 3)
        return {
            **_described(setup, len(texts), tokens, cosines),
            "seconds": {name: round(value, 4) for name, value in medians.items()} | {"floor": round(floor, 4)},
            "tokens_per_s": {name: round(tokens / value, 1) for name, value in medians.items()},
            **_ratios("documents_ratio", medians),
            "gemm_gflops": round(max(rates) / 1e9, 1),
            "gemm_share": dict.fromkeys(_PEERS, share),  # f2llm is the same in both comparisons
            "gemm_share_by_weights": {name: round(floor / medians[name], 3) for name in _WEIGHTS.get(setup.engine, ())},
            "equal_batch_size": batches["equal"],
            "memory_mb": {name: side.memory_mb() for name, side in sides.items()},
        }


def bench_query(setup: Setup, data: Path | None = None) -> dict[str, Any]:
    """Single queries: p50 and p99 in milliseconds, how often faster than the peer, resident memory.

    Ratios above 1 mean that f2llm is faster. ModelError where the vectors differ.
    """
    with _sides(setup, data) as (directory, names, sides):
        queries = make_queries(names, _tokenizer_of(directory), setup.texts)
        cosines = _compared(sides, (), queries)
        found, _ = _rounds(setup.runs, sides, lambda name: sides[name].query_seconds(queries))
        pooled = {name: np.concatenate(values) for name, values in found.items()}
        p50, p99 = ({name: float(np.percentile(v, p)) for name, v in pooled.items()} for p in (50, 99))
        return {
            **_described(setup, len(queries), _tokens(directory, queries), cosines),
            "p50_ms": {name: round(1e3 * value, 2) for name, value in p50.items()},
            "p99_ms": {name: round(1e3 * value, 2) for name, value in p99.items()},
            **_ratios("query_p50_ratio", p50),
            **_ratios("query_p99_ratio", p99),
            "memory_mb": {name: side.memory_mb() for name, side in sides.items()},
        }


def make_texts(names: Sequence[str], tokenizer: Tokenizer, count: int) -> list[str]:
    """Texts of log-normal length: joined names, cut to about the drawn number of tokens."""
    generator = np.random.default_rng(0)
    lengths = np.clip(np.exp(generator.normal(np.log(64), 0.9, size=count)), 4, 400)
    return [_joined(names, tokenizer, float(length), generator) for length in lengths]


def make_queries(names: Sequence[str], tokenizer: Tokenizer, count: int) -> list[str]:
    """Texts of about ten tokens."""
    generator = np.random.default_rng(1)
    return [_joined(names, tokenizer, _QUERY_TOKENS, generator) for _ in range(count)]


def _joined(names: Sequence[str], tokenizer: Tokenizer, length: float, generator: np.random.Generator) -> str:
    words = [names[number] for number in generator.integers(len(names), size=max(1, int(length)))]
    tokens = len(tokenizer.limited_to(_UNCUT).encode([" ".join(words)])[0])
    return " ".join(words[: max(1, round(min(1.0, length / tokens) * len(words)))])


@contextmanager
def _sides(setup: Setup, data: Path | None) -> Iterator[tuple[Path, list[str], dict[str, Side]]]:
    """The model's directory, the names that texts are made of, and the programs by the names of the module's text."""
    names, threads = [cell.name for cell in load_cells()], setup.threads or cores()
    with ExitStack() as stack:
        if setup.model is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            directory = _make_model(folder / "model", setup.size, names, data)
        else:
            directory = checkpoint.resolve(setup.model)
        peer = "sentence-transformers"
        wanted: dict[str, dict[str, Any]] = {
            _OURS: {"program": _OURS, "engine": setup.engine, "tuned": False},
            **{
                kind: {"program": _OURS, "engine": setup.engine, "weights": kind, "tuned": False}
                for kind in _WEIGHTS.get(setup.engine, ())
            },
            "default": {"program": peer, "tuned": False},
            "equal": {"program": peer, "tuned": True},
        }
        if openvino_peer():
            wanted["peer8"] = {"program": peer, "engine": "openvino", "tuned": False}
        sides: dict[str, Side] = {}
        for name, options in track(wanted.items(), "starting", len(wanted)):
            sides[name] = stack.enter_context(Side(directory=directory, threads=threads, **options))
        yield directory, names, sides


def _make_model(directory: Path, size: str, names: Sequence[str], data: Path | None) -> Path:
    """An exported directory of a size of the family, random weights, the full token table."""
    decoder, files = make_decoder(size), data_folder(data)
    if files is None:
        tokenizer = Tokenizer.train(names[:: max(1, len(names) // 50_000)], VOCABULARY, MAX_TOKENS)
    else:
        tokenizer = Tokenizer.load(files / "qwen3-tokenizer", MAX_TOKENS)
    checkpoint.save(
        decoder,
        directory,
        tokenizer=tokenizer,
        max_seq_length=MAX_TOKENS,
        prompts={"query": query_prompt(DEFAULT_INSTRUCTION)},
        matryoshka_dims=matryoshka_dims(decoder.shape.hidden),
        card="",
    )
    return directory


def _compared(sides: dict[str, Side], texts: Sequence[str], queries: Sequence[str]) -> dict[str, float]:
    """The least cosine between a vector of ours and one of each peer; this is each side's first, uncounted run."""
    ours = sides[_OURS].vectors(texts, queries)
    found = {}
    for name, side in sides.items():
        if name != _OURS:
            found[name] = float(np.einsum("nd,nd->n", ours, side.vectors(texts, queries)).min())
    worst = min(found[name] for name in _PEERS)
    if not worst > MIN_COSINE:
        raise ModelError(
            f"the vectors of sentence-transformers differ (cosine {worst:.6f}, demanded {MIN_COSINE}); run f2llm "
            "doctor on the model: speeds of different vectors are not compared"
        )
    return found


def _rounds(
    runs: int, sides: dict[str, Side], measure: Callable[[str], Any]
) -> tuple[dict[str, list[Any]], list[float]]:
    """What `measure` gives for each side in each round, all sides in every round, and the matrix rate after each."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    rates = []
    for _ in track(range(runs), "measuring"):
        for name in sides:
            found[name].append(measure(name))
        rates.append(sides[_OURS].matrix_rate())
    return found, rates


def _ratios(name: str, values: dict[str, float]) -> dict[str, Any]:
    """How often as fast f2llm is as each peer: in float32 under `name`, with other weights beside it."""
    peers = {peer: value for peer, value in values.items() if peer in (*_PEERS, "peer8")}
    others = [side for side in values if side not in peers and side != _OURS]
    ratios = {
        side: {peer: round(value / values[side], 2) for peer, value in peers.items()} for side in (_OURS, *others)
    }
    return {name: ratios[_OURS]} | {f"{name}_{side}": ratios[side] for side in others}


def _described(setup: Setup, texts: int, tokens: int, cosines: dict[str, float]) -> dict[str, Any]:
    """What was measured, for the record."""
    return {
        "model": str(setup.model or setup.size),
        "engine": setup.engine,
        "texts": texts,
        "tokens": tokens,
        "runs": setup.runs,
        "threads": setup.threads or cores(),
        "min_cosine": {name: round(value, 7) for name, value in cosines.items()},
        "sentence_transformers_openvino_int8": "measured" if "peer8" in cosines else "not installed (optimum-intel)",
        "hardware": hardware(),
        "date": date.today().isoformat(),
    }


def _tokenizer_of(directory: Path) -> Tokenizer:
    return checkpoint.read_settings(directory).tokenizer


def _tokens(directory: Path, texts: Sequence[str]) -> int:
    return sum(map(len, _tokenizer_of(directory).encode(list(texts))))

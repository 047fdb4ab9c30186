"""The engines and their types of weights beside each other on one set of weights: documents, and one short query.

Run it with: python benchmarks/engines.py --size 80M --texts 100 --runs 5 [--threads 2]

Workload: token ids of log-normal lengths (median 64, at most 400) in packs as `Embedder.encode` makes them, and a query
of 11 tokens after an instruction of 16 that engines keep; random weights (speed does not depend on them), the full
vocabulary. The first side is the decoder as it trains, which reads the instruction again. All sides run in this
process, in turn; figures are medians of the wall clock and, beside them, of processor time over all threads, which
other load on the machine disturbs less. `share_of_floor` is 2 * non-embedding parameters * tokens over the machine's
matrix rate in float32, measured before and after, over the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from f2llm.bench.training import machine_rate
from f2llm.core.allocator import tune_allocator
from f2llm.core.machine import cores
from f2llm.model import vectors
from f2llm.model.decoder import Decoder
from f2llm.model.embedder import CPU_BATCH_TOKENS, packs
from f2llm.model.engines.base import Ids
from f2llm.model.engines.openvino import OpenVinoEngine
from f2llm.model.engines.pytorch import TorchEngine
from f2llm.model.pack import embed, make_pack
from f2llm.model.sizes import FAMILY

INSTRUCTION, QUERY, QUERY_RUNS = 16, 11, 50
FIRST = "decoder"
Call = Callable[..., vectors.Vectors]


def main() -> None:
    options = parse()
    tune_allocator()
    torch.set_num_threads(options.threads)
    shape = FAMILY[options.size] if options.vocabulary is None else replace(
        FAMILY[options.size], vocab_size=options.vocabulary
    )  # fmt: skip
    decoder = Decoder(shape)
    decoder.init_weights(0)
    drawn = np.random.default_rng(0)
    lengths = np.clip(np.exp(drawn.normal(np.log(64), 0.9, size=options.texts)), 4, 400).astype(int)
    texts = [drawn.integers(0, shape.vocab_size, length) for length in lengths]
    query, instruction = [drawn.integers(0, shape.vocab_size, QUERY)], drawn.integers(0, shape.vocab_size, INSTRUCTION)
    sides: dict[str, Call] = {FIRST: partial(in_packs, partial(by_decoder, decoder))}
    for kind in (torch.float32, torch.float16, torch.int8):
        sides[f"torch {str(kind).removeprefix('torch.')}"] = partial(in_packs, TorchEngine(decoder, kind).embed)
    for precision in ("float32", "int8") if options.openvino else ():
        started = time.perf_counter()
        engine = OpenVinoEngine.from_decoder(decoder, precision=precision, threads=options.threads)
        sides[f"openvino {precision}"] = partial(in_packs, engine.embed)
        print(f"openvino {precision}: built and compiled in {time.perf_counter() - started:.1f} s", flush=True)
    rates = [machine_rate(torch.device("cpu"), "fp32")]
    result: dict[str, Any] = {"size": options.size, "threads": options.threads, "tokens": int(lengths.sum())}
    result["documents"] = measure(sides, options.runs, texts)
    result["query"] = measure(sides, QUERY_RUNS, query, instruction)
    rates.append(machine_rate(torch.device("cpu"), "fp32"))
    floor_ms = 2e3 * (shape.parameters - shape.embedding_parameters) * int(lengths.sum()) / max(rates)
    for found in result["documents"].values():
        found["share_of_floor"] = round(floor_ms / found["wall_ms"], 3)
    print(json.dumps(result | {"gemm_gflops": round(max(rates) / 1e9, 1)}, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(FAMILY), default="80M")
    parser.add_argument("--vocabulary", type=int, default=None, help="rows of the token table; default: all of Qwen3's")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--openvino", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def by_decoder(decoder: Decoder, texts: list[Ids], prefix: Ids | None = None) -> vectors.Vectors:
    whole = texts if prefix is None else [np.concatenate([prefix, text]) for text in texts]
    with torch.inference_mode():
        return embed(decoder, make_pack(whole)).numpy()


def in_packs(call: Call, texts: list[Ids], prefix: Ids | None = None) -> vectors.Vectors:
    rows = list(packs([len(text) for text in texts], CPU_BATCH_TOKENS))
    found = np.concatenate([call([texts[row] for row in pack], prefix) for pack in rows])
    return found[np.argsort([row for pack in rows for row in pack])]


def measure(sides: dict[str, Call], runs: int, *given: Any) -> dict[str, Any]:
    """Of each side: medians over `runs` in turn, and the worst cosine to the first side's vectors."""
    first = {name: call(*given) for name, call in sides.items()}
    wall: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, call in sides.items():
            start, start_processor = time.perf_counter(), time.process_time()
            call(*given)
            wall[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - start_processor)
    own = first[FIRST]
    return {
        name: {
            "wall_ms": round(1e3 * statistics.median(wall[name]), 2),
            "wall_ms_p99": round(1e3 * float(np.quantile(wall[name], 0.99)), 2),
            "processor_ms": round(1e3 * statistics.median(processor[name]), 2),
            "cosine": round(float(vectors.cosine(first[name], own).diagonal().min()), 7),
        }
        for name in sides
    }


if __name__ == "__main__":
    main()

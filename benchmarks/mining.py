"""Hard negatives of N pairs: our search beside `sentence_transformers.util.mine_hard_negatives` and the matrix product.

Run it with: python benchmarks/mining.py --documents 2000 10000 50000

The pairs are sentences and their translations into another language (NTREX, from `--data`); vectors are those of
character n-grams with 512 numbers, computed before, so that only the search is timed. Both take the rule of
the paper: the 5th to the 100th nearest, below 0.8 and 95% of the positive, 24 of them, for `--queries` of the rows.
`floor` is the product of the vectors alone, in blocks that the processor likes best. Medians of `--runs`, one after the
other in every round.

Ours reads `fold`ed texts, leaves out all known positives, tops up at random and counts; theirs leaves out the query's
own positives and keeps the whole matrix of scores in memory, which is told in MB.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from sentence_transformers.util import cos_sim, mine_hard_negatives, pairwise_cos_sim

from f2llm.core.machine import cores
from f2llm.core.types import Example
from f2llm.data.mine import mine
from f2llm.data.ngrams import ngram_encoder

RULE = {"per_query": 24, "skip_top": 5, "top_k": 100, "max_score": 0.8, "relative_margin": 0.95}
_BLOCK = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[2000, 10_000, 50_000])
    parser.add_argument("--queries", type=int, default=10_000, help="most rows that need negatives; others have some")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    options = parser.parse_args()
    pairs = read_pairs(options.data, max(options.documents))
    found = [measure(pairs[:count], options.queries, options.runs) for count in options.documents]
    print(json.dumps({"date": date.today().isoformat(), "cores": cores(), "sizes": found}, indent=2))


def read_pairs(data: Path, count: int) -> list[tuple[str, str]]:
    """Sentences and their translations into the next language of the list; no query and no document twice."""
    folder = data / "ntrex-128" / "NTREX-128"
    files = sorted(folder.glob("newstest2019-ref.*.gz"))
    pairs: dict[str, str] = {}
    for left, right in pairwise(files):
        lines = (gzip.decompress(path.read_bytes()).decode().split("\n") for path in (left, right))
        pairs |= {
            positive: query for query, positive in zip(*lines, strict=False) if query.strip() and positive.strip()
        }
        if len(pairs) >= count:
            break
    return [(query, positive) for positive, query in list(pairs.items())[:count]]


@dataclass(frozen=True)
class Table:
    """Vectors of texts, computed before; takes the place of a model for sentence-transformers."""

    vectors: dict[str, NDArray[np.float32]]
    device = "cpu"

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        return np.stack([self.vectors[text] for text in texts])

    def encode_query(self, texts: list[str], **_: Any) -> torch.Tensor:
        return torch.from_numpy(self.encode(texts))

    encode_document = encode_query

    def similarity(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return cos_sim(a, b)

    def similarity_pairwise(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return pairwise_cos_sim(a, b)


def measure(pairs: list[tuple[str, str]], queries: int, runs: int) -> dict[str, Any]:
    texts = list({text for pair in pairs for text in pair})
    table = Table(dict(zip(texts, ngram_encoder()(texts), strict=True)))
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(queries, len(pairs))).astype(int)).tolist()
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(pairs, set(chosen), table),
        "peer": lambda: peer(pairs, chosen, table),
        "floor": lambda: product(pairs, chosen, table),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "documents": len(pairs),
        "queries": len(chosen),
        "seconds": {name: round(value, 3) for name, value in median.items()},
        "microseconds_a_query": {name: round(1e6 * value / len(chosen)) for name, value in median.items()},
        "ratio": round(median["peer"] / median["ours"], 2),
        "floor_share": round(median["floor"] / median["ours"], 3),
        "peer_scores_MB": round(4 * len({pairs[row][0] for row in chosen}) * len(pairs) / 1e6),
    }


def ours(pairs: list[tuple[str, str]], chosen: set[int], table: Table) -> Any:
    """Rows that are not chosen bring as many negatives along as they need, and are documents only."""
    full = tuple(f"given {number}" for number in range(RULE["per_query"]))  # type: ignore[call-overload]
    rows = [
        Example(str(row), query, positive, () if row in chosen else full, "retrieval", "s", "eng_Latn", "mul_Zyyy")
        for row, (query, positive) in enumerate(pairs)
    ]
    return mine(rows, table.encode, pool=len(pairs) + 1, **RULE)


def peer(pairs: list[tuple[str, str]], chosen: list[int], table: Table) -> Any:
    data = Dataset.from_dict({"query": [pairs[row][0] for row in chosen], "answer": [pairs[row][1] for row in chosen]})
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return mine_hard_negatives(
            data, table, corpus=[positive for _, positive in pairs], range_min=5, range_max=100, max_score=0.8,
            relative_margin=0.05, num_negatives=24, sampling_strategy="top", output_format="n-tuple", verbose=False,
        )  # type: ignore[arg-type]  # fmt: skip


def product(pairs: list[tuple[str, str]], chosen: list[int], table: Table) -> None:
    documents = table.encode([positive for _, positive in pairs])
    queries = table.encode([pairs[row][0] for row in chosen])
    block = np.empty((_BLOCK, len(documents)), np.float32)
    for start in range(0, len(queries), _BLOCK):
        part = queries[start : start + _BLOCK]
        np.matmul(part, documents.T, out=block[: len(part)])


if __name__ == "__main__":
    main()

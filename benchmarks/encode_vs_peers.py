"""How fast f2llm encodes, against sentence-transformers on the same directory and against the machine's own floor.

Run it with `make bench`, or: python benchmarks/encode_vs_peers.py --size 80M --texts 96 --runs 5

Workload: texts of mixed length made of CLDR names in 300 languages (log-normal, median 64 tokens, at most 400), a model
of a published size with random weights (speed does not depend on them), float32, all cores. Both sides run in this
process, with the same allocator setting and threads, in turn; the figure is the median of `--runs`. The peer
gets its best batch size of 8, 32 and 128. The floor is 2 * non-embedding parameters * tokens over the rate of a large
matrix product here; attention itself is not counted in it. Vectors must agree (cosine > 0.99999), or no figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from f2llm.bench.training import machine_rate, seconds
from f2llm.core.allocator import tune_allocator
from f2llm.core.machine import hardware
from f2llm.data.cldr import load_cells
from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.model.embedder import Embedder
from f2llm.model.sizes import FAMILY, matryoshka_dims
from f2llm.text.tokenizer import Tokenizer

VOCABULARY = 8192
MAX_TOKENS = 512
PEER_BATCHES = (8, 32, 128)


def main() -> None:
    options = parse()
    tune_allocator()
    names = [cell.name for cell in load_cells()]
    tokenizer = Tokenizer.train(names[:: max(1, len(names) // 50_000)], VOCABULARY, MAX_TOKENS)
    texts = make_texts(names, tokenizer, options.texts)
    with tempfile.TemporaryDirectory() as folder:
        directory = make_model(Path(folder) / "model", options.size, tokenizer)
        result = compare(directory, texts, options.runs)
    result |= {"size": options.size, "texts": len(texts), "runs": options.runs, "date": date.today().isoformat()}
    print(json.dumps(result, indent=2) if options.json else describe(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(FAMILY), default="80M")
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def make_texts(names: list[str], tokenizer: Tokenizer, count: int) -> list[str]:
    """Texts of log-normal length: joined names, cut to about the drawn number of tokens."""
    generator = np.random.default_rng(0)
    lengths = np.clip(np.exp(generator.normal(np.log(64), 0.9, size=count)), 4, 0.75 * MAX_TOKENS)
    texts = []
    for length in lengths:
        words = [names[number] for number in generator.integers(len(names), size=int(length))]
        ids = tokenizer.encode([" ".join(words)])[0]
        share = min(1.0, float(length) / len(ids))
        texts.append(" ".join(words[: max(1, round(share * len(words)))]))
    return texts


def make_model(directory: Path, size: str, tokenizer: Tokenizer) -> Path:
    """An exported directory of a published size with random weights and a small vocabulary."""
    shape = replace(FAMILY[size], vocab_size=VOCABULARY)
    decoder = Decoder(shape)
    decoder.init_weights(0)
    checkpoint.save(
        decoder,
        directory,
        tokenizer=tokenizer,
        max_seq_length=MAX_TOKENS,
        prompts={"query": ""},
        matryoshka_dims=matryoshka_dims(shape.hidden),
        card="",
    )
    return directory


def compare(directory: Path, texts: list[str], runs: int) -> dict[str, object]:
    from sentence_transformers import SentenceTransformer

    ours, theirs = Embedder.load(directory), SentenceTransformer(str(directory), device="cpu")
    vectors = ours.encode_document(texts)
    cosines = np.einsum("nd,nd->n", vectors, theirs.encode_document(texts))
    if cosines.min() < 0.99999:
        raise SystemExit(f"the vectors differ (cosine {cosines.min():.6f}); there is nothing to compare")
    tokens = ours.last_stats.tokens
    best = min(PEER_BATCHES, key=lambda size: seconds(lambda: theirs.encode_document(texts, batch_size=size)))
    mine, peer, floor = [], [], []
    dense = ours.decoder.shape.parameters - ours.decoder.shape.embedding_parameters
    for _ in range(runs):
        mine.append(seconds(lambda: ours.encode_document(texts)))
        peer.append(seconds(lambda: theirs.encode_document(texts, batch_size=best)))
        floor.append(2 * dense * tokens / machine_rate(torch.device("cpu"), "fp32"))
    a, b, c = statistics.median(mine), statistics.median(peer), statistics.median(floor)
    return {
        "tokens": tokens,
        "seconds": {"f2llm": round(a, 3), f"sentence-transformers, batch {best}": round(b, 3), "floor": round(c, 3)},
        "tokens_per_second": {"f2llm": round(tokens / a), "sentence-transformers": round(tokens / b)},
        "times_faster_than_sentence_transformers": round(b / a, 2),
        "times_the_floor": round(a / c, 2),
        "min_cosine": round(float(cosines.min()), 7),
        "hardware": hardware(),
    }


def describe(result: dict[str, object]) -> str:
    lines = [f"{name:45} {value}" for name, value in result.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

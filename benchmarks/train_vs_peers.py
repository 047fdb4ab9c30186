"""How fast a training step is, against the padded form on transformers and against sentence-transformers' losses.

Run it with: python benchmarks/train_vs_peers.py --size 80M --rows 4 --runs 3 (add --json for machines)

Workload: rows of one query, one positive and seven negatives. Lengths are log-normal: queries median 16 tokens (at most
64) behind an instruction of 20, documents median 64 (at most 512); no document repeats. A published size with its
vocabulary of 151,936, random weights, float32, all cores. A step: forward, matryoshka losses, backward, clip, AdamW at
rate 0, so that all steps see the same weights.
- padded: `Qwen3Model` of transformers on queries, positives and negatives, each padded to its longest; loops over dims.
- without: our step with one of its tricks taken away.
- sentence-transformers: MatryoshkaLoss(MultipleNegativesRankingLoss) on nine padded columns, as its trainer does.
All run in turn, on the same rows, weights, threads and allocator setting; figures are medians of `--runs` steps after
one that is not counted. The loss of the padded form must equal ours (1e-3), or there is no figure. `gemm_share`: the
operations that our step executes, over the rate of a large matrix product measured between the steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timing import matrix_rate, seconds
from torch import Tensor, nn

from f2llm.core.allocator import tune_allocator
from f2llm.data.cldr import load_cells
from f2llm.eval.report import hardware
from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.model.pack import Pack
from f2llm.model.sizes import FAMILY, Shape, matryoshka_dims
from f2llm.text.tokenizer import Tokenizer
from f2llm.train.batch import pack_rows
from f2llm.train.gradcache import backward
from f2llm.train.losses import hard_loss, in_batch_loss, matryoshka_weights
from f2llm.train.optim import make_optimizer

NEGATIVES, INSTRUCTION, TEMPERATURE = 7, 20, 0.05


@dataclass
class Rows:
    """`texts` as token ids; `table` [B, 2+K] their numbers. Stands in for a TokenStore."""

    texts: list[NDArray[np.uint32]]
    table: NDArray[np.int64]

    def text(self, index: int) -> NDArray[np.uint32]:
        return self.texts[index]


def main() -> None:
    options = parse()
    tune_allocator()
    rows = make_rows(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder) / "model", FAMILY[options.size], rows, options.runs)
    result |= {"size": options.size, "rows": options.rows, "runs": options.runs}
    result |= {"hardware": hardware(), "date": date.today().isoformat()}
    print(json.dumps(result, indent=2) if options.json else "\n".join(f"{k:22} {v}" for k, v in result.items()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(FAMILY), default="80M")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def make_rows(count: int) -> Rows:
    generator = np.random.default_rng(0)

    def lengths(median: int, most: int, size: int) -> NDArray[np.int64]:
        return np.clip(np.exp(generator.normal(np.log(median), 0.8, size)), 4, most).astype(np.int64)

    def ids(length: int) -> NDArray[np.uint32]:
        return generator.integers(1000, 150_000, size=length).astype(np.uint32)

    instruction = ids(INSTRUCTION)
    queries = [np.concatenate([instruction, ids(length)]) for length in lengths(16, 64, count)]
    documents = [ids(length) for length in lengths(64, 512, count * (1 + NEGATIVES))]
    documents_table = np.arange(count, count * (2 + NEGATIVES)).reshape(count, 1 + NEGATIVES)
    return Rows([*queries, *documents], np.concatenate([np.arange(count)[:, None], documents_table], axis=1))


def compare(directory: Path, shape: Shape, rows: Rows, runs: int) -> dict[str, Any]:
    decoder = Decoder(shape)
    decoder.init_weights(0)
    names = [cell.name for cell in load_cells()[:2000]]
    checkpoint.save(
        decoder, directory, tokenizer=Tokenizer.train(names, 512, 512), max_seq_length=512, prompts={},
        matryoshka_dims=matryoshka_dims(shape.hidden), card="",
    )  # fmt: skip
    dims = matryoshka_dims(shape.hidden)
    steps = {
        "f2llm": our_step(decoder, rows, dims),
        "padded": padded_step(directory, rows, dims),
        "sentence_transformers": sentence_transformers_step(directory, rows, dims),
    }
    whole, alone = "f2llm.train.gradcache.embed", "f2llm.train.batch.shared_prefix"
    steps["without last tokens only"] = patched(whole, embed_whole, steps["f2llm"])
    steps["without shared instruction"] = patched(alone, lambda texts: 0, steps["f2llm"])
    steps["without both"] = patched(alone, lambda texts: 0, steps["without last tokens only"])
    first = {name: step() for name, step in steps.items()}
    if max(abs(first[name] / first["padded"] - 1) for name in first if name != "sentence_transformers") > 1e-3:
        raise SystemExit(f"the losses differ ({first}); there is nothing to compare")
    times: dict[str, list[float]] = {name: [] for name in steps}
    rates = []
    for _ in range(runs):
        for name, step in steps.items():
            times[name].append(seconds(step))
        rates.append(matrix_rate())
    median = {name: statistics.median(values) for name, values in times.items()}
    rate, operations = statistics.median(rates), executed_operations(shape, rows)
    tokens = sum(len(text) for text in rows.texts)
    return {
        "seconds": {name: round(value, 3) for name, value in median.items()},
        "ratios": {name: round(median[name] / median["f2llm"], 2) for name in median if name != "f2llm"},
        "samples_per_s": round(len(rows.table) / median["f2llm"], 3),
        "useful_tokens_per_s": round(tokens / median["f2llm"], 1),
        "useful_gflops": round(operations / median["f2llm"] / 1e9, 1),
        "gemm_gflops": round(rate / 1e9, 1),
        "gemm_share": round(operations / median["f2llm"] / rate, 3),
        "tokens": tokens,
        "padded_tokens": sum(
            len(part) * max(map(len, part)) for part in columns(rows, (slice(0, 1), slice(1, 2), slice(2, None)))
        ),
        "losses": {name: round(value, 5) for name, value in first.items()},
    }


def our_step(decoder: Decoder, rows: Rows, dims: list[int]) -> Callable[[], float]:
    optimizer = make_optimizer(decoder, weight_decay=0.01, betas=(0.9, 0.98))

    def step() -> float:
        batch = pack_rows(rows, "rows", rows.table)  # type: ignore[arg-type]  # all that it asks of a store
        candidates = torch.cat([batch.positive[:, None], batch.negatives], dim=1)

        def loss(E_ND: Tensor) -> tuple[Tensor, None]:
            Q_BD, P_BD = E_ND.index_select(0, batch.query), E_ND.index_select(0, batch.positive)
            C_BKD = E_ND.index_select(0, candidates.flatten()).view(*candidates.shape, -1)
            hard = hard_loss(Q_BD, C_BKD, candidates >= 0, dims, TEMPERATURE)
            return hard + in_batch_loss(Q_BD, P_BD, dims, TEMPERATURE), None

        optimizer.zero_grad(set_to_none=True)
        value, _ = backward(decoder, batch, loss, 10**9)
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        return value.item()

    return step


def patched(target: str, substitute: Callable[..., Any], step: Callable[[], float]) -> Callable[[], float]:
    """`step` with one function of the package replaced."""

    def run() -> float:
        with mock.patch(target, substitute):
            return step()

    return run


def embed_whole(decoder: Decoder, pack: Pack) -> Tensor:
    """Embeddings with every token computed in the last layer too."""
    h = decoder(pack.input_ids, pack.cu_seqlens, continuations=pack.continuations)
    return h.index_select(0, torch.tensor(pack.cu_seqlens[2 if pack.continuations else 1 :]) - 1)


def padded_step(directory: Path, rows: Rows, dims: list[int]) -> Callable[[], float]:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(directory, dtype=torch.float32)
    model.train()
    optimizer = make_optimizer(model, weight_decay=0.01, betas=(0.9, 0.98))

    def embed(texts: list[NDArray[np.uint32]]) -> Tensor:
        features = padded(texts)
        states = model(**features, use_cache=False).last_hidden_state
        ends = features["attention_mask"].sum(1) - 1
        return states[torch.arange(len(texts)), ends]

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        Q, P, N = (embed(part) for part in columns(rows, (slice(0, 1), slice(1, 2), slice(2, None))))
        N = N.view(len(Q), NEGATIVES, -1)
        total = torch.zeros(())
        for dim, weight in zip(dims, matryoshka_weights(dims), strict=True):
            q, p, n = (F.normalize(x[..., :dim], dim=-1) for x in (Q, P, N))
            hard = torch.cat([(q * p).sum(-1, keepdim=True), torch.einsum("bd,bkd->bk", q, n)], 1) / TEMPERATURE
            total = total + weight * F.cross_entropy(hard, torch.zeros(len(q), dtype=torch.long))
            total = total + weight * F.cross_entropy(q @ p.T / TEMPERATURE, torch.arange(len(q)))
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total.item()

    return step


def sentence_transformers_step(directory: Path, rows: Rows, dims: list[int]) -> Callable[[], float]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

    model = SentenceTransformer(str(directory), device="cpu")
    model.train()
    inner = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    loss = MatryoshkaLoss(model, inner, matryoshka_dims=dims[::-1], matryoshka_weights=matryoshka_weights(dims)[::-1])
    optimizer = make_optimizer(model, weight_decay=0.01, betas=(0.9, 0.98))
    parts = tuple(slice(i, i + 1) for i in range(2 + NEGATIVES))

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss([padded(part) for part in columns(rows, parts)], torch.empty(0))
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(value.item())

    return step


def columns(rows: Rows, parts: tuple[slice, ...]) -> list[list[NDArray[np.uint32]]]:
    """The texts of each part of the table's columns, row by row."""
    return [[rows.texts[index] for index in rows.table[:, part].flatten()] for part in parts]


def padded(texts: list[NDArray[np.uint32]]) -> dict[str, Tensor]:
    """Right-padded ids and mask."""
    tensors = [torch.from_numpy(text.astype(np.int64)) for text in texts]
    ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def executed_operations(shape: Shape, rows: Rows) -> float:
    """Operations of the matrix products in our step: 6 per weight and token, forward and backward; no attention."""
    batch = pack_rows(rows, "rows", rows.table)  # type: ignore[arg-type]
    key_value = 2 * shape.hidden * shape.kv_heads * shape.head_dim
    layer = key_value + 2 * shape.hidden * shape.heads * shape.head_dim + 3 * shape.hidden * shape.mlp
    whole = (shape.layers - 1) * layer + key_value
    return 6.0 * (whole * batch.tokens + (layer - key_value) * len(batch.text_ids))


if __name__ == "__main__":
    main()

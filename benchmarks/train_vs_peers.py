"""How fast a training step is, against the padded form of the published code and against sentence-transformers.

Run it with: python benchmarks/train_vs_peers.py --shape 80M --rows 4 --runs 3 (add --json for machines)

Workload: that of `f2llm bench train` (`f2llm.bench.workload`), without XQuAD, whose batches of four rows do not fit
into 24 GB in the padded form (add it with --sources xquad ntrex mbxp where there is room): a batch of each source, rows
of one query, one positive and seven negatives, a published size with its vocabulary of 151,936, random weights. A step:
forward, matryoshka losses, backward, clipping, AdamW (fused) at rate 0, so that all steps see the same weights.
- f2llm: the step of the engine; "without": with one of its tricks taken away.
- padded: the published form on `Qwen3Model` of transformers: all texts of a batch padded to the longest, one forward
  pass, loops over the dims. "padded, by kind" is kinder than the published code: queries, positives and negatives are
  padded each to their own longest.
- sentence_transformers: MatryoshkaLoss(MultipleNegativesRankingLoss) on nine columns, each padded to its longest, as
  its trainer does. Its trainer's loop is not run: only what is inside a step is measured. `--peer-checkpointing` gives
  the peers activation checkpointing, which the published code always has, and without which they need more memory than
  most machines have when a batch has many rows; ours stays without. All run in turn in one process, on the same
  batches, weights, threads and allocator setting; figures are medians of `--runs` rounds (one step on every source)
  after one that is not counted. The losses of the padded forms must equal ours (1e-3), or there is no figure.
  `gemm_share`: the operations that our step executes on real tokens, over the best of the rates of a large
matrix product that are measured after every round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from f2llm.bench.training import Setup, TrainingStep, describe, machine_rate, make_decoder, peak_memory_mb, seconds
from f2llm.bench.workload import NEGATIVES, Texts, Workload, data_folder, make_workload
from f2llm.core.allocator import tune_allocator
from f2llm.core.log import track
from f2llm.core.machine import hardware
from f2llm.data.cldr import load_cells
from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.model.fused import CHUNKED, PLAIN, Fused, compile_fused
from f2llm.model.pack import Pack
from f2llm.model.sizes import matryoshka_dims
from f2llm.text.tokenizer import Tokenizer
from f2llm.train.losses import matryoshka_weights
from f2llm.train.optim import make_optimizer

TEMPERATURE = 0.05
Step = Callable[[str], float]
Features = dict[str, Tensor]


def main() -> None:
    options = parse()
    tune_allocator()
    setup = Setup(options.shape, options.rows, options.runs)
    decoder = make_decoder(options.shape)
    with tempfile.TemporaryDirectory() as folder:
        workload = make_workload(
            data_folder(options.data),
            options.rows,
            Path(folder) / "store",
            decoder.shape.vocab_size,
            only=options.sources,
        )
        directory = save(decoder, Path(folder) / "model")
        result = compare(decoder, directory, workload, setup, options)
    result |= {"hardware": hardware(), "date": date.today().isoformat()}
    print(json.dumps(result, indent=2) if options.json else "\n".join(f"{k:22} {v}" for k, v in result.items()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="80M")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sources", nargs="*", default=["ntrex", "mbxp"], help="of the workload")
    parser.add_argument("--by-kind", action="store_true", help="measure the kinder padded form, too")
    parser.add_argument("--peer-checkpointing", action="store_true")
    parser.add_argument("--tricks", action="store_true", help="measure our step without each of its tricks, too")
    parser.add_argument("--only-ours", action="store_true", help="leave the peers out")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def save(decoder: Decoder, directory: Path) -> Path:
    """The same weights as a directory that the peers load; its tokenizer is never used."""
    tokenizer = Tokenizer.train([cell.name for cell in load_cells()[:2000]], 512, 512)
    dims = matryoshka_dims(decoder.shape.hidden)
    checkpoint.save(
        decoder, directory, tokenizer=tokenizer, max_seq_length=1024, prompts={}, matryoshka_dims=dims, card=""
    )
    return directory


def compare(
    decoder: Decoder, directory: Path, workload: Workload, setup: Setup, options: argparse.Namespace
) -> dict[str, Any]:
    ours = TrainingStep(decoder, workload, setup)
    steps: dict[str, Step] = {"f2llm": ours}
    if not options.only_ours:
        steps |= peers(directory, workload, ours.loss.dims, options)
    if options.tricks:
        steps |= without(ours)
    sources = list(workload.tables)
    first = {name: {source: step(source) for source in sources} for name, step in track(steps.items(), "first round")}
    check(first)
    times: dict[str, list[float]] = {name: [] for name in steps}
    rates = []
    for _ in track(range(setup.runs), "measuring"):
        for name, step in steps.items():
            times[name].append(sum(seconds(partial(step, source)) for source in sources))
        rates.append(machine_rate(torch.device("cpu"), setup.precision))
    median = {name: statistics.median(values) for name, values in times.items()}
    rate, operations, own = max(rates), ours.operations(), median["f2llm"]
    return {
        **describe(setup, workload),
        "peer_checkpointing": options.peer_checkpointing,
        "seconds": {name: round(value, 3) for name, value in median.items()},
        "spread": {name: [round(min(values), 2), round(max(values), 2)] for name, values in times.items()},
        "ratios": {name: round(value / own, 2) for name, value in median.items() if name != "f2llm"},
        "samples_per_s": round(setup.rows * len(sources) / own, 3),
        "useful_tokens_per_s": round(workload.tokens / own, 1),
        "useful_gflops": round(operations / own / 1e9, 1),
        "gemm_gflops": round(rate / 1e9, 1),
        "gemm_share": round(operations / own / rate, 3),
        "padded_tokens": {source: longest_times_count(workload, source) for source in sources},
        "peak_memory_mb": peak_memory_mb(torch.device("cpu")),
        "losses": {name: [round(v, 4) for v in values.values()] for name, values in first.items()},
    }


def check(first: dict[str, dict[str, float]]) -> None:
    """The padded forms and the step without tricks have our loss; sentence-transformers has another one."""
    for name, losses in first.items():
        if name == "sentence_transformers":
            continue
        for source, loss in losses.items():
            if abs(loss / first["f2llm"][source] - 1) > 1e-3:
                raise SystemExit(f"the losses differ ({first}); there is nothing to compare")


# -- our step without its tricks --------------------------------------------------------------------------------------


def without(ours: TrainingStep) -> dict[str, Step]:
    """Our step with parts of the package replaced by what does without the trick."""
    whole, alone = ("f2llm.train.distributed.embed", embed_whole), ("f2llm.train.batch.shared_prefix", lambda texts: 0)
    repeated = TrainingStep(ours.replica.decoder, every_text_for_itself(ours.workload), ours.setup)
    repeated.optimizer = ours.optimizer
    return {
        "without last tokens only": replaced(ours, [whole]),
        "without shared instruction": replaced(ours, [alone]),
        "without distinct texts once": repeated,
        "with plain element-wise parts": fused_as(ours, PLAIN),
        "with compiled element-wise parts": fused_as(ours, compile_fused()),
        "without any": replaced(fused_as(repeated, PLAIN), [whole, alone]),
    }


def every_text_for_itself(workload: Workload) -> Workload:
    """The same rows, with an index of its own for each text of each row."""
    texts: list[NDArray[np.uint32]] = []
    tables = {}
    for source, table in workload.tables.items():
        tables[source] = np.arange(len(texts), len(texts) + table.size).reshape(table.shape)
        texts += [workload.store.text(int(index)) for index in table.flat]
    return Workload(Texts(texts), tables, workload.description)


def replaced(step: Step, substitutes: list[tuple[str, Any]]) -> Step:
    def run(source: str) -> float:
        with ExitStack() as stack:
            for target, substitute in substitutes:
                stack.enter_context(mock.patch(target, substitute))
            return step(source)

    return run


def fused_as(ours: TrainingStep, fused: Fused) -> Step:
    def run(source: str) -> float:
        ours.replica.decoder.use_fused(fused)
        try:
            return ours(source)
        finally:
            ours.replica.decoder.use_fused(CHUNKED)

    return run


def embed_whole(decoder: Decoder, pack: Pack) -> Tensor:
    """Embeddings with every token computed in the last layer too."""
    h = decoder(pack.input_ids, pack.cu_seqlens, continuations=pack.continuations)
    return h.index_select(0, torch.tensor(pack.cu_seqlens[2 if pack.continuations else 1 :]) - 1)


# -- the peers --------------------------------------------------------------------------------------------------------


def peers(directory: Path, workload: Workload, dims: tuple[int, ...], options: argparse.Namespace) -> dict[str, Step]:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    padded = AutoModel.from_pretrained(directory, dtype=torch.float32)
    theirs = SentenceTransformer(str(directory), device="cpu")
    padded.train()
    theirs.train()
    if options.peer_checkpointing:
        padded.gradient_checkpointing_enable({"use_reentrant": False})
        theirs[0].auto_model.gradient_checkpointing_enable({"use_reentrant": False})
    together, by_kind = (slice(0, None),), (slice(0, 1), slice(1, 2), slice(2, None))
    kinder = {"padded, by kind": padded_step(padded, workload, dims, by_kind)} if options.by_kind else {}
    return {
        "padded": padded_step(padded, workload, dims, together),
        **kinder,
        "sentence_transformers": sentence_transformers_step(theirs, workload, dims),
    }


def padded_step(model: Any, workload: Workload, dims: tuple[int, ...], parts: tuple[slice, ...]) -> Step:
    """The loss as the published code has it: `parts` of the columns are padded together."""
    optimizer = make_optimizer(model, weight_decay=0.01, betas=(0.9, 0.98))

    def embed(texts: list[NDArray[np.uint32]]) -> Tensor:
        features = pad(texts)
        states = model(**features, use_cache=False).last_hidden_state
        return states[torch.arange(len(texts)), features["attention_mask"].sum(1) - 1]

    def step(source: str) -> float:
        optimizer.zero_grad(set_to_none=True)
        table = workload.tables[source]
        blocks = [embed(texts).view(len(table), -1, dims[-1]) for texts in columns(workload, source, parts)]
        E = torch.cat(blocks, dim=1)
        Q, P, N = E[:, 0], E[:, 1], E[:, 2:]
        total = torch.zeros(())
        for dim, weight in zip(dims, matryoshka_weights(dims), strict=True):
            q, p, n = (F.normalize(x[..., :dim], dim=-1) for x in (Q, P, N))
            hard = torch.cat([(q * p).sum(-1, keepdim=True), torch.einsum("bd,bkd->bk", q, n)], 1) / TEMPERATURE
            total = total + weight * F.cross_entropy(hard, torch.zeros(len(q), dtype=torch.long))
            total = total + weight * F.cross_entropy(q @ p.T / TEMPERATURE, torch.arange(len(q)))
        return finish(total, model, optimizer)

    return step


def sentence_transformers_step(model: Any, workload: Workload, dims: tuple[int, ...]) -> Step:
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

    inner = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    weights = matryoshka_weights(dims)[::-1]
    loss = MatryoshkaLoss(model, inner, matryoshka_dims=list(dims[::-1]), matryoshka_weights=weights)
    optimizer = make_optimizer(model, weight_decay=0.01, betas=(0.9, 0.98))
    parts = tuple(slice(i, i + 1) for i in range(2 + NEGATIVES))

    def step(source: str) -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss([pad(texts) for texts in columns(workload, source, parts)], torch.empty(0))
        return finish(value, model, optimizer)

    return step


def finish(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.item())


def columns(workload: Workload, source: str, parts: tuple[slice, ...]) -> list[list[NDArray[np.uint32]]]:
    """The texts of each part of the table's columns, row by row."""
    table = workload.tables[source]
    return [[workload.store.text(int(index)) for index in table[:, part].flatten()] for part in parts]


def pad(texts: list[NDArray[np.uint32]]) -> Features:
    """Right-padded ids and mask."""
    tensors = [torch.from_numpy(text.astype(np.int64)) for text in texts]
    ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def longest_times_count(workload: Workload, source: str) -> int:
    (texts,) = columns(workload, source, (slice(0, None),))
    return len(texts) * max(map(len, texts))


if __name__ == "__main__":
    main()

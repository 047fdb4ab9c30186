"""Does cost grow with the work and with nothing else: ten times the rows a batch, a hundred times the documents.

Run it with: python benchmarks/scaling.py --shape 80M --rows 2 --runs 3

- step: tokens a second of a training step with `--rows` rows and with ten times as many, the same lengths ten times
  over (ids of their own), in one pass and in micro-batches of `--micro-batch-tokens` (so small that both are cut into
  many, for every batch that is cut pays for a second forward pass), in turn; medians.
- store: seconds to open a token store of 0.1, 1 and 10 million documents, start the sampler and build the first batch
  of 512 rows, in a process of its own; what memory of its own it takes, and how much of the files the kernel has mapped
  around the places that were read (shared between processes, dropped when memory is short). And the same for the
  published loader's table, a dict from document id to place, which every process builds (here without the texts).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from f2llm.bench.training import Setup, TrainingStep, make_decoder, seconds
from f2llm.bench.workload import GENERATED, Texts, Workload, make_workload
from f2llm.core.allocator import tune_allocator
from f2llm.core.log import track
from f2llm.core.machine import hardware

DOCUMENTS = (100_000, 1_000_000, 10_000_000)
TOKENS_A_DOCUMENT = 4
START = """
import sys, time
from pathlib import Path
import numpy
import f2llm.train.trainer
from f2llm.data.store import TokenStore
from f2llm.train.batch import pack_rows
from f2llm.train.sampler import BatchSampler, draw_rows
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
    return numpy.array([found["RssAnon"], found["RssFile"]])
before, started = resident(), time.perf_counter()
store = TokenStore(Path(sys.argv[1]))
sampler = BatchSampler({source: len(rows) for source, rows in store.rows.items()}, 512, 0)
draw = sampler.draw(0)
pack_rows(store, draw.source, draw_rows(store, draw, 7, 0))
print(time.perf_counter() - started, *(resident() - before))
"""
TABLE = """
import sys, time
from pathlib import Path
import numpy
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
    return numpy.array([found["RssAnon"], found["RssFile"]])
before, started = resident(), time.perf_counter()
table = {f"source_{i}": i for i in range(int(sys.argv[1]))}
print(time.perf_counter() - started, *(resident() - before))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="80M")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--micro-batch-tokens", type=int, default=512)
    options = parser.parse_args()
    tune_allocator()
    result = {"store": {f"{count:,}": start(count) for count in track(DOCUMENTS, "stores")}, "step": step(options)}
    print(json.dumps(result | {"hardware": hardware(), "date": date.today().isoformat()}, indent=2))


def step(options: argparse.Namespace) -> dict[str, Any]:
    decoder = make_decoder(options.shape)
    small = make_workload(None, options.rows, Path(), decoder.shape.vocab_size)
    measured = {}
    for form, budget in (("one pass", 10**9), ("micro-batches", options.micro_batch_tokens)):
        for workload in (small, tenfold(small, decoder.shape.vocab_size)):
            setup = Setup(options.shape, micro_batch_tokens=budget)
            measured[form, len(workload.tables[GENERATED])] = (TrainingStep(decoder, workload, setup), workload.tokens)
    times: dict[tuple[str, int], list[float]] = {key: [] for key in measured}
    for _ in track(range(options.runs + 1), "steps"):
        for key, (run, _) in measured.items():
            times[key].append(seconds(partial(run, GENERATED)))
    rates = {key: measured[key][1] / statistics.median(values[1:]) for key, values in times.items()}
    found: dict[str, Any] = {f"{form}, {rows} rows": f"{rate:,.0f} tokens/s" for (form, rows), rate in rates.items()}
    for form in ("one pass", "micro-batches"):
        few, many = (rate for (of, _), rate in rates.items() if of == form)
        found[f"{form}, ten times the rows"] = round(many / few, 3)
    return {**found, "threads": torch.get_num_threads()}


def tenfold(workload: Workload, vocabulary: int) -> Workload:
    """Ten times the rows, with the same lengths and the same instruction, but other ids."""
    generator = np.random.default_rng(1)
    table, texts = workload.tables[GENERATED], []
    prefix = workload.store.text(0)[:18]
    for _ in range(10):
        texts += [other(workload.store.text(int(i)), prefix, generator, vocabulary) for i in table.flat]
    return Workload(Texts(texts), {GENERATED: np.arange(10 * table.size).reshape(-1, table.shape[1])}, GENERATED)


def other(
    text: NDArray[np.uint32], prefix: NDArray[np.uint32], generator: np.random.Generator, vocabulary: int
) -> NDArray[np.uint32]:
    ids = generator.integers(0, vocabulary, size=len(text)).astype(np.uint32)
    if len(text) > len(prefix) and (text[: len(prefix)] == prefix).all():
        ids[: len(prefix)] = prefix
    return ids


def start(documents: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        fabricate(Path(folder), documents)
        ours = [run(START, folder) for _ in range(3)]
    table = run(TABLE, str(documents))
    taken, own, mapped = (round(statistics.median(column), 2) for column in zip(*ours, strict=True))
    return {
        "seconds": taken,
        "own MB": own,
        "mapped file MB": mapped,
        "dict seconds": round(table[0], 2),
        "dict MB": round(table[1], 1),
    }


def run(code: str, argument: str) -> list[float]:
    """Seconds, MB of its own and MB of mapped files that a new process takes."""
    output = subprocess.run([sys.executable, "-c", code, argument], check=True, capture_output=True, text=True).stdout
    return [float(value) for value in output.split()]


def fabricate(directory: Path, documents: int) -> None:
    """A store of that many short documents, a row for every nine of them."""
    rows = documents // 9
    for name in ("rows", "languages"):
        (directory / name).mkdir()
    generator = np.random.default_rng(0)
    tokens = np.lib.format.open_memmap(directory / "t.npy", mode="w+", dtype=np.uint32, shape=(4 * documents,))
    tokens[:] = generator.integers(0, 1000, size=len(tokens), dtype=np.uint32)
    tokens.tofile(directory / "tokens.bin")
    (directory / "t.npy").unlink()
    np.save(directory / "offsets.npy", np.arange(0, TOKENS_A_DOCUMENT * documents + 1, TOKENS_A_DOCUMENT))
    np.save(directory / "rows" / "s.npy", generator.permutation(9 * rows).reshape(rows, 9).astype(np.int32))
    np.save(directory / "languages" / "s.npy", np.zeros((rows, 2), np.uint16))
    counts = {"texts": documents, "tokens": TOKENS_A_DOCUMENT * documents, "rows": rows}
    meta = {**counts, "sources": {"s": "retrieval"}, "digest": "0", "languages": ["eng_Latn"], "tokenizer": "0"}
    (directory / "meta.json").write_text(json.dumps({**meta, "language_shares": {"s": {"eng_Latn": 1.0}}}))


if __name__ == "__main__":
    main()

"""Search by a funnel of nested dimensions beside exact search and LanceDB's own indexes: recall, time, bytes.

Run it with: python benchmarks/search.py --model build/mini/export/mini-base/model

Prints a line of JSON for each row. With `--model`, of this package or of sentence-transformers, passages are real
sentences of `--data` (NTREX, New Testaments, Universal Declarations; `--english`: medical answers, Wikipedia and news),
20 to 200 (English: 400) characters, distinct, drawn with seed 0. With `--taught`, nothing is embedded: vectors of the
training texts from the teacher of a build. Queries are others of the same kind, embedded as documents. The truth is
the 10 nearest by exact cosine in float32; `recall` is the share of them that is found. Time is CPU time of a query, all
threads together, in milliseconds, which a busy machine disturbs less than wall time.

The first table has the shortlist alone in memory, by dimensions, precision and candidates per hit; the second what
a query costs in LanceDB: the funnel of `f2llm search`, a scan of all vectors, and its two kinds of indexes.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from f2llm.apps.chunking import sentences
from f2llm.apps.funnel import Shortlist, cosines
from f2llm.apps.reading import Columns, read_blocks
from f2llm.apps.search import top
from f2llm.core.extras import optional
from f2llm.core.log import track
from f2llm.core.machine import cores
from f2llm.model.checkpoint import read_config
from f2llm.model.embedder import Embedder
from f2llm.model.precision import to_precision
from f2llm.model.vectors import Vectors, normalize, truncate

K = 10
FACTORS = (1, 2, 5, 10, 20)
BYTES = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 1 / 8}
ALL = ("ntrex-128/NTREX-128/*.txt.gz", "bible-nt/*/*.xml.gz", "udhr/*.xml")
ENGLISH = (
    "medquad/*/*.xml", "bible-nt/english-oeb/*.xml.gz", "oldi-seed/seed/eng_Latn*",
    "mlqa-dev/**/*context-en-question-en*", "tydiqa-goldp-train/*/*.en.train.json",
    "ntrex-128/NTREX-128/*src.eng.txt.gz", "xquad/xquad.en.json",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="embeds sentences of --data")
    source.add_argument(
        "--taught", type=Path, help="a build's teach/MODEL: the teacher's vectors of the training texts"
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--english", action="store_true", help="English sentences only")
    parser.add_argument("--vectors", type=Path, help="an .npy file to keep the model's vectors in; read if it exists")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=500)
    options = parser.parse_args()
    full_ND = embedded(options) if options.model else taught(options)
    queries_BD, documents_ND = full_ND[: options.queries], full_ND[options.queries :]
    facts = {
        "date": date.today().isoformat(),
        "cores": cores(),
        "passages": len(documents_ND),
        "dims": full_ND.shape[1],
    }
    print(json.dumps(facts | {"queries": len(queries_BD)}), flush=True)
    _, truth_BK = top(queries_BD, documents_ND, K)
    rows = (shortlists(queries_BD, documents_ND, truth_BK), databases(queries_BD, documents_ND, truth_BK))
    for row in chain.from_iterable(rows):
        print(json.dumps(row), flush=True)


def embedded(options: argparse.Namespace) -> Vectors:
    """Unit vectors [queries + passages, D] of different real texts."""
    count = options.queries + options.passages
    if options.vectors and options.vectors.exists():
        return normalize(np.load(options.vectors))[:count]
    texts = read_texts(options.data, count, options.english)
    if read_config(options.model).get("model_type") == "qwen3":
        found = Embedder.load(options.model, engine="torch").encode_document(texts, progress=True)
    else:
        sentence_transformers = optional("sentence_transformers", "mine")
        model = sentence_transformers.SentenceTransformer(str(options.model), device="cpu")
        found = normalize(model.encode(texts, show_progress_bar=True, batch_size=64))
    if options.vectors:
        np.save(options.vectors, found.astype(np.float16))
    return found


def taught(options: argparse.Namespace) -> Vectors:
    """As many of the vectors that a build's teacher gave for its training texts, drawn with seed 0."""
    ids, stored = np.load(options.taught / "ids.npy"), np.fromfile(options.taught / "vectors.f16", np.float16)
    chosen = np.random.default_rng(0).choice(len(ids), options.queries + options.passages, replace=False)
    return normalize(stored.reshape(len(ids), -1)[chosen])


def read_texts(data: Path, count: int, english: bool) -> list[str]:
    """Distinct sentences of 20 to 200 characters (English: 400, for there are fewer), drawn with seed 0."""
    most = 400 if english else 200
    files = [file for pattern in (ENGLISH if english else ALL) for file in sorted(data.glob(pattern))]
    texts = (text for file in files for block in blocks_of(file) for _, text in sentences(block))
    found = list(dict.fromkeys(text for text in texts if 20 <= len(text) <= most))
    if len(found) < count:
        raise SystemExit(f"{data} has {len(found):,} different sentences, not {count:,}; give fewer --passages")
    return random.Random(0).sample(found, count)


def blocks_of(file: Path) -> Iterator[str]:
    """Lines, elements, or the contexts of a file in the form of SQuAD."""
    if file.suffix == ".json":
        for article in json.loads(file.read_text())["data"]:
            yield from (paragraph["context"] for paragraph in article["paragraphs"])
    else:
        yield from (block.text for block in read_blocks(file, Columns(), by_line=True))


def shortlists(queries_BD: Vectors, documents_ND: Vectors, truth_BK: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Recall of a shortlist and exact reranking by float16, by dimensions, precision and candidates per hit."""
    width = documents_ND.shape[1]
    stored_ND = documents_ND.astype(np.float16)
    for dims in [dim for dim in (8, 16, 32, 64, 128, 256) if dim <= width]:
        for precision, size in BYTES.items():
            short_NS = quantised(truncate(documents_ND, dims), precision)
            _, places_BC = top(truncate(queries_BD, dims), short_NS, K * FACTORS[-1])
            for factor in FACTORS:
                candidates_BC = places_BC[:, : K * factor]
                recall = np.mean([
                    share(truth, candidates[np.argsort(-cosines(query, stored_ND[candidates]))[:K]])
                    for query, truth, candidates in zip(queries_BD, truth_BK, candidates_BC, strict=True)
                ])  # fmt: skip
                row = {"dims": dims, "precision": precision, "factor": factor, "recall": round(float(recall), 4)}
                yield row | {"bytes": dims * size + 2 * width}


def quantised(short_NS: Vectors, precision: str) -> Vectors:
    """Unit vectors as a store at this precision gives them back."""
    stored = {
        "float32": lambda: short_NS, "float16": lambda: short_NS.astype(np.float16),
        "int8": lambda: to_precision(short_NS, "int8"),
        "binary": lambda: np.where(short_NS > 0, 1, -1),
    }[precision]()  # fmt: skip
    return truncate(stored.astype(np.float32), None)


def share(truth: NDArray[Any], found: NDArray[Any]) -> float:
    return len(set(truth.tolist()) & set(found.tolist())) / K


def databases(queries_BD: Vectors, documents_ND: Vectors, truth_BK: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Recall and time of single queries in a LanceDB table on the disk."""
    width = documents_ND.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        table = lancedb.connect(folder).create_table("p", pa.table({
            "n": pa.array(np.arange(len(documents_ND))),
            "vector": lists(documents_ND.astype(np.float16), pa.float16()),
        }))  # fmt: skip
        ids = np.asarray(table.search().select(["_rowid"]).limit(None).to_arrow()["_rowid"])

        def funnel(shortlist: Shortlist, factor: int) -> Callable[[Vectors], NDArray[Any]]:
            return lambda query: reranked(table, query, shortlist.best(query, K * factor))

        def index(**options: Any) -> Callable[[Vectors], NDArray[Any]]:
            return lambda query: nearest(table, query, **options)

        for short in (width // 4, width // 2):
            shortlist = Shortlist.of(ids, to_precision(truncate(documents_ND, short), "int8"))
            for factor in FACTORS[2:]:
                find = funnel(shortlist, factor)
                yield measure(f"funnel: {short} int8, {factor} per hit", find, queries_BD, truth_BK)
        yield measure("all vectors, float16", index(), queries_BD[:50], truth_BK[:50])
        for kind, extra in (("IVF_PQ", {"num_sub_vectors": width // 4}), ("IVF_HNSW_SQ", {})):
            started, before = time.process_time(), on_disk(folder)
            table.create_index("cosine", vector_column_name="vector", index_type=kind, replace=True, **extra)
            built = {"build_cpu_s": time.process_time() - started}
            built["bytes"] = (on_disk(folder) - before) / len(documents_ND)
            for options in ({"probes": 20}, {"probes": 20, "refine": 10}, {"probes": 60, "refine": 10}):
                name = f"{kind}, " + ", ".join(f"{key} {value}" for key, value in options.items())
                yield measure(name, index(**options), queries_BD, truth_BK) | built


def lists(matrix_ND: NDArray[Any], kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix_ND.ravel(), kind), matrix_ND.shape[1])


def on_disk(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def reranked(table: Any, query: Vectors, ids: NDArray[np.uint64]) -> NDArray[Any]:
    found = table.take_row_ids([int(row) for row in ids]).select(["n", "vector"]).to_arrow()
    full_CD = found["vector"].combine_chunks().flatten().to_numpy().reshape(-1, len(query))
    best: NDArray[Any] = found["n"].to_numpy()[np.argsort(-cosines(query, full_CD))[:K]]
    return best


def nearest(table: Any, query: Vectors, probes: int | None = None, refine: int | None = None) -> NDArray[Any]:
    search = (
        table.search(query, vector_column_name="vector").distance_type("cosine").limit(K).select(["n", "_distance"])
    )
    search = search.nprobes(probes) if probes else search.bypass_vector_index()
    found: NDArray[Any] = (search.refine_factor(refine) if refine else search).to_arrow()["n"].to_numpy()
    return found


def measure(
    name: str, find: Callable[[Vectors], NDArray[Any]], queries_BD: Vectors, truth_BK: NDArray[Any]
) -> dict[str, Any]:
    times, recalls = [], []
    find(queries_BD[0])
    for query, truth in track(list(zip(queries_BD, truth_BK, strict=True)), name):
        started = time.process_time()
        found = find(query)
        times.append((time.process_time() - started) * 1000)
        recalls.append(share(truth, found))
    p50, p99 = np.percentile(times, [50, 99]).tolist()
    return {
        "search": name,
        "recall": round(float(np.mean(recalls)), 4),
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
    }


if __name__ == "__main__":
    main()

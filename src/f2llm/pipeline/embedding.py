"""Texts of any number to a file of vectors: in parts, in constant memory, by any engine, with nothing lost to a kill.

```
read    files         -> rows/NNNNN.parquet      4,096 rows each: text, path, line, the columns to keep
encode  rows/NNNNN    -> vectors/NNNNN.parquet   a task of the engine each, with a marker when it is whole
join    vectors/NNNNN -> NAME.parquet, NAME.npy, or the folder of the parts itself, renamed
```

The parts lie in `.NAME.parts` beside the target and go at the end. The same command after a kill does the parts that
are missing; one with other files, options or another model starts over. A part is encoded by itself, so its vectors
are the same bytes whoever encodes it, and when, with as many threads (another number changes the last digits). Rows
come in the order of the files; a text that comes twice in a part is encoded once.

Cost beside the model's: the texts are written twice, and for a .parquet or .npy file the vectors too. Memory: the model
and one part in each process.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from f2llm.apps.classify_rows import cell
from f2llm.apps.encoding import TextEncoder, encode_texts, warn_of_cuts
from f2llm.apps.tables import batched, read_tables, table_files
from f2llm.core.errors import ConfigError, DataError, F2LLMError
from f2llm.core.files import atomic_path, digest_json, explained, read_json, replace_directory, sync, write_json
from f2llm.core.log import Bar, hushed, log
from f2llm.data.engine import Engine, Task
from f2llm.model import checkpoint
from f2llm.model.precision import check_precision, to_precision
from f2llm.pipeline.encoders import text_encoder

PART_ROWS = 4096
_OWN = ("text", "path", "line", "vector")
_NOTE = b"f2llm"
"""Key of the note in a parquet file's metadata: model, digest, options."""


@dataclass(frozen=True)
class EmbedOptions:
    """What makes the output besides the files and the model; `text` and `keep` are columns of tables.

    `precision` is that of the stored vectors (`model/precision.py`), `weights` that of the model's weights
    (`Embedder.load`, dtype). Kept columns are stored as text.
    """

    text: str | None = None
    keep: tuple[str, ...] = ()
    encoding: str = "utf-8"
    as_query: bool = False
    instruction: str | None = None
    task: str | None = None
    dim: int | None = None
    precision: str = "float32"
    weights: str = "float32"


@dataclass(frozen=True)
class EmbedSummary:
    """What was written: rows, dimensions, tokens (0 where the model counts none), texts cut, seconds of encoding."""

    texts: int
    dims: int
    tokens: int
    truncated: int
    seconds: float


def embed_files(
    files: Sequence[Path | str], target: Path, *, model: Path | str, options: EmbedOptions, engine: Engine
) -> EmbedSummary:
    """Embed every row of `files` and write `target`: .parquet, .npy (vectors alone), or a folder of parquet files.

    ConfigError for another ending, for a column that is there already and for a folder with other files; DataError for
    files without text.
    """
    _check(target, options)
    inputs = table_files(files)
    if target.resolve() in [path.resolve() for path in inputs]:
        raise ConfigError(f"--out {target} is one of the files to read; choose another name")
    digest = checkpoint.model_digest(checkpoint.resolve(model))
    work = target.absolute().with_name(f".{target.name}.parts")  # workers of a cluster have another folder of their own
    name = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
    _open_job(work, target, {"model": digest, "inputs": [_seen(path) for path in inputs], **asdict(options)})
    try:
        parts = _read(inputs, work, options)
        tasks = [_task(work, number, rows, name, digest, options) for number, rows in enumerate(parts)]
        done = engine.map(tasks, "encoding")
    except F2LLMError:
        if not (work / "markers").exists():  # nothing is done that would be worth going on with
            shutil.rmtree(work, ignore_errors=True)
        raise
    _join(work, target, len(parts))
    shutil.rmtree(work, ignore_errors=True)
    total = {name: sum(part[name] for part in done) for name in ("rows", "tokens", "truncated", "seconds")}
    warn_of_cuts(total["truncated"], total["rows"])
    return EmbedSummary(total["rows"], done[0]["dims"], total["tokens"], total["truncated"], total["seconds"])


def _check(target: Path, options: EmbedOptions) -> None:
    check_precision(options.precision, options.dim or 8)
    if target.suffix not in (".parquet", ".npy", ""):
        raise ConfigError(f"--out {target}: the name must end in .parquet or .npy, or have no ending for a folder")
    if taken := sorted(set(_OWN) & set(options.keep)):
        raise ConfigError(f"--keep {taken[0]}: the output has a column of this name already; leave it out or rename it")
    if target.suffix == "" and target.is_dir() and not all(map(_is_ours, target.iterdir())):
        raise ConfigError(f"--out {target} is a folder with other files; choose another one")


def _is_ours(path: Path) -> bool:
    """Whether a file is a part that was written here, and may be replaced."""
    return path.suffix == ".parquet" and path.stem.isdecimal() and _NOTE in (pq.read_schema(path).metadata or {})


def _seen(path: Path) -> list[Any]:
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def _open_job(work: Path, target: Path, job: dict[str, Any]) -> None:
    """Make the work folder, or empty one that was left by another command."""
    fingerprint = digest_json([1, PART_ROWS, job])
    with explained(target):
        try:
            left = read_json(work / "job.json")["fingerprint"]
        except (DataError, KeyError, TypeError):
            left = None
        if left == fingerprint:
            log(f"going on with what a stopped run left in {work}")
            return
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        write_json(work / "job.json", {"fingerprint": fingerprint, **job})


def _read(inputs: Sequence[Path], work: Path, options: EmbedOptions) -> list[int]:
    """Write the rows in parts; how many rows each has."""
    marker = work / "read.json"
    if marker.is_file():
        return list(read_json(marker))
    counts = []
    rows = read_tables(inputs, options.text, options.keep, encoding=options.encoding)
    with Bar("reading", None) as bar:
        for number, part in enumerate(batched(rows, PART_ROWS)):
            columns: dict[str, Any] = {"text": [row.text for row in part], "path": [str(row.path) for row in part]}
            columns["line"] = pa.array([row.line for row in part], pa.int64())
            columns |= {name: pa.array([cell(row, name) for row in part], pa.string()) for name in options.keep}
            with atomic_path(_part(work, "rows", number)) as temporary:
                pq.write_table(pa.table(columns), temporary, compression="zstd")
            counts.append(len(part))
            bar.advance(len(part))
    if not counts:
        raise DataError(f"{inputs[0]} holds no text; give a file that has some")
    write_json(marker, counts, indent=None)
    return counts


def _part(work: Path, kind: str, number: int) -> Path:
    return work / kind / f"{number:06}.parquet"


def _task(work: Path, number: int, rows: int, model: str, digest: str, options: EmbedOptions) -> Task:
    arguments: dict[str, Any] = {
        "source": _part(work, "rows", number), "target": _part(work, "vectors", number), "model": model,
        "digest": digest, "options": asdict(options),
    }  # fmt: skip
    marker = work / "markers" / f"{number:06}.json"
    if not arguments["target"].is_file():  # the folder of parts was renamed already, or somebody took it away
        marker.unlink(missing_ok=True)
    return Task(marker, encode_part, arguments, rows)


def encode_part(source: Path, target: Path, model: str, digest: str, options: dict[str, Any]) -> dict[str, Any]:
    """Add the vectors to a part's rows; what an engine's worker does. `options` are those of `EmbedOptions`."""
    started, rows = time.perf_counter(), pq.read_table(source)
    chosen = EmbedOptions(**options | {"keep": tuple(options["keep"])})
    with hushed():
        encoder = _encoder(model, digest, chosen)
        V_ND = encode_texts(encoder, rows["text"].to_pylist(), at_once=PART_ROWS)
    stored = to_precision(V_ND, check_precision(chosen.precision, encoder.dims))
    vector = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), stored.shape[1])
    told = {name: options[name] for name in ("as_query", "instruction", "task", "precision", "weights")}
    note = {"model": Path(encoder.model).name, "digest": digest, "dims": encoder.dims, **told}
    table = rows.append_column("vector", vector).replace_schema_metadata({_NOTE: json.dumps(note, ensure_ascii=False)})
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    stats = encoder.stats() if encoder.stats else None
    return {
        "rows": len(rows), "dims": encoder.dims, "tokens": stats.tokens if stats else 0,
        "truncated": stats.truncated if stats else 0, "seconds": time.perf_counter() - started,
    }  # fmt: skip


@lru_cache(maxsize=1)
def _encoder(model: str, digest: str, options: EmbedOptions) -> TextEncoder:
    """The model, once in each process; `digest` tells two models apart that were at the same place."""
    return text_encoder(
        model, as_query=options.as_query, instruction=options.instruction, task=options.task, dim=options.dim,
        weights=options.weights,
    )  # fmt: skip


def _join(work: Path, target: Path, count: int) -> None:
    """Put the parts together, in the work folder, and the whole in the place of the target."""
    if target.suffix == "":
        replace_directory(work / "vectors", target)
        return
    whole = work / target.name
    parts = (pq.ParquetFile(_part(work, "vectors", number)) for number in range(count))
    with atomic_path(whole) as temporary:
        _write_parquet(parts, temporary) if target.suffix == ".parquet" else _write_npy(parts, temporary, work, count)
    with explained(target):
        os.replace(whole, target)
        sync(target.parent)


def _write_parquet(parts: Iterator[Any], path: Path) -> None:
    first = next(parts)
    with pq.ParquetWriter(path, first.schema_arrow, compression="zstd") as writer:
        writer.write_table(first.read())
        for part in parts:
            writer.write_table(part.read())


def _write_npy(parts: Iterator[Any], path: Path, work: Path, count: int) -> None:
    rows = sum(pq.read_metadata(_part(work, "vectors", number)).num_rows for number in range(count))
    found, start = None, 0
    for part in parts:
        vectors = part.read(["vector"])["vector"].combine_chunks()
        stored = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
        if found is None:
            shape = (rows, stored.shape[1])
            found = np.lib.format.open_memmap(path, mode="w+", dtype=stored.dtype, shape=shape)
        found[start : start + len(stored)] = stored
        start += len(stored)
    if found is not None:
        found.flush()

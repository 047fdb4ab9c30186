"""Text files to a file of vectors: Parquet with the texts and where they stood, or a bare NumPy matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from f2llm.apps.search import Passage, read_passages
from f2llm.core.errors import ConfigError
from f2llm.core.files import atomic_path
from f2llm.model.embedder import Embedder
from f2llm.model.vectors import Vectors


def embed_files(
    embedder: Embedder, files: Sequence[Path], target: Path, *, as_query: bool = False, instruction: str | None = None
) -> int:
    """Embed every passage of `files` and write `target` (.parquet or .npy), atomically; returns how many."""
    if target.suffix not in (".parquet", ".npy"):
        raise ConfigError(f"--out {target}: the name must end in .parquet or .npy")
    passages = [passage for file in files for passage in read_passages(file)]
    texts = [passage.text for passage in passages]
    if as_query:
        found = embedder.encode_query(texts, instruction=instruction, progress=True)
    else:
        found = embedder.encode_document(texts, progress=True)
    with atomic_path(target) as temporary:
        if target.suffix == ".npy":
            with open(temporary, "wb") as handle:
                np.save(handle, found)
        else:
            pq.write_table(_table(passages, found), temporary, compression="zstd")
    return len(passages)


def _table(passages: Sequence[Passage], found: Vectors) -> pa.Table:
    width = found.shape[1]
    return pa.table(
        {
            "text": [passage.text for passage in passages],
            "path": [str(passage.path) for passage in passages],
            "line": pa.array([passage.line for passage in passages], pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(found.ravel(), pa.float32()), width),
        }
    )

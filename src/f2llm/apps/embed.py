"""Text files to a file of vectors: Parquet with the texts and where they stood, or a bare NumPy matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from f2llm.apps.search import Passage, read_passages
from f2llm.core.errors import ConfigError
from f2llm.core.files import atomic_path
from f2llm.model.embedder import Embedder


def embed_files(
    embedder: Embedder,
    files: Sequence[Path],
    target: Path,
    *,
    as_query: bool = False,
    instruction: str | None = None,
    task: str | None = None,
    processes: int = 1,
) -> int:
    """Embed every passage of `files` and write `target` (.parquet or .npy), atomically; returns how many.

    The vectors have the embedder's precision. `instruction` and `task` are as in `Embedder.encode_query`.
    """
    if target.suffix not in (".parquet", ".npy"):
        raise ConfigError(f"--out {target}: the name must end in .parquet or .npy")
    passages = [passage for file in files for passage in read_passages(file)]
    texts = [passage.text for passage in passages]
    if as_query:
        found = embedder.encode_query(texts, instruction=instruction, task=task, progress=True, processes=processes)
    else:
        found = embedder.encode_document(texts, progress=True, processes=processes)
    with atomic_path(target) as temporary:
        if target.suffix == ".npy":
            with open(temporary, "wb") as handle:
                np.save(handle, found)
        else:
            pq.write_table(_table(passages, found), temporary, compression="zstd")
    return len(passages)


def _table(passages: Sequence[Passage], found: NDArray[Any]) -> pa.Table:
    width = found.shape[1]
    return pa.table(
        {
            "text": [passage.text for passage in passages],
            "path": [str(passage.path) for passage in passages],
            "line": pa.array([passage.line for passage in passages], pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), width),
        }
    )

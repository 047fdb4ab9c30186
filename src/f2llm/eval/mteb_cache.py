"""Vectors on disk, by model, prompt and text: computed once, read again by every task, dimension and precision.

One directory a model, in it one a prompt, in it files of at most 16,384 vectors or 20 seconds of encoding: so much a
killed run loses. A file is one NumPy array of rows (digest of the text, vector in float32), written whole or not at
all and named by the SHA-256 of its rows, so damage shows when it is opened: then one sentence says so, the file goes,
and its texts are encoded again. Files are mapped into memory, not read.

Cost: 16 + 4 * width bytes a text; opening a prompt hashes its files once, about a second a gigabyte; about 200 bytes of
memory a text. Limits: nothing is ever thrown out (delete the directory); two processes may both encode the same text.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ModelError
from f2llm.core.files import atomic_path
from f2llm.core.log import Bar, warn
from f2llm.model.vectors import Vectors

ROWS = 16_384
SECONDS = 20.0
_SLICE = 512  # texts encoded at once
_KEY_BYTES = 16

Encode = Callable[[list[str]], Vectors]


class VectorStore:
    """The vectors of one model, `width` numbers each."""

    def __init__(self, directory: Path, width: int) -> None:
        self.directory, self.width = directory, width
        self._shelves: dict[str, _Shelf] = {}

    def vectors(self, prompt: str, texts: Sequence[str], encode: Encode) -> Vectors:
        """Vectors [N, width] of `texts` under `prompt`; `encode` is called for those that are not stored.

        ModelError where `encode` gives a vector that is not finite; such a vector is never stored.
        """
        if prompt not in self._shelves:
            name = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            self._shelves[prompt] = _Shelf(self.directory / name, self.width)
        return self._shelves[prompt].vectors(texts, encode)


class _Shelf:
    """The files of one prompt."""

    def __init__(self, directory: Path, width: int) -> None:
        self.directory = directory
        self.row = np.dtype([("key", np.void, _KEY_BYTES), ("vector", np.float32, (width,))])
        self._files: list[NDArray[Any]] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        for path in sorted(directory.glob("*.npy")):
            self._open(path)

    def vectors(self, texts: Sequence[str], encode: Encode) -> Vectors:
        keys = [_key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._places}
        if missing:
            self._fill(missing, encode)
        return self._gather(keys)

    def _fill(self, missing: dict[bytes, str], encode: Encode) -> None:
        """Encode and store, the longest texts first, so that those encoded together are of one length."""
        keys = sorted(missing, key=lambda key: -len(missing[key]))
        waiting: list[NDArray[Any]] = []
        step = min(_SLICE, ROWS)
        with Bar("encoding", len(keys)) as bar:
            written = time.monotonic()
            for first in range(0, len(keys), step):
                waiting.append(self._encoded(keys[first : first + step], missing, encode))
                bar.advance(len(waiting[-1]))
                if time.monotonic() - written > SECONDS or sum(map(len, waiting)) + step > ROWS:
                    self._write(np.concatenate(waiting))
                    waiting, written = [], time.monotonic()
        if waiting:
            self._write(np.concatenate(waiting))

    def _encoded(self, keys: Sequence[bytes], missing: dict[bytes, str], encode: Encode) -> NDArray[Any]:
        texts = [missing[key] for key in keys]
        rows = np.empty(len(texts), self.row)
        rows["vector"] = _finite(encode(texts), texts)
        rows["key"] = np.frombuffer(b"".join(keys), self.row["key"])
        return rows

    def _write(self, rows: NDArray[Any]) -> None:
        path = self.directory / f"{_digest(rows)}.npy"
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, rows)
        self._add(np.load(path, mmap_mode="r"))

    def _open(self, path: Path) -> None:
        try:
            rows = np.load(path, mmap_mode="r")
            whole = rows.dtype == self.row and _digest(rows) == path.stem
        except (ValueError, EOFError, OSError):
            whole = False
        if whole:
            self._add(rows)
        else:
            warn(f"the file of stored vectors {path} is damaged; it is deleted, and its texts are encoded again")
            path.unlink(missing_ok=True)

    def _add(self, rows: NDArray[Any]) -> None:
        number = len(self._files)
        self._files.append(rows)
        self._places |= {key.tobytes(): (number, place) for place, key in enumerate(rows["key"])}

    def _gather(self, keys: Sequence[bytes]) -> Vectors:
        places_N2 = np.array([self._places[key] for key in keys], dtype=np.int64).reshape(-1, 2)
        found = np.empty((len(keys), self.row["vector"].shape[0]), dtype=np.float32)
        for number in np.unique(places_N2[:, 0]):
            here = places_N2[:, 0] == number
            found[here] = self._files[number]["vector"][places_N2[here, 1]]
        return found


def _finite(vectors: Vectors, texts: Sequence[str]) -> Vectors:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ModelError(
            f"the model gives a vector that is not finite for {len(bad):,} of {len(texts):,} texts, "
            f"the first {texts[bad[0]][:60]!r}; check the model with: f2llm doctor"
        )
    return vectors


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def _digest(rows: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).view(np.uint8).data).hexdigest()[:32]

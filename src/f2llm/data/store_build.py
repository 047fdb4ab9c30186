"""How a token store grows: parts are joined behind what is there, each distinct text once.

One process numbers the texts by their first occurrence in the order of sources, shards and rows, for which it needs the
digests only, and copies part after part; so the store depends neither on the engine nor on how rows are cut into
shards. Parts lie in the hidden folder `.work`, which is as large as what it adds and goes at the end.

Files are extended behind the size that meta.json records, and meta.json is replaced last, at once: killed at any
moment, the store is what it was before, and the same call goes on with the parts that are finished. One process at a
time may extend a store.

Memory: the digests, 16 bytes a text of the store and of each part, 9 more for the places of equal ones, and 0.4 GB for
the sort of four million at a time. Every growth reads the whole store once, for its digest.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import DataError
from f2llm.core.files import atomic_path, digest_file, digest_json, explained, sweep, write_json
from f2llm.core.log import track
from f2llm.core.types import Example
from f2llm.data.engine import Engine, LocalEngine
from f2llm.data.store_parts import Part, Rules, StageSource, StoredRows, make_parts
from f2llm.text.tokenizer import Tokenizer

META = "meta.json"
MOST_TEXTS = 2**31 - 1
"""Rows are int32."""
EMPTY: dict[str, Any] = {
    "texts": 0, "tokens": 0, "truncated": 0, "rows": 0, "sources": {}, "languages": [], "language_shares": {},
    "files": {},
}  # fmt: skip
_WORK = ".work"
_SORTED_AT_ONCE = 1 << 22
_COPIED_AT_ONCE = 1 << 14


class Column:
    """A file of rows that grows: the bytes that `numpy.save` writes, or the values only where `bare`.

    How many rows count is told by whoever opens it; what lies behind them is of a growth that did not end.
    """

    def __init__(self, path: Path, kind: str, width: int = 0, *, bare: bool = False) -> None:
        self.path, self.kind, self.bare = path, np.dtype(kind), bare
        self.tail = (width,) if width else ()
        self.row_bytes = self.kind.itemsize * (width or 1)
        self.start = len(self.header(0))

    def header(self, count: int) -> bytes:
        """What `numpy.save` writes before `count` rows; numpy pads it to one length for every count."""
        if self.bare:
            return b""
        stream = io.BytesIO()
        fields = {"descr": self.kind.str, "fortran_order": False, "shape": (count, *self.tail)}
        np.lib.format.write_array_header_1_0(stream, fields)
        return stream.getvalue()

    def read(self, count: int) -> NDArray[Any]:
        """The first `count` rows, memory-mapped; DataError where the file is shorter or holds something else."""
        size, expected = self.path.stat().st_size if self.path.exists() else 0, self.start + count * self.row_bytes
        if size < expected:
            raise DataError(f"{self.path} has {size:,} bytes, {expected:,} expected; build again")
        if not self._is_of_its_kind():
            raise DataError(f"{self.path} does not hold rows of {self.kind.name}; build again")
        if not count:
            return np.zeros((0, *self.tail), self.kind)
        return np.memmap(self.path, self.kind, "r", offset=self.start, shape=(count, *self.tail))

    def _is_of_its_kind(self) -> bool:
        if self.bare:
            return True
        try:
            with open(self.path, "rb") as handle:
                np.lib.format.read_magic(handle)
                shape, _, kind = np.lib.format.read_array_header_1_0(handle)
                return bool(kind == self.kind and shape[1:] == self.tail and handle.tell() == self.start)
        except ValueError:
            return False

    def extend(self, count: int, blocks: Iterable[NDArray[Any]]) -> int:
        """Put `blocks` behind the first `count` rows, whatever lay there; returns how many rows there are now."""
        with open(self.path, "r+b" if self.path.exists() else "w+b") as handle:
            handle.truncate(self.start + count * self.row_bytes)
            handle.seek(0, os.SEEK_END)
            for block in blocks:
                handle.write(np.ascontiguousarray(block, self.kind).tobytes())
                count += len(block)
            handle.seek(0)
            handle.write(self.header(count))
            handle.flush()
            os.fsync(handle.fileno())
        return count

    def digest(self, count: int) -> str:
        """SHA-256 of the file as it is with `count` rows."""
        found, rest = hashlib.sha256(self.header(count)), count * self.row_bytes
        with open(self.path, "rb") as handle:
            handle.seek(self.start)
            while rest and (block := handle.read(min(rest, 1 << 22))):
                found.update(block)
                rest -= len(block)
        return found.hexdigest()


def tokens_of(directory: Path) -> Column:
    return Column(directory / "tokens.bin", "<u4", bare=True)


def offsets_of(directory: Path) -> Column:
    return Column(directory / "offsets.npy", "<i8")


def keys_of(directory: Path) -> Column:
    return Column(directory / "keys.npy", "<u8", 2)


def rows_file(directory: Path, source: str) -> Path:
    return directory / "rows" / f"{source}.npy"


def languages_file(directory: Path, source: str) -> Path:
    return directory / "languages" / f"{source}.npy"


def grow(
    directory: Path,
    before: Mapping[str, Any],
    sources: Sequence[tuple[StageSource, Iterable[Example] | StoredRows]],
    tokenizer: Tokenizer,
    rules: Rules,
    engine: Engine | None,
) -> dict[str, int]:
    """Add `sources` to the store whose meta.json says `before` (EMPTY: to none); returns the new counts."""
    with explained(directory):
        for name in ("rows", "languages", _WORK):
            (directory / name).mkdir(parents=True, exist_ok=True)
    sweep(directory)
    parts = make_parts(directory / _WORK, sources, tokenizer, rules, engine or LocalEngine())
    with explained(directory):
        meta = _join(directory, before, [(source, parts[source.id]) for source, _ in sources], rules.negatives)
        about = {"tokenizer": tokenizer.digest(), "eos_id": tokenizer.eos_id, "vocab_size": tokenizer.vocab_size}
        write_json(directory / META, meta | about | {"settings": asdict(rules)})
        shutil.rmtree(directory / _WORK)
    return {name: meta[name] for name in ("texts", "tokens", "truncated", "rows")}


def _join(
    directory: Path, before: Mapping[str, Any], sources: Sequence[tuple[StageSource, list[Part]]], negatives: int
) -> dict[str, Any]:
    """Put the parts behind what is there; returns the new meta data."""
    parts = [part for _, own in sources for part in own]
    numbers, fresh = _number(directory, before["texts"], parts)
    counts = _join_texts(directory, before, parts, fresh)
    counts["rows"] = before["rows"] + sum(part.rows for part in parts)
    languages, shares, left = list(before["languages"]), dict(before["language_shares"]), iter(numbers)
    for source, own in sources:
        _join_rows(rows_file(directory, source.id), own, [next(left) for _ in own], negatives)
        shares[source.id] = _join_languages(languages_file(directory, source.id), own, languages)
    files = dict(before["files"]) | _digests(directory, counts, [source.id for source, _ in sources])
    return {
        **counts,
        "digest": digest_json([languages, {name: value for name, value in files.items() if name != "keys.npy"}]),
        "sources": dict(before["sources"]) | {source.id: source.task_type for source, _ in sources},
        "languages": languages,
        "language_shares": shares,
        "files": files,
    }


def _number(
    directory: Path, known: int, parts: Sequence[Part]
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.bool_]]]:
    """The number in the store of each text of each part, and whether the part is the first that has it."""
    keys = np.concatenate([keys_of(directory).read(known) if known else np.zeros((0, 2), np.uint64)]
                          + [part.array("keys") for part in parts])  # fmt: skip
    first = first_places(keys)
    del keys
    fresh = first == np.arange(len(first))
    total = int(np.count_nonzero(fresh))
    if total > MOST_TEXTS:
        raise DataError(f"{directory} would hold {total:,} texts, {MOST_TEXTS:,} is the most; lower max_rows")
    numbers = (np.cumsum(fresh, dtype=np.int32) - np.int32(1))[first]
    ends = np.cumsum([known, *(part.texts for part in parts)])
    return np.split(numbers, ends)[1:-1], np.split(fresh, ends)[1:-1]


def first_places(keys_N2: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each key the place of the first one that equals it, [N]; sorts one bucket of the keys after the other."""
    first = np.empty(len(keys_N2), np.int64)
    buckets = min(256, 1 + len(keys_N2) // _SORTED_AT_ONCE)
    bucket_N = (keys_N2[:, 0] % np.uint64(buckets)).astype(np.uint8)
    for bucket in range(buckets):
        places = np.flatnonzero(bucket_N == bucket)
        order = np.lexsort(keys_N2[places].T)  # stable: of equal keys the first comes first
        ordered = keys_N2[places[order]]
        differs = np.ones(len(places), bool)
        differs[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        first[places[order]] = places[order[differs]][np.cumsum(differs) - 1]
    return first


def _join_texts(
    directory: Path, before: Mapping[str, Any], parts: Sequence[Part], fresh: Sequence[NDArray[np.bool_]]
) -> dict[str, int]:
    """Write the texts that are new; returns the counts."""
    texts, pairs = int(before["texts"]), list(zip(parts, fresh, strict=True))
    tokens = tokens_of(directory).extend(before["tokens"], _tokens(pairs))
    offsets = [np.zeros(1, np.int64)] if before is EMPTY else []
    offsets_of(directory).extend(texts + 1 - len(offsets), chain(offsets, _ends(pairs, before["tokens"])))
    count = keys_of(directory).extend(texts, (part.array("keys")[new] for part, new in pairs))
    truncated = sum(int(part.array("cut")[new].sum()) for part, new in pairs)
    return {"texts": count, "tokens": tokens, "truncated": before["truncated"] + truncated}


def _tokens(pairs: Sequence[tuple[Part, NDArray[np.bool_]]]) -> Iterator[NDArray[np.uint32]]:
    """The tokens of the new texts of each part."""
    for part, new in track(pairs, "joining"):
        tokens, lengths = part.tokens, part.array("lengths")
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        for start in range(0, len(new), _COPIED_AT_ONCE):
            some = slice(start, start + _COPIED_AT_ONCE)
            wanted = np.repeat(new[some], lengths[some])
            yield tokens[offsets[start] : offsets[start] + len(wanted)][wanted]


def _ends(pairs: Sequence[tuple[Part, NDArray[np.bool_]]], end: int) -> Iterator[NDArray[np.int64]]:
    """Where each new text ends; the first begins at `end`."""
    for part, new in pairs:
        ends = end + np.cumsum(part.array("lengths")[new])
        end = int(ends[-1]) if len(ends) else end
        yield ends


def _join_rows(path: Path, parts: Sequence[Part], numbers: Sequence[NDArray[np.int32]], negatives: int) -> None:
    """Write the rows of a source, its parts' texts numbered as in the store."""
    # -1, for no negative, takes the last element.
    tables = (np.append(own, np.int32(-1))[part.array("rows")] for part, own in zip(parts, numbers, strict=True))
    with atomic_path(path) as temporary:
        Column(temporary, "<i4", 2 + negatives).extend(0, tables)


def _join_languages(path: Path, parts: Sequence[Part], languages: list[str]) -> dict[str, float]:
    """Write the languages of the rows of a source, adding to `languages`; returns the shares of those of queries."""
    found: Counter[int] = Counter()

    def indices() -> Iterator[NDArray[np.uint16]]:
        for part in parts:
            languages.extend(tag for tag in part.languages if tag not in languages)
            own = np.array([languages.index(tag) for tag in part.languages], np.uint16)[part.array("languages")]
            found.update(own[:, 0].tolist())
            yield own

    with atomic_path(path) as temporary:
        total = Column(temporary, "<u2", 2).extend(0, indices())
    return {languages[index]: count / total for index, count in sorted(found.items())}


def _digests(directory: Path, counts: Mapping[str, int], sources: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the files of the texts, and of the rows and languages of `sources`."""
    files = [path for source in sources for path in (rows_file(directory, source), languages_file(directory, source))]
    return texts_digests(directory, counts) | {
        path.relative_to(directory).as_posix(): digest_file(path) for path in files
    }


def texts_digests(directory: Path, counts: Mapping[str, int]) -> dict[str, str]:
    """SHA-256 of the files that grow, as they are with so many texts and tokens."""
    columns = ((tokens_of, counts["tokens"]), (offsets_of, counts["texts"] + 1), (keys_of, counts["texts"]))
    return {column.path.name: column.digest(count) for column, count in ((of(directory), n) for of, n in columns)}

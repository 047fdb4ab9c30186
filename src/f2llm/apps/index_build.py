"""One run of `f2llm index`: which files have changed, their passages and vectors, and commits that a kill cannot split.

New files of a group go into the table in one commit, changed ones in one that also takes their old rows out. The
digest of a file stands in its rows, so what a commit holds is finished by that alone. Cost and limits: `apps.index`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from f2llm.apps import index_table as tables
from f2llm.apps.chunking import Chunk, chunks
from f2llm.apps.reading import Columns, is_table, read_blocks, table_rows
from f2llm.apps.search import text_files
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.files import digest_file
from f2llm.core.log import Bar, track
from f2llm.model.embedder import Embedder
from f2llm.model.precision import to_precision
from f2llm.model.vectors import truncate

Identify = Callable[[Sequence[str]], Sequence[tuple[str, float]]]
"""Texts to (language tag, confidence), such as `f2llm.data.langid.Identifier.identify`."""
UNDETERMINED = "und"
_GROUP, _GROUP_S = 512, 10.0  # passages and seconds from which on small files are committed together
_SLICE = 4096  # passages embedded at a time
_KEEP = timedelta(hours=1)  # old versions, for searches that are running
_SAMPLE = 1000  # rows that settle the type of a column


@dataclass
class Report:
    """What a run did, in files, and passages that were embedded; `skipped` has paths with reasons."""

    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    passages: int = 0
    embedded: int = 0
    tokens: int = 0
    seconds: float = 0.0
    left_empty: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Work:
    """A file to index: its digest, whether it is there already, its passages."""

    path: str
    digest: str
    is_new: bool
    chunks: list[Chunk]


class Build:
    """The run that brings a table up to date; `load` gives the model, asked only when there is something to embed."""

    def __init__(
        self, db: str, table: Any, memory: tables.Memory, load: Callable[[], Embedder], identify: Identify | None
    ) -> None:
        self.report = Report()
        self._bar: Bar | None = None
        self._db, self._table, self._memory, self._load, self._identify = db, table, memory, load, identify

    def add(self, roots: Sequence[Path], progress: bool) -> None:
        """Index what is new or has changed at or below `roots`, and take out what is gone from there."""
        files = self._files(roots)
        with tables.told(self._db):
            tables.ensure_text_index(self._table)
        known = self._known()
        changed = self._changed(files, known, progress)
        self._settle_columns([file for file, _ in changed])
        with Bar("indexing", len(changed)) if progress else nullcontext() as self._bar:
            for group in self._groups(changed, known):
                self._commit(group)
        self._delete([path for path in known if path not in files and _below(Path(path), roots)])
        self._tidy()

    def remove(self, roots: Sequence[Path]) -> None:
        """Take files, or all files below folders, out of the table."""
        found = [path for path in self._known() if _below(Path(path), roots)]
        if not found:
            raise DataError(f"the index {self._db} has no file at {', '.join(map(str, roots))}")
        self._delete(found)
        self._tidy()

    def _files(self, roots: Sequence[Path]) -> dict[str, Path]:
        """The files to index by their absolute path, in order; those of the database itself are left out."""
        own = Path(self._db).resolve()
        check_paths(roots)
        found = [file for root in roots for file in text_files(root) if not file.is_relative_to(own)]
        if not found:
            raise DataError(f"there is no file below {', '.join(map(str, roots))}; give files or folders with files")
        return {str(file): file for file in found}

    def _known(self) -> dict[str, str]:
        """The digest of each file that is in the index."""
        with tables.told(self._db):
            pairs = tables.scan(self._table, ["path", "digest"]).group_by(["path", "digest"]).aggregate([])
        return dict(zip(pairs["path"].to_pylist(), pairs["digest"].to_pylist(), strict=True))

    def _changed(self, files: Mapping[str, Path], known: Mapping[str, str], progress: bool) -> list[tuple[Path, str]]:
        """The files that the index does not have as they are, with their digests."""
        found = []
        for name, file in track(files.items(), "looking for changes", len(files)) if progress else files.items():
            try:
                digest = digest_file(file)[:32]
            except OSError as error:
                self.report.skipped.append((name, f"cannot be read: {error.strerror}"))
                continue
            if known.get(name) == digest:
                self.report.unchanged += 1
            else:
                found.append((file, digest))
        return found

    def _settle_columns(self, files: Sequence[Path]) -> None:
        """Give each own column that the table lacks the type of its values in the first file that has it."""
        missing = {name: c for name, c in self._memory.own.items() if name not in self._table.schema.names}
        kinds: dict[str, str] = {}
        seen: dict[str, None] = {}
        for file in files:
            if len(kinds) == len(missing) or not is_table(file):
                continue
            try:
                names, rows = table_rows(file)
                seen.update(dict.fromkeys(names))
                some = list(islice(rows, _SAMPLE))
            except (DataError, OSError, EOFError):  # told when the file is read for its texts
                continue
            for name, column in missing.items():
                if column in names and name not in kinds:
                    kinds[name] = tables.kind_of(row.get(column) for _, row in some)
        lacking = [column for name, column in missing.items() if name not in kinds]
        if lacking and seen:
            raise ConfigError(f"--column: no table has a column {lacking[0]!r}; the columns are {', '.join(seen)}")
        with tables.told(self._db):
            tables.add_own_columns(self._table, kinds)

    def _groups(self, changed: Sequence[tuple[Path, str]], known: Mapping[str, str]) -> Iterator[list[_Work]]:
        """The files with their passages, in groups that are committed together."""
        group: list[_Work] = []
        since = time.monotonic()
        for file, digest in changed:
            try:
                found = list(self._chunks(file))
            except DataError as reason:
                stays = "; its passages from before stay" if str(file) in known else ""
                self._skip(file, f"{reason}{stays}")
                continue
            if not found:
                self._skip(file, "has no text")
                self._delete([str(file)] if str(file) in known else [])
                continue
            group.append(_Work(str(file), digest, str(file) not in known, found))
            if sum(len(work.chunks) for work in group) >= _GROUP or time.monotonic() - since > _GROUP_S:
                yield group
                group, since = [], time.monotonic()
        if group:
            yield group

    def _skip(self, file: Path, reason: str) -> None:
        self.report.skipped.append((str(file), reason))
        self._advance(1)

    def _advance(self, files: int, note: str = "") -> None:
        if self._bar is not None:
            self._bar.advance(files, note)

    def _chunks(self, file: Path) -> Iterator[Chunk]:
        memory = self._memory
        blocks = read_blocks(file, Columns(memory.text, memory.title, memory.own), memory.by_line)
        tokenizer = self._load().tokenizer.limited_to(1 << 30)

        def count(texts: Sequence[str]) -> list[int]:
            return [len(ids) - 1 for ids in tokenizer.encode(texts)]  # without EOS

        return chunks(blocks, count, memory.chunk_tokens, memory.overlap)

    def _commit(self, group: Sequence[_Work]) -> None:
        """One commit for the new files of a group, and one for those that take the place of older rows."""
        new, old = [work for work in group if work.is_new], [work for work in group if not work.is_new]
        if new:
            rows = self._rows(new)
            with tables.told(self._db):
                self._table.add(rows)
        if old:
            rows, paths = self._rows(old), tables.quoted(work.path for work in old)
            merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            with tables.told(self._db):
                merge.when_not_matched_by_source_delete(f"path IN ({paths})").execute(rows)
        self.report.added += len(new)
        self.report.updated += len(old)
        self._advance(len(group))

    def _rows(self, group: Sequence[_Work]) -> pa.Table:
        """The rows of some files, as the table has them."""
        entries = [(work, number, chunk) for work in group for number, chunk in enumerate(work.chunks)]
        slices = [entries[start : start + _SLICE] for start in range(0, len(entries), _SLICE)]
        return pa.concat_tables([self._slice(some) for some in slices])

    def _slice(self, entries: Sequence[tuple[_Work, int, Chunk]]) -> pa.Table:
        schema, some = self._table.schema, [chunk for _, _, chunk in entries]
        texts = [chunk.text for chunk in some]
        vectors = self._load().encode_document(texts)
        columns = {
            "id": [_identifier(work.path, number) for work, number, _ in entries],
            "text": texts,
            "language": [tag for tag, _ in self._identify(texts)] if self._identify else [UNDETERMINED] * len(texts),
            "path": [work.path for work, _, _ in entries],
            "position": [chunk.position for chunk in some],
            "title": [chunk.block.title for chunk in some],
            "digest": [work.digest for work, _, _ in entries],
            "vector": _lists(vectors.astype(np.float16), pa.float16()),
            "short": _lists(to_precision(truncate(vectors, self._memory.short_dims), "int8"), pa.int8()),
        }
        own = [name for name in self._memory.own if name in schema.names]
        columns |= {name: self._own_values(name, schema.field(name).type, some) for name in own}
        self.report.embedded += len(texts)
        self.report.tokens += self._load().last_stats.tokens
        self._advance(0, f"{self.report.embedded:,} passages")
        return pa.table(columns).select(schema.names).cast(schema)

    def _own_values(self, name: str, kind: pa.DataType, some: Sequence[Chunk]) -> pa.Array:
        given = [chunk.block.values.get(name) for chunk in some]
        values = [tables.cast(value, kind) for value in given]
        lost = sum(value is None and old not in (None, "") for value, old in zip(values, given, strict=True))
        if lost:
            self.report.left_empty[name] = self.report.left_empty.get(name, 0) + lost
        return pa.array(values, kind)

    def _delete(self, paths: Sequence[str]) -> None:
        with tables.told(self._db):
            for start in range(0, len(paths), _SLICE):
                self._table.delete(f"path IN ({tables.quoted(paths[start : start + _SLICE])})")
        self.report.removed += len(paths)

    def _tidy(self) -> None:
        """Join small pieces and bring the text index up to date, where there is something to do."""
        report = self.report
        with tables.told(self._db):
            waiting = any(index.num_unindexed_rows for index in self._table.list_indices())
            if waiting or report.added or report.updated or report.removed:
                self._table.optimize(cleanup_older_than=_KEEP)
            report.passages = self._table.count_rows()


def check_paths(paths: Iterable[Path]) -> None:
    """DataError where one does not exist."""
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist; give files or folders")


def _below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _identifier(path: str, number: int) -> str:
    """The name of a passage: the same in every run, so that a changed file takes the place of its own rows."""
    return hashlib.sha256(f"{number}\0{path}".encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _lists(matrix_ND: NDArray[Any], kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix_ND.ravel(), kind), matrix_ND.shape[1])

"""A search index of files on disk: add, update, remove, search. What `f2llm index` and `f2llm search --db` call.

    index = Index.create("notes.db", "my-model")
    index.add(["notes/"])
    index.search("sea in northern Europe", k=5, where="year > 2020")

Files are read (`apps.reading`), cut into passages (`apps.chunking`), embedded, and stored in one LanceDB table
(`apps.index_table`). A file is known by the SHA-256 of its content, which stands in each of its rows: an unchanged one
is not embedded again, a changed one is replaced in one commit, one that is gone is removed. A killed run loses the
group of files in work (up to 512 passages, or one larger file); the next run finds by the digests what is missing.
Nothing else is written, so rows are neither doubled nor lost.

Search is a funnel (`apps.funnel`), full-text search, or both fused by reciprocal ranks.
Cost: embedding, about 2 * parameters FLOP a token; on disk a passage's text, 2 bytes a dimension and 1 a short one.
Memory while indexing: the vectors of one file in float16; while searching: the short vectors of all passages.
Limits: paths are absolute, so a moved folder is indexed anew. With object storage, let one process write at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from f2llm.apps import index_table as tables
from f2llm.apps.funnel import FACTOR, short_dims_of
from f2llm.apps.index_build import Build, Identify, Report
from f2llm.apps.index_search import IndexHit, Mode, Searcher, Stage
from f2llm.apps.reading import Columns
from f2llm.core.errors import ConfigError, DataError, ModelError
from f2llm.model import checkpoint
from f2llm.model.embedder import Embedder
from f2llm.model.vectors import Vectors

CHUNK_TOKENS = 256


class Index:
    """An index; make one by `create` or `open`. The model is loaded when it is needed first."""

    def __init__(self, db: str, table: Any, memory: tables.Memory, model: str) -> None:
        self.db, self.memory, self.model = db, memory, model
        self._table, self._searcher = table, Searcher(table, memory)

    @classmethod
    def create(
        cls,
        db: Path | str,
        model: Path | str,
        *,
        chunk_tokens: int | None = None,
        overlap: int | None = None,
        by_line: bool | None = None,
        dims: int | None = None,
        short_dims: int | None = None,
        columns: Columns | None = None,
    ) -> Index:
        """A new, empty index at `db` (a folder or a URI of object storage) for a model's vectors.

        `chunk_tokens` (default 256, or what the model reads) and `overlap` (default an eighth) cut the texts; `by_line`
        makes each line of a text file a passage; `dims` cuts the vectors, `short_dims` those of the shortlist.
        """
        db, columns = str(db), columns or Columns()
        if tables.is_filled(db):
            raise ConfigError(f"there is an index at {db} already; choose another --db, or open it")
        tables.check_own_names(columns.own)
        directory = checkpoint.resolve(model)
        settings = checkpoint.read_settings(directory)
        hidden = checkpoint.read_shape(directory).hidden
        dims = hidden if dims is None else dims
        room = _room(settings)
        size = min(CHUNK_TOKENS, room) if chunk_tokens is None else chunk_tokens
        _check("chunk-tokens", size, 8, room)
        _check("overlap", overlap or 0, 0, size // 2)
        _check("dim", dims, 1, hidden)
        short = short_dims_of(settings.matryoshka_dims, dims) if short_dims is None else short_dims
        _check("short-dim", short, 1, dims)
        memory = tables.Memory(
            model=_name_of(model), fingerprint=checkpoint.model_digest(directory), prompts=settings.prompts,
            dims=dims, short_dims=short, chunk_tokens=size, overlap=size // 8 if overlap is None else overlap,
            by_line=bool(by_line), text=columns.text, title=columns.title, own=dict(columns.own),
        )  # fmt: skip
        return cls(db, tables.create_table(db, memory), memory, str(model))

    @classmethod
    def open(cls, db: Path | str, model: Path | str | None = None) -> Index:
        """The index at `db`; ModelError where `model` (default: the one it was made with) is another one."""
        table, memory = tables.open_table(str(db))
        index = cls(str(db), table, memory, str(model or memory.model))
        if model is not None:
            index._checked_directory()
        return index

    def check_options(self, options: Mapping[str, Any]) -> None:
        """ConfigError where options of `create` are not those that the index was made with; None says nothing."""
        columns = options.get("columns")
        given = {name: value for name, value in options.items() if name != "columns"}
        given |= {"text": columns.text, "title": columns.title, "own": columns.own or None} if columns else {}
        for name, value in given.items():
            made = getattr(self.memory, name)
            if value is not None and value != made:
                raise ConfigError(
                    f"the index {self.db} was made with {name} {made}, not {value}; "
                    "leave the option out, or make a new index"
                )

    def add(self, paths: Iterable[Path | str], *, identify: Identify | None = None, progress: bool = False) -> Report:
        """Bring the index up to date with files, and with all files below folders; returns what was done.

        What was indexed below these folders and is gone is removed. `identify` names the language of each passage.
        """
        started = time.perf_counter()
        build = Build(self.db, self._table, self.memory, lambda: self.embedder, identify)
        with tables.lock(self.db):
            build.add(_resolved(paths), progress)
        build.report.seconds = time.perf_counter() - started
        return build.report

    def remove(self, paths: Iterable[Path | str]) -> Report:
        """Take files, or all files below folders, out of the index; the files themselves stay."""
        build = Build(self.db, self._table, self.memory, lambda: self.embedder, None)
        with tables.lock(self.db):
            build.remove(_resolved(paths))
        return build.report

    def search(
        self,
        query: str,
        k: int = 5,
        *,
        where: str | None = None,
        languages: Iterable[str] = (),
        path: str | None = None,
        mode: Mode = "vector",
        instruction: str | None = None,
        factor: int = FACTOR,
    ) -> list[IndexHit]:
        """The `k` best passages, best first, no text twice; `stages` then tells what was done and how long it took.

        `where` is SQL over the columns, `languages` are tags, `path` a pattern such as `docs/*`. `factor` times `k`
        candidates are ranked exactly. `instruction` replaces the model's own query prompt.
        """
        if k < 1 or factor < 1:
            raise ConfigError(f"top is {k} and factor {factor}; give 1 or more")
        if not query.strip():
            raise DataError("a query is empty; write what to look for")
        sql = tables.condition(where, languages, path)
        embedder = None if mode == "text" else self.embedder

        def encoded() -> Vectors:
            vector: Vectors = embedder.encode_query([query], instruction=instruction)[0]  # type: ignore[union-attr]
            return vector

        with tables.told(self.db):
            if not self._table.count_rows():
                raise DataError(f"the index {self.db} holds no passage; add some: f2llm index FOLDER --db {self.db}")
            if sql:
                tables.check_condition(self._table, sql, where)
            return self._searcher.search(query, encoded, k, sql, mode, k * factor)

    @property
    def stages(self) -> list[Stage]:
        """What the last search did, stage by stage."""
        return self._searcher.stages

    def facts(self) -> dict[str, Any]:
        """What the index holds and how it was made."""
        with tables.told(self.db):
            counted = tables.scan(self._table, ["path", "language"])
            languages = pc.value_counts(counted["language"]).to_pylist()
            ordered = sorted(languages, key=lambda entry: (-entry["counts"], entry["values"]))
            return {
                "db": self.db, "passages": counted.num_rows, "files": pc.count_distinct(counted["path"]).as_py(),
                "model": self.memory.model, "fingerprint": self.memory.fingerprint[:16], "dims": self.memory.dims,
                "short_dims": self.memory.short_dims, "chunk_tokens": self.memory.chunk_tokens,
                "overlap": self.memory.overlap, "columns": ", ".join(self.memory.own) or "none",
                "languages": ", ".join(f"{entry['values']} {entry['counts']:,}" for entry in ordered[:8]),
            }  # fmt: skip

    @cached_property
    def embedder(self) -> Embedder:
        """The model, after its fingerprint was compared with the index's."""
        return Embedder.load(self._checked_directory(), truncate_dim=self.memory.dims)

    def _checked_directory(self) -> Path:
        try:
            directory = checkpoint.resolve(self.model)
        except ModelError as error:
            raise ModelError(f"{error}; the index {self.db} needs the model it was made with: give --model") from None
        found = checkpoint.model_digest(directory)
        if found != self.memory.fingerprint:
            raise ModelError(
                f"the index {self.db} was made with {self.memory.model} (fingerprint {self.memory.fingerprint[:8]}), "
                f"{self.model} has {found[:8]}: their vectors cannot be compared; give that model, or make a new index"
            )
        return directory


def _resolved(paths: Iterable[Path | str]) -> list[Path]:
    return [Path(path).resolve() for path in paths]


def _name_of(model: Path | str) -> str:
    """A directory as an absolute path, so that it is found from everywhere; a hub id as it is."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else str(model)


def _room(settings: checkpoint.Settings) -> int:
    """Tokens of a document that the model reads: its limit without the document prompt and EOS."""
    prompt = settings.tokenizer.encode([settings.prompts.get("document", "")])[0]
    return settings.max_seq_length - len(prompt)


def _check(option: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"--{option} {value}: give {least} to {most}")

"""A table written row batch by row batch: parquet, CSV or JSON lines, whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from f2llm.core.errors import ConfigError
from f2llm.core.files import atomic_path

SUFFIXES = (".parquet", ".csv", ".jsonl")


class TableWriter:
    """Use as a context manager: the file is there when the block ends without an error.

    `columns`: names and Arrow types. Memory holds one batch. ConfigError for a name of another ending.
    """

    def __init__(self, target: Path, columns: Mapping[str, Any]) -> None:
        if target.suffix not in SUFFIXES:
            raise ConfigError(f"--out {target}: the name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        self.target, self.schema = target, pa.schema(list(columns.items()))
        self._stack = ExitStack()

    def __enter__(self) -> TableWriter:
        temporary = self._stack.enter_context(atomic_path(self.target))
        if self.target.suffix == ".parquet":
            self._parquet = self._stack.enter_context(pq.ParquetWriter(temporary, self.schema, compression="zstd"))
            return self
        self._text = self._stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
        if self.target.suffix == ".csv":
            self._csv = csv.writer(self._text, lineterminator="\n")
            self._csv.writerow(self.schema.names)
        return self

    def write(self, batch: Mapping[str, Any]) -> None:
        """Add rows, given as columns."""
        table = pa.table({field.name: pa.array(batch[field.name], field.type) for field in self.schema}, self.schema)
        if self.target.suffix == ".parquet":
            self._parquet.write_table(table)
            return
        columns = [[_short(value) for value in column.to_pylist()] for column in table.columns]
        rows = zip(*columns, strict=True)
        if self.target.suffix == ".csv":
            self._csv.writerows(rows)
        else:
            names = self.schema.names
            self._text.writelines(
                json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows
            )

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def _short(value: Any) -> Any:
    """A number of single precision without the digits that double precision would show."""
    return round(value, 6) if isinstance(value, float) else value

"""Tables in parquet and Arrow files, and data sets as Hugging Face `datasets` saves them, row by row.

A data set on disk is a directory with `state.json`, `dataset_info.json` and streams of Arrow batches; one with splits
has a folder for each and `dataset_dict.json`. pyarrow alone reads them, and the .arrow files of the hub's cache. Class
labels, which are stored as numbers, become their names.

Rows come in batches of 512 and column chunks of parquet in pages, so memory does not grow with the file: a row group is
often gigabytes (40 MB for a file of 206 MB). Arrow files are mapped: what was read stays resident only while nothing
else needs the room. Offsets and UTF-8 are checked. 15,000 rows a second as pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from f2llm.core.errors import DataError
from f2llm.core.files import read_json

BATCH = 512
SUFFIXES = (".parquet", ".arrow", ".feather")
_PAGE_BUFFER = 1 << 18
_INFO, _STATE, _SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
_FILE_MAGIC, _FEATHER_1_MAGIC = b"ARROW1", b"FEA1"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def is_data_set(path: Path) -> bool:
    """Whether a directory is a data set (or one split of it) that was saved to disk."""
    return (path / _STATE).is_file()


def reads(path: Path) -> bool:
    """Whether `read_arrow` reads a file or directory."""
    return path.suffix in SUFFIXES or is_data_set(path)


def splits(path: Path) -> list[str]:
    """The names of the splits of a data set on disk that has any."""
    found = read_json(path / _SPLITS) if (path / _SPLITS).is_file() else {}
    return [str(name) for name in found.get("splits", [])] if isinstance(found, dict) else []


def column_names(path: Path) -> list[str]:
    """The columns of a file or of a data set on disk."""
    return list(_schema(_data_files(path)[0]).names)


def read_arrow(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, values of the columns) of each row of a parquet or Arrow file, or of a data set on disk.

    `a.b` is the field b of the column a, where there is no column `a.b`. Values are Python's own: text, numbers, lists.
    """
    number = 0
    for file in _data_files(path):
        schema = _schema(file)
        paths = {name: _path(file, schema, name) for name in columns}
        features = _features(file, schema)
        labels = {name: found for name, path in paths.items() if (found := _label_names(features, path))}
        for batch in _batches(file, sorted({path[0] for path in paths.values()})):
            with explained(file):
                values = [_values(batch, path) for path in paths.values()]
            for row in zip(*values, strict=True):
                number += 1
                cells = dict(zip(paths, row, strict=True))
                for name, names in labels.items():
                    cells[name] = _named(cells[name], names, f"{file}, row {number}, column {name}")
                yield number, cells


def open_parquet(path: Path) -> pq.ParquetFile:
    """A parquet file whose pages are read one by one."""
    # By default pyarrow fetches whole row groups ahead: 650 MB instead of 160 MB for a file of 520 MB.
    return pq.ParquetFile(path, buffer_size=_PAGE_BUFFER, pre_buffer=False)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what pyarrow says of a broken file into one sentence."""
    kind = "parquet" if path.suffix == ".parquet" else "Arrow"
    try:
        yield
    except UnicodeDecodeError:
        raise DataError(f"{path} holds text that is not UTF-8; fetch it again") from None
    except PermissionError:
        raise DataError(f"{path} may not be read by this user; change its permissions") from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} is no whole {kind} file ({reason}); fetch it again") from None


def _data_files(path: Path) -> list[Path]:
    """The files of a table, in order."""
    if not path.is_dir():
        return [path]
    state = read_json(path / _STATE)
    files = state.get("_data_files") if isinstance(state, dict) else None
    names = [str(file.get("filename")) for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    if not names or any(Path(name).name != name for name in names):
        raise DataError(f"{path / _STATE} names no data files; save the data set again")
    if state.get("_indices_data_files"):
        raise DataError(f"{path} is a selection of rows by index; save it after flatten_indices()")
    if absent := [name for name in names if not (path / name).is_file()]:
        raise DataError(f"{path} lacks {absent[0]}, which its {_STATE} names; fetch it again")
    return [path / name for name in names]


def _schema(file: Path) -> pa.Schema:
    with explained(file):
        if file.suffix == ".parquet":
            with open_parquet(file) as parquet:
                return parquet.schema_arrow
        with pa.memory_map(str(file)) as source, _reader(file, source) as reader:
            return reader.schema


def _reader(file: Path, source: pa.MemoryMappedFile) -> Any:
    """A reader of an Arrow file, or of a stream, which is what `datasets` writes."""
    magic = source.read(len(_FILE_MAGIC))
    source.seek(0)
    if magic.startswith(_FEATHER_1_MAGIC):
        raise DataError(f"{file} is of the first version of Feather; write it again in the second")
    if magic == _FILE_MAGIC:
        return pa.ipc.open_file(source)
    # A stream that was cut off between two batches would read like a whole one.
    if source.read_at(len(_END_OF_STREAM), max(source.size() - len(_END_OF_STREAM), 0)) != _END_OF_STREAM:
        raise DataError(f"{file} is no whole Arrow file (its end is missing); fetch it again")
    return pa.ipc.open_stream(source)


def _batches(file: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    with explained(file):
        if file.suffix == ".parquet":
            with open_parquet(file) as parquet:
                yield from parquet.iter_batches(BATCH, columns=names)
            return
        with pa.memory_map(str(file)) as source, _reader(file, source) as reader:
            for large in _record_batches(reader):
                for start in range(0, len(large), BATCH):
                    batch = large.select(names).slice(start, BATCH)
                    batch.validate(full=True)  # a damaged offset would end the process
                    yield batch


def _record_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchStreamReader):
        yield from reader
    else:
        yield from map(reader.get_batch, range(reader.num_record_batches))


def _path(file: Path, schema: pa.Schema, name: str) -> list[str]:
    """A column by its own name, or the way to a field of it."""
    parts = [name] if name in schema.names else name.split(".")
    if schema.names.count(parts[0]) != 1:
        fault = f"two columns {parts[0]}" if parts[0] in schema.names else f"no column {name}"
        raise DataError(f"{file}: {fault}; it has {', '.join(schema.names)}")
    kind = schema.field(parts[0]).type
    for part in parts[1:]:
        fields = [kind.field(at).name for at in range(kind.num_fields)] if pa.types.is_struct(kind) else []
        if part not in fields:
            raise DataError(f"{file}: no column {name}; {parts[0]} is {kind}")
        kind = kind.field(fields.index(part)).type
    return parts


def _values(batch: pa.RecordBatch, path: list[str]) -> list[Any]:
    column = batch.column(path[0])
    return list((pc.struct_field(column, path[1:]) if path[1:] else column).to_pylist())


def _features(file: Path, schema: pa.Schema) -> Any:
    """What `datasets` notes of the columns: in the file itself, or beside it."""
    noted = (schema.metadata or {}).get(b"huggingface")
    try:
        found = json.loads(noted)["info"] if noted else None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{file}: its note of the columns is damaged; save the data set again") from None
    if found is None and (file.parent / _INFO).is_file():
        found = read_json(file.parent / _INFO)
    return found.get("features") if isinstance(found, dict) else None


def _label_names(features: Any, path: list[str]) -> list[str]:
    """The names of the classes of a column of labels, or of lists of labels; none for other columns."""
    found = features
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    while isinstance(found, list) or (isinstance(found, dict) and "feature" in found):
        found = found["feature"] if isinstance(found, dict) else found[0] if found else None
    is_label = isinstance(found, dict) and found.get("_type") == "ClassLabel"
    return list(map(str, found.get("names") or [])) if is_label else []


def _named(value: Any, names: list[str], place: str) -> Any:
    """The name of a label; None for -1, which stands for no label."""
    if isinstance(value, list):
        return [_named(item, names, place) for item in value]
    if not isinstance(value, int):
        return value
    if not -1 <= value < len(names):
        raise DataError(f"{place}: the label {value} has no name, there are {len(names)}; fetch the data again")
    return None if value == -1 else names[value]

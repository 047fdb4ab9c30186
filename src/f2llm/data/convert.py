"""The registry of converters: from raw files (or the data inside babel) to a stream of `Example`.

`convert` is the one entry; every converter streams, so memory stays small whatever the size of a source. `convert_part`
is the same as a task of an engine: one part of a source, to shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from f2llm.core.errors import ConfigError
from f2llm.core.files import explained
from f2llm.core.types import Example
from f2llm.data import hub
from f2llm.data.convert_classes import CLASS_CONVERTERS
from f2llm.data.convert_cldr import CLDR_CONVERTERS
from f2llm.data.convert_code import CODE_CONVERTERS
from f2llm.data.convert_documents import DOCUMENT_CONVERTERS
from f2llm.data.convert_lines import LINE_CONVERTERS
from f2llm.data.convert_nli import NLI_CONVERTERS
from f2llm.data.convert_pairs import PAIR_CONVERTERS
from f2llm.data.convert_released import RELEASED_CONVERTERS
from f2llm.data.convert_sql import SQL_CONVERTERS
from f2llm.data.convert_tables import TABLE_CONVERTERS
from f2llm.data.converter import Converter, Drops
from f2llm.data.examples import write_shards

__all__ = [
    "CONVERTERS",
    "Converter",
    "Drops",
    "check_options",
    "convert",
    "convert_part",
    "count_parts",
    "fetch",
    "needed_files",
]

_ALL: tuple[Converter[Any], ...] = (
    *CLDR_CONVERTERS,
    *PAIR_CONVERTERS,
    *CLASS_CONVERTERS,
    *CODE_CONVERTERS,
    *LINE_CONVERTERS,
    *TABLE_CONVERTERS,
    *NLI_CONVERTERS,
    *DOCUMENT_CONVERTERS,
    *SQL_CONVERTERS,
    *RELEASED_CONVERTERS,
)
CONVERTERS: dict[str, Converter[Any]] = {converter.name: converter for converter in _ALL}


def convert(
    name: str,
    root: Path | None,
    source: str,
    options: Mapping[str, Any],
    seed: int,
    drops: Drops | None = None,
    part: int | None = None,
) -> Iterator[Example]:
    """Stream the examples of one source, or of one part of it; rows left out are counted by reason in `drops`.

    ConfigError for an unknown converter or option, at once; DataError that names file and line while it runs.
    """
    return _known(name)(root, source, options, seed, drops, part)


def count_parts(name: str, root: Path | None, options: Mapping[str, Any]) -> int:
    """How many parts a source has that can be converted side by side."""
    return _known(name).count_parts(root, options)


def convert_part(
    converter: str,
    path: Path | None,
    source: str,
    options: dict[str, Any],
    seed: int,
    part: int,
    out_dir: Path,
) -> dict[str, Any]:
    """Write one part of a source as shards `PPPPP-NNNNN.parquet` of `out_dir`, in place of those of an earlier attempt.

    Returns {"rows": their number, "dropped": reason -> rows left out, "shards": how many}.
    """
    with explained(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
        for left in [*out_dir.glob(f"{part:05}-*.parquet"), *out_dir.glob(f".{part:05}-*.tmp")]:
            left.unlink()
    drops = Drops()
    rows = write_shards(out_dir, convert(converter, path, source, options, seed, drops, part), prefix=f"{part:05}-")
    return {"rows": sum(rows), "dropped": dict(drops), "shards": len(rows)}


def fetch(name: str, path: str, options: Mapping[str, Any]) -> Path:
    """The local copy of a source's path on the hub (`hub.fetch`), with the files that its converter reads."""
    converter = _known(name)
    return hub.fetch(path, converter.check(path, options).needed_files())


def needed_files(name: str, root: Path, options: Mapping[str, Any]) -> list[Path]:
    """The files and folders that a source's rows depend on: `root` itself where the converter names no files in it."""
    patterns = _known(name).check(root, options).needed_files()
    if not patterns or not root.is_dir():
        return [root]
    wanted, unwanted = (
        [pattern.lstrip("!") for pattern in patterns if pattern.startswith("!") == left_out]
        for left_out in (False, True)
    )
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    chosen = [name for name in names if _fits(name, wanted) and not _fits(name, unwanted)]
    return [root / name for name in chosen] or [root]


def _fits(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_options(name: str, root: Path | None, options: Mapping[str, Any]) -> None:
    """Raise the ConfigError that `convert` would raise, without reading anything."""
    _known(name).check(root, options)


def _known(name: str) -> Converter[Any]:
    if name not in CONVERTERS:
        raise ConfigError(f"unknown converter {name!r}; known: {', '.join(sorted(CONVERTERS))}")
    return CONVERTERS[name]

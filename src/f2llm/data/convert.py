"""The registry of converters: from raw files (or the data inside babel) to a stream of `Example`.

`convert` is the one entry; every converter streams, so memory stays small whatever the size of a source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from f2llm.core.errors import ConfigError
from f2llm.core.types import Example
from f2llm.data.convert_classes import CLASS_CONVERTERS
from f2llm.data.convert_cldr import CLDR_CONVERTERS
from f2llm.data.convert_code import CODE_CONVERTERS
from f2llm.data.convert_documents import DOCUMENT_CONVERTERS
from f2llm.data.convert_nli import NLI_CONVERTERS
from f2llm.data.convert_pairs import PAIR_CONVERTERS
from f2llm.data.convert_released import RELEASED_CONVERTERS
from f2llm.data.convert_sql import SQL_CONVERTERS
from f2llm.data.convert_tables import TABLE_CONVERTERS
from f2llm.data.converter import Converter, Drops

__all__ = ["CONVERTERS", "Converter", "Drops", "check_options", "convert"]

_ALL: tuple[Converter[Any], ...] = (
    *CLDR_CONVERTERS,
    *PAIR_CONVERTERS,
    *CLASS_CONVERTERS,
    *CODE_CONVERTERS,
    *TABLE_CONVERTERS,
    *NLI_CONVERTERS,
    *DOCUMENT_CONVERTERS,
    *SQL_CONVERTERS,
    *RELEASED_CONVERTERS,
)
CONVERTERS: dict[str, Converter[Any]] = {converter.name: converter for converter in _ALL}


def convert(
    name: str, root: Path | None, source: str, options: Mapping[str, Any], seed: int, drops: Drops | None = None
) -> Iterator[Example]:
    """Stream the examples of one source; rows left out are counted by reason in `drops`.

    ConfigError for an unknown converter or option, at once; DataError that names file and line while it runs.
    """
    return _known(name)(root, source, options, seed, drops)


def check_options(name: str, root: Path | None, options: Mapping[str, Any]) -> None:
    """Raise the ConfigError that `convert` would raise, without reading anything."""
    _known(name).check(root, options)


def _known(name: str) -> Converter[Any]:
    if name not in CONVERTERS:
        raise ConfigError(f"unknown converter {name!r}; known: {', '.join(sorted(CONVERTERS))}")
    return CONVERTERS[name]

"""Labelled rows in, predictions out: what classify reads and writes.

Labels are texts, whatever the file's type; a row without one is left out. Predictions stream: memory holds 4,096 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from f2llm.apps.encoding import TextEncoder, checked, warn_of_cuts
from f2llm.apps.tables import Row, batched, read_tables
from f2llm.apps.tables_write import TableWriter
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.log import Bar, hushed, warn
from f2llm.core.tables import as_text

UNKNOWN = "unknown"
"""The label of a row whose confidence is below the threshold."""
AT_ONCE = 4096
Decide = Callable[[Any], Any]
"""Unit vectors [N, D] -> probabilities [N, L]."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table: the text, the label, the language, what must stay in one fold; the encoding."""

    text: str | None = None
    label: str = "label"
    lang: str | None = None
    group: str | None = None
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Labelled:
    """Texts with labels. `languages` are empty strings where no column says them; `groups` are never split."""

    texts: list[str]
    labels: list[str]
    languages: list[str]
    groups: list[str]

    @property
    def has_languages(self) -> bool:
        return any(self.languages)


def read_labelled(paths: Iterable[Path | str], columns: Columns) -> Labelled:
    """All rows that have a text and a label; DataError where there is none."""
    names = [name for name in (columns.label, columns.lang, columns.group) if name is not None]
    found, bare = Labelled([], [], [], []), 0
    for row in read_tables(paths, columns.text, names, encoding=columns.encoding):
        label = cell(row, columns.label)
        if not label:
            bare += 1
            continue
        found.texts.append(row.text)
        found.labels.append(label)
        found.languages.append(cell(row, columns.lang) if columns.lang else "")
        found.groups.append(cell(row, columns.group) if columns.group else row.text)
    if bare:
        warn(f"{bare:,} rows have no label in the column {columns.label} and are left out")
    if not found.texts:
        raise DataError(f"no row has a text and a label in the column {columns.label}; give a file with labelled rows")
    return found


def cell(row: Row, name: str) -> str:
    """A cell of a row as text, without white space around it."""
    return as_text(row.cells[name], f"{row.path}, row {row.line}, column {name}").strip()


def predict_files(
    decide: Decide,
    labels: Sequence[str],
    encoder: TextEncoder,
    paths: Iterable[Path | str],
    target: Path,
    *,
    columns: Columns,
    keep: Sequence[str] = (),
    min_confidence: float = 0.0,
    all_probabilities: bool = False,
) -> dict[str, Any]:
    """Write text, path, line, predicted, confidence and the kept columns of each row, atomically; returns the counts.

    `all_probabilities` adds a column `p:LABEL` for each label. A confidence below `min_confidence` is `unknown`.
    """
    extra = [f"p:{label}" for label in (labels if all_probabilities else ())]
    schema = _schema(keep, extra)
    counts, cut = dict.fromkeys([*labels, UNKNOWN], 0), 0
    with TableWriter(target, schema) as writer, Bar("classifying", None) as bar:
        for rows in batched(read_tables(paths, columns.text, keep, encoding=columns.encoding), AT_ONCE):
            with hushed():  # one warning at the end stands for those of all calls
                P_NL = decide(checked(encoder, [row.text for row in rows]))
            cut += encoder.cut()
            chosen = named(P_NL, labels, min_confidence)
            for label in chosen:
                counts[label] += 1
            batch: dict[str, Any] = {name: [cell(row, name) for row in rows] for name in keep}
            batch |= {"text": [row.text for row in rows], "path": [str(row.path) for row in rows]}
            batch |= {"line": [row.line for row in rows], "predicted": chosen, "confidence": P_NL.max(axis=1)}
            writer.write(batch | dict(zip(extra, P_NL.T, strict=bool(extra))))
            bar.advance(len(rows))
        if not sum(counts.values()):
            raise DataError("no row has a text; give a file that has some")
    warn_of_cuts(cut, sum(counts.values()))
    return {"rows": sum(counts.values()), "labels": {name: count for name, count in counts.items() if count}}


def _schema(keep: Sequence[str], extra: Sequence[str]) -> dict[str, Any]:
    own = {"text": pa.string(), "path": pa.string(), "line": pa.int64(), "predicted": pa.string()}
    own |= {"confidence": pa.float32(), **dict.fromkeys(extra, pa.float32())}
    if taken := sorted(own.keys() & set(keep)):
        raise ConfigError(f"--keep {taken[0]}: the output has a column of this name already; leave it out or rename it")
    return own | dict.fromkeys(keep, pa.string())


def named(P_NL: Any, labels: Sequence[str], min_confidence: float) -> list[str]:
    """The most probable label of each row, or `unknown` where its probability is below `min_confidence`."""
    best = zip(P_NL.argmax(axis=1).tolist(), P_NL.max(axis=1).tolist(), strict=True)
    return [labels[place] if sure >= min_confidence else UNKNOWN for place, sure in best]

"""The grid of a recipe: what is varied, and the variants that come of it, each a list of changed keys.

An axis is a key and its values, and every combination of the axes is a variant; so is each named table of keys. Keys
are dotted paths as `--set` takes them, in quotes or as TOML's own tables: both mean the same.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from f2llm.core.section import Section, Seed
from f2llm.core.toml_lines import KeyPath


class GridConfig(Section):
    """Variants of the recipe, each built once for each of `seeds` (the recipe's own, if not given) and compared.

    `vary`: keys as `--set` takes them, each with a list of values; every combination is a variant. `variants`: named
    ones, each a table of keys with their values. The recipe as it stands is the first, "base". `models`: whose scores
    are compared; those of the family, if not given.
    """

    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    models: Annotated[list[str], Field(min_length=1)] | None = None
    vary: dict[str, Any] = {}
    variants: dict[str, dict[str, Any]] = {}


class Change(NamedTuple):
    """A key of the recipe, its value in a variant, and the place in the recipe that says so."""

    key: str
    value: Any
    place: KeyPath


def combinations(axes: Sequence[Change]) -> dict[str, list[Change]]:
    """Each combination of the axes' values by its name, such as "temperature=0.1, distill=mse"; none without axes.

    The last part of a key stands for it, unless two axes share that.
    """
    if not axes:
        return {}
    ends = [axis.key.rpartition(".")[2] for axis in axes]
    labels = ends if len(set(ends)) == len(ends) else [axis.key for axis in axes]
    found = {}
    for values in itertools.product(*(axis.value for axis in axes)):
        name = ", ".join(f"{label}={_written(value)}" for label, value in zip(labels, values, strict=True))
        found[name] = [axis._replace(value=value) for axis, value in zip(axes, values, strict=True)]
    return found


def changes(table: Mapping[str, Any], place: KeyPath, prefix: str = "") -> Iterator[Change]:
    """The keys that a table sets, those of tables inside it too."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from changes(value, (*place, key), f"{prefix}{key}.")
        else:
            yield Change(f"{prefix}{key}", value, (*place, key))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

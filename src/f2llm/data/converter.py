"""What a converter is: a named function from a place on the disk to a stream of examples, with typed options.

The options of each converter are a small pydantic model, so an unknown name or a wrong type is told before any work.
Rows that a converter leaves out are counted by reason in `Drops`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.types import Example, TaskType

Drops = Counter[str]


class Options(BaseModel):
    """The options of a converter, checked by name and type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


T = TypeVar("T")
O = TypeVar("O", bound=Options)  # noqa: E741


@dataclass(frozen=True)
class Job(Generic[O]):
    """One conversion: `root` is the file or directory (None for embedded data), `source` the id written to the rows."""

    root: Path | None
    source: str
    options: O
    seed: int
    drops: Drops

    @property
    def path(self) -> Path:
        """The root of a converter that reads files; DataError when it is not there."""
        if self.root is None or not self.root.exists():
            raise DataError(f"source {self.source!r}: {self.root} does not exist; correct its `path`")
        return self.root


@dataclass(frozen=True)
class Converter(Generic[O]):
    """A named conversion. Calling it checks the options at once and then streams the examples."""

    name: str
    task_type: TaskType
    options: type[O]
    run: Callable[[Job[O]], Iterator[Example]]
    reads_files: bool = True

    def __call__(
        self, root: Path | None, source: str, options: Mapping[str, Any], seed: int, drops: Drops | None = None
    ) -> Iterator[Example]:
        counted = Drops() if drops is None else drops
        return self.run(Job(root, source, self.check(root, options), seed, counted))

    def check(self, root: Path | None, options: Mapping[str, Any]) -> O:
        """The parsed options; ConfigError for an unknown or wrong one, or for a path that is missing or useless."""
        if self.reads_files and root is None:
            raise ConfigError(f"the converter {self.name!r} reads files; give its source a `path`")
        if not self.reads_files and root is not None:
            raise ConfigError(f"the converter {self.name!r} has its data built in; remove `path` ({root})")
        try:
            return self.options.model_validate(dict(options))
        except ValidationError as error:
            raise ConfigError(f"converter {self.name!r}: {self._explain(error)}") from None

    def _explain(self, error: ValidationError) -> str:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            return f"unknown option {name!r}; options: {', '.join(self.options.model_fields) or 'none'}"
        if first["type"] == "missing":
            return f"the option {name!r} is required"
        message = first["msg"].removeprefix("Value error, ")
        told = f"{message[0].lower()}{message[1:]}"
        return f"option {name!r}: {told}, but it is {first['input']!r}" if name else told


def first_allowed(items: Sequence[T], start: int, allowed: Callable[[T], bool]) -> T | None:
    """The first allowed item from a starting point on, round the list once: a random choice, for a random start."""
    ring = (items[(start + step) % len(items)] for step in range(len(items)))
    return next(filter(allowed, ring), None)

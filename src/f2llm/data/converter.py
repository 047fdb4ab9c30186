"""What a converter is: a named function from a place on the disk to a stream of examples, with typed options.

The options of each converter are a small pydantic model, so an unknown name or a wrong type is told before any work.
Rows that a converter leaves out are counted by reason in `Drops`. Where files (or pairs of files) are converted one by
one, each is a *part*: all parts one after the other give the rows of the whole, with the same ids and the same drops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.readers import known_encoding
from f2llm.core.types import Example, TaskType
from f2llm.data import hub

Drops = Counter[str]
Encoding = Annotated[str, AfterValidator(known_encoding)]


class Options(BaseModel):
    """The options of a converter, checked by name and type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def needed_files(self) -> list[str]:
        """Patterns of fnmatch for the files below the path that are read (after `!`: not read); all when empty."""
        return []


T = TypeVar("T")
O = TypeVar("O", bound=Options)  # noqa: E741


@dataclass(frozen=True)
class Job(Generic[O]):
    """One conversion: `root` is the file or directory (None for embedded data), `source` the id written to the rows.

    `part`: the number of the one part to convert; None for all.
    """

    root: Path | None
    source: str
    options: O
    seed: int
    drops: Drops
    part: int | None = None

    @property
    def path(self) -> Path:
        """The root of a converter that reads files; DataError when it is not there."""
        try:
            if self.root is not None and self.root.exists():
                return self.root
        except PermissionError:
            raise DataError(f"source {self.source!r}: {self.root} may not be read by this user") from None
        raise DataError(f"source {self.source!r}: {self.root} does not exist; correct its `path`")

    @property
    def name(self) -> str:
        """The name of the path, under which other sources share its units where they have no other name."""
        return hub.own_name(self.path)

    def share(self, items: Iterable[T]) -> list[T]:
        """Of the things that are converted one by one those of this part."""
        found = list(items)
        if self.part is None:
            return found
        if self.part >= len(found):
            counts = f"part {self.part + 1} of a source of {len(found)}"
            raise DataError(f"source {self.source!r}: there is no {counts}; its files changed, convert it again")
        return [found[self.part]]


@dataclass(frozen=True)
class Converter(Generic[O]):
    """A named conversion. Calling it checks the options at once and then streams the examples.

    `parts` lists what is converted one by one, where a converter works so; otherwise the whole is one part.
    """

    name: str
    task_type: TaskType
    options: type[O]
    run: Callable[[Job[O]], Iterator[Example]]
    reads_files: bool = True
    parts: Callable[[Job[O]], Sequence[Any]] | None = None

    def __call__(
        self,
        root: Path | None,
        source: str,
        options: Mapping[str, Any],
        seed: int,
        drops: Drops | None = None,
        part: int | None = None,
    ) -> Iterator[Example]:
        job = Job(root, source, self.check(root, options), seed, Drops() if drops is None else drops, part)
        if self.parts is None:
            job.share([root])
        return self.run(job)

    def count_parts(self, root: Path | None, options: Mapping[str, Any]) -> int:
        """How many parts a source has; DataError where its files are not there."""
        job = Job(root, self.name, self.check(root, options), 0, Drops())
        return 1 if self.parts is None else len(self.parts(job))

    def check(self, root: Path | str | None, options: Mapping[str, Any]) -> O:
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


def own_id(identifier: str, seen: Counter[str]) -> str:
    """An id from the data, with a number where other rows had it before (`seen`)."""
    seen[identifier] += 1
    return identifier if seen[identifier] == 1 else f"{identifier}#{seen[identifier]}"


def first_allowed(items: Sequence[T], start: int, allowed: Callable[[T], bool]) -> T | None:
    """The first allowed item from a starting point on, round the list once: a random choice, for a random start."""
    ring = (items[(start + step) % len(items)] for step in range(len(items)))
    return next(filter(allowed, ring), None)

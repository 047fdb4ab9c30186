"""The 157 sources of the paper (F2LLM-v2, appendix, tables 8 and 9) and their files in the released data set, as data.

`sources.tsv` beside this module has one line a source: 60,147,938 rows in 500 parquet files, of which stage 1 takes
seven sources with 26,693,280 rows. Reading it costs a millisecond, once in a process. The names of the files are those
of the list in the published training code.

Stage 2 takes at most 80,000 rows of each *unit*: a file, where a source has one for each language; the source as a
whole, where its files are only parts of it, and of UNPC, ParaCrawl and CLIRMatrix. That makes 395 units. How many rows
each unit has is not published, so `rows_after_cap` is an upper bound; of all sources together the number is known.

The paper names its sources, but not the copies it took. `upstream` is a place where the data set of that name, or the
paper about it, is found. `license` is what `license_from` says of it: its own "card", its "repository", MTEB's list of
tasks ("mteb"), or somebody else's "listing"; "unknown" where nobody was found to say it, or two contradict each other.

`evaluation_overlap` names the tasks of MTEB's benchmarks that are made from the same data set, in any language. Matched
by hand; what MTEB derives from such a task (its field `adapted_from`) is one too. Collections (MEDI2, OpenOrca) have
none there: what they were put together from was not followed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any, Protocol, TypeVar, get_args

from f2llm.core.errors import ConfigError
from f2llm.core.languages import language as language_of
from f2llm.core.types import HOLDING_TEST_TEXTS, TASK_TYPES, TaskType

DATA_SET = "codefuse-ai/F2LLM-v2"
CAP = 80_000
"""Rows of a unit in stage 2 of the paper."""
ROWS_AFTER_CAP = 17_733_380
"""Rows of all units under `CAP`, as counted on the released files (revision d520b8ad): the paper's 18 million."""
TEXTS_AFTER_CAP = 17_733_362 + 90_313_442
"""Queries and distinct documents of these rows, 18 without a positive left out, with all 24 negatives."""
UNKNOWN_LICENSE = "unknown"
_EVALUATED_ON_TRAIN = "*"
# One file of these is named for no language: the English one.
_ENGLISH_WITHOUT_A_NAME = frozenset({"mmarco", "mr_tydi"})


@dataclass(frozen=True)
class Source:
    """One line of the registry.

    `languages` is the paper's list of codes, or how many there are; `codes` are those that it or the file names tell.
    `files` are names without `.parquet`, or patterns of them as the converters of `convert_released` read them, and
    `names` what stands in the place of a pattern's braces or star; `row_range` is the source's part of a file that
    holds several. `symmetric`: query and document are of the same kind. Of the tasks in `evaluation_overlap`,
    `evaluated_on_train` lists those that MTEB evaluates on a train split.
    """

    id: str
    name: str
    category: str
    task_type: TaskType
    languages: str
    codes: tuple[str, ...]
    rows: int
    units: int
    files: tuple[str, ...]
    names: tuple[str, ...]
    row_range: tuple[int, int] | None
    symmetric: bool
    stage1: bool
    instruction: str
    upstream: str
    license: str
    license_from: str
    evaluation_overlap: tuple[str, ...]
    evaluated_on_train: tuple[str, ...]

    @property
    def language(self) -> str | None:
        """The code of its one language, where it has one."""
        return self.codes[0] if len(self.codes) == 1 else None

    @property
    def language_count(self) -> int:
        return int(self.languages) if self.languages.isdigit() else len(self.codes)

    @property
    def stages(self) -> tuple[int, ...]:
        return (1, 2) if self.stage1 else (2,)

    @property
    def holds_test_texts(self) -> bool:
        """Whether its rows are known to hold test texts of MTEB."""
        return self.id in HOLDING_TEST_TEXTS

    @property
    def released_names(self) -> tuple[str, ...]:
        """The names of its files, without `.parquet`; `mela` is the only file of three sources."""
        patterns = [pattern for pattern in self.files if not pattern.startswith("!")]
        return tuple(name for pattern in patterns for name in _expanded(pattern, self.names))

    @property
    def converter(self) -> str:
        return f"released_{self.task_type}"

    @property
    def options(self) -> dict[str, Any]:
        """The options of its converter: `ReleasedOptions`."""
        options: dict[str, Any] = {"files": list(self.files)}
        if self.row_range is not None:
            options["rows"] = list(self.row_range)
        if self.category == "Text-to-Code":
            options["language"] = "en"
            if self.language:
                options["doc_language"] = self.language
        elif self.category == "Code-to-Text":
            options["doc_language"] = "en"
        elif self.language or self.id in _ENGLISH_WITHOUT_A_NAME:
            options["language"] = self.language or "en"
        return options


class Selectable(Protocol):
    """What `select` asks of a source: `Source` has it, and so have the sources of a recipe."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def task_type(self) -> TaskType: ...
    @property
    def codes(self) -> tuple[str, ...]: ...
    @property
    def stages(self) -> tuple[int, ...]: ...
    @property
    def license(self) -> str: ...
    @property
    def evaluation_overlap(self) -> tuple[str, ...]: ...


Listed = TypeVar("Listed", bound=Selectable)


@dataclass(frozen=True)
class Totals:
    """Sums over sources; `rows_after_cap_is_bound`: there may be fewer, for row counts by unit are not published."""

    rows: int
    units: int
    rows_after_cap: int
    rows_after_cap_is_bound: bool


@cache
def registry() -> tuple[Source, ...]:
    """All sources, in the paper's order."""
    text = (resources.files(__package__) / "sources.tsv").read_text(encoding="utf-8")
    return tuple(_source(row) for row in csv.DictReader(text.splitlines(), delimiter="\t"))


def rows_after_cap(source: Source, cap: int | None) -> int:
    """The most rows that a source can have left when each of its units is cut to `cap` rows (None: not at all).

    Reached where the units are equally large; exact for a source of one unit.
    """
    return source.rows if cap is None else min(source.rows, source.units * cap)


def totals(sources: Sequence[Source], cap: int | None = CAP) -> Totals:
    """The sums; rows after the cap are exact for the whole registry at the paper's cap, and where no unit is unsure."""
    rows, units = sum(source.rows for source in sources), sum(source.units for source in sources)
    if cap == CAP and {source.id for source in sources} == {source.id for source in registry()}:
        return Totals(rows, units, ROWS_AFTER_CAP, False)
    bound = any(is_bound(source, cap) for source in sources)
    return Totals(rows, units, sum(rows_after_cap(source, cap) for source in sources), bound)


def is_bound(source: Source, cap: int | None) -> bool:
    """Whether `rows_after_cap` may be too many: of several units of unknown size, with more rows than the cap."""
    return cap is not None and source.units > 1 and source.rows > cap


def select(
    sources: Iterable[Listed],
    *,
    task_type: str | None = None,
    category: str | None = None,
    language: str | None = None,
    stage: int | None = None,
    text: str | None = None,
    license: str | None = None,
    overlap: bool | None = None,
) -> list[Listed]:
    """Those sources that fit all that is given, in their order.

    `text` is part of the id or the name; `overlap` asks for sources that share data with a task of MTEB (True), or do
    not (False). A source of which only the number of languages is known fits no `language`. ConfigError for a task
    type, category, licence or language that there is not.
    """
    found = list(sources)
    for field, wanted in (("task_type", task_type), ("category", category), ("license", license)):
        if wanted is not None:
            value = _known(field, wanted, found)
            found = [source for source in found if getattr(source, field) == value]
    if language is not None:
        tag = language_of(language).tag
        found = [source for source in found if tag in {language_of(code).tag for code in source.codes}]
    if stage is not None:
        found = [source for source in found if stage in source.stages]
    if text is not None:
        found = [source for source in found if text.casefold() in f"{source.id}\n{source.name}".casefold()]
    if overlap is not None:
        found = [source for source in found if bool(source.evaluation_overlap) == overlap]
    return found


def _known(field: str, wanted: str, sources: Sequence[Selectable]) -> str:
    """The value of a field that `wanted` means, whatever its case; one of the registry may fit nothing here."""
    values = {getattr(source, field) for source in (*sources, *registry())}
    spelled = {value.casefold(): value for value in sorted(values | set(TASK_TYPES if field == "task_type" else ()))}
    if wanted.casefold() in spelled:
        return spelled[wanted.casefold()]
    near = get_close_matches(wanted.casefold(), list(spelled), n=3) or list(spelled)
    names = ", ".join(repr(spelled[name]) for name in near)
    raise ConfigError(f"there is no {field.replace('_', ' ')} {wanted!r} among the sources; there is {names}")


def _expanded(pattern: str, names: Sequence[str]) -> list[str]:
    """A pattern with each of `names` in the place of everything from its first wildcard to its last."""
    first = min((pattern.find(mark) for mark in "{*" if mark in pattern), default=-1)
    if first < 0:
        return [pattern]
    last = max(pattern.rfind(mark) for mark in "}*") + 1
    return [pattern[:first] + name + pattern[last:] for name in names]


def _source(row: dict[str, str]) -> Source:
    task_type = next(kind for kind in get_args(TaskType) if kind == row["task_type"])
    first, _, last = row["row_range"].partition(":")
    tasks = row["evaluation_overlap"].split()
    return Source(
        id=row["id"],
        name=row["name"],
        category=row["category"],
        task_type=task_type,
        languages=row["languages"],
        codes=tuple(row["codes"].split()),
        rows=int(row["rows"]),
        units=int(row["units"]),
        files=tuple(row["files"].split()),
        names=tuple(row["names"].split()),
        row_range=(int(first), int(last)) if last else None,
        symmetric=row["symmetric"] == "true",
        stage1=row["stage1"] == "true",
        instruction=row["instruction"],
        upstream=row["upstream"],
        license=row["license"],
        license_from=row["license_from"],
        evaluation_overlap=tuple(task.rstrip(_EVALUATED_ON_TRAIN) for task in tasks),
        evaluated_on_train=tuple(task[:-1] for task in tasks if task.endswith(_EVALUATED_ON_TRAIN)),
    )

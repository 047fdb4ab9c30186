"""Three sources made of CLDR names, one per format of the paper: translation, kind of thing, place or not.

A unit that can be held out is one name (a concept in a language), and it is the same unit in all three sources. Each
language contributes at most `per_language` names, drawn by hash, so that 330 languages are balanced. A few seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from f2llm.core.languages import language
from f2llm.core.types import Example
from f2llm.data.cldr import ENGLISH, KINDS, PLACES, Cell, load_cells
from f2llm.data.converter import Converter, Job, Options, first_allowed
from f2llm.data.keys import fold, stable_hash

Kind = Literal["territory", "language", "script", "currency", "unit", "month", "day", "city"]


class CldrOptions(Options):
    """`languages`: tags or codes, all when empty; `per_language`: most names drawn from one language."""

    per_language: Annotated[int, Field(gt=0)] = 500
    languages: list[str] = []
    kinds: Annotated[list[Kind], Field(min_length=1)] = list(get_args(Kind))


class PlaceOptions(CldrOptions):
    """`place` and `other` are the label texts of the two classes."""

    place: str = "a place"
    other: str = "not a place"


def translation(job: Job[CldrOptions]) -> Iterator[Example]:
    """Each name with the English name of its concept, and with the name in one other language drawn by hash."""
    in_english: dict[str, Cell] = {}
    elsewhere: dict[str, list[Cell]] = defaultdict(list)
    for cell in load_cells():
        if cell.lang == ENGLISH:
            in_english[cell.concept] = cell
        else:
            elsewhere[cell.concept].append(cell)
    for cell in _drawn(job):
        if cell.lang == ENGLISH:
            continue
        partners = {"no English name": in_english.get(cell.concept)}
        partners["no other language"] = _other_language(cell, elsewhere[cell.concept], job.seed)
        for reason, partner in partners.items():
            if partner is None:
                job.drops[reason] += 1
            else:
                yield _pair(job.source, cell, partner)


def kinds(job: Job[CldrOptions]) -> Iterator[Example]:
    """Each name with another name of the same kind, of another concept and in any language; the kind is the label."""
    by_kind: dict[str, list[Cell]] = defaultdict(list)
    drawn = list(_drawn(job))
    for cell in drawn:
        by_kind[cell.kind].append(cell)
    for cell in drawn:
        partner = _same_kind(cell, by_kind[cell.kind], job.seed)
        if partner is None:
            job.drops["no other name of its kind"] += 1
        else:
            yield Example(
                id=f"{cell.group}>{partner.group}", query=cell.name, positive=partner.name, negatives=(),
                task_type="clustering", source=job.source, query_lang=cell.lang, doc_lang=partner.lang,
                label=KINDS[cell.kind], groups=(cell.group, partner.group),
            )  # fmt: skip


def places(job: Job[PlaceOptions]) -> Iterator[Example]:
    """Each name with the text of its class: territories and cities are places; both classes equally often."""
    by_language: dict[str, tuple[list[Cell], list[Cell]]] = defaultdict(lambda: ([], []))
    for cell in _drawn(job):
        by_language[cell.lang][cell.kind in PLACES].append(cell)
    for others, of_places in by_language.values():
        count = min(len(others), len(of_places))
        if len(others) != len(of_places):
            job.drops["balance of the two classes"] += len(others) + len(of_places) - 2 * count
        for cell in others[:count] + of_places[:count]:
            labels = (job.options.place, job.options.other)
            right, wrong = labels if cell.kind in PLACES else labels[::-1]
            yield Example(
                id=cell.group, query=cell.name, positive=right, negatives=(wrong,), task_type="classification",
                source=job.source, query_lang=cell.lang, doc_lang=ENGLISH, label=right, groups=(cell.group,),
            )  # fmt: skip


def _drawn(job: Job[CldrOptions] | Job[PlaceOptions]) -> Iterator[Cell]:
    """The names that take part, language by language, in an order given by the seed."""
    options = job.options
    wanted = {language(tag).tag for tag in options.languages}
    by_language: dict[str, list[Cell]] = defaultdict(list)
    for cell in load_cells():
        if cell.kind in options.kinds and (not wanted or cell.lang in wanted):
            by_language[cell.lang].append(cell)
    for cells in by_language.values():
        yield from sorted(cells, key=lambda cell: stable_hash(job.seed, cell.group))[: options.per_language]


def _other_language(cell: Cell, cells: list[Cell], seed: int) -> Cell | None:
    start = stable_hash(seed, "language", cell.group)
    return first_allowed(cells, start, lambda other: other.lang != cell.lang)


def _same_kind(cell: Cell, cells: list[Cell], seed: int) -> Cell | None:
    start = stable_hash(seed, "kind", cell.group)
    return first_allowed(
        cells, start, lambda other: other.concept != cell.concept and fold(other.name) != fold(cell.name)
    )


def _pair(source: str, cell: Cell, partner: Cell) -> Example:
    return Example(
        id=f"{cell.group}>{partner.lang}", query=cell.name, positive=partner.name, negatives=(), task_type="retrieval",
        source=source, query_lang=cell.lang, doc_lang=partner.lang, groups=(cell.group, partner.group),
    )  # fmt: skip


CLDR_CONVERTERS = (
    Converter("cldr_translation", "retrieval", CldrOptions, translation, reads_files=False),
    Converter("cldr_kind", "clustering", CldrOptions, kinds, reads_files=False),
    Converter("cldr_is_place", "classification", PlaceOptions, places, reads_files=False),
)

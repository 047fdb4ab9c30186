"""The multilingual source that is always there: names of places, languages, currencies ... from the CLDR inside babel.

A cell is the name of one concept in one language. The base locales and the script varieties (`zh_Hant`, `sr_Latn`) are
read; regional varieties override only a few names and are left out. 260,000 cells in 336 languages and scripts (256 of
them with 100 names or more), read in about two seconds and kept for the life of the process (150 MB with babel's own
cache).
Licence of the data: Unicode-3.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from babel import localedata

from f2llm.core.languages import language
from f2llm.data.keys import ALWAYS_TRAIN
from f2llm.text.trim import scripts_of

ENGLISH = "eng_Latn"

# Kind of concept -> the words for it; the words are the class labels of the clustering source.
KINDS = {
    "territory": "country or territory",
    "language": "language",
    "script": "writing system",
    "currency": "currency",
    "unit": "unit of measurement",
    "month": "month",
    "day": "day of the week",
    "city": "city",
}
PLACES = frozenset({"territory", "city"})

# Codes that stand for "unknown", "none", "several" or for test data.
_PLACEHOLDERS = frozenset(
    {
        "territory/XA", "territory/XB", "territory/ZZ", "language/root", "language/und", "language/mul", "language/zxx",
        "language/mis", "script/Zxxx", "script/Zyyy", "script/Zzzz", "script/Zinh", "currency/XXX", "currency/XTS",
        "city/Etc/Unknown",
    }
)  # fmt: skip


class Cell(NamedTuple):
    """The name of a concept (`territory/FR`) in a language (`deu_Latn`)."""

    concept: str
    kind: str
    lang: str
    name: str

    @property
    def group(self) -> str:
        """The unit that is held out as a whole; English names, the corpus of the evaluations, stay in training."""
        prefix = ALWAYS_TRAIN if self.lang == ENGLISH else ""
        return f"{prefix}{self.concept}@{self.lang}"


@cache
def load_cells() -> tuple[Cell, ...]:
    """All cells, ordered by language and concept; one name per concept and language."""
    tables: dict[str, dict[str, str]] = {}
    for locale in _base_locales():
        lang = language(locale).tag
        found = _names(localedata.load(locale, merge_inherited=False), keep_codes=lang == ENGLISH)
        tables[lang] = found | tables.get(lang, {})
    cities = {concept for table in tables.values() for concept in table if concept.startswith("city/")}
    tables[ENGLISH] = {city: _city_in_english(city) for city in cities} | tables[ENGLISH]
    return tuple(
        Cell(concept, concept.partition("/")[0], lang, name)
        for lang, table in sorted(tables.items())
        for concept, name in sorted(table.items())
    )


def names_in(codes: Iterable[str]) -> dict[str, list[str]]:
    """Names in some languages (`deu`, or `srp_Latn` for one of its scripts), by tag, as far as CLDR has them."""
    codes, found = list(codes), dict[str, list[str]]()
    wanted, scripts = {language(code).iso639_3 for code in codes}, scripts_of(codes)
    for cell in load_cells():
        own = language(cell.lang)
        if own.iso639_3 in wanted and own.script in scripts:
            found.setdefault(cell.lang, []).append(cell.name)
    return found


def _base_locales() -> list[str]:
    """`sr`, `sr_Latn`, but not `sr_Latn_ME`; a language comes before its script varieties."""
    parts = (identifier.split("_") for identifier in localedata.locale_identifiers())
    return sorted("_".join(p) for p in parts if len(p) == 1 or (len(p) == 2 and len(p[1]) == 4))


def _names(data: Mapping[str, Any], keep_codes: bool) -> dict[str, str]:
    """Concept -> name of one locale; names that only repeat the code (not translated) are left out unless kept."""
    found = {}
    for kind, read in _READERS.items():
        for code, name in read(data).items():
            concept = f"{kind}/{code}"
            if not isinstance(name, str) or concept in _PLACEHOLDERS:
                continue
            name = " ".join(name.split())
            if name and (keep_codes or name.casefold() != code.casefold()):
                found[concept] = name
    return found


def _calendar(field: str, codes: Callable[[int], str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Full names of months or days: the form that stands alone where there is one, else the form inside a date."""

    def read(data: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for context in ("format", "stand-alone"):
            wide = data.get(field, {}).get(context, {}).get("wide", {})
            found |= {codes(number): name for number, name in wide.items()} if isinstance(wide, Mapping) else {}
        return found

    return read


_READERS: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "territory": lambda data: data.get("territories", {}),
    "language": lambda data: data.get("languages", {}),
    "script": lambda data: data.get("scripts", {}),
    "currency": lambda data: data.get("currency_names", {}),
    "unit": lambda data: {unit: forms.get("long") for unit, forms in data.get("unit_display_names", {}).items()},
    "month": _calendar("months", lambda number: f"M{number:02d}"),
    "day": _calendar("days", lambda number: ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[number]),
    "city": lambda data: {zone: names.get("city") for zone, names in data.get("time_zones", {}).items()},
}


def _city_in_english(concept: str) -> str:
    """CLDR names a city in English only where its time zone's identifier does not spell it."""
    zone = concept.removeprefix("city/")
    name = localedata.load("root", merge_inherited=False)["time_zones"].get(zone, {}).get("city")
    return str(name) if name else zone.rsplit("/", 1)[-1].replace("_", " ")

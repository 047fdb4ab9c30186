"""The cells of CLDR, and the three sources made of them."""

from __future__ import annotations

from collections import Counter

import pytest

from f2llm.core.types import Example
from f2llm.data.cldr import ENGLISH, KINDS, PLACES, load_cells
from f2llm.data.convert import CONVERTERS, convert
from f2llm.data.converter import Drops
from f2llm.data.keys import ALWAYS_TRAIN, fold

OPTIONS = {"per_language": 60, "languages": ["en", "de", "ru", "am", "zh_Hant", "sw", "nbl"]}


def rows_of(name: str, seed: int = 0, **options: object) -> list[Example]:
    return list(convert(name, None, "source", OPTIONS | options, seed))


def test_cells() -> None:
    cells = load_cells()
    names = {(cell.concept, cell.lang): cell.name for cell in cells}
    assert len(names) == len(cells) > 250_000, "one name per concept and language"
    languages = Counter(cell.lang for cell in cells)
    assert len(languages) > 300
    assert sum(count >= 100 for count in languages.values()) > 200
    assert {cell.kind for cell in cells} == set(KINDS)
    assert all(cell.name == " ".join(cell.name.split()) != "" for cell in cells)
    assert names["territory/DE", ENGLISH] == "Germany"
    assert names["territory/DE", "zho_Hant"] == "德國"
    assert names["territory/DE", "zho_Hans"] == "德国"
    assert names["city/Europe/Paris", ENGLISH] == "Paris"
    assert names["city/Asia/Calcutta", ENGLISH] == "Kolkata"
    assert names["city/Asia/Saigon", ENGLISH] == "Ho Chi Minh City"
    assert names["month/M01", "rus_Cyrl"] == "январь", "the form that stands alone, not that inside a date"
    assert names["day/Mon", "fra_Latn"] == "lundi"
    assert names["language/vai", ENGLISH] == "Vai"
    assert ("territory/ZZ", ENGLISH) not in names


def test_a_name_that_repeats_its_code_is_not_translated() -> None:
    repeated = [c for c in load_cells() if c.lang != ENGLISH and fold(c.name) == fold(c.concept.partition("/")[2])]
    assert not repeated


def test_nearly_every_cell_has_an_english_name() -> None:
    english = {cell.concept for cell in load_cells() if cell.lang == ENGLISH}
    assert sum(cell.concept not in english for cell in load_cells()) < 200


@pytest.mark.parametrize("name", ["cldr_translation", "cldr_kind", "cldr_is_place"])
def test_sources_are_deterministic_and_balanced(name: str) -> None:
    rows = rows_of(name)
    assert rows == rows_of(name)
    assert rows != rows_of(name, seed=1)
    assert len({row.id for row in rows}) == len(rows)
    assert {row.task_type for row in rows} == {CONVERTERS[name].task_type}
    per_language = Counter(row.query_lang for row in rows)
    assert max(per_language.values()) <= 120
    for row in rows:
        english = row.query_lang == ENGLISH
        assert row.groups[0].endswith(f"@{row.query_lang}")
        assert row.groups[0].startswith(ALWAYS_TRAIN) == english


def test_translation() -> None:
    rows = rows_of("cldr_translation")
    assert all(row.query_lang != ENGLISH != row.groups[0] for row in rows)
    assert {row.query_lang for row in rows if row.doc_lang == ENGLISH} == {row.query_lang for row in rows}
    for row in rows:
        query, positive = (group.removeprefix(ALWAYS_TRAIN).split("@") for group in row.groups)
        assert query[0] == positive[0], "the same concept"
        assert query[1] == row.query_lang != row.doc_lang == positive[1]
    german = next(
        row for row in rows_of("cldr_translation", per_language=10**6) if row.id == "day/Mon@deu_Latn>eng_Latn"
    )
    assert (german.query, german.positive) == ("Montag", "Monday")


def test_kind() -> None:
    for row in rows_of("cldr_kind"):
        query, positive = (group.removeprefix(ALWAYS_TRAIN) for group in row.groups)
        assert query.split("/")[0] == positive.split("/")[0]
        assert query.split("@")[0] != positive.split("@")[0]
        assert fold(row.query) != fold(row.positive)
        assert row.label == KINDS[query.split("/")[0]]


def test_is_place() -> None:
    drops = Drops()
    rows = list(convert("cldr_is_place", None, "s", OPTIONS | {"place": "yes", "other": "no"}, 0, drops))
    assert set(drops) == {"balance of the two classes"}
    for lang in {row.query_lang for row in rows}:
        labels = Counter(row.label for row in rows if row.query_lang == lang)
        assert labels["yes"] == labels["no"] > 0
    for row in rows:
        kind = row.groups[0].removeprefix(ALWAYS_TRAIN).split("/")[0]
        assert row.label == row.positive == ("yes" if kind in PLACES else "no")
        assert {row.positive, *row.negatives} == {"yes", "no"}


def test_kinds_option() -> None:
    rows = rows_of("cldr_kind", kinds=["day", "month"])
    assert {row.label for row in rows} == {"day of the week", "month"}

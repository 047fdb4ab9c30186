"""The table of languages: counts and scores of a made-up build, and all languages without a recipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from f2llm.core.config import Recipe, load_recipe
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.files import write_json
from f2llm.pipeline.language_table import (
    LanguageRow,
    language_rows,
    languages_json,
    print_languages,
    select_languages,
)

TINY = Path(__file__).parents[1] / "tiny.toml"
COUNTS = {
    "deu_Latn": {"translation": [30, 5], "kind": [10, 0]},
    "rus_Cyrl": {"translation": [70, 7], "place": [1200, 9]},
    "swa_Latn": {"kind": [3, 0]},
    "tur_Latn": {"place": [0, 2]},
}
SCORES = {
    "good": {"deu_Latn": 0.75, "rus_Cyrl": 0.5},
    "bad": {"deu_Latn": 0.0, "tur_Latn": 0.25},
}


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(TINY)[0]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A build that has cleaned its data and evaluated two models; a third evaluation was cut off."""
    write_json(tmp_path / "clean" / "languages.json", COUNTS)
    write_json(tmp_path / "clean" / "manifest.json", {})
    for model, by_language in SCORES.items():
        write_json(tmp_path / "evaluate" / model / "scores.json", {"by_language": by_language})
        write_json(tmp_path / "evaluate" / model / "manifest.json", {})
    write_json(tmp_path / "evaluate" / "half" / "scores.json", {"by_language": {"deu_Latn": 1.0}})
    return tmp_path


def shown(rows: list[LanguageRow], models: list[str] | None = None) -> str:
    buffer = io.StringIO()
    print_languages(Console(file=buffer, width=60), rows, models)
    return buffer.getvalue()


def test_rows_are_counted_by_task_type(recipe: Recipe, out: Path) -> None:
    rows = {row.tag: row for row in language_rows(recipe, out)}
    assert list(rows) == sorted(COUNTS)
    assert rows["deu_Latn"].train == {"retrieval": 30, "clustering": 10}
    assert rows["rus_Cyrl"].evaluation == {"retrieval": 7, "classification": 9}
    assert (rows["rus_Cyrl"].train_rows, rows["rus_Cyrl"].evaluation_rows) == (1270, 16)
    assert (rows["swa_Latn"].family, rows["tur_Latn"].language.name) == ("Atlantic-Congo", "Turkish")


def test_what_was_not_measured_is_absent_and_not_zero(recipe: Recipe, out: Path) -> None:
    rows = {row.tag: row for row in language_rows(recipe, out)}
    assert rows["swa_Latn"].evaluation == {}
    assert rows["swa_Latn"].scores == {}
    assert rows["deu_Latn"].scores == {"good": 0.75, "bad": 0.0}, "not of the evaluation that was cut off"
    line = next(line for line in shown([rows["swa_Latn"], rows["deu_Latn"]]).splitlines() if "Swahili" in line)
    assert line.split() == ["swa_Latn", "Swahili", "Atlantic-Congo", "-", "3", "-", "-", "-", "-"]


def test_the_table_names_models_and_ends_with_sums(recipe: Recipe, out: Path) -> None:
    text = shown(language_rows(recipe, out), ["good", "unknown"])
    assert "good" in text
    assert "bad" not in text
    assert "1,200" in text, "a narrow terminal cuts nothing off"
    assert (
        "languages 4, families 3, scripts 2; rows: 1,313 for training, 23 for evaluation (1 languages have none)"
        in (" ".join(text.split()))
    )


def test_orders(recipe: Recipe, out: Path) -> None:
    rows = language_rows(recipe, out)

    def tags(**how: str) -> list[str]:
        return [row.tag[:3] for row in select_languages(rows, **how)]

    assert tags() == ["rus", "deu", "swa", "tur"]
    assert tags(sort="tag") == ["deu", "rus", "swa", "tur"]
    assert tags(sort="score", model="good") == ["deu", "rus", "swa", "tur"]
    assert tags(sort="score", model="bad") == ["tur", "deu", "rus", "swa"], "a score of 0 is before none"
    assert tags(sort="score") == ["rus", "deu", "tur", "swa"], "by the mean over models"


def test_choice_of_family_and_script(recipe: Recipe, out: Path) -> None:
    rows = language_rows(recipe, out)
    assert [row.tag for row in select_languages(rows, family="indo-european", script="LATN")] == ["deu_Latn"]
    with pytest.raises(ConfigError, match="--family Indoeuropean: no language here has it; there are Indo-European"):
        select_languages(rows, family="Indoeuropean")
    with pytest.raises(ConfigError, match="--script Thai: no language here has it; there are Cyrl, Latn"):
        select_languages(rows, script="Thai")
    with pytest.raises(ConfigError, match="--sort size: write one of rows, tag, score"):
        select_languages(rows, sort="size")


def test_json_has_what_there_is(recipe: Recipe, out: Path) -> None:
    found = languages_json(select_languages(language_rows(recipe, out)))
    assert found["totals"] == {
        "languages": 4,
        "families": 3,
        "scripts": 2,
        "train_rows": 1313,
        "evaluation_rows": 23,
    }
    assert found["languages"][2] == {
        "tag": "swa_Latn",
        "name": "Swahili",
        "iso639_3": "swa",
        "script": "Latn",
        "family": "Atlantic-Congo",
        "train": {"clustering": 3},
        "evaluation": {},
        "scores": {},
    }


def test_without_a_recipe_all_languages_with_the_rows_of_the_paper() -> None:
    rows = language_rows(None, None)
    assert len(rows) > 600
    largest = [(row.tag, row.rows) for row in select_languages(rows)[:2]]
    assert largest == [("eng_Latn", 16_059_324), ("zho_Hans", 4_280_372)]
    python = next(row for row in rows if row.tag == "python")
    assert (python.family, python.paper) == ("Programming language", 1_972_390)
    assert "-" in shown([row for row in rows if row.tag in ("ace_Latn", "eng_Latn")])
    assert all("paper_rows" not in entry for entry in languages_json(rows[:1])["languages"])


def test_what_cannot_be_told(recipe: Recipe, out: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the data of tiny are not clean in .*empty; run: f2llm build RECIPE"):
        language_rows(recipe, tmp_path / "empty")
    with pytest.raises(ConfigError, match="which recipe was built in"):
        language_rows(None, out)
    write_json(out / "clean" / "languages.json", {"deu_Latn": {"gone": [1, 0]}})
    with pytest.raises(DataError, match="the build has rows of 'gone', which the recipe has not"):
        language_rows(recipe, out)

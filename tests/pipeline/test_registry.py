"""The `[registry]` section of a recipe."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2llm.core.config import Recipe, RecipeFile, load_recipe
from f2llm.core.errors import ConfigError
from f2llm.core.languages import language
from f2llm.data.convert import CONVERTERS
from f2llm.data.sources import registry
from f2llm.pipeline.checks import check_recipe
from f2llm.pipeline.registry import registered, with_registry

RECIPE = """
name = "some"

[tokenizer]
vocab_size = 400

[registry]
path = "data"
exclude = ["mkqa"]

[[models]]
name = "m"
size = "80M"
stages = [2]

[report]
default_model = "m"
"""
OWN = """
[[sources]]
id = "squad"
converter = "cldr_translation"
task_type = "retrieval"
instruction = "Find it."
"""


def load(tmp_path: Path, text: str = RECIPE, overrides: list[str] | None = None) -> tuple[Recipe, RecipeFile]:
    path = tmp_path / "some.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def test_every_source_becomes_one_of_the_recipe(tmp_path: Path) -> None:
    recipe, file = load(tmp_path)
    full = with_registry(recipe, file)
    check_recipe(full, file, data_there=False)
    assert [source.id for source in full.sources] == [source.id for source in registry() if source.id != "mkqa"]
    by_id = {source.id: source for source in full.sources}
    for source in registry():
        if source.id in by_id:
            config = by_id[source.id]
            assert config.task_type == CONVERTERS[config.converter].task_type == source.task_type
            assert (config.max_rows, config.path, config.evaluate) == (80_000, "data", False)
            assert config.max_rows_per == ("file" if source.units > 1 else "source")
            assert (config.instruction, config.license or "unknown") == (source.instruction, source.license)
            assert (1 in config.stages, config.symmetric) == (source.stage1, source.symmetric)
            for name in ("language", "doc_language"):
                assert name not in config.options or language(config.options[name])
    assert by_id["mela"].options == {"files": ["mela"], "rows": [0, 40_267]}
    assert by_id["cosqa"].options == {"files": ["cosqa"], "language": "en", "doc_language": "python"}
    assert by_id["codesearchnet"].options == {"files": ["csn_{query}", "!csn_ccr_*"], "doc_language": "en"}
    assert by_id["mmarco"].options == {"files": ["msmarco", "mmarco_{code}"], "language": "en"}
    assert set(registered(full)) == set(by_id)
    assert with_registry(full, file) == full
    overridden, _ = load(tmp_path, overrides=["registry.max_rows=10", "registry.language_alpha=0.5"])
    first = with_registry(overridden, file).sources[0]
    assert (first.max_rows, first.language_alpha) == (10, 0.5)


def test_what_holds_test_texts_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    recipe, file = load(tmp_path, RECIPE.replace('exclude = ["mkqa"]\n', ""))
    left_out = {source.id for source in registry()} - {source.id for source in with_registry(recipe, file).sources}
    assert left_out == {"mkqa", "sib200"}
    recipe, file = load(tmp_path, RECIPE.replace('["mkqa"]', "[]"))
    assert len(with_registry(recipe, file).sources) == 157


def test_a_recipe_without_a_registry_stays_as_it_is(tmp_path: Path) -> None:
    recipe, file = load(tmp_path, RECIPE.replace('[registry]\npath = "data"\nexclude = ["mkqa"]', "") + OWN)
    assert with_registry(recipe, file) is recipe
    assert registered(recipe) == {}


@pytest.mark.parametrize(
    ("name", "hint"), [("MKQ", "did you mean 'mkqa'"), ("zzzzzzzzzz", "ids are like unpc, paracrawl")]
)
def test_unknown_sources_are_told(tmp_path: Path, name: str, hint: str) -> None:
    recipe, file = load(tmp_path, RECIPE.replace('"mkqa"', f'"mkqa", "{name}"'))
    with pytest.raises(ConfigError, match=rf"line 9: registry\.exclude: the registry has no source '{name}'; {hint}"):
        with_registry(recipe, file)


def test_an_own_source_must_not_have_the_id_of_a_registered_one(tmp_path: Path) -> None:
    recipe, file = load(tmp_path, RECIPE + OWN)
    with pytest.raises(ConfigError, match=r"sources\.0\.id: 'squad' is also a source of the registry"):
        with_registry(recipe, file)
    recipe, file = load(tmp_path, RECIPE.replace('"mkqa"', '"squad"') + OWN)
    assert with_registry(recipe, file).sources[0].converter == "cldr_translation"


def test_a_registered_source_can_be_converted(tmp_path: Path) -> None:
    recipe, file = load(tmp_path)
    (tmp_path / "data").mkdir()
    table = pa.table({"query": ["Instruct: x\nQuery: q"], "passage": ["p"], "negative_1": ["n"]})
    pq.write_table(table, tmp_path / "data" / "unpc_ar2en.parquet")
    source = with_registry(recipe, file).sources[0]
    assert source.path is not None
    (row,) = CONVERTERS[source.converter](file.resolve(source.path), source.id, source.options, 0)
    assert (row.id, row.query, row.query_lang, row.doc_lang) == ("unpc_ar2en/0", "q", "ara_Arab", "eng_Latn")

"""The table, the picture and the object of the sources, for the registry and for a recipe's own ones."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from f2llm.core.config import SourceConfig, load_recipe
from f2llm.core.languages import language
from f2llm.data.convert import CONVERTERS
from f2llm.data.examples import SCHEMA
from f2llm.data.sources import registry, select
from f2llm.data.sources_view import (
    ListedSource,
    converted_languages,
    list_recipe,
    list_registry,
    print_sources,
    published_languages,
    sources_json,
    sources_png,
    sums,
)

OWN = """
[[sources]]
id = "faq"
converter = "pairs_table"
task_type = "retrieval"
path = "faq.csv"
instruction = "Given a question, retrieve its answer."
"""
RECIPE = (
    """
name = "own"

[tokenizer]
vocab_size = 400

[[models]]
name = "m"
size = "80M"
stages = [2]

[report]
default_model = "m"
"""
    + OWN
)


def printed(sources: list[ListedSource]) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_sources(console, sources)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def convert(build: Path, name: str, languages: list[str]) -> None:
    """What the step `convert` leaves of a source with these query languages."""
    directory = build / "convert" / name
    directory.mkdir(parents=True)
    rows = [dict.fromkeys(SCHEMA.names, "x") | {"negatives": [], "groups": [], "query_lang": tag} for tag in languages]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), directory / "00000.parquet")
    (directory / "drops.json").write_text("{}", encoding="utf-8")


def own(**fields: object) -> SourceConfig:
    base = {"id": "faq", "converter": "pairs_table", "task_type": "retrieval", "path": "faq.csv"}
    return SourceConfig.model_validate(base | fields)


def test_the_object_has_the_published_sums() -> None:
    found = json.loads(json.dumps(sources_json(list_registry())))
    assert (found["rows"], found["units"], found["rows_after_cap"]) == (60_147_938, 395, 17_733_380)
    assert found["rows_after_cap_is_bound"] is False
    assert found["unknown"] == []
    assert len(found["sources"]) == 157
    by_id = {source["id"]: source for source in found["sources"]}
    assert by_id["cosqa"]["options"] == {"files": ["cosqa"], "language": "en", "doc_language": "python"}
    assert by_id["cosqa"]["converter"] == "released_retrieval"
    assert by_id["cosqa"]["license"] == "c-uda"
    assert by_id["mkqa"]["holds_test_texts"] is True
    assert by_id["mkqa"]["evaluated_on_train"] == ["MKQARetrieval"]
    assert len(by_id["webfaq"]["files"]) == 49
    assert (by_id["webfaq"]["rows_after_cap"], by_id["webfaq"]["rows_after_cap_is_bound"]) == (3_920_000, True)
    assert {"task_type", "category", "codes", "language_count", "symmetric", "instruction", "upstream"} <= set(
        by_id["unpc"]
    )


def test_a_part_of_the_registry_has_bounds() -> None:
    found = sources_json(select(list_registry(), category="Text-to-Code"))
    assert (found["rows"], found["units"]) == (1_229_579, 22)
    assert found["rows_after_cap"] == 80_000 + 16_632 + 51_072 + 9_409 + 80_000
    assert found["rows_after_cap_is_bound"] is False
    assert sources_json(select(list_registry(1000), text="medqa", language="en"))["rows_after_cap_is_bound"] is True
    assert sums(list_registry(None)).rows_after_cap == 60_147_938


def test_the_table_has_a_line_for_each_source_and_the_sums() -> None:
    text = printed(list_registry())
    lines = text.splitlines()
    for source in registry():
        (line,) = [line for line in lines if line.split()[:1] == [source.id]]
        assert f"{source.rows:,}" in line
        assert source.license.split()[0][:20] in line
    assert "157 sources" in text
    assert "60,147,938" in text
    assert "17,733,380" in text
    assert "≤ 17,733,380" not in text
    (mkqa,) = [line for line in lines if line.split()[:1] == ["mkqa"]]
    assert mkqa.rstrip().endswith("1!")
    some = printed(select(list_registry(), category="NLI"))
    assert "≤ 1,120,000" in some
    assert "at most" in some


def test_five_lines_of_toml_add_an_own_source(tmp_path: Path) -> None:
    assert len(OWN.strip().splitlines()) == 1 + 5
    path = tmp_path / "own.toml"
    path.write_text(RECIPE, encoding="utf-8")
    recipe, _ = load_recipe(path)
    (source,) = list_recipe(recipe.sources)
    assert (source.id, source.category, source.converter, source.path) == ("faq", "own", "pairs_table", "faq.csv")
    assert source.task_type == CONVERTERS[source.converter].task_type
    assert (source.rows, source.rows_after_cap, source.license) == (None, None, "unknown")
    text = printed([source])
    assert "1 not yet converted" in text
    assert "faq.csv" in text
    assert sources_json([source])["unknown"] == ["faq"]


def test_rows_of_a_recipe_come_from_its_build(tmp_path: Path) -> None:
    convert(tmp_path, "faq", ["eng_Latn", "eng_Latn", "swa_Latn"])
    (tmp_path / "convert" / "unfinished").mkdir()
    configs = [own(max_rows=2, license="cc-by-4.0", options={"language": "en"}), own(id="unfinished"), own(id="later")]
    found = list_recipe(configs, tmp_path)
    assert [source.rows for source in found] == [3, None, None]
    assert (found[0].rows_after_cap, found[0].license, found[0].codes) == (2, "cc-by-4.0", ("en",))
    assert converted_languages(found, tmp_path) == {"eng_Latn": 2, "swa_Latn": 1}
    object_ = sources_json(found)
    assert (object_["rows"], object_["units"], object_["rows_after_cap"]) == (3, 3, 2)
    assert object_["unknown"] == ["unfinished", "later"]
    assert [source.id for source in select(found, language="eng")] == ["faq"]
    assert [source.id for source in select(found, category="own", text="LAT")] == ["later"]


def test_a_recipe_with_sources_of_the_registry() -> None:
    released = own(id="squad", converter="released_retrieval", path="data", max_rows=50_000, stages=[1, 2])
    found = list_recipe([released, own(), own(id="qqp")])
    assert (found[0].rows, found[0].rows_after_cap, found[0].stages) == (89_509, 50_000, (1, 2))
    assert (found[0].path, found[0].category) == ("data", "Question Answering")
    assert (found[2].category, found[2].released) == ("own", None)  # of the same name, but converted otherwise
    assert sums(found).rows_after_cap == 50_000


def test_published_languages() -> None:
    rows = published_languages()
    assert len(rows) == 66
    assert rows["eng_Latn"] == 16_059_324
    assert rows["csharp"] == 92_008
    assert all(language(tag).tag == tag for tag in rows)


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    whole, some = sources_png(list_registry()), sources_png(select(list_registry(), category="NLI"))
    assert size(whole)[0] > 2 * size(some)[0]  # languages are known of all together only
    assert whole == sources_png(list_registry())
    convert(tmp_path, "faq", ["eng_Latn", "swa_Latn"])
    mine = list_recipe([own(), own(id="later")], tmp_path)
    assert size(sources_png(mine, converted_languages(mine, tmp_path)))[0] > size(sources_png(mine))[0]
    assert size(sources_png(mine[1:]))[1] > 200

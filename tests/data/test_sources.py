"""The registry of the paper's sources: its sums, and that every released file belongs to the right source."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from f2llm.core.errors import ConfigError
from f2llm.core.languages import language
from f2llm.core.types import HOLDING_TEST_TEXTS
from f2llm.data.convert import CONVERTERS
from f2llm.data.convert_released import ReleasedOptions, _tag, matching_files
from f2llm.data.sources import CAP, ROWS_AFTER_CAP, Source, Totals, registry, rows_after_cap, select, totals

BY_ID = {source.id: source for source in registry()}


def test_the_sums_are_those_of_the_paper() -> None:
    sources = registry()
    assert len(BY_ID) == len(sources) == 157
    assert sum(source.rows for source in sources) == 60_147_938
    assert sum(source.units for source in sources) == 395
    assert sum(source.rows for source in sources if source.stage1) == 26_693_280
    rows, units = Counter[str](), Counter[str]()
    for source in sources:
        rows[source.task_type] += source.rows
        units[source.task_type] += source.units
    assert rows == {"retrieval": 54_021_180, "clustering": 5_554_559, "classification": 572_199}
    assert units == {"retrieval": 351, "clustering": 33, "classification": 11}


def test_stage_1_and_symmetric_sources() -> None:
    first = {source.id for source in registry() if source.stage1}
    seven = {"codesearchnet", "codesearchnet_ccr", "ocgi", "webfaq", "mmarco", "clirmatrix", "paracrawl"}
    assert first == seven
    assert BY_ID["europarl"].symmetric
    assert BY_ID["unpc"].symmetric
    assert BY_ID["qqp"].symmetric
    assert BY_ID["sts12"].symmetric
    assert not BY_ID["squad"].symmetric
    assert not BY_ID["imdb"].symmetric
    assert all(source.symmetric for source in registry() if source.task_type == "clustering")


def test_rows_after_the_cap_are_an_upper_bound() -> None:
    assert rows_after_cap(BY_ID["squad"], CAP) == 80_000
    assert rows_after_cap(BY_ID["banking77"], CAP) == 9_993
    assert rows_after_cap(BY_ID["unpc"], CAP) == 80_000
    assert rows_after_cap(BY_ID["webfaq"], CAP) == 49 * 80_000
    assert rows_after_cap(BY_ID["webfaq"], None) == 4_368_504
    total = sum(rows_after_cap(source, CAP) for source in registry())
    assert total == 19_819_359 > ROWS_AFTER_CAP


def test_the_three_sources_of_one_file() -> None:
    ranges = [BY_ID[name].row_range for name in ("mela", "scala", "dala")]
    assert ranges == [(0, 40_267), (40_267, 168_738), (168_738, 175_246)]
    for name in ("mela", "scala", "dala"):
        source = BY_ID[name]
        assert source.files == ("mela",)
        assert source.row_range is not None
        assert source.row_range[1] - source.row_range[0] == source.rows
    assert sum(source.row_range is not None for source in registry()) == 3


def test_languages() -> None:
    assert BY_ID["squad"].language == "en"
    assert BY_ID["cosqa"].language == "python"
    assert BY_ID["medqa"].language is None
    assert BY_ID["aya"].language is None
    assert BY_ID["mkqa"].codes[-3:] == ("zh_cn", "zh_hk", "zh_tw")
    for source in registry():
        assert all(language(code) for code in source.codes)
        assert source.language_count == len(source.codes) or not source.codes
        assert source.languages.isdigit() or sorted(source.languages.split(", ")) == sorted(source.codes)
    counted = {source.id for source in registry() if not source.codes}
    assert "clirmatrix" in counted  # its files are named for groups of languages
    assert BY_ID["clirmatrix"].language_count == 137


def test_every_one_of_the_500_files_belongs_to_the_right_source(tmp_path: Path) -> None:
    owners: dict[str, set[str]] = {}
    for source in registry():
        assert len(source.released_names) == len(set(source.released_names))
        for name in source.released_names:
            owners.setdefault(name, set()).add(source.id)
            (tmp_path / f"{name}.parquet").touch()
    assert len(owners) == 500
    assert {name for name, ids in owners.items() if len(ids) > 1} == {"mela"}
    found: dict[str, set[str]] = {}
    for source in registry():
        for path, _ in matching_files(tmp_path, list(source.files)):
            found.setdefault(path.name.removesuffix(".parquet"), set()).add(source.id)
    assert found == owners


def test_codes_are_the_languages_that_the_converter_reads_from_the_names(tmp_path: Path) -> None:
    for source in registry():
        if not source.names or source.id == "clirmatrix":
            continue
        directory = tmp_path / source.id
        directory.mkdir()
        for name in source.released_names:
            (directory / f"{name}.parquet").touch()
        told = [names for _, names in matching_files(directory, list(source.files))]
        read = {_tag(code) for names in told for code in names.values()}
        if "{code}" in source.files[-1] and "language" in source.options:
            read.add(language(source.options["language"]).tag)  # that of the file without a language in its name
        assert {language(code).tag for code in source.codes} == read


def test_units_are_files_with_parts_put_together() -> None:
    as_a_whole = {"unpc": 30, "paracrawl": 52, "clirmatrix": 18}
    for source in registry():
        files = [name for name in source.released_names if "_part" not in name]
        assert len(files) == as_a_whole.get(source.id, source.units)


@pytest.mark.parametrize("source", registry(), ids=lambda source: source.id)
def test_a_source_says_how_it_is_read_and_where_it_is_from(source: Source) -> None:
    assert CONVERTERS[source.converter].task_type == source.task_type
    ReleasedOptions.model_validate(source.options)
    assert source.rows > 0
    assert source.units >= 1
    assert source.instruction.endswith(".")
    assert source.upstream == "unknown" or source.upstream.startswith("http")
    assert (source.license == "unknown") == (source.license_from == "")
    assert source.license_from in ("", "card", "mteb", "repository", "listing")
    assert source.upstream != "unknown" or source.license == "unknown"


def test_instructions_are_those_of_category_and_format_with_five_of_their_own() -> None:
    usual = {(s.category, s.task_type): Counter[str]() for s in registry()}
    for source in registry():
        usual[source.category, source.task_type][source.instruction] += 1
    rare = {i for texts in usual.values() for i in list(texts) if i != texts.most_common(1)[0][0]}
    other = {source.id for source in registry() if source.instruction in rare}
    assert other == {"esci", "multi_cpr_ecom", "codesearchnet_ccr", "toxic_conversations", "amazon_counterfactual"}
    assert BY_ID["dala"].instruction == "Given a sentence, tell whether it is grammatical."


def test_overlap_with_the_tasks_of_mteb() -> None:
    assert [source.id for source in registry() if source.holds_test_texts] == list(HOLDING_TEST_TEXTS)
    for name in HOLDING_TEST_TEXTS:
        assert BY_ID[name].evaluated_on_train
    assert BY_ID["mkqa"].evaluation_overlap == BY_ID["mkqa"].evaluated_on_train == ("MKQARetrieval",)
    assert BY_ID["sib200"].evaluated_on_train == ("SIB200Classification",)
    assert "ChemHotpotQARetrieval" in BY_ID["hotpotqa"].evaluated_on_train
    assert BY_ID["tnews"].evaluation_overlap == ("TNews",)
    assert BY_ID["gooaq"].evaluation_overlap == ()
    assert all(set(source.evaluated_on_train) <= set(source.evaluation_overlap) for source in registry())


@pytest.mark.data
def test_overlapping_tasks_are_tasks_of_benchmarks(shared_data: Path) -> None:
    benchmarks = json.loads((shared_data.parent / "reference" / "benchmarks.json").read_text(encoding="utf-8"))
    known = {task["task"] for tasks in benchmarks.values() for task in tasks}
    assert {task for source in registry() for task in source.evaluation_overlap} <= known
    # Of each of these names the paper has a source; MTEB's task carries the same.
    for source, task in (("bq", "BQ"), ("lcqmc", "LCQMC"), ("qbqtc", "QBQTC"), ("waimai", "Waimai"), ("xnli", "XNLI")):
        assert task in known.intersection(BY_ID[source].evaluation_overlap)


def test_totals_of_all_are_the_published_ones_and_else_a_bound() -> None:
    sources = registry()
    assert totals(sources) == Totals(60_147_938, 395, 17_733_380, rows_after_cap_is_bound=False)
    assert totals(sources, 1000).rows_after_cap_is_bound
    assert totals(sources, None) == Totals(60_147_938, 395, 60_147_938, rows_after_cap_is_bound=False)
    assert totals([BY_ID["squad"], BY_ID["banking77"]]) == Totals(99_502, 2, 89_993, rows_after_cap_is_bound=False)
    assert totals([BY_ID["webfaq"]]) == Totals(4_368_504, 49, 3_920_000, rows_after_cap_is_bound=True)
    assert totals([BY_ID["medqa"]]) == Totals(13_458, 2, 13_458, rows_after_cap_is_bound=False)
    assert totals([]) == Totals(0, 0, 0, rows_after_cap_is_bound=False)


def ids(sources: list[Source]) -> set[str]:
    return {source.id for source in sources}


def test_select() -> None:
    sources = registry()
    assert select(sources) == list(sources)
    assert len(select(sources, task_type="classification")) == 9
    assert ids(select(sources, category="sts", language="zh")) == {"bq", "qbqtc", "simclue", "lcsts"}
    assert ids(select(sources, language="kor_Kore", text="koalpaca")) == {"koalpaca", "koalpaca_realqa"}
    assert ids(select(sources, language="C#")) == {"xcodeeval_code2code", "xcodeeval_nl2code"}
    assert len(select(sources, stage=1)) == 7
    assert len(select(sources, stage=2)) == 157
    assert ids(select(sources, text="MR.TYDI")) == {"mr_tydi"}
    assert ids(select(sources, license="CC0-1.0", stage=1)) == {"paracrawl"}
    with_overlap, without = select(sources, overlap=True), select(sources, overlap=False)
    assert len(with_overlap) + len(without) == 157
    assert "banking77" in ids(with_overlap)
    assert "paq" in ids(without)
    assert select(sources, category="STS", stage=1) == []
    assert select(select(sources, category="STS"), category="NLI") == []


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"category": "Question Answerin"},
            "no category 'Question Answerin' among the sources; .*'Question Answering'",
        ),
        ({"task_type": "ranking"}, "no task type 'ranking'"),
        ({"license": "gpl"}, "no license 'gpl' among the sources; there is"),
        ({"language": "xx"}, "no language 'xx'"),
    ],
)
def test_what_there_is_not_is_told(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select(registry(), **wanted)

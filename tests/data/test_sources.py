"""The registry of the paper's sources: its sums, and that every released file belongs to the right source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from f2llm.data.convert_released import ReleasedOptions, matching_files
from f2llm.data.sources import CAP, ROWS_AFTER_CAP, Source, registry, rows_after_cap

BY_ID = {source.id: source for source in registry()}
# Files of the sources that have one for each language: as many as our reference names.
OF_LANGUAGES = {
    "unpc": "unpc_ar2en unpc_ar2es unpc_ar2fr unpc_ar2ru",
    "paracrawl": "paracrawl_azj-en paracrawl_ca-es paracrawl_cs-pl paracrawl_de-pl",
    "webfaq": "webfaq_ara webfaq_aze webfaq_ben webfaq_bul",
    "mmarco": "msmarco mmarco_arabic mmarco_chinese mmarco_dutch",
    "miracl": "miracl_ar miracl_bn miracl_en miracl_es",
    "mr_tydi": "mrtidy mrtidy_arabic mrtidy_bengali mrtidy_finnish",
    "mldr": "mldr_ar mldr_de mldr_en mldr_es",
    "mkqa": "mkqa_ar mkqa_da mkqa_de mkqa_en",
    "clirmatrix": "clirmatrix_af-bg clirmatrix_ar-fr clirmatrix_bn-cs clirmatrix_cv-fa",
    "xnli": "xnli_ar xnli_bg xnli_de xnli_el",
    "xcodeeval_code2code": "xcodeeval_code2code_C%23 xcodeeval_code2code_C++ xcodeeval_code2code_C",
    "codesearchnet_ccr": "csn_ccr_go csn_ccr_java csn_ccr_javascript csn_ccr_php",
    "mlsum_clustering": "mlsum_clustering_de mlsum_clustering_es mlsum_clustering_fr mlsum_clustering_ru",
    "mlsum_retrieval": "mlsum_retrieval_de mlsum_retrieval_es mlsum_retrieval_fr mlsum_retrieval_ru",
    "opencodereasoning_2": "ocr2_cpp ocr2_python",
    "xcodeeval_nl2code": "xcodeeval_nl2code_C%23 xcodeeval_nl2code_C++ xcodeeval_nl2code_C xcodeeval_nl2code_D",
    "codesearchnet": "csn_go csn_java csn_javascript csn_php",
    "pawsx": "pawsx_de pawsx_en pawsx_es pawsx_fr",
    "medqa": "medqa_en medqa_zh",
    "mqa": "mqa_ar mqa_bg mqa_ca mqa_cs",
    "nordic_text_matching": "nordic_text_matching_danish nordic_text_matching_norwegian nordic_text_matching_swedish",
    "nordic_retrieval": "nordic_retrieval_danish nordic_retrieval_norwegian nordic_retrieval_swedish",
    "nordic_classification": "nordic_classification_danish nordic_classification_norwegian",
    "nordic_sts": "nordic_sts_danish nordic_sts_norwegian nordic_sts_swedish",
}


def plain(source: Source) -> bool:
    return not any(mark in name for name in source.files for mark in "*?{!")


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


def test_every_file_belongs_to_the_right_source(tmp_path: Path) -> None:
    assert set(OF_LANGUAGES) == {source.id for source in registry() if not plain(source)}
    owners: dict[str, set[str]] = {}
    for source in registry():
        for name in source.files if plain(source) else OF_LANGUAGES[source.id].split():
            owners.setdefault(name, set()).add(source.id)
            (tmp_path / f"{name}.parquet").touch()
    found: dict[str, set[str]] = {}
    for source in registry():
        for path, _ in matching_files(tmp_path, list(source.files)):
            found.setdefault(path.name.removesuffix(".parquet"), set()).add(source.id)
    assert found == owners
    assert {name for name, ids in owners.items() if len(ids) > 1} == {"mela"}


@pytest.mark.parametrize("source", registry(), ids=lambda source: source.id)
def test_files_are_good_options(source: Source) -> None:
    ReleasedOptions.model_validate({"files": list(source.files)})
    assert source.rows > 0
    assert source.units >= 1

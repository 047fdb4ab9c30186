"""Every folder of real files, with the options that a recipe would use, against the counts of its SOURCE.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from f2llm.core.languages import language
from f2llm.core.types import Example
from f2llm.data import convert_documents
from f2llm.data.convert import CONVERTERS, convert
from f2llm.data.converter import Drops

pytestmark = pytest.mark.data

NO_SOURCES = {"linguameta": "a registry of languages", "qwen3-tokenizer": "a vocabulary"}
EVALUATION_ONLY = {"sib-200-sample", "tatoeba-v1-sample"}

NUSAX = {
    "acehnese": "ace", "balinese": "ban", "banjarese": "bjn", "buginese": "bug", "english": "en", "indonesian": "id",
    "javanese": "jv", "madurese": "mad", "minangkabau": "min", "ngaju": "nij", "sundanese": "su", "toba_batak": "bbc",
}  # fmt: skip
AFRISENTI = {"files": "{code}_train.tsv", "text": "tweet", "codes": {"kr": "rw", "ma": "ary", "dz": "arq"}}
NTREX = {
    "files": [
        "NTREX-128/newstest2019-ref.{code}.txt", "NTREX-128/newstest2019-src.{code}.txt",
        "NTREX-additional/newstest2019-ref.{code}.txt",
    ],
    "documents": "DOCUMENT_IDS.tsv",
}  # fmt: skip
OLDI = {"files": ["seed/{code}"], "documents": "seed/metadata.tsv", "documents_header": True}
STSB = {"files": "stsb-{code}-{split}.csv", "header": ["sentence1", "sentence2", "score"]}
STS_UNITS = {"unit": "#", "corpus": "stsbenchmark"}
PAWSX = {
    "files": "dev-{code}.tsv", "header": ["sentence1", "sentence2", "label"], "missing": ["NS"], "quoted": True,
    "unit": "#",
}  # fmt: skip
XSID = {
    "files": "{code}.valid.conll",
    "codes": {"de-ba": "bar", "de-muc": "bar", "de-st": "bar", "sr": "sr-Latn"},
}
CSL = {"language": "zh", "header": ["prompt", "text", "label"]}
BIBLE = {"codes": {"eng-us-oeb": "eng", "Tachelhit-NT": "shi_Latn", "Wolaytta-NT": "wal_Latn"}}
AFRIQA = {
    "files": "gold_passages/{folder}/gold_span_passages.afriqa.{query}.{doc}.{split}.json",
    "query": ["question_lang"], "positive": ["context"], "unit": "title", "corpus": "article", "same": "title",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`total` is what SOURCE.md says the files hold, `rows` what comes out, `languages` of the queries."""

    path: str
    converter: str
    total: int
    rows: int
    languages: int
    options: dict[str, Any]
    drops: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return self.path.partition("/")[0]


CASES = [
    Case("afriqa", "pairs_table", 2_171 + 1_928, 3_947, 8, AFRIQA, {"no positive": 151, "no query": 1}),
    Case(
        "afriqa", "pairs_table", 4_304, 4_304, 10,
        {"files": "queries/{folder}/queries.afriqa.{query}.{doc}.train.json", "query": ["question"],
         "positive": ["translated_question"]},
    ),
    Case("afrisenti/train", "classes_table", 63_685, 63_365, 12, AFRISENTI, {"in several classes": 320}),
    Case(
        "afrisenti/train", "two_way_table", 63_685, 40_670, 12,
        AFRISENTI | {"classes": {"positive": "positive", "negative": "negative"}},
        {"in several classes": 320, "another class": 22_695},
    ),
    Case(
        "banking77/banking_data/train.csv", "classes_table", 10_003, 10_003, 1,
        {"language": "en", "label": "category"},
    ),
    Case(
        "bible-nt", "bible_xml", 166_764, 162_151, 24, BIBLE | {"pairs": [["*", "eng"]]},
        {"not in the other document": 1_607, "chapter ends with another verse": 1_853,
         "may hold the next verse too": 800, "empty on one side": 353},
    ),
    Case(
        "chinese-medical-dialogue/样例_内科5000-6000.csv", "pairs_table", 7_644, 7_644, 1,
        {"language": "zh", "encoding": "gb18030", "query": ["title", "ask"], "positive": ["answer"],
         "missing": ["无"], "same": "department"},
    ),
    Case("cmrc2018/squad-style-data/cmrc2018_dev.json", "squad", 3_219, 3_219, 1, {"language": "zh"}),
    Case("cosqa", "cosqa", 604 + 500, 799, 1, {}, {"in two files": 14, "query without an answer": 291}),
    Case("csl/cls_ctg", "classes_table", 10_000, 10_000, 1, CSL | {"files": "{split}.tsv"}),
    Case("csl/cls_dcp/dev.tsv", "classes_table", 1_000, 998, 1, CSL, {"alone in its class": 2}),
    Case(
        "csl/ts/dev.tsv", "pairs_table", 1_000, 1_000, 1,
        {"language": "zh", "header": ["prompt", "abstract", "title"], "query": ["title"], "positive": ["abstract"]},
    ),
    Case(
        "jglue/jnli-v1.3/valid-v1.3.json", "nli", 2_434, 327, 1,
        {"language": "ja", "premise": "sentence1", "hypothesis": "sentence2"},
        {"neutral": 1_350, "fails, and the sentence has no positive": 735, "twice the same sentence": 22},
    ),
    Case("jglue/jsquad-v1.3/valid-v1.3.json", "squad", 4_442, 4_442, 1, {"language": "ja"}),
    Case(
        "jglue/jsts-v1.3/train-v1.3.json", "sts", 12_451, 1_289, 1, {"language": "ja", "score": "label"},
        {"score in between": 7_974, "fails, and the sentence has no positive": 3_012, "used as a negative": 106,
         "twice the same sentence": 70},
    ),
    Case(
        "klue/klue-nli-v1.1/klue-nli-v1.1_dev.json", "nli", 3_000, 1_000, 1, {"language": "ko", "label": "gold_label"},
        {"neutral": 1_000, "used as a negative": 1_000},
    ),
    Case(
        "kornlu/KorSTS", "sts", 5_749 + 1_500, 1_630, 1, STS_UNITS | {"files": "sts-{split}.tsv", "language": "ko"},
        {"score in between": 4_085, "fails, and the sentence has no positive": 1_357, "used as a negative": 135,
         "twice the same sentence": 42},
    ),
    Case(
        "mbxp", "mbxp", 848 + 3 * 966 + 974 + 968, 5_321, 1, {},
        {"no solution": 366, "solution repeats the problem": 1},
    ),
    Case(
        "mbxp", "mbxp", 848 + 3 * 966 + 974 + 968, 5_321, 6, {"task": "code_to_text"},
        {"no solution": 366, "solution repeats the problem": 1},
    ),
    Case(
        "mbxp", "mbxp", 848 + 3 * 966 + 974 + 968, 5_315, 6, {"task": "code_to_code"},
        {"no solution": 366, "solution repeats the problem": 1, "solved in one language only": 6},
    ),
    # SOURCE.md: 4,633 pairs, 4,607 with an answer. Four files spell their elements otherwise: 16 more, with answers.
    Case("medquad", "qa_xml", 4_633 + 16, 4_607 + 16, 1, {}, {"no answer": 26}),
    # Questions in each of the seven languages, and between English and each of the six others, both ways.
    Case(
        "mlqa-dev/dev", "squad", 1_148 + 3 * (517 + 512 + 500 + 507 + 511 + 504), 10_301, 7,
        {"files": "dev-context-{doc}-question-{query}.json"},
    ),
    Case("nusax", "aligned_table", 11 * 600, 11 * 600, 11,
         {"files": "mt/{split}.csv", "columns": NUSAX, "pairs": [["*", "english"]]}),
    Case("nusax", "classes_table", 12 * 600, 7_200, 12,
         {"files": "sentiment/{code}/{split}.csv", "codes": NUSAX, "unit": "#"}),
    Case(
        "nusax", "two_way_table", 12 * 600, 5_484, 12,
        {"files": "sentiment/{code}/{split}.csv", "codes": NUSAX, "unit": "#",
         "classes": {"positive": "positive", "negative": "negative"}},
        {"another class": 1_716},
    ),
    Case(
        "pawsx", "paraphrase", 7 * 2_000, 5_721, 7, PAWSX,
        {"a sentence or the verdict is missing": 185, "twice the same sentence": 246, "used as a negative": 784,
         "fails, and the sentence has no positive": 7_064},
    ),
    Case(
        "pquad/Dataset/Validation.json", "squad", 7_976, 7_976 - 1_981, 1, {"language": "fa"},
        {"unanswerable question": 1_981},
    ),
    Case(
        "pubmedqa", "pairs_table", 1_000, 500, 1,
        {"files": "ori_pqal.json", "language": "en", "query": ["QUESTION"], "positive": ["CONTEXTS"], "unit": "key",
         "leave_out": "test_ground_truth.json"},
        {"left out for the test": 500},
    ),
    Case(
        "stsb-multi-mt", "sts", 6 * 5_749 + 11 * 1_500, 11_054, 11, STSB | STS_UNITS,
        {"score in between": 28_749, "fails, and the sentence has no positive": 10_096, "used as a negative": 801,
         "twice the same sentence": 294},
    ),
    Case(
        "text2sql", "text_to_sql", 4_387 + 877 + 817, 6_081, 1,
        {"files": ["advising.json", "geography.json", "scholar.json"]},
    ),
    Case(
        "text2sql", "text_to_sql", 4_387, 4_387 - 956, 1,
        {"files": ["advising.json"], "task": "sql_to_text", "leave_out": ["exclude"]},
        {"question-split 'exclude' left out": 956},
    ),
    Case(
        "tydiqa-goldp-train/tydiqa-goldp-v1.1-train", "squad", 3_696 + 1_625 + 2_755, 8_076, 3,
        {"files": "tydiqa.goldp.{code}.train.json"},
    ),
    # 15,803 articles and 505 preambles, the 31 of the English document being the other side.
    Case(
        "udhr", "udhr_xml", 15_803 + 505 - 31, 13_962, 452, {"pairs": [["*", "eng"]]},
        {"another document of the language": 1_981, "of no known language": 310, "not reviewed": 24},
    ),
    Case(
        "wisesight-sentiment", "lines_two_way", 4_778 + 6_823, 11_599, 1,
        {"language": "th", "classes": {"pos.txt": "positive", "neg.txt": "negative"}}, {"in both classes": 2},
    ),
    Case("xquad", "squad", 12 * 1_190, 14_280, 12, {"files": "xquad.{code}.json"}),
    Case(
        "xsid-0.7", "intents_conll", 17 * 300 + 150 + 3_300, 8_522, 17, XSID,
        {"in several classes": 12, "alone in its class": 15, "no text or no label": 1},
    ),
    Case(
        "xsid-0.7", "intents_conll", 17 * 300 + 150 + 3_300, 8_537, 17, XSID | {"cross_lingual": True},
        {"in several classes": 12, "no text or no label": 1},
    ),
    # 131 files: four are English, and the second Spanish one is not asked for.
    Case("ntrex-128", "bitext_lines", 126 * 1_997, 126 * 1_997, 121, NTREX | {"pairs": [["*", "eng"]]}),
]  # fmt: skip
SLOW_CASES = [
    Case("text2sql", "text_to_sql", 80_654, 80_654, 1, {"files": ["wikisql.json"]}),
]


def name(case: Case) -> str:
    return f"{case.path}-{case.converter}"


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW_CASES)], ids=name
)
def test_rows_in_are_rows_out_and_counted_drops(case: Case, shared_data: Path) -> None:
    drops, ids, languages = Drops(), set(), Counter[str]()
    for row in convert(case.converter, shared_data / case.path, "s", case.options, 0, drops):
        check(row, CONVERTERS[case.converter].task_type)
        ids.add(row.id)
        languages[row.query_lang] += 1
    assert drops == case.drops
    assert (languages.total(), len(languages)) == (case.rows, case.languages)
    assert case.total == case.rows + drops.total()
    assert len(ids) == case.rows
    assert {tag for tag in languages if language(tag).tag != tag} == set()


def check(row: Example, task_type: str) -> None:
    assert row.query.strip()
    assert row.positive.strip()
    assert row.task_type == task_type
    assert row.groups
    assert all(row.groups)
    assert row.positive not in row.negatives
    assert (row.label is None) == (task_type == "retrieval")


def test_every_folder_is_converted(shared_data: Path) -> None:
    folders = {path.name for path in shared_data.iterdir() if path.is_dir()}
    assert folders - NO_SOURCES.keys() - EVALUATION_ONLY <= {case.folder for case in CASES} | {"oldi-seed"}


def seed_codes(shared_data: Path) -> list[str]:
    names = (path.name.removesuffix(".gz") for path in (shared_data / "oldi-seed" / "seed").iterdir())
    return sorted(code for code in names if re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", code))


def test_seed(shared_data: Path) -> None:
    codes = seed_codes(shared_data)
    assert len(codes) == 41
    pairs = [[code, "eng_Latn"] for code in codes]
    rows = rows_of(shared_data / "oldi-seed", "bitext_lines", OLDI | {"pairs": pairs})
    assert Counter(row.query_lang for row in rows).total() == 40 * 6_193


def test_bitext_as_classes(shared_data: Path) -> None:
    drops, languages = Drops(), ["amh", "eng", "eng-GB", "fra", "zho-TW"]
    options = NTREX | {"languages": languages}
    rows = list(convert("bitext_classes", shared_data / "ntrex-128", "s", options, 0, drops))
    assert (len(rows), drops) == (4 * 1_997, {"another variety of the language": 1_997})
    assert Counter(Counter(row.label for row in rows).values()) == {4: 1_997}
    assert len({row.groups for row in rows}) == 123
    drops = Drops()
    options = OLDI | {"languages": ["ace_Arab", "ace_Latn", "eng_Latn", "nqo_Nkoo"]}
    rows = list(convert("bitext_classes", shared_data / "oldi-seed", "s", options, 0, drops))
    assert (len(rows), drops.total()) == (4 * 6_193, 0)


def rows_of(root: Path, converter: str, options: dict[str, Any]) -> Iterator[Example]:
    return convert(converter, root, "s", options, 0)


def test_wrong_codes_are_mended(shared_data: Path) -> None:
    options = AFRISENTI | {"classes": {"positive": "good", "negative": "bad"}}
    tags = {row.query_lang for row in rows_of(shared_data / "afrisenti" / "train", "two_way_table", options)}
    assert {"kin_Latn", "ary_Arab", "arq_Arab"} <= tags
    assert not {"kau_Latn", "dzo_Tibt"} & tags, "kr and dz are other languages in ISO 639"
    tags = {row.query_lang for row in rows_of(shared_data / "xsid-0.7", "intents_conll", XSID)}
    assert {"bar_Latn", "srp_Latn", "gsw_Latn"} <= tags


def test_gb18030(shared_data: Path) -> None:
    case = next(case for case in CASES if case.folder == "chinese-medical-dialogue")
    rows = list(rows_of(shared_data / case.path, case.converter, case.options))
    assert rows[0].query.startswith("高血压患者能吃党参吗？\n我有高血压这两天女婿来的时候给我拿了些党参泡水喝")
    assert not any(row.query.endswith("\n无") for row in rows)
    assert all(len(row.negatives) == 8 for row in rows), "answers of the same department"


def test_placeholders_do_not_come_through(shared_data: Path) -> None:
    for row in rows_of(shared_data / "pawsx", "paraphrase", PAWSX):
        assert "NS" not in (row.query, row.positive, *row.negatives)
        assert not re.search(r'^".*""', row.positive), "cells are quoted as in CSV"
    files = {"files": ["advising.json", "geography.json", "scholar.json"]}
    for row in rows_of(shared_data / "text2sql", "text_to_sql", files):
        assert not re.search(r"\b(name|state_name|number|department|area|year|venuename)0\b", row.query + row.positive)


def test_translations_of_the_same_pairs_share_their_unit(shared_data: Path) -> None:
    english = rows_of(shared_data / "stsb-multi-mt", "sts", STSB | STS_UNITS)
    korean = rows_of(
        shared_data / "kornlu" / "KorSTS", "sts", STS_UNITS | {"files": "sts-{split}.tsv", "language": "ko"}
    )
    units = {row.groups for row in english if row.query_lang == "eng_Latn"}
    assert all(row.groups in units for row in korean)
    options = {"files": "{part}/{code}/{split}.csv", "codes": NUSAX, "unit": "#"}
    sentiment = {
        row.groups[0].replace("nusax/sentiment/", "nusax/"): row.query
        for row in rows_of(shared_data / "nusax", "classes_table", options)
        if row.query_lang == "ace_Latn"
    }
    columns = {"files": "mt/{split}.csv", "columns": NUSAX, "pairs": [["acehnese", "english"]]}
    bitext = {row.groups[0]: row.query for row in rows_of(shared_data / "nusax", "aligned_table", columns)}
    assert len(bitext) == 600
    assert {unit for unit, text in bitext.items() if sentiment[unit].strip() != text.strip()} == set()


def test_verses_that_are_named_wrong(shared_data: Path) -> None:
    pairs = {"pairs": [[code, "eng"] for code in ("swh", "dik", "shi_Latn", "wal_Latn", "zul")]}
    rows = {row.id: row for row in rows_of(shared_data / "bible-nt", "bible_xml", BIBLE | pairs)}
    assert {row.query_lang for row in rows.values()} == {"swa_Latn", "din_Latn", "shi_Latn", "wal_Latn", "zul_Latn"}
    working = rows["Dinka-NT-eng-us-oeb/1CO.4.12"].positive
    assert "work" in working, "Dinka, Ojibwa and Shuar name this verse 1CO.14.12"
    assert not [verse for verse in rows if verse.startswith("Zulu") and "/EPH.3." in verse], "it holds chapter 2"
    english = convert_documents._verses(shared_data / "bible-nt" / "english-oeb" / "eng-us-oeb.osis.xml.gz")
    assert len(english) == 11_722


def test_reviewed_declarations(shared_data: Path) -> None:
    rows = list(rows_of(shared_data / "udhr", "udhr_xml", {"pairs": [["*", "eng"]]}))
    names = {row.query_lang: row.id.partition("-eng/")[0] for row in rows}
    assert (names["spa_Latn"], names["swa_Latn"], names["zho_Hans"]) == ("spa", "swh", "cmn_hans")
    assert len({row.groups for row in rows}) == 31

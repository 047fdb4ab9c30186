"""One tag per language: known codes, every locale of CLDR, every file name of the real data."""

from __future__ import annotations

import contextlib
import csv
import re
from pathlib import Path

import pytest
from babel import localedata
from babel.core import get_global

from f2llm.core import languages
from f2llm.core.errors import ConfigError
from f2llm.core.languages import PROGRAMMING, is_programming, known_languages, language

TAGS = {
    "en": "eng_Latn", "eng": "eng_Latn", "ENG": "eng_Latn", "ger": "deu_Latn", "cmn": "zho_Hans", "zh": "zho_Hans",
    "zh-TW": "zho_Hant", "zh_Hant": "zho_Hant", "zh_Hant_HK": "zho_Hant", "zho-CN": "zho_Hans", "pt-PT": "por_Latn",
    "aze-Latn": "aze_Latn", "azj_Latn": "aze_Latn", "srp-Cyrl": "srp_Cyrl", "sr_latn": "srp_Latn", "sh": "srp_Latn",
    "arb_Arab": "ara_Arab", "npi_Deva": "nep_Deva", "prs": "fas_Arab", "yue": "yue_Hant", "iw": "heb_Hebr",
    "tgl": "fil_Latn", "nob": "nob_Latn", "nor": "nor_Latn", "ca_ES_VALENCIA": "cat_Latn", "en-u-nu-latn": "eng_Latn",
    "be-tarask": "bel_Cyrl", "nqo_Nkoo": "nqo_Nkoo", "taq_Tfng": "taq_Tfng", "sux_Xsux": "sux_Xsux",
    "lua_Latn": "lua_Latn", "python": "python", "Python": "python", "C++": "cpp", "c#": "csharp", "lua": "lua",
}  # fmt: skip


@pytest.mark.parametrize(("code", "tag"), TAGS.items())
def test_known_codes(code: str, tag: str) -> None:
    assert language(code).tag == tag
    assert language(tag) == language(code), "a tag stands for itself"


@pytest.mark.parametrize("code", ["", "x", "xx", "english", "qqq", "und", "123", "e n"])
def test_what_is_no_language(code: str) -> None:
    with pytest.raises(ConfigError, match=f"no language {code!r}"):
        language(code)


def test_names() -> None:
    assert language("de").name == "German"
    assert language("sr_Latn").name == "Serbian (Latin)"
    assert language("cpp").name == "C++"
    assert (language("cpp").iso639_3, language("cpp").script) == ("", "")
    assert language("taq").name == "taq"


def test_every_locale_of_cldr_resolves_and_tags_are_canonical() -> None:
    tags = {language(locale).tag for locale in localedata.locale_identifiers()}
    assert len(tags) > 300
    assert all(re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", tag) for tag in tags)
    assert all(language(tag).tag == tag for tag in tags)


def test_every_ambiguous_code_is_settled() -> None:
    three: dict[str, list[str]] = {}
    for alias, code in get_global("language_aliases").items():
        if len(alias) == 3 and len(code) == 2:
            three.setdefault(code, []).append(alias)
    ambiguous = {code for code, aliases in three.items() if len(aliases) > 1}
    assert ambiguous == set(languages._TERMINOLOGY_CODES)
    assert all(chosen in three[code] for code, chosen in languages._TERMINOLOGY_CODES.items())


def test_programming_languages() -> None:
    assert all(is_programming(tag) and language(tag).tag == tag == tag.lower() for tag in PROGRAMMING)
    assert not is_programming("eng_Latn")
    assert len(PROGRAMMING) >= 40
    assert not set(PROGRAMMING) & set(localedata.locale_identifiers())


def test_known_languages_are_distinct_and_stand_for_themselves() -> None:
    tags = [known.tag for known in known_languages()]
    assert len(tags) == len(set(tags)) > 600
    assert all(language(known.tag) == known for known in known_languages())
    assert {"eng_Latn", "zho_Hant", "srp_Latn", "nqo_Nkoo", "ada_Latn", "ada"} <= set(tags)
    assert tags[-len(PROGRAMMING) :] == list(PROGRAMMING)
    assert tags[: -len(PROGRAMMING)] == sorted(tags[: -len(PROGRAMMING)])


def test_the_shortest_code() -> None:
    codes = {"eng_Latn": "en", "zho_Hant": "zh", "nor_Latn": "no", "yue_Hant": "yue", "fil": "fil", "python": "python"}
    assert {tag: language(tag).shortest_code for tag in codes} == codes
    short = [known for known in known_languages() if len(known.shortest_code) == 2]
    assert len(short) > 180
    assert all(language(known.shortest_code).iso639_3 == known.iso639_3 for known in short if known.script)


@pytest.mark.data
def test_real_codes(shared_data: Path) -> None:
    names = [path.name for path in (shared_data / "ntrex-128").glob("NTREX-*/*")]
    codes = [re.sub(r"newstest2019-(ref|src)(-2)?\.(.*?)\.txt.*", r"\3", name) for name in names]
    assert len({language(code).tag for code in codes}) == 122
    with open(shared_data / "linguameta" / "linguameta.tsv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    known = 0
    for row in rows:
        with contextlib.suppress(ConfigError):
            known += bool(language(row["iso_639_3_code"] or row["bcp_47_code"]))
    assert known > 7000

"""Families of languages: known facts, every language of CLDR and of the real data, agreement with LinguaMeta."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from f2llm.core.errors import ConfigError
from f2llm.core.families import ISOLATE, PROGRAMMING_LANGUAGE, UNKNOWN, families, family
from f2llm.core.languages import known_languages, language

KNOWN = {
    "eng_Latn": "Indo-European", "hin": "Indo-European", "fas_Arab": "Indo-European", "hat": "Indo-European",
    "swa": "Atlantic-Congo", "yor_Latn": "Atlantic-Congo", "wol": "Atlantic-Congo", "bam": "Mande", "nqo": "Mande",
    "hau": "Afro-Asiatic", "ara": "Afro-Asiatic", "heb": "Afro-Asiatic", "kab": "Afro-Asiatic", "luo": "Nilotic",
    "zho_Hant": "Sino-Tibetan", "mya": "Sino-Tibetan", "tha": "Tai-Kadai", "vie": "Austroasiatic",
    "khm": "Austroasiatic", "ind": "Austronesian", "mlg": "Austronesian", "mri": "Austronesian", "jpn": "Japonic",
    "kor": "Koreanic", "tur": "Turkic", "sah": "Turkic", "mon": "Mongolic-Khitan", "fin": "Uralic", "hun": "Uralic",
    "kat": "Kartvelian", "che": "Nakh-Daghestanian", "ady": "Abkhaz-Adyge", "tam": "Dravidian", "que": "Quechuan",
    "grn": "Tupian", "nav": "Athabaskan-Eyak-Tlingit", "kal": "Eskimo-Aleut", "chr": "Iroquoian", "eus": ISOLATE,
    "sux_Xsux": ISOLATE, "epo": "Constructed", "tlh_Latn": "Constructed", "python": PROGRAMMING_LANGUAGE,
    "lua": PROGRAMMING_LANGUAGE, "lua_Latn": "Atlantic-Congo", "qqq_Latn": UNKNOWN,
}  # fmt: skip

# What a description may call a family or a part of it, and the families of our scheme that it can mean.
WORDS = {
    "Indo.European|Germanic|Romance|Slavic|Indo.Aryan|Iranian|Celtic|Baltic": {"Indo-European"},
    "Afro.?Asiatic|Semitic|Berber|Cushitic|Chadic": {"Afro-Asiatic"},
    "Niger.Congo": {"Atlantic-Congo", "Mande", "Kru", "Ijoid", "Dogon", "Heibanic"},
    "Bantu|Gur|Kwa|Edoid|Senegambian": {"Atlantic-Congo"},
    "Nilo.Saharan": {"Nilotic", "Saharan", "Songhay", "Central Sudanic", "Furan", "Maban", "Koman", "Nubian"},
    "Nilotic": {"Nilotic"},
    "Mande": {"Mande"},
    "Austronesian|Malayo.Polynesian|Oceanic": {"Austronesian"},
    "Sino.Tibetan|Tibeto.Burman|Tibetic|Kuki.Chin": {"Sino-Tibetan"},
    "Turkic": {"Turkic"},
    "Mongolic": {"Mongolic-Khitan"},
    "Tungusic": {"Tungusic"},
    "Uralic|Finno.Ugric|Samoyedic|Finnic|Sámi": {"Uralic"},
    "Dravidian": {"Dravidian"},
    "Austro.?asiatic|Mon.Khmer|Munda": {"Austroasiatic"},
    "Kra.Dai|Tai.Kadai": {"Tai-Kadai"},
    "Hmong.Mien": {"Hmong-Mien"},
    "Kartvelian": {"Kartvelian"},
    "Northeast Caucasian": {"Nakh-Daghestanian"},
    "Northwest Caucasian": {"Abkhaz-Adyge"},
    "Mayan": {"Mayan"},
    "Quechuan?": {"Quechuan"},
    "Aymaran": {"Aymaran"},
    "Tupian?|Tupi.Guarani": {"Tupian"},
    "Arawakan": {"Arawakan"},
    "Carib(?:an)?": {"Cariban"},
    "Oto.?manguean|Mixtecan|Zapotecan": {"Otomanguean"},
    "Uto.Aztecan|Nahuatl": {"Uto-Aztecan"},
    "Algonquian|Algic": {"Algic"},
    "Athabas[ck]an|Athapaskan": {"Athabaskan-Eyak-Tlingit"},
    "Iroquoian": {"Iroquoian"},
    "Siouan": {"Siouan"},
    "Muskogean": {"Muskogean"},
    "Salish(?:an)?": {"Salishan"},
    "language isolate": {ISOLATE},
    "constructed|international auxiliary": {"Constructed"},
}
# Hiri Motu is a pidgin on Austronesian words; of Haida and Purépecha Glottolog counts several languages.
EXCEPTIONS = {"hmo", "hax", "tsz"}


@pytest.mark.parametrize(("tag", "name"), KNOWN.items())
def test_known_families(tag: str, name: str) -> None:
    assert family(tag) == name


def test_what_is_no_language_has_no_family() -> None:
    with pytest.raises(ConfigError, match="no language 'english'"):
        family("english")


def test_the_table_is_sorted_and_holds_codes_as_languages_have_them() -> None:
    codes = list(families())
    assert len(codes) > 1000
    assert codes == sorted(codes)
    assert all(re.fullmatch("[a-z]{3}", code) for code in codes)
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+([- ][A-Za-z]+)*", name) for name in families().values())
    assert not [code for code in codes if language(f"{code}_Latn").iso639_3 != code], "a code that no tag has is dead"


def test_every_language_of_cldr_has_a_family() -> None:
    assert not [known.tag for known in known_languages() if family(known.tag) == UNKNOWN]


@pytest.mark.data
def test_every_language_of_the_real_data_has_a_family(shared_data: Path) -> None:
    index = (shared_data / "udhr" / "index.xml").read_text(encoding="utf-8")
    tags = {f"{code}_{script}" for code, script in re.findall(r"iso639-3='(\w+)'\s+iso15924='(\w+)'", index)}
    tags |= {path.stem for path in (shared_data / "oldi-seed" / "seed").glob("*_*")}
    names = [path.name for path in (shared_data / "ntrex-128").glob("NTREX-*/*")]
    tags |= {re.sub(r"newstest2019-(ref|src)(-2)?\.(.*?)\.txt.*", r"\3", name) for name in names}
    found = {tag: family(tag) for tag in tags if not tag.startswith("und")}
    assert len(found) > 550
    assert not [tag for tag, name in found.items() if name == UNKNOWN]


def linguameta(shared_data: Path) -> list[dict[str, str]]:
    with open(shared_data / "linguameta" / "linguameta.tsv", encoding="utf-8") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


@pytest.mark.data
def test_families_agree_with_linguameta(shared_data: Path) -> None:
    """Wherever its descriptions name a family, ours is that one: 99% of 318; the rest is known."""
    compared, differ = 0, set()
    for row in linguameta(shared_data):
        described = [
            names for words, names in WORDS.items() if re.search(rf"\b({words})\b", row["wikidata_description"])
        ]
        found = families().get(row["iso_639_3_code"])
        if described and found:
            compared += 1
            differ |= set() if all(found in names for names in described) else {row["iso_639_3_code"]}
    assert compared > 300
    assert differ == EXCEPTIONS


@pytest.mark.data
def test_macrolanguages_have_the_family_of_their_members(shared_data: Path) -> None:
    rows = {row["bcp_47_code"]: row for row in linguameta(shared_data)}
    checked = 0
    for row in rows.values():
        members = re.findall(r"\w+", row["individual_language_bcp_47_code"])
        codes = [rows[member]["iso_639_3_code"] for member in members if member in rows]
        found = {families()[code] for code in codes if code in families()}
        if row["iso_639_3_code"] in families() and found:
            checked += 1
            assert found == {families()[row["iso_639_3_code"]]}, row["english_name"]
    assert checked > 15

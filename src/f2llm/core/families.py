"""Which family a language belongs to, by its ISO 639-3 code.

The scheme is Glottolog's (Hammarström, Forkel, Haspelmath and Bank; CC BY 4.0): the top-level families of release 5.
Of these codes release 4.0 has eight in a family of another extent or name. A family is what has been shown to be one:
"Atlantic-Congo" and "Mande" are two, "Nilotic" and "Saharan" too. A creole stands with the language that gave it its
words. Families of one language are "Language isolate"; "Constructed", "Pidgin" and "Sign language" are no families,
but what Glottolog has beside them.

families.tsv beside this module holds 1,033 codes as `language` gives them: the languages that CLDR names in English,
those of NTREX-128, OLDI Seed, UDHR, the Bible corpus, NusaX, SIB-200 and FLORES-200, and all with a million speakers.
A macrolanguage has the family that its members share. Three codes are not as in Glottolog: N'Ko (`nqo`) stands with
its spoken forms, not among constructed languages; `ahr` and `njd`, which it leaves open, stand with their neighbours.
Any other code is "unknown": nothing is guessed.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources

from f2llm.core.languages import is_programming, language

ISOLATE = "Language isolate"
PROGRAMMING_LANGUAGE = "Programming language"
UNKNOWN = "unknown"


def family(tag: str) -> str:
    """The family of a language by its tag or code, such as "Indo-European"; ConfigError where it is no language."""
    found = language(tag)
    return PROGRAMMING_LANGUAGE if is_programming(found.tag) else families().get(found.iso639_3, UNKNOWN)


@cache
def families() -> dict[str, str]:
    """ISO 639-3 code -> family, sorted by code."""
    text = (resources.files(__package__) / "families.tsv").read_text(encoding="utf-8")
    return {row["iso639_3"]: row["family"] for row in csv.DictReader(text.splitlines(), delimiter="\t")}

"""One tag per language: `eng_Latn`, `zho_Hant`; programming languages are plain lower-case names: `python`.

`language` accepts what data files use: ISO 639-1 (`en`), ISO 639-2/3 (`eng`, `ger`, `cmn`), BCP 47 (`pt-PT`),
locale ids (`zh_Hant_HK`), FLORES tags (`arb_Arab`). All data come from the CLDR tables inside babel: aliases fold an
individual language into the one that CLDR names (`arb` and `ara` are one language, `nob` and `nor` are two), the most
likely script fills a missing one, regions and variants are left out. Names are CLDR's English ones; the few languages
without a name show their code.

Where a programming language and an ISO 639 code coincide (`ada`, `css`, `lua`), the bare word is the programming
language; write the natural one with its script (`lua_Latn`).
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from babel import localedata
from babel.core import get_global

from f2llm.core.errors import ConfigError

PROGRAMMING = {
    "ada": "Ada", "assembly": "Assembly", "bash": "Bash", "c": "C", "clojure": "Clojure", "cobol": "COBOL",
    "cpp": "C++", "csharp": "C#", "css": "CSS", "d": "D", "dart": "Dart", "delphi": "Delphi", "elixir": "Elixir",
    "erlang": "Erlang", "fortran": "Fortran", "fsharp": "F#", "go": "Go", "groovy": "Groovy", "haskell": "Haskell",
    "html": "HTML", "java": "Java", "javascript": "JavaScript", "julia": "Julia", "kotlin": "Kotlin", "lisp": "Lisp",
    "lua": "Lua", "matlab": "MATLAB", "objectivec": "Objective-C", "ocaml": "OCaml", "pascal": "Pascal",
    "perl": "Perl", "php": "PHP", "powershell": "PowerShell", "prolog": "Prolog", "python": "Python", "r": "R",
    "racket": "Racket", "ruby": "Ruby", "rust": "Rust", "scala": "Scala", "scheme": "Scheme", "solidity": "Solidity",
    "sql": "SQL", "swift": "Swift", "typescript": "TypeScript", "verilog": "Verilog", "vhdl": "VHDL",
    "visualbasic": "Visual Basic", "zig": "Zig",
}  # fmt: skip
_PROGRAMMING_ALIASES = {"c++": "cpp", "c#": "csharp", "f#": "fsharp", "golang": "go", "objective-c": "objectivec"}

# CLDR maps several three-letter codes to these two-letter ones; this is the ISO 639-2/T code of each.
_TERMINOLOGY_CODES = {
    "ak": "aka", "ar": "ara", "ay": "aym", "az": "aze", "bo": "bod", "cr": "cre", "cs": "ces", "cy": "cym",
    "de": "deu", "dz": "dzo", "el": "ell", "et": "est", "eu": "eus", "fa": "fas", "ff": "ful", "fr": "fra",
    "gn": "grn", "gu": "guj", "hr": "hrv", "hy": "hye", "ik": "ipk", "is": "isl", "iu": "iku", "ka": "kat",
    "kg": "kon", "kr": "kau", "ku": "kur", "kv": "kom", "lv": "lav", "mg": "mlg", "mi": "mri", "mk": "mkd",
    "mn": "mon", "ms": "msa", "my": "mya", "ne": "nep", "nl": "nld", "oj": "oji", "om": "orm", "or": "ori",
    "ps": "pus", "qu": "que", "ro": "ron", "sa": "san", "sc": "srd", "sk": "slk", "sq": "sqi", "sr": "srp",
    "sw": "swa", "uz": "uzb", "yi": "yid", "za": "zha", "zh": "zho",
}  # fmt: skip
_SUBTAGS = re.compile(r"(?P<code>[a-z]{2,3})(_(?P<script>[A-Za-z]{4}))?(_(?P<region>[A-Za-z]{2}|[0-9]{3}))?(_.*)?")


@dataclass(frozen=True, slots=True)
class Language:
    """A language in one script; `iso639_3` and `script` (ISO 15924) are empty for a programming language."""

    tag: str
    iso639_3: str
    script: str
    name: str

    @property
    def shortest_code(self) -> str:
        """The ISO 639-1 code, or the three letters where there is none; the tag of a programming language."""
        return _two_letters().get(self.iso639_3, self.iso639_3) or self.tag


def is_programming(tag: str) -> bool:
    """True for the tag of a programming language, such as `python`."""
    return tag in PROGRAMMING


@cache
def language(tag_or_code: str) -> Language:
    """The language that a tag, an ISO 639 code, a BCP 47 tag or a locale id stands for; ConfigError if none.

    A code that CLDR does not know is accepted with its script (`sux_Xsux`), because nothing has to be guessed then.
    """
    text = tag_or_code.strip()
    programming = _PROGRAMMING_ALIASES.get(text.lower(), text.lower())
    if programming in PROGRAMMING:
        return Language(programming, "", "", PROGRAMMING[programming])
    match = _SUBTAGS.fullmatch(_lower_code(text.replace("-", "_")))
    found = match and _resolve(match["code"], match["script"], match["region"])
    if not found:
        example = "write an ISO 639 code, a BCP 47 tag or a programming language: 'eng_Latn', 'pt-PT', 'python'"
        raise ConfigError(f"there is no language {tag_or_code!r}; {example}")
    code, script = found
    iso = _three_letters().get(code, code)
    return Language(f"{iso}_{script}", iso, script, _name(code, script))


@cache
def known_languages() -> tuple[Language, ...]:
    """Every language that CLDR names in English or has a locale for, in the scripts of its locales, by tag.

    The programming languages come last. Names that stand for several languages, or for none, are left out.
    """
    found = set()
    for code in [*_english()["languages"], *localedata.locale_identifiers()]:
        with suppress(ConfigError):
            found.add(language(f"{code}_{_likely_script(code, None)}" if code in PROGRAMMING else code))
    return (*sorted(found, key=lambda entry: entry.tag), *map(language, PROGRAMMING))


def _lower_code(text: str) -> str:
    code, separator, rest = text.partition("_")
    return code.lower() + separator + rest


def _resolve(code: str, script: str | None, region: str | None) -> tuple[str, str] | None:
    """CLDR's code (two letters where there are two) and the script of a language; None for an unknown one."""
    alias = get_global("language_aliases").get(code, code)
    code, *rest = str(alias).split("_")
    for part in rest:  # an alias may bring its own script or region: sh -> sr_Latn, prs -> fa_AF
        script, region = (script or part, region) if len(part) == 4 else (script, region or part)
    likely = _likely_script(code, region.upper() if region else None)
    chosen = script.title() if script else likely
    return (code, chosen) if chosen and code != "und" else None


def _likely_script(code: str, region: str | None) -> str | None:
    table = get_global("likely_subtags")
    likely = (region and table.get(f"{code}_{region}")) or table.get(code)
    return str(likely).split("_")[1] if likely else None


@cache
def _three_letters() -> dict[str, str]:
    """ISO 639-1 -> the three-letter code (639-2/T)."""
    aliases = get_global("language_aliases").items()
    return {two: three for three, two in aliases if len(three) == 3 and len(two) == 2} | _TERMINOLOGY_CODES


@cache
def _two_letters() -> dict[str, str]:
    return {three: two for two, three in _three_letters().items()}


@cache
def _english() -> dict[str, Any]:
    data = localedata.load("en", merge_inherited=False)
    return {"languages": data["languages"], "scripts": data["scripts"]}


def _name(code: str, script: str) -> str:
    """`Serbian (Latin)`: the script is told where it is not the usual one."""
    languages, scripts = _english()["languages"], _english()["scripts"]
    name = str(languages.get(code, _three_letters().get(code, code)))
    return name if script == _likely_script(code, None) else f"{name} ({scripts.get(script, script)})"

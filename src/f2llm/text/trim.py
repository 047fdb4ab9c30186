"""A smaller vocabulary that cuts the texts it was made for into the same pieces as the whole one.

In a small multilingual model most parameters are the token table, and one user's languages need few of its rows. Which
tokens stay is told in one of two ways, or both: `covering` takes the most frequent ones of a corpus,
`tokens_of_scripts` every token that can occur in a text of some scripts, so that no text in them changes, seen or not.
`trim_tokenizer` then builds the tokenizer. All 256 bytes stay, so any other text can still be written, only in more
pieces.

Why kept texts keep their pieces: BPE applies, again and again, the first merge of its list that fits somewhere. With a
token stay the two parts of every merge that makes it, and their parts, and so on, and the remaining merges keep their
order. Suppose all final pieces of a text are kept. Each merge that the whole list applied built a part of a final
piece, so it is still there; none was added; hence the first one that fits is the same at every step. A tokenizer that
looks whole words up before it merges (`ignore_merges`) finds the same words, for each of them is a final piece.

Cost: counting runs at the speed of the tokenizer; choosing by script half a second, building a second for Qwen3's
vocabulary. Limits: byte-level BPE only. Scripts are those of the Unicode version that `tokenizers` was built with;
characters newer than that, or for private use, belong to no script, and texts with them may get more pieces.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from babel.core import get_global
from numpy.typing import NDArray
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from f2llm.core.errors import ConfigError, ModelError
from f2llm.core.languages import language
from f2llm.text.tokenizer import BYTES, Tokenizer

# ISO 15924 has codes for mixtures and styles of what are scripts of their own, or one script, in Unicode.
_UNICODE_SCRIPTS = {
    "Aran": ("Arab",), "Cyrs": ("Cyrl",), "Geok": ("Geor",), "Hanb": ("Hani", "Bopo"), "Hans": ("Hani",),
    "Hant": ("Hani", "Bopo"), "Hrkt": ("Hira", "Kana"), "Jamo": ("Hang",), "Jpan": ("Hani", "Hira", "Kana"),
    "Kore": ("Hang", "Hani"), "Latf": ("Latn",), "Latg": ("Latn",), "Syre": ("Syrc",), "Syrj": ("Syrc",),
    "Syrn": ("Syrc",),
}  # fmt: skip
_SHARED_SCRIPTS = ("Zyyy", "Zinh")  # Common: digits, punctuation, symbols; Inherited: combining marks
_CHARACTERS_AT_ONCE = 1 << 20
_CONTINUATION = bytes(range(0x80, 0xC0))
_AFTER_FIRST_WORD = re.compile(r"(?<=\S)\s.*", re.DOTALL)


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """How often each id occurs in some texts (`by_id` [V]), and how many characters (code points) they have."""

    by_id: NDArray[np.int64]
    characters: int

    @property
    def tokens(self) -> int:
        return int(self.by_id.sum())

    @property
    def per_character(self) -> float:
        """Tokens per character; 0.0 where there is no text."""
        return self.tokens / self.characters if self.characters else 0.0


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> TokenCounts:
    """Count the tokens of `texts`, not truncated, EOS left out; streamed, about a megabyte at a time."""
    unlimited = tokenizer.limited_to(sys.maxsize)
    counts, characters = np.zeros(tokenizer.vocab_size, dtype=np.int64), 0
    for part in _parts(texts):
        ids = np.fromiter(chain.from_iterable(unlimited.encode(part)), dtype=np.int64)
        counts += np.bincount(ids, minlength=len(counts))
        characters += sum(map(len, part))
    counts[tokenizer.eos_id] = 0
    return TokenCounts(counts, characters)


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    characters = 0
    for text in texts:
        part.append(text)
        characters += len(text) + 1
        if characters >= _CHARACTERS_AT_ONCE:
            yield part
            part, characters = [], 0
    if part:
        yield part


def after_space(texts: Iterable[str]) -> Iterator[str]:
    """The first word of each text with a space before it, as it stands after a query's prompt: it has other pieces."""
    for text in texts:
        yield " " + _AFTER_FIRST_WORD.sub("", text)


def covering(counts: NDArray[np.int64], coverage: float) -> set[int]:
    """The fewest ids, most frequent first, that make up `coverage` (0 < c <= 1) of all that was counted."""
    check_coverage(coverage)
    order = np.argsort(-counts, kind="stable")
    sums = np.cumsum(counts[order])
    needed = math.ceil(coverage * int(sums[-1]))
    return set(order[: int(np.searchsorted(sums, needed)) + 1].tolist()) if needed else set()


def check_coverage(coverage: float) -> None:
    """ConfigError where `coverage` is no share that can be kept."""
    if not 0 < coverage <= 1:
        raise ConfigError(f"coverage is {coverage}; give a share of the corpus's tokens above 0 and at most 1")


def scripts_of(languages: Iterable[str]) -> set[str]:
    """ISO 15924 codes of the scripts that `languages` are written in; ConfigError for an unknown language.

    A tag with a script or a region (`srp_Latn`, `zh-TW`) means that one script, a bare code (`srp`) all scripts that
    CLDR finds usual for the language in some country. Programming languages are written in Latin script.
    """
    scripts = set()
    for tag in languages:
        found = language(tag)
        scripts.add(found.script or "Latn")
        if not re.search("[-_]", tag):
            scripts |= _usual_scripts().get(found.iso639_3, set())
    return scripts


@cache
def _usual_scripts() -> dict[str, set[str]]:
    """Three-letter code -> the likely scripts of the language, in general and in countries of its own mention."""
    found = defaultdict(set)
    for subtags in get_global("likely_subtags"):
        code, _, region = subtags.partition("_")
        if code != "und" and len(region) in (0, 2, 3):  # a longer one says a script, which then is not the likely one
            known = language(subtags)
            if known.script:  # a few codes are taken by programming languages
                found[known.iso639_3].add(known.script)
    return dict(found)


def tokens_of_scripts(tokenizer: Tokenizer, scripts: Iterable[str]) -> set[int]:
    """Ids of all tokens that can occur in a text whose characters belong to `scripts` (ISO 15924) or to all scripts.

    Also of those that are no whole characters: a token can occur if its bytes stand somewhere in the UTF-8 form of
    such a text. ConfigError for an unknown script.
    """
    occurrence = _Occurrence(_characters(scripts))
    byte_of = _byte_of()
    vocab = json.loads(tokenizer._backend.to_str())["model"]["vocab"]
    return {
        identifier
        for piece, identifier in vocab.items()
        if byte_of.keys() >= set(piece) and occurrence.possible(bytes(byte_of[letter] for letter in piece))
    }


def _characters(scripts: Iterable[str]) -> set[str]:
    """All characters of the scripts and those common to all scripts."""
    names = {name for script in scripts for name in _UNICODE_SCRIPTS.get(script, (script,))}
    for name in sorted(names):
        try:
            Regex(rf"\p{{{name}}}")
        except Exception:  # the Rust library raises bare Exception
            raise ConfigError(f"there is no script {name!r}; write an ISO 15924 code: 'Latn', 'Cyrl', 'Jpan'") from None
    others = Regex("[^" + "".join(rf"\p{{{name}}}" for name in (*names, *_SHARED_SCRIPTS)) + "]")
    every = "".join(map(chr, chain(range(0xD800), range(0xE000, sys.maxunicode + 1))))
    return set(normalizers.Replace(others, "").normalize_str(every))


class _Occurrence:
    """Whether some bytes stand anywhere in the UTF-8 form of any sequence of given characters.

    Such bytes are the end of a character, whole characters and the beginning of one, each part perhaps empty, or they
    lie within one character.
    """

    def __init__(self, characters: set[str]) -> None:
        self.characters = characters
        self.beginnings, self.ends, self.middles = {b""}, {b""}, set[bytes]()
        for code in (character.encode() for character in characters):
            cuts = range(1, len(code))
            self.beginnings.update(code[:cut] for cut in cuts)
            self.ends.update(code[cut:] for cut in cuts)
            self.middles.update(code[start:end] for start in cuts for end in range(start + 1, len(code) + 1))

    def possible(self, piece: bytes) -> bool:
        rest = piece.lstrip(_CONTINUATION)
        if not rest:
            return piece in self.middles
        try:
            whole, used = codecs.utf_8_decode(rest)  # stops before an incomplete character
        except UnicodeDecodeError:
            return False
        end, beginning = piece[: len(piece) - len(rest)], rest[used:]
        return end in self.ends and beginning in self.beginnings and self.characters.issuperset(whole)


@cache
def _byte_of() -> Mapping[str, int]:
    """Letter of the byte-level alphabet -> byte: printable bytes stand for themselves, the others for 256 and up."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = [letter for letter in letters if ord(letter) < BYTES]
    others = sorted(set(range(BYTES)) - set(map(ord, plain)))
    return dict(zip(letters, [*map(ord, plain), *others], strict=True))


def trim_tokenizer(tokenizer: Tokenizer, wanted: Collection[int]) -> tuple[Tokenizer, NDArray[np.int64]]:
    """The tokenizer of the `wanted` ids, and the old id of each new id [V].

    Beside them stay the bytes, all that the wanted tokens are merged from, and the added tokens: some are read from
    texts, and other programs look for the special ones. Kept ids close up and keep their order. ModelError where the
    tokenizer is no byte-level BPE.
    """
    content = json.loads(tokenizer._backend.to_str())
    model = content["model"]
    _check_byte_level(model)
    vocab, wanted = model["vocab"], set(wanted)
    added = {token["content"]: token for token in sorted(content["added_tokens"], key=lambda token: token["id"])}
    chosen = {piece for piece, old in vocab.items() if old in wanted or piece in added}
    kept = _with_parts({*_byte_of(), *chosen}, model["merges"])
    pieces = [*sorted(kept, key=vocab.__getitem__), *(piece for piece in added if piece not in vocab)]
    new_ids = {piece: new for new, piece in enumerate(pieces)}
    old_ids = [vocab[piece] if piece in vocab else added[piece]["id"] for piece in pieces]
    model["vocab"] = {piece: new for piece, new in new_ids.items() if piece in kept}
    model["merges"] = [[a, b] for a, b in model["merges"] if kept.issuperset((a, b, a + b))]
    tokens = ({**token, "id": new_ids[piece]} for piece, token in added.items())
    content["added_tokens"] = sorted(tokens, key=lambda token: token["id"])
    content["post_processor"] = None  # holds old ids; `Tokenizer` sets its own
    trimmed = Tokenizer(RustTokenizer.from_str(json.dumps(content)), tokenizer.max_seq_length)
    return trimmed, np.asarray(old_ids, dtype=np.int64)


def _with_parts(pieces: set[str], merges: Iterable[tuple[str, str]]) -> set[str]:
    """`pieces` and everything that they are merged from, by whichever merge."""
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for a, b in merges:
        parts[a + b] += [a, b]
    kept, open_ends = set(pieces), list(pieces)
    while open_ends:
        new = [part for part in parts[open_ends.pop()] if part not in kept]
        kept.update(new)
        open_ends += new
    return kept


def _check_byte_level(model: Mapping[str, Any]) -> None:
    marks = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    if model["type"] != "BPE" or marks or not model["vocab"].keys() >= _byte_of().keys():
        raise ModelError(
            f"the tokenizer is no byte-level BPE (model type {model['type']}); "
            "only a Qwen3 tokenizer, or one that f2llm trained, can be trimmed"
        )

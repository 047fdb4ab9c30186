"""Qwen3's vocabulary through tiktoken, the library that it comes from: the same ids in a fifth of the time.

A `tokenizer.json` holds the vocabulary as merges of pairs, tiktoken as ranks of byte strings. Both mean the same only
where every token arises from one pair, which holds for a vocabulary that came from ranks; so this is for Qwen3's alone,
known by a digest, and every other one stays with `tokenizers`. Tests hold the ids equal: on real texts in 170
languages, on every character of Unicode, on random ones. Cost: 0.3 s to read the ranks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tiktoken
from tokenizers.pre_tokenizers import ByteLevel

from f2llm.core.machine import cores

QWEN3_MERGES = "127734de1d0fdf97294dbcc6423d4583ac3a983816abb12aa35ddfff1c9c7db3"
"""SHA-256 of Qwen3's merges and pattern, as `_digest` gives it."""
QWEN3_TOKENS = 151_643
_CHUNK = 256


class QuickBpe:
    """Ids of texts; several threads share a long list. `added`: tokens besides the vocabulary that texts may spell."""

    def __init__(self, ranks: Mapping[bytes, int], pattern: str, added: Sequence[str] = ()) -> None:
        # Without any special token the library looks for an empty one at every character.
        special = {"<|endoftext|>": len(ranks)}
        encoding = tiktoken.Encoding("qwen3", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=special)
        self._ids: Callable[[str, set[str]], Any] = encoding._core_bpe.encode_to_tiktoken_buffer
        self._added = re.compile("|".join(map(re.escape, added)) or "(?!)")
        self._threads: ThreadPoolExecutor | None = None

    def encode(self, texts: Sequence[str]) -> list[bytes | None]:
        """The ids of each text as uint32 of this machine; None for a text that is left to `tokenizers`.

        Those spell an added token, are no valid Unicode or no string, or are too much for the library. Bytes, because
        lists of numbers would cost as much again, and only one thread at a time can make them.
        """
        chunks = [texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK)]
        if len(chunks) < 2:
            return self._encode(texts)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_threads())
        return [ids for part in self._threads.map(self._encode, chunks) for ids in part]

    def _encode(self, texts: Sequence[str]) -> list[bytes | None]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> bytes | None:
        try:
            if self._added.search(text):
                return None
            return bytes(memoryview(self._ids(unicodedata.normalize("NFC", text), set())))
        except (UnicodeEncodeError, TypeError):
            return None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's, which is no Exception
                raise
            return None


def quick_bpe(backend: Any) -> QuickBpe | None:
    """The encoder in the place of a `tokenizers.Tokenizer`; None unless that has Qwen3's vocabulary and rules."""
    if backend.get_vocab_size(with_added_tokens=False) != QWEN3_TOKENS:
        return None
    rules = json.loads(backend.to_str())
    pattern = _pattern(rules)
    if pattern is None or _digest(rules["model"], pattern) != QWEN3_MERGES:
        return None
    added = [token["content"] for token in rules["added_tokens"] if not token["special"]]
    return QuickBpe(_ranks(rules["model"]["vocab"]), pattern, added)


def _pattern(rules: Mapping[str, Any]) -> str | None:
    """The regular expression that cuts words, where the rules are NFC and this expression alone."""
    steps = (rules.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    plain = (rules.get("normalizer") or {}).get("type") == "NFC" and rules["model"].get("type") == "BPE"
    split = steps[0].get("type") == "Split" and steps[0].get("behavior") == "Isolated"
    found = (steps[0].get("pattern") or {}).get("Regex")
    return str(found) if plain and split and found and len(steps) == 2 else None


def _digest(model: Mapping[str, Any], pattern: str) -> str:
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return hashlib.sha256(json.dumps([pattern, merges]).encode()).hexdigest()


def _ranks(vocabulary: Mapping[str, int]) -> dict[bytes, int]:
    """Each token's bytes and id; `tokenizer.json` writes a byte as a visible character."""
    visible = sorted(ByteLevel.alphabet(), key=ord)
    printable = [char for char in visible if ord(char) < 256]
    moved = [byte for byte in range(256) if chr(byte) not in set(printable)]
    byte_of = {char: ord(char) for char in printable} | dict(zip(visible[len(printable) :], moved, strict=True))
    return {bytes(byte_of[char] for char in token): rank for token, rank in vocabulary.items()}


def _threads() -> int:
    return min(cores(), int(os.environ.get("RAYON_NUM_THREADS") or cores()))

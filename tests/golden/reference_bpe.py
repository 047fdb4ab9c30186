"""Byte-pair encoding written down as plainly as possible, to check the fast tokenizer against something independent.

It follows tiktoken's rule, not the `tokenizers` package's: no merge list; of all neighbouring pairs, join the one whose
joined bytes have the lowest rank. The ranks are the ids of the vocabulary. Quadratic in the length of a word.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import regex

from f2llm.text.tokenizer import QWEN3_SPLIT


def byte_letters() -> dict[str, int]:
    """The printable stand-in of each byte in a byte-level vocabulary, as GPT-2 defined it."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + order): byte for order, byte in enumerate(hidden)}


def read_ranks(tokenizer_json: Path) -> dict[bytes, int]:
    """Bytes of each ordinary token -> its rank."""
    letters = byte_letters()
    vocabulary = json.loads(tokenizer_json.read_text(encoding="utf-8"))["model"]["vocab"]
    return {bytes(letters[letter] for letter in token): rank for token, rank in vocabulary.items()}


def encode(text: str, ranks: dict[bytes, int]) -> list[int]:
    """Token ids of `text`, no special tokens."""
    words = regex.findall(QWEN3_SPLIT, unicodedata.normalize("NFC", text))
    return [identifier for word in words for identifier in encode_word(word.encode(), ranks)]


def encode_word(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Token ids of one word's bytes."""
    parts = [word[index : index + 1] for index in range(len(word))]
    while True:
        joined = [(ranks.get(parts[i] + parts[i + 1], len(ranks)), i) for i in range(len(parts) - 1)]
        rank, i = min(joined, default=(len(ranks), 0))
        if rank == len(ranks):
            return [ranks[part] for part in parts]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]

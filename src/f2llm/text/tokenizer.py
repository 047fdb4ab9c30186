"""Text to token ids: byte-level BPE in the manner of Qwen3, and the one place that adds the end-of-sequence token.

Contract: every sequence ends in exactly one `<|im_end|>`, also after truncation and for the empty text, because the
embedding is read at that token. Padding exists only for programs that need it; nothing in this package pads.
Special tokens that stand literally in a text are read as plain text, so no input can end its own sequence early.

Cost: about a million tokens per second and core, in Rust, parallel over the texts of one call, and four times as many
with Qwen3's own vocabulary (`quick_bpe`); loading that takes half a second. Limits: a text is tokenised whole before it
is cut, so cut novels beforehand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RustTokenizer

from f2llm.core.errors import ConfigError, ModelError
from f2llm.core.files import write_json, write_text
from f2llm.text.quick_bpe import QuickBpe, quick_bpe

EOS_TOKEN = "<|im_end|>"
PAD_TOKEN = "<|endoftext|>"
BYTES = 256
_ID = 4  # bytes
_WORTH_QUICK = 1000
"""Texts of a call from which on it pays to look for the quick way, which takes 0.7 s to set up."""

# Qwen3's pre-tokenisation: digits stand alone, letters never join punctuation except one leading sign.
QWEN3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """A byte-level BPE vocabulary with its length limit; see the module's contract.

    `max_seq_length` counts tokens, EOS included. `vocab_size` counts ids, special ones included; an embedding table
    needs at least that many rows.
    """

    eos_id: int
    pad_id: int
    vocab_size: int
    max_seq_length: int

    def __init__(self, backend: Any, max_seq_length: int) -> None:
        if max_seq_length < 2:
            raise ConfigError(f"max_seq_length is {max_seq_length}; it counts EOS too, so give 2 or more")
        self.max_seq_length = max_seq_length
        self.eos_id, self.pad_id = _special_id(backend, EOS_TOKEN), _special_id(backend, PAD_TOKEN)
        self.vocab_size = backend.get_vocab_size()
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        backend.post_processor = _eos_post_processor(self.eos_id)
        self._backend = backend
        self._quick: QuickBpe | None = None
        self._asked_for_quick = False

    @classmethod
    def load(cls, path: Path | str, max_seq_length: int) -> Tokenizer:
        """Read a `tokenizer.json`, or the one in the directory `path`."""
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise ModelError(f"{file} does not exist; give a tokenizer.json or a directory that holds one")
        try:
            backend = RustTokenizer.from_file(str(file))
        except Exception as error:  # the Rust library raises bare Exception
            raise ModelError(f"{file} is not a tokenizer.json that can be read: {error}") from None
        return cls(backend, max_seq_length)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, max_seq_length: int) -> Tokenizer:
        """Learn merges from `texts`, streamed once; the same texts give the same vocabulary.

        All 256 bytes are in it, so any text can be written. The result may be smaller than `vocab_size` where the texts
        hold too few distinct pairs.
        """
        room = vocab_size - 2
        if room < BYTES:
            raise ConfigError(f"vocab_size is {vocab_size}; 256 bytes and 2 special tokens need at least {BYTES + 2}")
        backend = _untrained()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=room, initial_alphabet=alphabet, show_progress=False)
        backend.train_from_iterator((mend(text) for text in texts), trainer)
        # Added after training, as in Qwen3: special ids follow the learnt ones.
        special = [AddedToken(token, special=True, normalized=False) for token in (PAD_TOKEN, EOS_TOKEN)]
        backend.add_special_tokens(special)
        return cls(backend, max_seq_length)

    def limited_to(self, max_seq_length: int) -> Tokenizer:
        """The same vocabulary with another length limit."""
        other = Tokenizer(self._backend, max_seq_length)
        other._quick, other._asked_for_quick = self._quick, self._asked_for_quick
        return other

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, 1 to `max_seq_length` of them, the last one EOS."""
        return self.encode_counted(texts)[0]

    def encode_counted(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """`encode`, and how many of the texts had to be truncated."""
        room = self.max_seq_length - 1
        bodies = self._bodies(texts)
        truncated = sum(len(body) > room for body in bodies)
        return [[*body[:room], self.eos_id] for body in bodies], truncated

    def encode_arrays(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.bool_]]:
        """`encode` as arrays: ids of all texts one after the other, [T]; their lengths and which were truncated, [N].

        Memory: the library's encodings of all texts, several times the ids, while the call lasts.
        """
        quick, room = self._quickly(texts), self.max_seq_length - 1
        bodies = [np.array(e.ids, np.uint32).tobytes() for e in self._encode_batch(texts)] if quick is None else quick
        whole = np.fromiter(map(len, bodies), dtype=np.int64, count=len(bodies)) // _ID
        for index in np.flatnonzero(whole > room):
            bodies[index] = bodies[index][: _ID * room]
        eos = np.uint32(self.eos_id).tobytes()
        joined = bytearray(eos.join([*bodies, b""]))
        return np.frombuffer(joined, np.uint32), np.minimum(whole, room) + 1, whole > room

    def _bodies(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of whole texts, without EOS."""
        quick = self._quickly(texts)
        if quick is None:
            return [encoding.ids for encoding in self._encode_batch(texts)]
        return [np.frombuffer(ids, np.uint32).tolist() for ids in quick]

    def _quickly(self, texts: Sequence[str]) -> list[bytes] | None:
        """Ids of whole texts as bytes (`quick_bpe`); None where there is no quick way."""
        if not self._asked_for_quick and len(texts) >= _WORTH_QUICK:
            self._quick, self._asked_for_quick = quick_bpe(self._backend), True
        if self._quick is None:
            return None
        found = self._quick.encode(texts)
        left = [place for place, ids in enumerate(found) if ids is None]
        if left:
            _check_texts(texts)
        others = iter(self._encode_batch([texts[place] for place in left]))
        return [np.array(next(others).ids, np.uint32).tobytes() if ids is None else ids for ids in found]

    def _encode_batch(self, texts: Sequence[str]) -> list[Any]:
        try:
            return list(self._backend.encode_batch_fast(list(texts), add_special_tokens=False))
        except TypeError:  # also what the Rust library says of a lone surrogate
            _check_texts(texts)
            return list(self._backend.encode_batch_fast([mend(text) for text in texts], add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without the special tokens; bytes that are no UTF-8 become U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def save(self, directory: Path | str) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json into `directory`.

        The post-processor in tokenizer.json appends EOS, and makes room for it when the reader truncates, so the
        `tokenizers` and `transformers` packages give the same ids as `encode`.
        """
        directory = Path(directory)
        special = {"eos_token": EOS_TOKEN, "pad_token": PAD_TOKEN}
        write_text(directory / "tokenizer.json", self._backend.to_str(pretty=True))
        write_json(directory / "special_tokens_map.json", special)
        write_json(directory / "tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", **special, "model_max_length": self.max_seq_length,
            "padding_side": "right", "split_special_tokens": True, "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
        })  # fmt: skip

    def rules(self) -> dict[str, Any]:
        """What tokenizer.json holds."""
        rules: dict[str, Any] = json.loads(self._backend.to_str())
        return rules

    def vocabulary_digest(self) -> str:
        """SHA-256 of what decides the ids of a text that is not cut: two tokenizers with the same one agree."""
        rules = self.rules()
        kept = {name: rules[name] for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def digest(self) -> str:
        """SHA-256 of all that decides the ids: vocabulary, rules and length limit."""
        return hashlib.sha256(f"{self.max_seq_length}\n{self._backend.to_str()}".encode()).hexdigest()


def _check_texts(texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] is {type(text).__name__}, expected str")


def mend(text: str) -> str:
    """`text` as valid Unicode: surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _special_id(backend: Any, token: str) -> int:
    identifier = backend.token_to_id(token)
    if identifier is None:
        raise ModelError(f"the tokenizer has no token {token!r}; use a Qwen3 tokenizer.json or one that f2llm trained")
    return int(identifier)


def _eos_post_processor(eos_id: int) -> Any:
    template = processors.TemplateProcessing(
        single=f"$A {EOS_TOKEN}", pair=f"$A $B {EOS_TOKEN}", special_tokens=[(EOS_TOKEN, eos_id)]
    )
    byte_level = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    return processors.Sequence([byte_level, template])


def _untrained() -> Any:
    backend = RustTokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    backend.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(QWEN3_SPLIT), behavior="isolated", invert=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend

"""What the applications know of a model: texts go in, unit vectors come out, and a fingerprint says of which model.

The applications never load a model: `pipeline/encoders.py` makes a `TextEncoder` of a directory of this package or of
any of sentence-transformers; a test makes one of a function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from f2llm.core.errors import DataError, ModelError
from f2llm.core.log import Bar, hushed, warn
from f2llm.model.vectors import Vectors, normalize

if TYPE_CHECKING:
    from f2llm.model.embedder import EncodeStats

AT_ONCE = 2048  # texts between two steps of the progress bar: enough to sort them by length


@dataclass(frozen=True)
class TextEncoder:
    """Texts to vectors [N, dims] of unit length in float32.

    `fingerprint` changes with whatever changes a vector: the model's files, the prompt, the dimensions. `model` is the
    directory or hub id for people; `as_query`, `instruction`, `task` and `dim` are what made the encoder besides.
    `encode_document`: how the same model encodes documents, where `encode` is for queries. `stats`: tokens and texts
    that were cut in the last call, where the model counts them.
    """

    encode: Callable[[list[str]], Vectors]
    model: str
    fingerprint: str
    dims: int
    as_query: bool = False
    instruction: str | None = None
    task: str | None = None
    dim: int | None = None
    encode_document: Callable[[list[str]], Vectors] | None = None
    stats: Callable[[], EncodeStats] | None = None

    def cut(self) -> int:
        """How many texts of the last call were longer than the model reads; 0 where it does not count them."""
        return self.stats().truncated if self.stats else 0

    def for_documents(self) -> TextEncoder:
        """The encoder of what queries are compared with, such as the names of labels."""
        return replace(self, encode=self.encode_document or self.encode)


def encode_texts(encoder: TextEncoder, texts: Sequence[str], at_once: int = AT_ONCE) -> Vectors:
    """Unit vectors [N, dims] of texts, each distinct one encoded once, `at_once` in a call; with a progress bar.

    DataError for an empty list; ModelError where the model gives numbers that are not finite.
    """
    if not texts:
        raise DataError("there is no text to encode; give a file that has some")
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    distinct = list(place)
    found_ND, cut = np.empty((len(distinct), encoder.dims), np.float32), 0
    with Bar("encoding", len(distinct)) as bar:
        for start in range(0, len(distinct), at_once):
            part = distinct[start : start + at_once]
            with hushed():  # one warning at the end stands for those of all calls
                found_ND[start : start + len(part)] = checked(encoder, part)
            cut += encoder.cut()
            bar.advance(len(part))
    warn_of_cuts(cut, len(distinct))
    return found_ND if len(distinct) == len(texts) else found_ND[[place[text] for text in texts]]


def warn_of_cuts(cut: int, texts: int) -> None:
    """Say that some of so many texts were cut, if any were."""
    if cut:
        warn(f"{cut:,} of {texts:,} texts are longer than the model reads and were cut")


def checked(encoder: TextEncoder, texts: list[str]) -> Vectors:
    """Unit vectors of texts; ModelError where a number is not finite or the shape is another."""
    V_ND = normalize(encoder.encode(texts))
    if V_ND.shape != (len(texts), encoder.dims):
        raise ModelError(f"{encoder.model} gave vectors {list(V_ND.shape)} for {len(texts)} texts; check the model")
    if not np.isfinite(V_ND).all():
        row = int(np.flatnonzero(~np.isfinite(V_ND).all(axis=1))[0])
        raise ModelError(f"{encoder.model} gave a vector with NaN for {texts[row][:60]!r}; run: f2llm doctor MODEL")
    return V_ND

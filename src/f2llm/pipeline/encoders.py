"""Which encoder mines: a name or a model, as a factory that worker processes call once each.

A Qwen3 directory, such as every export of this package, runs in `model.embedder`; any other directory of
sentence-transformers runs in that package (extra `mine`), code of the directory's own is never run. Both take the GPU
where the process sees one. A hub id is downloaded when the first text is encoded, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from f2llm.core.errors import ModelError
from f2llm.core.extras import optional
from f2llm.data.mine import Encode, Encoder
from f2llm.data.ngrams import make_ngram_encoder
from f2llm.eval.mteb_model import device, is_qwen3
from f2llm.model import checkpoint
from f2llm.model.embedder import Embedder

NGRAMS = "ngrams"


def encoder_factory(spec: str) -> Callable[[], Encoder]:
    """A picklable factory for "ngrams", the directory or the hub id of a model.

    ModelError where a directory is neither a Qwen3 model nor one of sentence-transformers.
    """
    if spec == NGRAMS:
        return make_ngram_encoder
    directory = Path(spec).expanduser()
    if directory.is_dir():
        is_qwen3(directory)
        return partial(load_encoder, str(directory.resolve()))
    return partial(load_encoder, spec)


def load_encoder(spec: str) -> Encoder:
    """The encoder of a model, read now."""
    directory = checkpoint.resolve(spec)
    if is_qwen3(directory):
        model = Embedder.load(directory, device=device())
        return Encoder(model.encode_document, model.encode_query)
    return _sentence_transformer(str(directory) if Path(spec).is_dir() else spec)


def _sentence_transformer(spec: str) -> Encoder:
    package = optional("sentence_transformers", "mine")
    try:
        model = package.SentenceTransformer(spec, device=device(), trust_remote_code=False)
    except Exception as error:  # of transformers, safetensors, the hub and the modules that the directory names
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{spec} cannot be read by sentence-transformers: {reason}") from None
    return Encoder(_quiet(model.encode_document), _quiet(model.encode_query))


def _quiet(encode: Any) -> Encode:
    return lambda texts: np.asarray(encode(texts, show_progress_bar=False, convert_to_numpy=True), np.float32)

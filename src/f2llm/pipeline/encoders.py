"""Which encoder mines and which one the applications use: a name or a model, loaded where it is needed.

`encoder_factory` makes a factory that worker processes call once each; `text_encoder` loads a model for an application.

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

from f2llm.apps.encoding import TextEncoder
from f2llm.core.errors import ConfigError
from f2llm.core.files import digest_json
from f2llm.data.mine import Encode, Encoder
from f2llm.data.ngrams import make_ngram_encoder
from f2llm.eval.mteb_model import device, is_qwen3, sentence_transformer
from f2llm.model import checkpoint
from f2llm.model.embedder import Embedder
from f2llm.model.engines.load import dtype_of
from f2llm.model.vectors import Vectors, truncate

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
    model = sentence_transformer(directory if Path(spec).is_dir() else spec, "mine")
    return Encoder(_quiet(model.encode_document), _quiet(model.encode_query))


def text_encoder(
    spec: Path | str,
    *,
    as_query: bool = False,
    instruction: str | None = None,
    task: str | None = None,
    dim: int | None = None,
    weights: str = "float32",
) -> TextEncoder:
    """The encoder of a model directory or hub id for classify, cluster and bulk embedding, read now.

    Texts are documents; `as_query`: queries, with the model's own prompt, with this `instruction` or with the one of
    `task` (see `Embedder.encode_query`). `dim`: as many of the first components, of unit length again. `weights`: the
    type that they are kept in. ConfigError for an instruction to a model that takes none, and for other weights of it.
    """
    directory = checkpoint.resolve(spec)
    as_query = as_query or instruction is not None or task is not None
    encode: Encode
    document: Encode
    stats = None
    if is_qwen3(directory):
        model = Embedder.load(directory, truncate_dim=dim, device=device(), dtype=dtype_of(weights))
        model.query_prompt(instruction, task=task)  # a task that there is not is told now
        encode, document = partial(model.encode_query, instruction=instruction, task=task), model.encode_document
        stats = partial(getattr, model, "last_stats")
    elif instruction is not None or task is not None:
        option = "--task" if instruction is None else "--instruction"
        raise ConfigError(f"{option}: {spec} is no decoder with instructions; leave it out")
    elif weights != "float32":
        raise ConfigError(f"--weights {weights}: {spec} does not run in this package; leave it out")
    else:
        other = sentence_transformer(directory, "mine")
        encode, document = (partial(_truncated, _quiet(f), dim) for f in (other.encode_query, other.encode_document))
    encode = encode if as_query else document
    options: dict[str, Any] = {"as_query": as_query, "instruction": instruction, "task": task, "dim": dim}
    made = options if weights == "float32" else options | {"weights": weights}
    fingerprint = digest_json([checkpoint.model_digest(directory), made])
    name = str(directory.resolve()) if Path(spec).is_dir() else str(spec)
    dims = encode(["a"]).shape[-1]
    return TextEncoder(encode, name, fingerprint, dims, **options, encode_document=document, stats=stats)


def _truncated(encode: Encode, dim: int | None, texts: list[str]) -> Vectors:
    return truncate(encode(texts), dim)


def _quiet(encode: Any) -> Encode:
    return lambda texts: np.asarray(encode(texts, show_progress_bar=False, convert_to_numpy=True), np.float32)

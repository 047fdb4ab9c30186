"""Is a model directory whole, consistent, and does it still give the vectors it was saved with?

Every check reads the files as other programs do (the tokenizer through `tokenizers` alone, for one), because most
broken exports still load and only give worse vectors: EOS lost on truncation, a prompt that differs by a space, a
pooling of the wrong kind. A finding names what is wrong and the fix.

Cost: loads the weights twice and encodes eight short texts; seconds for the small sizes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as RustTokenizer

from f2llm.core.errors import DataError, F2LLMError, ModelError
from f2llm.core.files import read_json
from f2llm.model import checkpoint, vectors
from f2llm.model.embedder import Embedder
from f2llm.text.prompts import QUERY_TEMPLATE, with_prompt
from f2llm.text.tokenizer import EOS_TOKEN, PAD_TOKEN

MIN_COSINE = 0.99999
_PROMPT = re.compile(r"Instruct: \S[^\n]*\nQuery: ")
_AGAIN = "save the model again with f2llm"


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether all is well, and a sentence: what was found, or what is wrong and how to mend it."""

    check: str
    ok: bool
    message: str


def diagnose(directory: Path | str) -> list[Finding]:
    """All findings on a model directory, in order; ModelError only where there is no directory."""
    directory = Path(directory)
    if not directory.is_dir():
        raise ModelError(f"{directory} is no directory; give the directory of a model")
    return [finding for name, (check, fine) in CHECKS.items() for finding in _run(name, check, fine, directory)]


def _run(name: str, check: Callable[[Path], Iterator[str]], fine: str, directory: Path) -> Iterator[Finding]:
    problems: list[str] = []
    try:
        problems.extend(check(directory))
    except F2LLMError as error:
        problems.append(str(error))
    except Exception as error:  # a broken file can fail anywhere, and the other checks should still be made
        problems.append(f"cannot be checked ({type(error).__name__}: {error}); {_AGAIN}")
    yield from [Finding(name, False, problem) for problem in problems] or [Finding(name, True, fine)]


def _config(directory: Path) -> Iterator[str]:
    shape, config = checkpoint.read_shape(directory), checkpoint.read_config(directory)
    kinds = config.get("layer_types", ["full_attention"] * shape.layers)
    if kinds != ["full_attention"] * shape.layers:
        yield (
            f"config.json: layer_types has {len(kinds)} entries of {sorted(set(kinds))} for {shape.layers} layers; "
            f'write "full_attention" {shape.layers} times'
        )
    if config.get("max_window_layers", shape.layers) != shape.layers:
        yield f"config.json: max_window_layers is {config['max_window_layers']}; write {shape.layers}"
    if config.get("use_cache", True):
        yield "config.json: use_cache is on, which keeps gigabytes of keys and values for nothing; write false"
    rows, ids = shape.vocab_size, _tokenizer(directory).get_vocab_size()
    if rows < ids:
        yield f"config.json: vocab_size is {rows}, but the tokenizer has {ids} ids; {_AGAIN}, with its own tokenizer"


def _dimensions(directory: Path) -> Iterator[str]:
    hidden, config = checkpoint.read_shape(directory).hidden, checkpoint.read_config(directory)
    dims = config.get("matryoshka_dimensions")
    if not config.get("is_matryoshka") or not dims:
        yield "config.json: is_matryoshka and matryoshka_dimensions are absent, so servers refuse to shorten; add them"
    elif dims != sorted(set(dims)) or dims[0] < 1 or dims[-1] != hidden:
        yield f"config.json: matryoshka_dimensions is {dims}; it must rise to hidden_size, {hidden}"


def _pooling(directory: Path) -> Iterator[str]:
    if "Pooling" not in _module_kinds(directory):
        yield f"modules.json has no Pooling module, so readers take the mean over tokens; {_AGAIN}"
    pooling = _json(directory / "1_Pooling/config.json")
    prefix = "pooling_mode_"
    active = sorted(key.removeprefix(prefix) for key, on in pooling.items() if key.startswith(prefix) and on)
    active = [pooling["pooling_mode"]] if "pooling_mode" in pooling else active
    if active != ["lasttoken"]:
        yield f"1_Pooling/config.json: the pooling is {active}; set pooling_mode_lasttoken to true, all others to false"
    if pooling.get("include_prompt", True) is not True:
        yield "1_Pooling/config.json: include_prompt is false; write true, the prompt belongs to the sequence"
    width = pooling.get("word_embedding_dimension", pooling.get("embedding_dimension"))
    hidden = checkpoint.read_shape(directory).hidden
    if width != hidden:
        yield f"1_Pooling/config.json: word_embedding_dimension is {width}; write {hidden}, the hidden_size"


def _normalise(directory: Path) -> Iterator[str]:
    kinds = _module_kinds(directory)
    if kinds[-1:] != ["Normalize"]:
        yield f"modules.json lists {kinds}; the last must be Normalize, or dot products are no cosines: {_AGAIN}"
    similarity = _json(directory / "config_sentence_transformers.json").get("similarity_fn_name")
    if similarity != "cosine":
        yield f"config_sentence_transformers.json: similarity_fn_name is {similarity!r}; write 'cosine'"


def _eos(directory: Path) -> Iterator[str]:
    tokenizer = _tokenizer(directory)
    eos = tokenizer.token_to_id(EOS_TOKEN)
    if eos is None or tokenizer.token_to_id(PAD_TOKEN) is None:
        yield f"tokenizer.json lacks {EOS_TOKEN} or {PAD_TOKEN}; {_AGAIN}, with the tokenizer it was trained with"
        return
    tokenizer.enable_truncation(8)
    for kind, text in {"a short": "one two", "the empty": "", "a truncated": "one two three four " * 9}.items():
        ids = tokenizer.encode(text).ids
        if ids.count(eos) != 1 or ids[-1] != eos:
            yield f"tokenizer.json ends {kind} text with {ids[-2:]}, not with one {eos} ({EOS_TOKEN}); {_AGAIN}"
    settings = _json(directory / "tokenizer_config.json")
    if settings.get("eos_token") != EOS_TOKEN:
        yield f"tokenizer_config.json: eos_token is {settings.get('eos_token')!r}; write {EOS_TOKEN!r}"
    if settings.get("split_special_tokens") is not True:
        yield f"tokenizer_config.json: split_special_tokens must be true, or a text with {EOS_TOKEN} in it ends there"


def _length(directory: Path) -> Iterator[str]:
    limit = _json(directory / "sentence_bert_config.json").get("max_seq_length")
    positions = checkpoint.read_shape(directory).max_positions
    if not isinstance(limit, int) or not 2 <= limit <= positions:
        yield f"sentence_bert_config.json: max_seq_length is {limit}; write 2 to {positions} (max_position_embeddings)"
    other = _json(directory / "tokenizer_config.json").get("model_max_length")
    if other != limit:
        yield f"tokenizer_config.json: model_max_length is {other}, max_seq_length is {limit}; write the same number"


def _prompts(directory: Path) -> Iterator[str]:
    file = "config_sentence_transformers.json"
    settings = _json(directory / file)
    prompts = settings.get("prompts") or {}
    for name in ("query", "document"):
        if name not in prompts:
            yield f"{file}: prompts has no {name!r}; add it, empty where there is none"
    for name, prompt in prompts.items():
        if prompt and not _PROMPT.fullmatch(prompt):
            yield f"{file}: the prompt {name!r} is {prompt!r}; the template is exactly {QUERY_TEMPLATE!r}"
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        yield f"{file}: default_prompt_name is {default!r}, which is no prompt; write null"


def _weights(directory: Path) -> Iterator[str]:
    for name, parameter in checkpoint.load(directory).named_parameters():
        if not torch.isfinite(parameter).all():
            yield f"tensor {name} holds values that are not finite; go back to an earlier checkpoint"


def _vectors(directory: Path) -> Iterator[str]:
    if not (directory / checkpoint.REFERENCES).is_file():
        yield f"{checkpoint.REFERENCES} is absent, so the vectors cannot be compared; {_AGAIN}"
        return
    embedder = Embedder.load(directory)
    entries = read_json(directory / checkpoint.REFERENCES)
    texts = [with_prompt(entry["text"], embedder.prompts[entry["prompt_name"]]) for entry in entries]
    found = embedder.encode_ids(embedder.tokenizer.encode(texts))
    saved = np.asarray([entry["vector"] for entry in entries], dtype=np.float32)
    worst = vectors.cosine(found, saved).diagonal().min()
    if not worst > MIN_COSINE:
        yield (
            f"a reference text has cosine {worst:.6f} to the vector it was saved with, under {MIN_COSINE}; a file was "
            "changed since: copy the model again"
        )


CHECKS: dict[str, tuple[Callable[[Path], Iterator[str]], str]] = {
    "config": (_config, "config.json describes a Qwen3 decoder, consistently"),
    "dimensions": (_dimensions, "the matryoshka dimensions fit the hidden size"),
    "pooling": (_pooling, "the last token is pooled"),
    "normalise": (_normalise, "vectors are normalised, similarity is cosine"),
    "eos": (_eos, f"every text ends in {EOS_TOKEN} exactly once, also after truncation"),
    "length": (_length, "all files state the same length limit"),
    "prompts": (_prompts, "query and document prompts are there, in the exact template"),
    "weights": (_weights, "all tensors are there and finite"),
    "vectors": (_vectors, f"the reference vectors are reproduced (cosine > {MIN_COSINE})"),
}
"""Name -> (the check, what it says when all is well)."""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except DataError as error:
        raise ModelError(f"{error}; {_AGAIN}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no JSON object; {_AGAIN}")
    return content


def _module_kinds(directory: Path) -> list[str]:
    try:
        modules = read_json(directory / "modules.json")
    except DataError as error:
        raise ModelError(f"{error}; {_AGAIN}") from None
    return [str(module["type"]).rsplit(".", 1)[-1] for module in modules]


def _tokenizer(directory: Path) -> Any:
    file = directory / "tokenizer.json"
    if not file.is_file():
        raise ModelError(f"{file} does not exist; {_AGAIN}")
    return RustTokenizer.from_file(str(file))

"""A model as one GGUF file for llama.cpp and what is built on it: weights, tokenizer, pooling, end-of-text.

Written here and not by llama.cpp's converter, which knows a tokenizer by the digest of one encoded text and so refuses
those that f2llm trained or trimmed, and which needs a check-out of that project. The format is version 3 of the GGUF
specification; names of tensors and fields are those that llama.cpp reads for its architecture `qwen3`.

Limits: llama.cpp does not normalise Unicode (NFC) as the tokenizer does, so a text in decomposed form gets other ids;
and its tools read special tokens in a text as such. Quantise further with its `llama-quantize`.
Cost: one pass over the weights, a tensor in memory at a time.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from f2llm.core.errors import ModelError
from f2llm.core.files import atomic_path
from f2llm.core.log import track
from f2llm.model.checkpoint import Settings
from f2llm.model.sizes import Shape
from f2llm.model.weights import Weights, shapes_of
from f2llm.text.tokenizer import QWEN3_SPLIT, Tokenizer

_VERSION, _ALIGNMENT = 3, 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_F32, _F16 = 0, 1
_LAST_TOKEN = 3
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(weights: Weights, settings: Settings, path: Path, *, half: bool = True) -> None:
    """Write the file, atomically; matrices in float16 if `half`, norms always in float32."""
    fields = [*_model_fields(weights.shape, settings, half), *_tokenizer_fields(settings.tokenizer, weights.shape)]
    dims = shapes_of(weights.shape)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", _VERSION, len(dims), len(fields)))
        for name, kind, value in fields:
            file.write(_string(name) + struct.pack("<I", kind) + _value(kind, value))
        offset = 0
        for name, shape in dims.items():
            wide = not half or len(shape) == 1
            turned = shape[::-1]  # GGUF names the axis that runs fastest first
            file.write(_string(gguf_name(name)) + struct.pack(f"<I{len(turned)}Q", len(turned), *turned))
            file.write(struct.pack("<IQ", _F32 if wide else _F16, offset))
            offset += _aligned(int(np.prod(shape)) * (4 if wide else 2))
        _pad(file)
        for name, shape in track(list(dims.items()), "writing tensors"):
            [(_, tensor)] = weights.stream([name])
            dtype = torch.float32 if not half or len(shape) == 1 else torch.float16
            file.write(tensor.detach().to("cpu", dtype).contiguous().numpy().tobytes())
            _pad(file)


def gguf_name(name: str) -> str:
    """`layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    if not name.startswith("layers."):
        return {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]
    _, number, rest = name.removesuffix(".weight").split(".", 2)
    return f"blk.{number}.{_NAMES[rest]}.weight"


def _model_fields(shape: Shape, settings: Settings, half: bool) -> Iterator[tuple[str, int, Any]]:
    yield from (("general.architecture", _STRING, "qwen3"), ("general.type", _STRING, "model"))
    yield "general.file_type", _UINT32, _F16 if half else _F32
    numbers = {
        "context_length": min(settings.max_seq_length, shape.max_positions), "embedding_length": shape.hidden,
        "block_count": shape.layers, "feed_forward_length": shape.mlp, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim, "pooling_type": _LAST_TOKEN,
    }  # fmt: skip
    for name, number in numbers.items():
        yield f"qwen3.{name}", _UINT32, number
    yield "qwen3.attention.layer_norm_rms_epsilon", _FLOAT32, shape.rms_eps
    yield "qwen3.rope.freq_base", _FLOAT32, shape.rope_theta


def _tokenizer_fields(tokenizer: Tokenizer, shape: Shape) -> Iterator[tuple[str, int, Any]]:
    """Vocabulary and merges; a row of the token table without a token gets a name that no text contains."""
    rules: dict[str, Any] = tokenizer.rules()
    if rules["model"]["type"] != "BPE" or json.dumps(QWEN3_SPLIT) not in json.dumps(rules["pre_tokenizer"]):
        raise ModelError("tokenizer.json does not split text as Qwen3 does, so llama.cpp would read other ids")
    names = {number: name for name, number in rules["model"]["vocab"].items()}
    kinds = dict.fromkeys(names, _NORMAL)
    for token in rules["added_tokens"]:
        names[token["id"]] = token["content"]
        kinds[token["id"]] = _CONTROL if token["special"] else _USER_DEFINED
    rows = range(shape.vocab_size)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in rules["model"]["merges"]]
    yield "tokenizer.ggml.model", _STRING, "gpt2"
    yield "tokenizer.ggml.pre", _STRING, "qwen2"
    yield "tokenizer.ggml.tokens", _ARRAY, (_STRING, [names.get(row, f"[PAD{row}]") for row in rows])
    yield "tokenizer.ggml.token_type", _ARRAY, (_INT32, [kinds.get(row, _UNUSED) for row in rows])
    yield "tokenizer.ggml.merges", _ARRAY, (_STRING, merges)
    yield "tokenizer.ggml.eos_token_id", _UINT32, tokenizer.eos_id
    yield "tokenizer.ggml.padding_token_id", _UINT32, tokenizer.pad_id
    yield "tokenizer.ggml.add_bos_token", _BOOL, False
    yield "tokenizer.ggml.add_eos_token", _BOOL, True


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _string(value)
    if kind == _ARRAY:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(_value(inner, entry) for entry in values)
    return struct.pack({_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?"}[kind], value)


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))

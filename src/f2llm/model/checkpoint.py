"""A model directory: read one, write one that every common program reads.

`save` writes the files of sentence-transformers in their legacy form (verbose pooling booleans, `sentence_transformers.
models.*` paths), which transformers, sentence-transformers, vLLM, text-embeddings-inference and llama.cpp all load.
`load` reads such a directory, or any Qwen3 checkpoint in safetensors, whole or in shards. No pickle is ever opened.

Cost: `load` reads each byte once and holds one copy; `save` additionally loads the result back to compute the
reference vectors, which proves that the written files are whole.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from f2llm.core.errors import ConfigError, DataError, ModelError, StorageError
from f2llm.core.files import (
    atomic_path,
    digest_json,
    digest_tree,
    explained,
    read_json,
    replace_directory,
    write_json,
    write_text,
)
from f2llm.model import vectors
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape, matryoshka_dims
from f2llm.model.weights import INDEX, WEIGHTS, read_tensors, weight_files
from f2llm.text.prompts import DEFAULT_INSTRUCTION, query_prompt, with_prompt
from f2llm.text.tokenizer import Tokenizer

REFERENCES = "reference_vectors.json"
REFERENCE_TEXTS = (
    "Water boils at a lower temperature on a high mountain.",
    "Maji huchemka kwa joto la chini zaidi juu ya mlima mrefu.",
    "高い山では水はより低い温度で沸騰する。",
    "def area(radius): return 3.14159 * radius ** 2",
)
# Field of `Shape` -> field of config.json.
_SIZES = {"hidden": "hidden_size", "layers": "num_hidden_layers", "mlp": "intermediate_size",
          "vocab_size": "vocab_size", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads"}  # fmt: skip
# Files that do not change a vector: cards, reference vectors, exports for other programs.
_NOT_THE_MODEL = ("README.md", REFERENCES, "onnx", "openvino")
# Published repositories also hold training checkpoints of many gigabytes: only the model itself is downloaded.
_DOWNLOADED = ["config*.json", "sentence_*.json", "1_Pooling/*.json", "modules.json", "model*.safetensors", INDEX,
               "tokenizer*.json", "special_tokens_map.json", REFERENCES, "README.md"]  # fmt: skip


def load(directory: Path | str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Decoder:
    """The decoder in `directory`; ModelError names the config field or the tensor that is wrong."""
    directory = Path(directory)
    with torch.device("meta"):
        decoder = Decoder(read_shape(directory))
    tensors = read_tensors(weight_files(directory), decoder, dtype, device)
    decoder.load_state_dict(tensors, assign=True)
    return decoder


def load_weights(decoder: Decoder, path: Path | str) -> None:
    """Copy the tensors of one safetensors file into `decoder`, whose type and device stay."""
    parameter = next(decoder.parameters())
    decoder.load_state_dict(read_tensors([Path(path)], decoder, parameter.dtype, str(parameter.device)))


def save_weights(decoder: Decoder, path: Path | str, dtype: torch.dtype | None = None) -> None:
    """Write all parameters to one safetensors file, atomically; the same weights give the same bytes."""
    save_tensors({name: p.detach().to("cpu", dtype or p.dtype) for name, p in decoder.state_dict().items()}, path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to one safetensors file, atomically."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(whole, temporary, metadata={"format": "pt", **(metadata or {})})
            temporary.chmod(0o644)  # the library makes the file private, unlike all others of a model
        except SafetensorError as error:  # the Rust side turns "no space left" into its own class
            raise StorageError(f"cannot write {path}: {error}; free some space or choose another --out") from None


def save(
    decoder: Decoder,
    directory: Path | str,
    *,
    tokenizer: Tokenizer,
    max_seq_length: int,
    prompts: Mapping[str, str],
    matryoshka_dims: Sequence[int],
    card: str,
    default_prompt_name: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the complete directory, atomically: an existing model is replaced when the new one is whole.

    `prompts` maps a name (`query`, `document`, a task) to the text put before the input; `document` is "" unless given.
    `card` is the README. `max_seq_length` is the readers' limit in tokens, EOS included.
    """
    if default_prompt_name is not None and default_prompt_name not in prompts:
        raise ConfigError(f"default_prompt_name is {default_prompt_name!r}; the prompts are {sorted(prompts)}")
    if tokenizer.vocab_size > decoder.shape.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the token table {decoder.shape.vocab_size} rows; "
            f"give the shape a vocab_size of at least {tokenizer.vocab_size}"
        )
    check_out(directory)
    directory, tokenizer = Path(directory), tokenizer.limited_to(max_seq_length)
    prompts = {"document": "", **prompts}
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        with explained(directory):
            tokenizer.save(temporary)
            _write_configs(temporary, decoder.shape, tokenizer, prompts, default_prompt_name, matryoshka_dims, dtype)
            write_text(temporary / "README.md", card)
            save_weights(decoder, temporary / WEIGHTS, dtype)
            write_json(temporary / REFERENCES, references(load(temporary), tokenizer, prompts))
            replace_directory(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_out(out: Path | str, sources: Sequence[Path] = ()) -> None:
    """ConfigError where writing a model to `out` would delete something else: one of `sources`, or other files."""
    out = Path(out)
    target = out.resolve()
    for source in sources:
        if target in (source.resolve(), *source.resolve().parents):
            raise ConfigError(f"--out is {out}, and to write it would replace the input {source}; choose another --out")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file()):
        raise ConfigError(f"{out} exists and is no model, so it is not replaced; choose a new folder for --out")


@dataclass(frozen=True)
class Settings:
    """What a model directory says besides its shape and weights; the defaults are those of a bare Qwen3 directory."""

    tokenizer: Tokenizer
    prompts: dict[str, str]
    default_prompt_name: str | None
    matryoshka_dims: list[int]
    card: str | None

    @property
    def max_seq_length(self) -> int:
        return self.tokenizer.max_seq_length


def read_settings(directory: Path | str) -> Settings:
    """Tokenizer, prompts, dimensions and card of a model directory."""
    directory, shape = Path(directory), read_shape(directory)
    own, card = _optional_json(directory / "config_sentence_transformers.json"), directory / "README.md"
    prompts = own.get("prompts")
    dims = read_config(directory).get("matryoshka_dimensions")
    return Settings(
        Tokenizer.load(directory, read_max_seq_length(directory, shape.max_positions)),
        {"query": query_prompt(DEFAULT_INSTRUCTION)} if prompts is None else dict(prompts),
        own.get("default_prompt_name"),
        [int(dim) for dim in dims] if dims else matryoshka_dims(shape.hidden),
        card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None,
    )


def read_max_seq_length(directory: Path, max_positions: int) -> int:
    """The length limit that a model directory states, in tokens: sentence-transformers' file, else the tokenizer's."""
    stated = _optional_json(directory / "sentence_bert_config.json").get("max_seq_length")
    stated = stated or _optional_json(directory / "tokenizer_config.json").get("model_max_length")
    return int(min(stated or max_positions, max_positions))


def save_like(
    decoder: Decoder,
    directory: Path | str,
    settings: Settings,
    *,
    card: str,
    tokenizer: Tokenizer | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """`save` with the settings of another directory, as far as they fit the decoder's width."""
    hidden = decoder.shape.hidden
    save(
        decoder,
        directory,
        tokenizer=tokenizer or settings.tokenizer,
        max_seq_length=settings.max_seq_length,
        prompts=settings.prompts,
        matryoshka_dims=sorted({*(dim for dim in settings.matryoshka_dims if dim < hidden), hidden}),
        card=card,
        default_prompt_name=settings.default_prompt_name,
        dtype=dtype,
    )


def references(decoder: Decoder, tokenizer: Tokenizer, prompts: Mapping[str, str]) -> list[dict[str, Any]]:
    """A few texts with their prompt's name and unit vector: what a faithful copy of this model must reproduce."""
    found = []
    for name in ("query", "document"):
        for text in REFERENCE_TEXTS if name in prompts else ():
            ids = torch.tensor(tokenizer.encode([with_prompt(text, prompts[name])])[0])
            with torch.inference_mode():
                vector = decoder(ids, [0, len(ids)])[-1:].float().numpy()
            found.append({"text": text, "prompt_name": name, "vector": vectors.normalize(vector)[0].tolist()})
    return found


def _write_configs(
    directory: Path,
    shape: Shape,
    tokenizer: Tokenizer,
    prompts: Mapping[str, str],
    default_prompt_name: str | None,
    matryoshka_dims: Sequence[int],
    dtype: torch.dtype,
) -> None:
    config = {**config_of(shape), "eos_token_id": tokenizer.eos_id, "torch_dtype": str(dtype).removeprefix("torch.")}
    config |= {"is_matryoshka": True, "matryoshka_dimensions": sorted(matryoshka_dims)}
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {f"pooling_mode_{mode}": mode == "lasttoken" for mode in modes}
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    files: dict[str, Any] = {
        "config.json": config,
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": shape.hidden, **pooling, "include_prompt": True},
        "sentence_bert_config.json": {"max_seq_length": tokenizer.max_seq_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": dict(prompts), "default_prompt_name": default_prompt_name, "similarity_fn_name": "cosine",
        },
    }  # fmt: skip
    for name, content in files.items():
        write_json(directory / name, content)


def config_of(shape: Shape) -> dict[str, Any]:
    """`config.json` of a shape, as transformers writes Qwen3's; the fields per layer fit the number of layers."""
    return {
        "architectures": ["Qwen3Model"], "model_type": "qwen3", "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden, "intermediate_size": shape.mlp, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
        "max_position_embeddings": shape.max_positions, "rms_norm_eps": shape.rms_eps, "rope_theta": shape.rope_theta,
        "rope_scaling": None, "use_sliding_window": False, "sliding_window": None,
        "max_window_layers": shape.layers, "layer_types": ["full_attention"] * shape.layers,
        "tie_word_embeddings": True, "use_cache": False,
    }  # fmt: skip


def read_config(directory: Path | str) -> dict[str, Any]:
    """`config.json` of a model directory; ModelError where there is none."""
    try:
        config = read_json(Path(directory) / "config.json")
    except DataError as error:
        raise ModelError(f"{directory} is no model directory: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{directory}/config.json is no JSON object; copy the model again")
    return config


def read_shape(directory: Path | str) -> Shape:
    """The shape that `config.json` describes; ModelError where it is not a Qwen3 decoder that this package runs."""
    config = read_config(directory)
    rope = config.get("rope_parameters") or {}
    demands: dict[str, tuple[Any, Any]] = {
        "model_type": (config.get("model_type"), "qwen3"),
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "attention_bias": (config.get("attention_bias", False), False),
        "use_sliding_window": (config.get("use_sliding_window", False), False),
        "rope_scaling": (config.get("rope_scaling"), None),
        "rope_parameters.rope_type": (rope.get("rope_type", "default"), "default"),
    }
    for field, (found, wanted) in demands.items():
        if found != wanted:
            raise ModelError(f"{directory}/config.json: {field} is {found!r}; Qwen3's decoder needs {wanted!r}")
    for key in _SIZES.values():
        if type(config.get(key)) is not int:
            raise ModelError(f"{directory}/config.json: {key} is {config.get(key)!r}; it must be a whole number")
    try:
        shape = Shape(
            **{name: config[key] for name, key in _SIZES.items()},
            head_dim=int(config.get("head_dim") or 128),
            rope_theta=float(config.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
            rms_eps=float(config.get("rms_norm_eps", 1e-6)),
            max_positions=int(config.get("max_position_embeddings", 32_768)),
        )
        shape.validate()
    except (ConfigError, TypeError, ValueError) as error:
        raise ModelError(f"{directory}/config.json: {error}") from None
    return shape


def model_digest(directory: Path) -> str:
    """SHA-256 over the files of a model directory that make its vectors; a changed card is the same model."""
    return digest_json([1, "float32", digest_tree(directory.resolve(), skip=_makes_no_vector)])


def _makes_no_vector(path: Path) -> bool:
    return path.parts[0] in _NOT_THE_MODEL or any(part.startswith(".") for part in path.parts)


def _optional_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path) if path.is_file() else {}
    except DataError as error:
        raise ModelError(str(error)) from None
    return content if isinstance(content, dict) else {}


def resolve(name: Path | str, revision: str | None = None) -> Path:
    """The directory `name`, or a local snapshot of the Hugging Face Hub model `owner/name` (downloaded once)."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(name))
    if not hub_id or path.parent.is_dir():
        raise ModelError(f"{name} is no directory; give a model directory or a Hugging Face Hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=_DOWNLOADED))
    except Exception as error:  # its own classes, the HTTP client's and the operating system's
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{name!r} is no directory here, and the Hugging Face Hub gave none: {reason}") from None

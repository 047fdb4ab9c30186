"""`f2llm export`: a model in the form that other runtimes load, checked against this package's own vectors.

`onnx` and `openvino` write a directory of the model's small files and the graph in a folder, `onnx/model.onnx` or
`openvino/openvino_model.xml`, where sentence-transformers looks for its backends; the weights are in the graph, so the
safetensors are not copied. `gguf` writes one file for llama.cpp. Nothing appears under its name before it is whole.

Cost: reads the weights twice, builds the graph layer by layer, and embeds eight short texts, padded on either side.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError, ModelError
from f2llm.core.extras import optional
from f2llm.core.files import explained, replace_directory
from f2llm.model import checkpoint, vectors
from f2llm.model.gguf import write_gguf
from f2llm.model.graph import LAST, Precision
from f2llm.model.graph_onnx import write_onnx
from f2llm.model.graph_openvino import export_model, load_openvino
from f2llm.model.weights import StoredWeights, Weights
from f2llm.text.prompts import with_prompt

_COPIED = (
    "config.json", "config_sentence_transformers.json", "sentence_bert_config.json", "modules.json",
    "1_Pooling/config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    checkpoint.REFERENCES, "README.md",
)  # fmt: skip
_MIN_COSINE: dict[Precision, float] = {"float32": 0.99999, "int8": 0.98}
_MORE_PADDING = 3
Padded = NDArray[np.int64]


class _Kind(NamedTuple):
    """Where the graph lies in the directory, how it is written there and how it is run on padded ids and their mask."""

    place: str
    write: Callable[[Weights, Path, Precision], None]
    run: Callable[[Path, list[tuple[Padded, Padded]]], list[NDArray[np.float32]]]


@dataclass(frozen=True)
class ExportReport:
    """What was written: `bytes` of graph or file, the worst cosine of `checked` texts to the model's own vectors."""

    out: Path
    kind: str
    precision: str
    bytes: int
    checked: int
    cosine: float | None


def export(model: Path | str, kind: str, out: Path | str, precision: str | None = None) -> ExportReport:
    """Write `model`, a directory or a hub id, as `kind` (onnx, openvino, gguf) to `out`.

    `precision`: float32 (default) or int8 for the graphs, float16 (default) or float32 for gguf.
    """
    directory, out = checkpoint.resolve(model), Path(out)
    if kind == "gguf":
        return _export_gguf(directory, out, _one_of(precision or "float16", ("float16", "float32"), kind))
    if kind not in KINDS:
        raise ConfigError(f"--to {kind}: give one of {', '.join([*KINDS, 'gguf'])}")
    chosen: Any = _one_of(precision or "float32", get_args(Precision), kind)
    checkpoint.check_out(out, [directory])
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with explained(out):
            _copy_small_files(directory, temporary)
            path = temporary / KINDS[kind].place
            path.parent.mkdir(parents=True)
            KINDS[kind].write(StoredWeights(directory, checkpoint.read_shape(directory)), path, chosen)
            checked, cosine = _check(directory, path, KINDS[kind], _MIN_COSINE[chosen])
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            replace_directory(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExportReport(out, kind, chosen, size, checked, cosine)


def _export_gguf(directory: Path, out: Path, precision: str) -> ExportReport:
    if out.suffix != ".gguf":
        raise ConfigError(f"--out {out}: a GGUF is one file; give a name that ends in .gguf")
    weights = StoredWeights(directory, checkpoint.read_shape(directory))
    write_gguf(weights, checkpoint.read_settings(directory), out, half=precision == "float16")
    return ExportReport(out, "gguf", precision, out.stat().st_size, 0, None)


def _one_of(precision: str, known: tuple[str, ...], kind: str) -> str:
    if precision not in known:
        raise ConfigError(f"--precision {precision}: {kind} has {' and '.join(known)}")
    return precision


def _copy_small_files(directory: Path, target: Path) -> None:
    for name in _COPIED:
        if (directory / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / name, target / name)


def _check(directory: Path, path: Path, kind: _Kind, least: float) -> tuple[int, float]:
    """How many texts were compared, and the worst cosine; ModelError where it is under `least`."""
    settings = checkpoint.read_settings(directory)
    expected = checkpoint.references(checkpoint.load(directory), settings.tokenizer, settings.prompts)
    texts = [with_prompt(entry["text"], settings.prompts[entry["prompt_name"]]) for entry in expected]
    ids = settings.tokenizer.encode(texts)
    own = np.asarray([entry["vector"] for entry in expected], dtype=np.float32)
    found = kind.run(path, [padded(ids, left=left) for left in (False, True)])
    worst = min(float(vectors.cosine(side, own).diagonal().min()) for side in found)
    if not worst > least:
        raise ModelError(f"the graph gives other vectors than {directory}: cosine {worst:.6f}, under {least}")
    return len(texts), worst


def padded(ids: list[list[int]], *, left: bool) -> tuple[Padded, Padded]:
    """Ids and mask [B, T] of texts, padded on the left or on the right, the longest too."""
    width = max(map(len, ids)) + _MORE_PADDING
    tokens, mask = np.zeros((len(ids), width), dtype=np.int64), np.zeros((len(ids), width), dtype=np.int64)
    for row, text in enumerate(ids):
        place = slice(width - len(text), width) if left else slice(len(text))
        tokens[row, place], mask[row, place] = text, 1
    return tokens, mask


def _write_openvino(weights: Weights, path: Path, precision: Precision) -> None:
    load_openvino().save_model(export_model(weights, precision), path, compress_to_fp16=False)


def _run_openvino(path: Path, inputs: list[tuple[Padded, Padded]]) -> list[NDArray[np.float32]]:
    compiled = load_openvino().Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [compiled(list(pair))[LAST].copy() for pair in inputs]


def _run_onnx(path: Path, inputs: list[tuple[Padded, Padded]]) -> list[NDArray[np.float32]]:
    runtime = optional("onnxruntime", "onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [session.run([LAST], {"input_ids": ids, "attention_mask": mask})[0] for ids, mask in inputs]


KINDS = {
    "onnx": _Kind("onnx/model.onnx", write_onnx, _run_onnx),
    "openvino": _Kind("openvino/openvino_model.xml", _write_openvino, _run_openvino),
}

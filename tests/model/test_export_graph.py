"""Exported graphs give the model's vectors in the runtimes that they are for; a GGUF reads back as it was written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from f2llm.core.errors import ConfigError, MissingDependencyError, ModelError
from f2llm.model import checkpoint, export_graph, vectors
from f2llm.model.embedder import Embedder
from f2llm.model.export_graph import export, padded
from f2llm.model.graph import HIDDEN, LAST
from f2llm.model.graph_onnx import write_onnx
from f2llm.model.graph_openvino import load_openvino
from f2llm.model.weights import StoredWeights
from tests.conftest import SMALL

try:
    openvino = load_openvino()
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)
onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

TEXTS = ["Habari ya asubuhi", "", "早上好，你今天好吗？", "def add(a, b):\n    return a + b", "x " * 60]


def run_onnx(path: Path, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(
        zip([HIDDEN, LAST], session.run([HIDDEN, LAST], {"input_ids": ids, "attention_mask": mask}), strict=True)
    )


def run_openvino(path: Path, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    found = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([ids, mask])
    return {name: found[name] for name in (HIDDEN, LAST)}


RUN = {"onnx": (run_onnx, "onnx/model.onnx"), "openvino": (run_openvino, "openvino/openvino_model.xml")}


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_graph_gives_the_models_vectors(kind: str, precision: str, model_directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    report = export(model_directory, kind, out, precision)
    assert report.checked == 8
    least = 0.99999 if precision == "float32" else 0.99
    assert report.cosine is not None
    assert report.cosine > least
    own, (run, place) = Embedder.load(model_directory), RUN[kind]
    expected, ids = own.encode(TEXTS), own.tokenizer.encode(TEXTS)
    for left in (False, True):
        tokens, mask = padded(ids, left=left)
        found = run(out / place, tokens, mask)
        assert vectors.cosine(found[LAST], expected).diagonal().min() > least
        np.testing.assert_allclose(np.linalg.norm(found[LAST], axis=1), 1, atol=1e-5)
        ends = np.where(left, tokens.shape[1], mask.sum(1)) - 1
        pooled = vectors.normalize(found[HIDDEN][np.arange(len(ids)), ends])
        np.testing.assert_allclose(pooled, found[LAST], atol=1e-5)
    assert not list(out.rglob("*.safetensors"))
    assert {path.name for path in model_directory.iterdir()} - {path.name for path in out.iterdir()} == {
        "model.safetensors"
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported"]


def test_eight_bits_make_the_file_small(model_directory: Path, tmp_path: Path) -> None:
    sizes = {kind: export(model_directory, "onnx", tmp_path / kind, kind).bytes for kind in ("float32", "int8")}
    assert sizes["int8"] < 0.5 * sizes["float32"]


def test_onnx_numbers_beside_the_graph(model_directory: Path, tmp_path: Path) -> None:
    weights = StoredWeights(model_directory, SMALL)
    together, apart = tmp_path / "together.onnx", tmp_path / "apart.onnx"
    write_onnx(weights, together, "float32")
    write_onnx(weights, apart, "float32", inline=1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apart.onnx", "apart.onnx_data", "together.onnx"]
    assert apart.stat().st_size < 0.2 * together.stat().st_size
    onnx.checker.check_model(str(apart), full_check=True)
    inputs = padded([[5, 6, 7], [8]], left=False)
    np.testing.assert_array_equal(run_onnx(together, *inputs)[LAST], run_onnx(apart, *inputs)[LAST])


def test_a_graph_that_gives_other_vectors_is_not_left(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = export_graph.KINDS["onnx"]
    broken = kind._replace(run=lambda path, inputs: [found[:, ::-1] for found in kind.run(path, inputs)])
    monkeypatch.setitem(export_graph.KINDS, "onnx", broken)
    with pytest.raises(ModelError, match="gives other vectors"):
        export(model_directory, "onnx", tmp_path / "exported")
    assert not list(tmp_path.iterdir())


def test_a_gguf_reads_back(model_directory: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf reads the file back")
    report = export(model_directory, "gguf", tmp_path / "small.gguf")
    assert (report.precision, report.bytes) == ("float16", (tmp_path / "small.gguf").stat().st_size)
    reader, decoder = gguf.GGUFReader(tmp_path / "small.gguf"), checkpoint.load(model_directory)
    read = {tensor.name: tensor.data for tensor in reader.tensors}
    expected = {"token_embd.weight": decoder.embed_tokens.weight, "output_norm.weight": decoder.norm.weight}
    for number, layer in enumerate(decoder.layers):
        for name, module in {
            "attn_norm": layer.input_layernorm, "attn_q": layer.self_attn.q_proj, "attn_k": layer.self_attn.k_proj,
            "attn_v": layer.self_attn.v_proj, "attn_output": layer.self_attn.o_proj,
            "attn_q_norm": layer.self_attn.q_norm, "attn_k_norm": layer.self_attn.k_norm,
            "ffn_norm": layer.post_attention_layernorm, "ffn_gate": layer.mlp.gate_proj, "ffn_up": layer.mlp.up_proj,
            "ffn_down": layer.mlp.down_proj,
        }.items():  # fmt: skip
            expected[f"blk.{number}.{name}.weight"] = module.weight
    assert read.keys() == expected.keys()
    for name, weight in expected.items():
        stored = read[name]
        assert stored.dtype == (np.float32 if weight.dim() == 1 else np.float16)
        np.testing.assert_allclose(stored, weight.detach().numpy(), rtol=1e-3, atol=1e-6)


def test_a_gguf_says_how_to_run_it(model_directory: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf reads the file back")
    export(model_directory, "gguf", tmp_path / "small.gguf", "float32")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "small.gguf").fields.items()}
    numbers = {
        "context_length": 40, "embedding_length": 48, "block_count": 3, "feed_forward_length": 80,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16,
        "attention.value_length": 16, "pooling_type": int(gguf.PoolingType.LAST), "rope.freq_base": 1e6,
    }  # fmt: skip
    assert fields["general.architecture"] == gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3]
    assert {name: fields[f"qwen3.{name}"] for name in numbers} == numbers
    assert fields["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    tokenizer = checkpoint.read_settings(model_directory).tokenizer
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == SMALL.vocab_size == len(set(tokens))
    eos = fields["tokenizer.ggml.eos_token_id"]
    assert (eos, tokens[eos], kinds[eos]) == (tokenizer.eos_id, "<|im_end|>", int(gguf.TokenType.CONTROL))
    assert kinds[tokenizer.vocab_size :] == [int(gguf.TokenType.UNUSED)] * (SMALL.vocab_size - tokenizer.vocab_size)
    assert (fields["tokenizer.ggml.add_eos_token"], fields["tokenizer.ggml.add_bos_token"]) == (True, False)
    [ids] = tokenizer.encode(["Good morning"])
    assert "".join(tokens[number] for number in ids[:-1]) == "GoodĠmorning"
    assert all(merge.count(" ") == 1 for merge in fields["tokenizer.ggml.merges"])


@pytest.mark.parametrize(
    ("kind", "out", "precision", "words"),
    [
        ("tflite", "x", None, "give one of onnx, openvino, gguf"),
        ("onnx", "x", "float16", "onnx has float32 and int8"),
        ("gguf", "x", None, "ends in .gguf"),
        ("gguf", "x.gguf", "int8", "gguf has float16 and float32"),
    ],
)
def test_mistakes(
    kind: str, out: str, precision: str | None, words: str, model_directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        export(model_directory, kind, tmp_path / out, precision)
    assert not list(tmp_path.iterdir())


def test_the_model_itself_is_not_replaced(model_directory: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model_directory, tmp_path / "model"))
    with pytest.raises(ConfigError, match="would replace the input"):
        export(copy, "onnx", copy)
    assert (copy / "model.safetensors").is_file()

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from f2llm.core.errors import ConfigError, ModelError
from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.text.tokenizer import Tokenizer
from tests.conftest import SMALL, random_decoder

FILES = {
    "1_Pooling", "README.md", "config.json", "config_sentence_transformers.json", "model.safetensors", "modules.json",
    "reference_vectors.json", "sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture
def copy(model_directory: Path, tmp_path: Path) -> Path:
    """A copy of the small model that a test may break."""
    return Path(shutil.copytree(model_directory, tmp_path / "copy"))


def equal(a: Decoder, b: Decoder) -> bool:
    return a.shape == b.shape and all(torch.equal(p, b.state_dict()[name]) for name, p in a.state_dict().items())


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_a_saved_directory_is_complete_and_loads_back(model_directory: Path, small_decoder: Decoder) -> None:
    assert {path.name for path in model_directory.iterdir()} == FILES
    assert equal(checkpoint.load(model_directory), small_decoder)
    assert all(path.stat().st_mode & 0o044 for path in model_directory.rglob("*")), "readable by others"
    config = json.loads((model_directory / "config.json").read_text())
    assert config["layer_types"] == ["full_attention"] * SMALL.layers
    assert (config["max_window_layers"], config["use_cache"]) == (SMALL.layers, False)
    assert (config["is_matryoshka"], config["matryoshka_dimensions"]) == (True, [8, 16, 32, 48])


def test_loaded_weights_can_be_trained(model_directory: Path) -> None:
    decoder = checkpoint.load(model_directory)
    decoder(torch.arange(5), [0, 5]).sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_saving_again_replaces_the_directory_and_gives_the_same_bytes(
    small_decoder: Decoder, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    contents = []
    for _ in range(2):
        checkpoint.save(
            small_decoder, tmp_path / "m", tokenizer=small_tokenizer, max_seq_length=40, prompts={"query": ""},
            matryoshka_dims=[8, 48], card="# m\n",
        )  # fmt: skip
        contents.append({path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()})
        (tmp_path / "m" / "stale").write_text("gone after the next save")
    assert contents[0] == contents[1]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failed_save_leaves_the_old_directory(copy: Path, small_tokenizer: Tokenizer) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    options: dict[str, Any] = {"max_seq_length": 40, "prompts": {"query": ""}, "matryoshka_dims": [48], "card": ""}
    broken = random_decoder(SMALL)
    del broken.norm
    with pytest.raises(ModelError, match=r"norm\.weight"):
        checkpoint.save(broken, copy, tokenizer=small_tokenizer, **options)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_impossible_saves_are_refused(small_decoder: Decoder, small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_seq_length": 40, "prompts": {"query": ""}, "matryoshka_dims": [48], "card": ""}
    with pytest.raises(ConfigError, match="default_prompt_name is 'x'"):
        checkpoint.save(small_decoder, tmp_path / "m", tokenizer=small_tokenizer, default_prompt_name="x", **options)
    narrow = random_decoder(replace(SMALL, vocab_size=300))
    with pytest.raises(ConfigError, match="tokenizer has 400 ids, the token table 300 rows"):
        checkpoint.save(narrow, tmp_path / "m", tokenizer=small_tokenizer, **options)
    assert not list(tmp_path.iterdir())


def test_bfloat16_files_load_as_float32(small_decoder: Decoder, tmp_path: Path) -> None:
    checkpoint.save_weights(small_decoder, tmp_path / "model.safetensors", torch.bfloat16)
    (tmp_path / "config.json").write_text(json.dumps(checkpoint.config_of(SMALL)))
    decoder = checkpoint.load(tmp_path)
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.float32}
    expected = small_decoder.embed_tokens.weight.to(torch.bfloat16).float()
    assert torch.equal(decoder.embed_tokens.weight, expected)
    assert checkpoint.load(tmp_path, dtype=torch.bfloat16).norm.weight.dtype == torch.bfloat16


def test_a_causal_language_model_in_shards_loads(copy: Path, small_decoder: Decoder) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in load_file(copy / "model.safetensors").items()}
    tensors["lm_head.weight"] = torch.zeros(SMALL.vocab_size, SMALL.hidden)
    (copy / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, copy / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (copy / checkpoint.INDEX).write_text(json.dumps(index))
    assert equal(checkpoint.load(copy), small_decoder)
    (copy / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"shard 'model-2\.safetensors'"):
        checkpoint.load(copy)


def test_a_shard_outside_the_directory_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy.parent / "model.safetensors")
    (copy / checkpoint.INDEX).write_text(json.dumps({"weight_map": {"norm.weight": "../model.safetensors"}}))
    with pytest.raises(ModelError, match="is not in"):
        checkpoint.load(copy)


BROKEN_TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (
        lambda t: t.pop("layers.1.mlp.up_proj.weight"),
        r"1 of 35 .* layers\.1\.mlp\.up_proj\.weight \(80, 48\)",
    ),
    "odd": (lambda t: t.update(bias=torch.ones(2)), r"tensor bias \(2,\) belongs to no"),
    "shape": (lambda t: t.update({"norm.weight": torch.ones(47)}), r"norm\.weight has shape \(47,\).*demands \(48,\)"),
    "quantised": (lambda t: t.update({"norm.weight": torch.ones(48).to(torch.int8)}), "norm.weight is stored as I8"),
}


@pytest.mark.parametrize("kind", BROKEN_TENSORS)
def test_broken_tensors_are_named(copy: Path, kind: str) -> None:
    change, message = BROKEN_TENSORS[kind]
    change_tensors(copy, change)
    with pytest.raises(ModelError, match=message):
        checkpoint.load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling is"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"hidden_size": "48"}, "hidden_size is '48'; it must be a whole number"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None"),
        ({"num_key_value_heads": 3}, "multiple of kv_heads"),
        ({"rope_theta": "large"}, "config.json: could not convert"),
    ],
)
def test_other_architectures_are_refused_by_field(copy: Path, changes: dict[str, Any], message: str) -> None:
    change_config(copy, **changes)
    with pytest.raises(ModelError, match=message):
        checkpoint.load(copy)


def test_the_new_form_of_the_rotary_setting_is_read(copy: Path) -> None:
    change_config(copy, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert checkpoint.load(copy).shape.rope_theta == 5e5


def test_missing_and_damaged_files_are_named(copy: Path) -> None:
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        checkpoint.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor"):
        checkpoint.load(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        checkpoint.load(copy)
    with pytest.raises(ModelError, match="is no model directory"):
        checkpoint.load(copy / "nowhere")


def test_light_weight_files_go_in_and_out(small_decoder: Decoder, tmp_path: Path) -> None:
    checkpoint.save_weights(small_decoder, tmp_path / "w.safetensors")
    other = random_decoder(SMALL, seed=5)
    kept = other.norm.weight
    checkpoint.load_weights(other, tmp_path / "w.safetensors")
    assert equal(other, small_decoder)
    assert other.norm.weight is kept, "optimizers hold on to the parameters"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "nowhere", "a/b/c", "~/nowhere"])
def test_a_path_that_does_not_exist_is_no_hub_id(name: str) -> None:
    with pytest.raises(ModelError, match="is no directory; give a model directory"):
        checkpoint.resolve(name)


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError, match=r"'owner/name' is no directory here, .* gave none: no route to host$"):
        checkpoint.resolve("owner/name")


def test_a_hub_model_is_taken_from_its_snapshot(monkeypatch: pytest.MonkeyPatch, model_directory: Path) -> None:
    asked = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(model_directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert checkpoint.resolve("owner/name", "abc") == model_directory
    assert (asked["name"], asked["revision"]) == ("owner/name", "abc")


def test_digest_is_of_the_files_that_make_vectors(model_directory: Path, copy: Path) -> None:
    digest = checkpoint.model_digest(model_directory)
    (copy / "README.md").write_text("another card")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "x").write_text("x")
    assert checkpoint.model_digest(copy) == digest
    (copy / "1_Pooling" / "config.json").write_text("{}")
    assert checkpoint.model_digest(copy) != digest

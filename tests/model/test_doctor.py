import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from f2llm.core.errors import ModelError
from f2llm.model.doctor import CHECKS, diagnose

ST = "config_sentence_transformers.json"


def change(file: str, **fields: Any) -> Callable[[Path], object]:
    """A breakage: other values in one JSON file; a value of None removes the field."""

    def apply(directory: Path) -> None:
        content = {**json.loads((directory / file).read_text()), **fields}
        kept = {key: value for key, value in content.items() if value is not None}
        (directory / file).write_text(json.dumps(kept))

    return apply


def change_weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def apply(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        edit(tensors)
        save_file(tensors, directory / "model.safetensors")

    return apply


def drop(file: str) -> Callable[[Path], object]:
    return lambda directory: (directory / file).unlink()


def keep_modules(count: int) -> Callable[[Path], object]:
    def apply(directory: Path) -> None:
        modules = json.loads((directory / "modules.json").read_text())
        (directory / "modules.json").write_text(json.dumps(modules[:count]))

    return apply


def eos_twice(directory: Path) -> None:
    content = json.loads((directory / "tokenizer.json").read_text())
    template = content["post_processor"]["processors"][1]["single"]
    template.append(template[-1])
    (directory / "tokenizer.json").write_text(json.dumps(content))


SPACE_LOST = {"query": "Instruct: Find it.\nQuery:", "document": ""}
BREAKAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "entries of the parent": ("config", change("config.json", layer_types=["full_attention"] * 28), "28 entries"),
    "window layers of the parent": ("config", change("config.json", max_window_layers=28), "max_window_layers is 28"),
    "cache on": ("config", change("config.json", use_cache=True), "use_cache is on"),
    "cache by default": ("config", change("config.json", use_cache=None), "use_cache is on"),
    "small table": ("config", change("config.json", vocab_size=399), "vocab_size is 399, but the tokenizer has 400"),
    "other model": ("config", change("config.json", model_type="bert"), "model_type is 'bert'"),
    "no config": ("config", drop("config.json"), "is no model directory"),
    "no dims": ("dimensions", change("config.json", is_matryoshka=None), "matryoshka_dimensions are absent"),
    "dims of the parent": ("dimensions", change("config.json", matryoshka_dimensions=[8, 1024]), "hidden_size, 48"),
    "dims in disorder": ("dimensions", change("config.json", matryoshka_dimensions=[16, 8, 48]), r"\[16, 8, 48\]"),
    "mean": (
        "pooling",
        change("1_Pooling/config.json", pooling_mode_lasttoken=False, pooling_mode_mean_tokens=True),
        r"pooling is \['mean_tokens'\]",
    ),
    "two poolings": ("pooling", change("1_Pooling/config.json", pooling_mode_cls_token=True), "'cls_token', 'last"),
    "new form": ("pooling", change("1_Pooling/config.json", pooling_mode="mean"), r"pooling is \['mean'\]"),
    "prompt left out": ("pooling", change("1_Pooling/config.json", include_prompt=False), "include_prompt is false"),
    "width of the parent": ("pooling", change("1_Pooling/config.json", word_embedding_dimension=1024), "write 48"),
    "no pooling module": ("pooling", keep_modules(1), "no Pooling module"),
    "no pooling file": ("pooling", drop("1_Pooling/config.json"), "does not exist"),
    "not normalised": ("normalise", keep_modules(2), "last must be Normalize"),
    "dot product": ("normalise", change(ST, similarity_fn_name="dot"), "similarity_fn_name is 'dot'"),
    "no eos": ("eos", change("tokenizer.json", post_processor=None), "ends a short text with"),
    "two eos": ("eos", eos_twice, "not with one 399"),
    "foreign tokenizer": ("eos", change("tokenizer.json", added_tokens=[], post_processor=None), "lacks"),
    "no tokenizer": ("eos", drop("tokenizer.json"), "does not exist"),
    "other eos": ("eos", change("tokenizer_config.json", eos_token="<|endoftext|>"), "eos_token is"),
    "literal eos": ("eos", change("tokenizer_config.json", split_special_tokens=None), "split_special_tokens"),
    "two limits": ("length", change("tokenizer_config.json", model_max_length=131072), "max_seq_length is 40"),
    "limit too far": ("length", change("sentence_bert_config.json", max_seq_length=50000), "write 2 to 40960"),
    "space lost": ("prompts", change(ST, prompts=SPACE_LOST), "the template is exactly"),
    "no query": ("prompts", change(ST, prompts={"document": ""}), "prompts has no 'query'"),
    "no prompts": ("prompts", change(ST, prompts=None), "prompts has no 'query'"),
    "unknown default": ("prompts", change(ST, default_prompt_name="x"), "default_prompt_name is 'x'"),
    "tensor gone": ("weights", change_weights(lambda t: t.pop("norm.weight")), r"1 of 35 .* norm\.weight"),
    "not finite": ("weights", change_weights(lambda t: t["norm.weight"].fill_(torch.nan)), "norm.weight holds values"),
    "vectors moved": ("vectors", change_weights(lambda t: t["norm.weight"][:9].mul_(-1)), "a file was changed"),
    "vectors not finite": ("vectors", change_weights(lambda t: t["norm.weight"].fill_(torch.nan)), "cosine nan"),
    "no references": ("vectors", drop("reference_vectors.json"), "is absent"),
}  # fmt: skip


def test_a_good_directory_passes_every_check(model_directory: Path) -> None:
    findings = diagnose(model_directory)
    assert [finding.check for finding in findings] == list(CHECKS)
    assert all(finding.ok for finding in findings), findings


@pytest.mark.parametrize("kind", BREAKAGES)
def test_each_breakage_is_found_and_named(model_directory: Path, tmp_path: Path, kind: str) -> None:
    check, breakage, message = BREAKAGES[kind]
    directory = Path(shutil.copytree(model_directory, tmp_path / "m"))
    breakage(directory)
    failed = [finding for finding in diagnose(directory) if not finding.ok and finding.check == check]
    assert failed
    assert re.search(message, failed[0].message), failed


@pytest.mark.parametrize("file", ["config.json", ST, "modules.json", "tokenizer.json", "reference_vectors.json"])
@pytest.mark.parametrize("content", ["", "[]", "{}", "[1]", "null", '{"prompts": 3, "model_type": "qwen3"}'])
def test_no_content_makes_the_doctor_fall_ill(model_directory: Path, tmp_path: Path, file: str, content: str) -> None:
    directory = Path(shutil.copytree(model_directory, tmp_path / "m"))
    (directory / file).write_text(content)
    findings = diagnose(directory)
    assert any(not finding.ok for finding in findings)
    assert {finding.check for finding in findings} == set(CHECKS)


def test_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no directory"):
        diagnose(tmp_path / "nowhere")

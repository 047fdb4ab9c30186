import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from f2llm.core.errors import ConfigError, F2LLMError, ModelError
from f2llm.core.log import console
from f2llm.model import checkpoint
from f2llm.model import merge as module
from f2llm.model.doctor import diagnose
from f2llm.model.embedder import Embedder
from f2llm.model.merge import MergeReport, average, merge, normalised
from f2llm.model.sizes import Shape, matryoshka_dims
from f2llm.model.weights import INDEX, WEIGHTS
from f2llm.text.prompts import DEFAULT_INSTRUCTION, query_prompt
from f2llm.text.tokenizer import Tokenizer
from tests.conftest import CORPUS, SMALL, random_decoder


def export(
    directory: Path,
    tokenizer: Tokenizer,
    seed: int,
    *,
    shape: Shape = SMALL,
    dtype: torch.dtype = torch.float32,
    max_seq_length: int = 40,
    prompts: dict[str, str] | None = None,
    dims: Sequence[int] = (),
) -> Path:
    checkpoint.save(
        random_decoder(shape, seed),
        directory,
        tokenizer=tokenizer,
        max_seq_length=max_seq_length,
        prompts=prompts or {"query": query_prompt(DEFAULT_INSTRUCTION)},
        matryoshka_dims=dims or matryoshka_dims(shape.hidden),
        card=f"# {directory.name}\n",
        dtype=dtype,
    )
    return directory


@pytest.fixture
def models(tmp_path: Path, small_tokenizer: Tokenizer) -> list[Path]:
    """Three models of one shape and vocabulary."""
    return [export(tmp_path / name, small_tokenizer, seed) for seed, name in enumerate("abc")]


def tensors_of(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / WEIGHTS)


def change_tensors(file: Path, name: str, tensor: Tensor) -> None:
    save_file({**load_file(file), name: tensor}, file)


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_result_is_the_average_and_a_whole_model(models: list[Path], tmp_path: Path) -> None:
    report = merge(models, tmp_path / "out")
    assert report == MergeReport(SMALL.parameters, ("a", "b", "c"), (1 / 3, 1 / 3, 1 / 3))
    a, b, c = map(tensors_of, models)
    for name, tensor in tensors_of(tmp_path / "out").items():
        by_hand = ((a[name].double() + b[name].double() + c[name].double()) / 3).float()
        torch.testing.assert_close(tensor, by_hand, rtol=1.2e-7, atol=1e-12)  # one step of float32
    assert all(finding.ok for finding in diagnose(tmp_path / "out")), diagnose(tmp_path / "out")
    checkpoint.load(tmp_path / "out")


def test_weights_are_normalised_and_told(models: list[Path], tmp_path: Path) -> None:
    report = merge(models[:2], tmp_path / "out", weights=[3, 1])
    assert report.weights == (0.75, 0.25)
    a, b = map(tensors_of, models[:2])
    for name, tensor in tensors_of(tmp_path / "out").items():
        torch.testing.assert_close(tensor, 0.75 * a[name] + 0.25 * b[name], rtol=1e-6, atol=1e-7)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("# a\n")
    assert "## Merged" in card
    assert "| `a` | 0.75 |\n| `b` | 0.25 |\n" in card
    assert str(tmp_path) not in card


def test_a_model_merged_with_itself_gives_the_same_vectors(models: list[Path], tmp_path: Path) -> None:
    merge([models[0]] * 3, tmp_path / "out", weights=[0.1, 0.2, 0.4])
    before, after = (Embedder.load(path).encode_query(CORPUS) for path in (models[0], tmp_path / "out"))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-7)


def test_order_and_weights_are_one_matter(models: list[Path], tmp_path: Path) -> None:
    merge(models, tmp_path / "x", weights=[1, 2, 3])
    merge(models[::-1], tmp_path / "y", weights=[3, 2, 1])
    x, y = tensors_of(tmp_path / "x"), tensors_of(tmp_path / "y")
    assert all(torch.allclose(x[name], y[name], rtol=1e-7, atol=1e-9) for name in x)


def shard(directory: Path) -> None:
    """Rewrite the weights as a causal language model in two shards."""
    tensors = {f"model.{name}": tensor for name, tensor in tensors_of(directory).items()}
    tensors["lm_head.weight"] = torch.zeros(SMALL.vocab_size, SMALL.hidden)
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, directory / file)
    (directory / INDEX).write_text(
        json.dumps({"weight_map": {name: file for file, held in shards.items() for name in held}})
    )
    (directory / WEIGHTS).unlink()


def test_shards_count_like_a_whole_file(models: list[Path], tmp_path: Path) -> None:
    merge(models, tmp_path / "whole")
    shard(models[0])
    shard(models[2])
    merge(models, tmp_path / "sharded")
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "sharded" / WEIGHTS).read_bytes()


def test_milestones_of_a_run_are_merged_into_its_model(models: list[Path], tmp_path: Path) -> None:
    steps = [tmp_path / "milestones" / f"step-{step:08d}.safetensors" for step in (100, 200)]
    for step, model in zip(steps, models[1:], strict=True):
        checkpoint.save_weights(checkpoint.load(model), step)
    report = merge([models[0], *steps], tmp_path / "out", weights=[1, 2, 1])
    assert report.names == ("a", "step-00000100", "step-00000200")
    merge(models, tmp_path / "same", weights=[1, 2, 1])
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "same" / WEIGHTS).read_bytes()
    with pytest.raises(ConfigError, match=r"first model, .*step-00000100\.safetensors, is a weights file"):
        merge(steps, tmp_path / "refused")


def test_a_milestone_of_another_run_is_refused(models: list[Path], tmp_path: Path) -> None:
    step = tmp_path / "step-00000001.safetensors"
    checkpoint.save_weights(random_decoder(replace(SMALL, hidden=64)), step)
    with pytest.raises(ModelError, match=r"first model's shape, that of a: .*has shape \(512, 64\), .* \(512, 48\)"):
        merge([models[0], step], tmp_path / "out")
    save_file({"norm.weight": torch.ones(48)}, step)
    with pytest.raises(ModelError, match="34 of 35 tensors are missing"):
        merge([models[0], step], tmp_path / "out")
    with pytest.raises(ModelError, match=r"step-2\.safetensors does not exist"):
        merge([models[0], tmp_path / "step-2.safetensors"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_first_models_type_is_kept(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    half = export(tmp_path / "half", small_tokenizer, 0, dtype=torch.bfloat16)
    full = export(tmp_path / "full", small_tokenizer, 1)
    merge([half, full], tmp_path / "out")
    a, b = tensors_of(half), tensors_of(full)
    for name, tensor in tensors_of(tmp_path / "out").items():
        assert torch.equal(tensor, ((a[name].double() + b[name].double()) / 2).bfloat16())
    assert all(finding.ok for finding in diagnose(tmp_path / "out"))
    merge([full, half], tmp_path / "out")
    assert tensors_of(tmp_path / "out")["norm.weight"].dtype == torch.float32


def test_bare_qwen3_directories_are_merged(models: list[Path], tmp_path: Path) -> None:
    for model in models:
        for name in ("config_sentence_transformers.json", "sentence_bert_config.json", "modules.json", "README.md"):
            (model / name).unlink()
        shutil.rmtree(model / "1_Pooling")
    merge(models, tmp_path / "out")
    assert all(finding.ok for finding in diagnose(tmp_path / "out")), diagnose(tmp_path / "out")
    assert Embedder.load(tmp_path / "out").prompts["query"] == query_prompt(DEFAULT_INSTRUCTION)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# out\n" in card
    assert "| `c` | 0.333333 |" in card


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden", 64, "b/config.json: hidden_size is 64, but 48 in a; give models of one shape"),
        ("layers", 2, "num_hidden_layers is 2, but 3"),
        ("mlp", 40, "intermediate_size is 40, but 80"),
        ("kv_heads", 4, "num_key_value_heads is 4, but 2"),
        ("rope_theta", 1e4, r"rope_theta is 10000\.0, but 1000000\.0"),
    ],
)
def test_other_shapes_are_refused_by_field(
    models: list[Path], small_tokenizer: Tokenizer, tmp_path: Path, field: str, value: float, message: str
) -> None:
    export(models[1], small_tokenizer, 1, shape=replace(SMALL, **{field: value}))
    with pytest.raises(ModelError, match=message):
        merge(models, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_tokenizers_are_refused(models: list[Path], tmp_path: Path) -> None:
    export(models[1], Tokenizer.train(CORPUS[::-1], 390, 64), 1)
    with pytest.raises(ModelError, match=r"b/tokenizer\.json differs from that of a \(390 and 400 ids\)"):
        merge(models, tmp_path / "out")
    rules = json.loads((models[0] / "tokenizer.json").read_text())
    rules["normalizer"] = {"type": "NFKC"}
    (models[1] / "tokenizer.json").write_text(json.dumps(rules))
    with pytest.raises(ModelError, match=r"\(400 and 400 ids\)"):
        merge(models, tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 2])
def test_numbers_that_are_not_finite_are_refused(models: list[Path], tmp_path: Path, value: float, place: int) -> None:
    broken = torch.ones(SMALL.hidden)
    broken[7] = value
    change_tensors(models[place] / WEIGHTS, "norm.weight", broken)
    with pytest.raises(ModelError, match=rf"^{'abc'[place]}: tensor norm\.weight holds values that are not finite"):
        merge(models, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_average_too_large_for_its_type_is_refused(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    half = export(tmp_path / "half", small_tokenizer, 0, dtype=torch.float16)
    full = export(tmp_path / "full", small_tokenizer, 1)
    change_tensors(full / WEIGHTS, "norm.weight", torch.full((SMALL.hidden,), 1e6))
    with pytest.raises(ModelError, match=r"norm\.weight is too large for torch\.float16, in which half is stored"):
        merge([half, full], tmp_path / "out")


def test_other_settings_are_warned_about(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    a = export(tmp_path / "a", small_tokenizer, 0)
    b = export(tmp_path / "b", small_tokenizer, 1, max_seq_length=24, prompts={"query": ""}, dims=[16, 48])
    with console.capture() as said:
        merge([a, b], tmp_path / "out")
    lines = said.get().splitlines()
    assert [line.split(" is ")[0] for line in lines] == [
        f"warning: b: {field}" for field in ("prompts", "max_seq_length", "matryoshka_dims")
    ]
    assert lines[1] == "warning: b: max_seq_length is 24; the merged model takes 40 from a"
    assert lines[2].endswith("is [16, 48]; the merged model takes [8, 16, 32, 48] from a")
    merged, first = (checkpoint.read_settings(path) for path in (tmp_path / "out", a))
    assert (merged.prompts, merged.max_seq_length, merged.matryoshka_dims) == (
        first.prompts,
        first.max_seq_length,
        first.matryoshka_dims,
    )
    with console.capture() as said:
        merge([a, a], tmp_path / "out")
    assert said.get() == ""


def test_an_input_is_never_replaced(models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    for out in (models[1], Path("b"), tmp_path / "a" / ".." / "c", tmp_path):
        with pytest.raises(ConfigError, match=r"would replace the input .*; choose another --out"):
            merge(models, out)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("given", "weights", "message"),
    [
        ("a", None, "at least two models, and 1 is given"),
        ("ab", [1.0], "weights lists 1 for 2 models"),
        ("ab", [1.0, 0.0], r"a weight is 0\.0; give positive numbers"),
        ("ab", [1.0, -1.0], r"a weight is -1\.0"),
        ("ab", [1.0, float("nan")], "a weight is nan"),
        ("ab", [float("inf"), 1.0], "a weight is inf"),
    ],
)
def test_wrong_options_are_told(
    models: list[Path], tmp_path: Path, given: str, weights: list[float] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        merge([tmp_path / name for name in given], tmp_path / "out", weights=weights)


def test_missing_and_broken_directories_are_told(models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere is no directory"):
        merge([models[0], tmp_path / "nowhere"], tmp_path / "out")
    (models[1] / WEIGHTS).write_bytes((models[1] / WEIGHTS).read_bytes()[:-8])
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        merge(models, tmp_path / "out")
    (models[1] / "tokenizer.json").unlink()
    with pytest.raises(F2LLMError, match=r"tokenizer\.json does not exist"):
        merge(models, tmp_path / "out")


def test_weights_of_any_size_sum_to_one() -> None:
    assert normalised([2, 6], 2) == [0.25, 0.75]
    assert normalised([1.7e308, 1.7e308], 2) == [0.5, 0.5]
    assert normalised(None, 4) == [0.25] * 4


def test_pieces_make_up_the_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(11, 3, generator=generator) for _ in range(3)]
    whole = average(tensors, [0.5, 0.3, 0.2], torch.float32)
    for piece in (1, 6, 20):
        monkeypatch.setattr(module, "_PIECE", piece)
        assert torch.equal(average(tensors, [0.5, 0.3, 0.2], torch.float32), whole)
    assert torch.equal(average([tensors[0][:, 0]] * 2, [0.5, 0.5], torch.float32), tensors[0][:, 0])


def test_parts_are_named_by_what_tells_them_apart(
    small_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [export(tmp_path / run / "model", small_tokenizer, seed) for seed, run in enumerate(("one", "two"))]
    assert merge(runs, tmp_path / "out").names == ("one/model", "two/model")
    assert merge([runs[0], runs[0]], tmp_path / "out").names == ("model", "model")
    monkeypatch.chdir(runs[0])
    assert merge([Path("."), Path("../../two/model")], tmp_path / "out").names == ("one/model", "two/model")

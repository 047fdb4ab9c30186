"""Where a teacher may come from, and what a model may have otherwise than its recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from f2llm.core.config import load_recipe
from f2llm.core.errors import ConfigError
from f2llm.core.files import read_json
from f2llm.model import checkpoint
from f2llm.pipeline.build import build
from f2llm.pipeline.checks import check_recipe, trained_dims
from f2llm.pipeline.plan import make_plan
from f2llm.train.metrics import read_metrics
from tests.pipeline.conftest import TINY, Built

STUDENT = """
[[models]]
name = "student"
size = "small"
stages = [2]
teacher = "TEACHER"
stage2 = { max_steps = 4 }
"""


def recipe_with(directory: Path, built: Built, models: str, own_tokenizer: bool = False) -> Path:
    """The tiny recipe with other models, and the tokenizer that the tiny family has."""
    text = TINY.read_text(encoding="utf-8")
    text = text[: text.index("[[models]]")] + models.replace(
        "TEACHER", str(built.out / "export" / "tiny-base" / "model")
    )
    if not own_tokenizer:
        text = text.replace("vocab_size = 400", f'path = "{built.out / "tokenizer" / "tokenizer.json"}"')
    path = directory / "recipe.toml"
    path.write_text(text + '\n[report]\ndefault_model = "student"\n', encoding="utf-8")
    return path


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check_recipe(*load_recipe(path))
    return str(caught.value)


def test_a_teacher_from_outside_stored_and_online(built: Built, tmp_path: Path) -> None:
    path = recipe_with(tmp_path, built, STUDENT)
    found = {}
    for kept in ("stored", "online"):
        out = tmp_path / kept
        result = build(path, out=out, overrides=[f"training.teacher_vectors={kept}"], until="train")
        assert any(step.startswith("teach/") for step in result.ran) == (kept == "stored")
        found[kept] = [
            e["distill"] for e in read_metrics(out / "train/student/stage2/metrics.jsonl") if "kind" not in e
        ]
    assert len(found["online"]) == 4
    assert found["online"] == pytest.approx(found["stored"], rel=1e-3)


def test_a_teacher_with_another_tokenizer_is_refused(built: Built, tmp_path: Path, model_directory: Path) -> None:
    wrong = recipe_with(tmp_path, built, STUDENT.replace("TEACHER", str(model_directory)))
    assert "teacher and student must share the tokenizer" in complaint(wrong)
    own = recipe_with(tmp_path, built, STUDENT, own_tokenizer=True)
    assert "has its own tokenizer, and this recipe trains another" in complaint(own)
    neither = recipe_with(tmp_path, built, STUDENT.replace("TEACHER", "../nowhere"))
    assert "'../nowhere' is neither a model of this recipe (student) nor a directory" in complaint(neither)


def test_a_start_from_outside_must_fit(built: Built, tmp_path: Path, model_directory: Path) -> None:
    start = 'init = "TEACHER"\nstages = [2]\n'
    models = STUDENT.replace('teacher = "TEACHER"\n', "").replace("stages = [2]\n", start)
    assert "has hidden 32, but size 'small' has 16" in complaint(recipe_with(tmp_path, built, models))
    assert "this recipe trains another" in complaint(recipe_with(tmp_path, built, models, own_tokenizer=True))
    other = models.replace("TEACHER", str(model_directory))
    assert "the ids must mean the same" in complaint(recipe_with(tmp_path, built, other))
    fitting = recipe_with(tmp_path, built, models.replace('"small"', '"base"'))
    check_recipe(*load_recipe(fitting))


def test_a_narrower_teacher_can_only_tell_relations(built: Built, tmp_path: Path) -> None:
    wide = STUDENT.replace('"small"', '"wide"') + "\n[sizes.wide]\nhidden = 64\nlayers = 1\nmlp = 24\nheads = 2\n"
    path = recipe_with(tmp_path, built, wide + "kv_heads = 1\nhead_dim = 16\n")
    assert "has 32 dims, fewer than the 64 of student; take a larger teacher" in complaint(path)
    check_recipe(*load_recipe(path, ["training.distill=relational"]))


def test_hidden_states_need_the_parent_as_teacher(built: Built, tmp_path: Path) -> None:
    models = STUDENT.replace('"small"', '"base"') + "training = { distill_hidden_weight = 1.0 }\n"
    path = recipe_with(tmp_path, built, models)
    assert "hidden states can be matched only with the model that student is pruned from" in complaint(path)


def test_a_student_of_one_layer_has_no_hidden_states(built: Built) -> None:
    with pytest.raises(ConfigError, match="only with two layers or more"):
        check_recipe(*load_recipe(TINY, ["models.tiny-small.training.distill_hidden_weight=1.0"]))


def test_a_pruned_student_matches_the_layers_it_was_cut_from(built: Built, tmp_path: Path) -> None:
    import shutil

    out = Path(shutil.copytree(built.out, tmp_path / "copy"))
    changes = [
        "sizes.small.layers=2",
        "models.tiny-small.training.distill_hidden_weight=1.0",
        "models.tiny-small.stage2.max_steps=3",
    ]
    build(TINY, out=out, overrides=changes, until="train/tiny-small")
    entries = [e for e in read_metrics(out / "train/tiny-small/stage2/metrics.jsonl") if "kind" not in e]
    assert all(0 < entry["hidden"] < 2 for entry in entries)
    shape = checkpoint.read_shape(out / "train/tiny-small/stage2/model")
    assert (shape.hidden, shape.layers) == (16, 2)
    assert read_json(out / "teach/tiny-base/done.json")["states"] == 1


def test_a_model_may_differ_from_its_recipe() -> None:
    recipe, file = load_recipe(
        TINY, ["models.tiny-plain.training.matryoshka_min_dim=0", "models.tiny-small.prune.importance=prefix"]
    )
    plain, small = recipe.model("tiny-plain"), recipe.model("tiny-small")
    assert (trained_dims(recipe, plain), trained_dims(recipe, small)) == ([16], [8, 16])
    assert (recipe.prune_of(small).importance, recipe.prune_of(plain).importance) == ("prefix", "l2")
    plan = {step.name: step for step in make_plan(recipe, file)}
    usual = {step.name: step for step in make_plan(*load_recipe(TINY))}
    changed = {name for name, step in plan.items() if step.config != usual[name].config}
    assert {"train/tiny-plain/stage2", "prune/tiny-small"} <= changed
    assert "train/tiny-small/stage2" not in changed


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("models.tiny-plain.training.temprature=1", "unknown key 'temprature'"),
        ("models.tiny-plain.training.distill=kl", "'mse', 'cosine' or 'relational'"),
        ("models.tiny-plain.prune.calibration_texts=9", "scored once for all that are pruned from it"),
        ("models.tiny-plain.training.symmetric_instruction_share=0.5", "tokenised once for all models"),
        ("models.tiny-plain.prune.depth=last", "'first', 'influence' or 'norm_change'"),
        ("models.tiny-plain.training.matryoshka_min_dim=64", "more than the hidden size 16 of tiny-plain"),
    ],
)
def test_a_models_own_mistakes_are_told(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_recipe(*load_recipe(TINY, [override]))
    assert words in str(caught.value)
    assert "models.2." in str(caught.value)

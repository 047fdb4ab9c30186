"""The card of a built model says what the run was; its numbers are those of the artifacts."""

import tomllib
from pathlib import Path

import pytest
import yaml

from f2llm.core.files import digest_file, read_json
from f2llm.data.examples import count_examples
from f2llm.model.card import Teacher, read_teacher, short_card
from f2llm.model.weights import weights_digest
from tests.conftest import SMALL
from tests.pipeline.conftest import TINY, Built


def header(card: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_a_built_model_tells_how_good_it_is_and_how_to_make_it_again(built: Built) -> None:
    card = (built.out / "export" / "tiny-small" / "model" / "README.md").read_text(encoding="utf-8")
    assert header(card)["language"] == ["deu", "fra", "jpn", "rus", "spa", "tur"]
    assert header(card)["pipeline_tag"] == "sentence-similarity"
    scores = read_json(built.out / "evaluate" / "tiny-small" / "scores.json")
    assert f"| all | mean over languages | {scores['macro']:.3f} |" in card
    assert f"| {scores['by_dim']['8']:.3f} | {scores['by_dim']['16']:.3f} |" in card
    worst = min(scores["by_language"].items(), key=lambda item: item[1])
    assert f"`{worst[0]}`, {worst[1]:.2f}" in card
    rows = count_examples(built.out / "clean" / "train" / "translation")
    assert f"| `translation` | {rows:,} | not stated | Find the same name. |" in card
    assert f"f2llm build {TINY}" in card
    assert digest_file(TINY) in card
    assert read_json(built.out / "clean" / "manifest.json")["output"] in card
    assert "Pruned from the stage-1 weights of tiny-base" in card
    assert "Distilled from tiny-base" in card
    assert f"Seed {tomllib.loads(TINY.read_text())['seed']};" in card


def test_a_stage_one_model_names_its_own_data_only(built: Built) -> None:
    card = (built.out / "export" / "tiny-base-preview" / "model" / "README.md").read_text(encoding="utf-8")
    assert "| `translation` |" in card
    assert "| `kind` |" not in card
    assert "Stage 2" not in card


def test_a_student_names_its_teacher_by_the_digest_of_the_teacher_s_export(built: Built) -> None:
    """A pruned and distilled model links to the weights that users of the teacher have, whatever they call them."""
    student, teacher = (built.out / "export" / name / "model" for name in ("tiny-small", "tiny-base"))
    assert read_teacher(student) == Teacher("tiny-base", weights_digest(teacher))
    assert weights_digest(teacher) == digest_file(teacher / "model.safetensors")
    for name in ("tiny-base", "tiny-plain", "tiny-small-pruned"):
        assert read_teacher(built.out / "export" / name / "model") is None


@pytest.mark.parametrize("card", ["", "# no header", "---\n{\n---\n", "---\ndistilled_from: someone\n---\n"])
def test_a_card_that_says_nothing_of_a_teacher(tmp_path: Path, card: str) -> None:
    assert read_teacher(tmp_path) is None
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert read_teacher(tmp_path) is None


def test_a_short_card_has_a_valid_header() -> None:
    card = short_card("small", SMALL, "Merged.", "mit")
    assert header(card)["license"] == "mit"
    assert f"{SMALL.parameters:,} parameters" in card

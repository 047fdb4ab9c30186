import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2llm.text.prompts import DEFAULT_INSTRUCTION, query_prompt, strip_instruction, with_prompt


def test_template_is_exact() -> None:
    assert query_prompt("Find it.") == "Instruct: Find it.\nQuery: "
    assert query_prompt(DEFAULT_INSTRUCTION).startswith("Instruct: Given a question, ")


@pytest.mark.parametrize("nothing", [None, "", " \n "])
def test_no_instruction_means_no_prompt(nothing: str | None) -> None:
    assert query_prompt(nothing) == ""


@given(st.text(), st.text())
def test_strip_undoes_the_prompt(text: str, instruction: str) -> None:
    prompt = query_prompt(instruction)
    stripped = strip_instruction(with_prompt(text, prompt))
    assert stripped == (text if prompt else strip_instruction(text))


def test_strip_knows_the_first_versions_spacing_and_leaves_other_texts_alone() -> None:
    assert strip_instruction("Instruct: Find it. \n Query:who?") == "who?"
    assert strip_instruction("Instruct: a\nQuery: Instruct: b\nQuery: c") == "Instruct: b\nQuery: c"
    for text in ("Instruct: find it", "who?\nQuery: x", "instruct: a\nQuery: b"):
        assert strip_instruction(text) == text

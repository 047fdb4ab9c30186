"""The prefix that tells the model what a query is for, and its inverse.

One template (F2LLM-v2, section 2.2): training, inference and export all take it from here, for a prompt that differs
by one space gives other vectors. Documents get no prefix. No cost, no state.
"""

from __future__ import annotations

import re

QUERY_TEMPLATE = "Instruct: {instruction}\nQuery: "
DEFAULT_INSTRUCTION = "Given a question, retrieve passages that can help answer the question."

SYMMETRIC_INSTRUCTIONS = {
    "STS": "Retrieve semantically similar text.",
    "BitextMining": "Retrieve translations of the following text.",
    "Classification": "Classify the topic of the given text.",
    "MultilabelClassification": "Classify the topic of the given text.",
    "Clustering": "Classify the topic of the given text.",
    "PairClassification": "Retrieve semantically entailed text.",
}
"""Type of a task whose texts are all queries, as MTEB names it -> what F2LLM-v2 asks (reference implementation)."""
TASK_INSTRUCTIONS = {
    **SYMMETRIC_INSTRUCTIONS,
    "Retrieval": DEFAULT_INSTRUCTION,
    "Reranking": DEFAULT_INSTRUCTION,
}
"""Type of a task -> the instruction of its queries."""

# The published data of the first version writes "Instruct: ... \n Query:..."; the spaces are optional for its sake.
_PREFIX = re.compile(r"\AInstruct: ?[^\n]*\n ?Query: ?")


def query_prompt(instruction: str | None) -> str:
    """The text to put before a query; "" where there is no instruction (None or blank).

    White space in the instruction, line breaks too, becomes single spaces: the template gives the instruction one line,
    and `strip_instruction` can only take away what it can recognise.
    """
    line = " ".join((instruction or "").split())
    return QUERY_TEMPLATE.format(instruction=line) if line else ""


def with_prompt(text: str, prompt: str) -> str:
    """`text` as the model reads it: the prompt, then the text, nothing between (as sentence-transformers does)."""
    return prompt + text


def strip_instruction(text: str) -> str:
    """`text` without the instruction prefix that it may start with; published queries already carry one."""
    return _PREFIX.sub("", text, count=1)

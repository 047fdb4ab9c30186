"""The paper's sources in a recipe: a `[registry]` section becomes one source for each line of `f2llm.data.sources`.

The released queries carry instructions that differ from row to row; they are taken off when the files are converted,
and each source gets one of ours, by the category of the paper and the format.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from f2llm.core.config import Recipe, RecipeFile, RegistryConfig, SourceConfig
from f2llm.core.types import TaskType
from f2llm.data.sources import Source, registry

_INSTRUCTIONS: dict[tuple[str, TaskType], str] = {
    ("Bitext Mining", "retrieval"): "Given a text, retrieve its translation.",
    ("Bitext Mining", "clustering"): "Given a text, find texts that say the same in other languages.",
    ("Question Answering", "retrieval"): "Given a question, retrieve passages that answer it.",
    ("Instruction Data", "retrieval"): "Given a request, retrieve a fitting response.",
    ("Instruction Data", "classification"): "Given a text, tell which label fits it.",
    ("Title Matching", "retrieval"): "Given a title, retrieve the document that it belongs to.",
    ("NLI", "retrieval"): "Given a premise, retrieve a statement that follows from it.",
    ("Code-to-Code", "retrieval"): "Given a program, retrieve programs that do the same.",
    ("Code-to-Code", "clustering"): "Given a program, find programs that solve the same problem.",
    ("Topic Classification", "clustering"): "Given a text, find texts on the same topic.",
    ("Summarization", "retrieval"): "Given an article, retrieve its summary.",
    ("Text-to-Code", "retrieval"): "Given a description, retrieve code that does what it says.",
    ("Code-to-Text", "retrieval"): "Given a piece of code, retrieve the text that describes it.",
    ("Paraphrase Detection", "retrieval"): "Given a text, retrieve another wording of it.",
    ("Sentiment Analysis", "classification"): "Given a text, tell whether the opinion in it is positive or negative.",
    ("Sentiment Analysis", "clustering"): "Given a text, find texts that express the same feeling.",
    ("Intent Classification", "clustering"): "Given an utterance, find utterances with the same intent.",
    ("Domain Classification", "clustering"): "Given an utterance, find utterances of the same domain.",
    ("Language Classification", "clustering"): "Given a text, find texts in the same language.",
    ("Citation Prediction", "retrieval"): "Given a scientific paper, retrieve papers that it cites.",
    ("Linguistic Acceptability", "classification"): "Given a sentence, tell whether it is grammatical.",
    ("Claim Verification", "retrieval"): "Given a claim, retrieve texts that support or refute it.",
    ("STS", "retrieval"): "Given a text, retrieve texts with the same meaning.",
}
# Sources that ask something else than the rest of their category.
_OWN_INSTRUCTIONS = {
    "esci": "Given a search for a product, retrieve products that fit it.",
    "multi_cpr_ecom": "Given a search for a product, retrieve products that fit it.",
    "codesearchnet_ccr": "Given the beginning of a piece of code, retrieve its continuation.",
    "toxic_conversations": "Given a comment, tell whether it is toxic.",
    "amazon_counterfactual": "Given a product review, tell whether it speaks of something that was not so.",
}
# One file of these is named for no language: the English one.
_ENGLISH_WITHOUT_A_NAME = frozenset({"mmarco", "mr_tydi"})


def with_registry(recipe: Recipe, file: RecipeFile) -> Recipe:
    """The recipe with the sources of its `[registry]` after its own; as it is, where it has no such section.

    ConfigError for an unknown id in `exclude`, and for one that the recipe's own sources have too.
    """
    if recipe.registry is None:
        return recipe
    _check_excluded(recipe.registry, file)
    wanted = [source for source in registry() if source.id not in recipe.registry.exclude]
    added = [_config(source, recipe.registry) for source in wanted]
    added = [source for source in added if source not in recipe.sources]
    taken = {source.id for source in added}
    for index, source in enumerate(recipe.sources):
        if source.id in taken:
            problem = f"{source.id!r} is also a source of the registry; rename it, or add it to registry.exclude"
            raise file.fail(("sources", index, "id"), problem)
    return recipe.model_copy(update={"sources": [*recipe.sources, *added]})


def registered(recipe: Recipe) -> dict[str, Source]:
    """Those of the recipe's sources that come from the registry."""
    own = {source.id for source in recipe.sources}
    return {source.id: source for source in registry() if source.id in own} if recipe.registry else {}


def _check_excluded(config: RegistryConfig, file: RecipeFile) -> None:
    known = [source.id for source in registry()]
    for name in config.exclude:
        if name not in known:
            near = get_close_matches(name.lower(), known, n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"ids are like {', '.join(known[:5])}"
            raise file.fail(("registry", "exclude"), f"the registry has no source {name!r}; {hint}")


def _config(source: Source, config: RegistryConfig) -> SourceConfig:
    own = _OWN_INSTRUCTIONS.get(source.id)
    return SourceConfig(
        id=source.id,
        converter=f"released_{source.task_type}",
        task_type=source.task_type,
        path=config.path,
        stages=[1, 2] if source.stage1 else [2],
        instruction=own or _INSTRUCTIONS[source.category, source.task_type],
        symmetric=source.symmetric,
        max_rows=config.max_rows and config.max_rows * source.units,
        evaluate=False,
        options=_options(source),
    )


def _options(source: Source) -> dict[str, Any]:
    options: dict[str, Any] = {"files": list(source.files)}
    if source.row_range is not None:
        options["rows"] = list(source.row_range)
    if source.category == "Text-to-Code":
        options["language"] = "en"
        if source.language:
            options["doc_language"] = source.language
    elif source.category == "Code-to-Text":
        options["doc_language"] = "en"
    elif source.language or source.id in _ENGLISH_WITHOUT_A_NAME:
        options["language"] = source.language or "en"
    return options

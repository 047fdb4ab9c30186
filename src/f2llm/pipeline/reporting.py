"""The report step: scores, curves, manifests and example searches of a finished build -> f2llm.eval.report.

Beside report.html and report.json it writes corpus.txt, the documents of the first retrieval task, one a line, and
searches.json, what the default model finds there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from f2llm.apps.search import read_passages, search
from f2llm.core.config import Recipe
from f2llm.core.files import read_json, write_json, write_text
from f2llm.core.languages import language
from f2llm.eval.report import Comparison, Curve, ModelEntry, ReportData, ShownSearch, read_curve, write_report
from f2llm.eval.tasks import EvalTask
from f2llm.model import checkpoint
from f2llm.model.embedder import Embedder
from f2llm.pipeline.evaluation import evaluation_tasks
from f2llm.pipeline.runner import Workplace, manifests

if TYPE_CHECKING:
    from f2llm.pipeline.plan import Export

HITS = 3
DRAWN_SEARCHES = 3


def make_report(
    place: Workplace, recipe: Recipe, exports: Sequence[Export], steps: Sequence[str], command: str
) -> None:
    """report.html, report.json, figures/, corpus.txt and searches.json from everything before."""
    tasks = evaluation_tasks(place, recipe)
    data = ReportData(
        recipe=recipe.name,
        description=recipe.description,
        seed=recipe.seed,
        command=command,
        date=date.today().isoformat(),
        models=[_entry(place, export) for export in exports],
        baselines=read_json(place.artifact("baseline") / "scores.json"),
        curves=_curves(place, exports),
        comparisons=[Comparison(title=c.title, a=c.a, b=c.b) for c in recipe.report.comparisons],
        steps=manifests(place.out, steps),
        searches=_searches(place, recipe, tasks),
        facts=_facts(place, tasks),
    )
    write_report(place.directory, data)


def _entry(place: Workplace, export: Export) -> ModelEntry:
    directory = place.artifact(f"export/{export.name}") / "model"
    shape = checkpoint.read_shape(directory)
    scored = place.artifact(f"evaluate/{export.name}")
    return ModelEntry(
        name=export.name,
        role=export.role,
        parameters=shape.parameters,
        embedding_parameters=shape.embedding_parameters,
        dims=shape.hidden,
        stage=export.stage,
        init=export.model.init,
        teacher=export.model.teacher if export.stage == 2 else None,
        scores=read_json(scored / "scores.json") | read_json(scored / "timing.json"),
        path=str(directory),
    )


def _curves(place: Workplace, exports: Sequence[Export]) -> list[Curve]:
    """The training curve of every stage of every model, each once."""
    runs = [(export.model.name, export.stage, export.weights) for export in exports if export.stage > 0]
    return [
        read_curve(place.artifact(weights) / "metrics.jsonl", model=model, stage=stage)
        for model, stage, weights in runs
    ]


def _facts(place: Workplace, tasks: Sequence[EvalTask]) -> dict[str, str]:
    counts = read_json(place.artifact("clean") / "drops.json")
    rows = sum(source["train"] for source in counts.values())
    dropped = sum(sum(source["dropped"].values()) for source in counts.values())
    languages = {lang for task in tasks for lang in task.query_langs}
    return {
        "Training rows": f"{rows:,} in {len(counts)} sources",
        "Dropped rows": f"{dropped:,}, each for a counted reason",
        "Evaluated": f"{sum(len(task.queries) for task in tasks):,} held-out texts in {len(languages)} languages",
    }


def _searches(place: Workplace, recipe: Recipe, tasks: Sequence[EvalTask]) -> list[ShownSearch]:
    """What the default model finds for the recipe's queries, or for held-out ones that the seed draws."""
    task = next((task for task in tasks if task.kind == "retrieval"), None)
    if task is None:
        return []
    corpus = place.directory / "corpus.txt"
    write_text(corpus, "".join(f"{' '.join(text.split())}\n" for text in task.documents))
    queries = recipe.report.searches or _drawn(task, recipe.seed)
    embedder = Embedder.load(place.artifact(f"export/{recipe.report.default_model}") / "model")
    found = search(embedder, read_passages(corpus), queries, top_k=HITS, instruction=task.instruction)
    shown = [
        ShownSearch(query=query, hits=[(hit.score, hit.text) for hit in hits], **_known(task, query))
        for query, hits in zip(queries, found, strict=True)
    ]
    content: dict[str, Any] = {"model": recipe.report.default_model, "corpus": corpus.name}
    write_json(place.directory / "searches.json", content | {"results": [vars(search) for search in shown]})
    return shown


def _drawn(task: EvalTask, seed: int) -> list[str]:
    return random.Random(seed).sample(task.queries, min(DRAWN_SEARCHES, len(task.queries)))


def _known(task: EvalTask, query: str) -> dict[str, str]:
    """Language and right answer of a held-out query."""
    if query not in task.queries:
        return {}
    number = task.queries.index(query)
    return {"language": language(task.query_langs[number]).name, "answer": task.documents[task.relevant[number][0]]}

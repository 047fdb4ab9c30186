"""What character n-grams alone reach on the same tasks, and what guessing does: the references for every model.

Retrieval: cosine of TF-IDF vectors. Clustering: k-means on their truncated SVD. Classification: logistic regression
fitted on the source's training rows. Each task is tried with a few settings and the best is kept, judged on the
evaluation itself, which favours the baseline. Cost: seconds for some thousand short texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from f2llm.core.extras import optional
from f2llm.core.log import track
from f2llm.core.types import Example
from f2llm.eval import metrics
from f2llm.eval.evaluate import BLOCK_VALUES
from f2llm.eval.scores import (
    METRIC,
    Outcome,
    k_means,
    model_entry,
    outcome_of_clusters,
    outcome_of_rows,
    retrieval_values,
)
from f2llm.eval.tasks import EvalTask

SETTINGS: tuple[dict[str, Any], ...] = (
    {"analyzer": "char_wb", "ngram_range": (1, 4)},
    {"analyzer": "char_wb", "ngram_range": (1, 4), "strip_accents": "unicode"},
    {"analyzer": "char_wb", "ngram_range": (2, 5)},
)
COMPONENTS = 128  # of the truncated SVD before k-means
ITERATIONS = 300  # of the logistic regression


def evaluate_tfidf(
    tasks: Sequence[EvalTask], train: Mapping[str, Iterable[Example]] | None = None
) -> list[dict[str, Any]]:
    """scores.json of two TF-IDF baselines; `train` gives the training rows of a source by the task's name.

    "tfidf" compares queries with documents. "tfidf-expanded" indexes each document together with the training queries
    that it answers, a stronger reference for retrieval across languages; its other tasks are those of "tfidf".
    """
    plain: dict[str, dict[int | None, Outcome]] = {}
    expanded: dict[str, dict[int | None, Outcome]] = {}
    for task in track(tasks, "TF-IDF"):
        rows = list((train or {}).get(task.name, ()))
        plain[task.name] = expanded[task.name] = {None: best_outcome(task, rows)}
        if task.kind == "retrieval":
            larger = replace(task, documents=tuple(expand(task.documents, rows)))
            expanded[task.name] = {None: best_outcome(larger, rows)}
    return [model_entry("tfidf", tasks, plain), model_entry("tfidf-expanded", tasks, expanded)]


def evaluate_chance(tasks: Sequence[EvalTask]) -> dict[str, Any]:
    """scores.json of guessing, name "chance": every document and label alike, clusters drawn at random.

    V-measure cannot be read without it: over ten texts of a language, eight random clusters reach about 0.5.
    """
    generator = np.random.default_rng(0)
    outcomes: dict[str, dict[int | None, Outcome]] = {}
    for task in tasks:
        count = len(task.queries)
        if task.kind == "clustering":
            outcome = outcome_of_clusters(task, generator.integers(len(set(task.labels)), size=count))
        elif task.kind == "classification":
            outcome = outcome_of_rows({"accuracy": np.full(count, 0.5)}, task.query_langs, "accuracy")
        else:
            alike = [retrieval_values(np.zeros((1, len(task.documents))), [relevant]) for relevant in task.relevant]
            values = {key: np.concatenate([value[key] for value in alike]) for key in alike[0]}
            outcome = outcome_of_rows(values, task.query_langs, "ndcg@10")
        outcomes[task.name] = {None: outcome}
    return model_entry("chance", tasks, outcomes)


def best_outcome(task: EvalTask, rows: Sequence[Example]) -> Outcome:
    """The outcome of the setting with the highest score."""
    score = _SCORERS[task.kind]
    found = [score(task, rows, setting) for setting in SETTINGS]
    return max(found, key=lambda outcome: metrics.macro(outcome.languages(METRIC[task.kind])))


def vectoriser(setting: Mapping[str, Any]) -> Any:
    """A TF-IDF vectoriser with dampened counts and unit-length rows."""
    return optional("sklearn.feature_extraction.text", "report").TfidfVectorizer(
        sublinear_tf=True, dtype=np.float32, **setting
    )


def _retrieval(task: EvalTask, rows: Sequence[Example], setting: Mapping[str, Any]) -> Outcome:
    model = vectoriser(setting)
    documents = model.fit_transform(task.documents).T.tocsr()
    queries = model.transform(task.queries)
    step = max(1, BLOCK_VALUES // len(task.documents))
    parts = [
        retrieval_values((queries[start : start + step] @ documents).toarray(), task.relevant[start : start + step])
        for start in range(0, len(task.queries), step)
    ]
    values = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return outcome_of_rows(values, task.query_langs, "ndcg@10")


def expand(documents: Sequence[str], rows: Sequence[Example]) -> list[str]:
    """Each document followed by the distinct training queries that have it as their positive."""
    queries: dict[str, dict[str, None]] = {document: {} for document in documents}
    for row in rows:
        if row.positive in queries:
            queries[row.positive][row.query] = None
    return ["\n".join([document, *found]) for document, found in queries.items()]


def _clustering(task: EvalTask, rows: Sequence[Example], setting: Mapping[str, Any]) -> Outcome:
    weights = vectoriser(setting).fit_transform(task.queries)
    components = min(COMPONENTS, min(weights.shape) - 1)
    if components >= 1:
        weights = (
            optional("sklearn.decomposition", "report").TruncatedSVD(components, random_state=0).fit_transform(weights)
        )
        weights = optional("sklearn.preprocessing", "report").normalize(weights)
    return outcome_of_clusters(task, k_means(weights, len(set(task.labels))))


def _classification(task: EvalTask, rows: Sequence[Example], setting: Mapping[str, Any]) -> Outcome:
    model = vectoriser(setting)
    model.fit([*(row.query for row in rows), *task.documents])
    queries = model.transform(task.queries)
    classes = sorted({row.positive for row in rows})
    if len(classes) < 2:  # nothing to learn from: compare with the label texts themselves
        scores = (queries @ model.transform(task.documents).T).toarray()
    else:
        scores = _class_scores(model, rows, queries, classes, task.documents)
    right, wrong = np.array(task.pairs).T
    index = np.arange(len(right))
    accuracy = metrics.pair_accuracy(scores[index, right], scores[index, wrong])
    return outcome_of_rows({"accuracy": accuracy}, task.query_langs, "accuracy")


def _class_scores(
    model: Any, rows: Sequence[Example], queries: Any, classes: Sequence[str], documents: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Probability of each label text for each query [N, labels]; a label that was never trained on has 0."""
    regression = optional("sklearn.linear_model", "report").LogisticRegression(C=10.0, max_iter=ITERATIONS)
    regression.fit(model.transform([row.query for row in rows]), [row.positive for row in rows])
    column = {label: index for index, label in enumerate(regression.classes_)}
    probabilities = regression.predict_proba(queries)
    scores = np.zeros((queries.shape[0], len(documents)))
    for index, label in enumerate(documents):
        if label in column:
            scores[:, index] = probabilities[:, column[label]]
    return scores


_SCORERS: dict[str, Callable[[EvalTask, Sequence[Example], Mapping[str, Any]], Outcome]] = {
    "retrieval": _retrieval,
    "clustering": _clustering,
    "classification": _classification,
}

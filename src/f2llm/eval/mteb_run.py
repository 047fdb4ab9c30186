"""Run tasks of mteb on a model directory: resumable, offline where asked, every dimension from one encoding pass.

Below the output directory lie the vectors (`vectors/`, see mteb_cache) and the results (`results/`), one JSON file for
each model digest, task, revision, splits, dimension and precision. A result that is there is not computed again, unless
the instruction, the subsets or the version of mteb have changed; a killed run goes on where it stopped, and what was
encoded stays encoded. Scores are mteb's own: this module calls `mteb.evaluate` and nothing else.

A task that cannot run (no data set, an error inside) has a result with `error`; it is tried again next time. Vectors
that are not finite end the run: no task could be scored with them.

Cost: encoding, once a text; then each dimension and precision costs mteb's scoring of the task, which for retrieval is
one product of all queries with all documents. Limits: mteb draws random samples in clustering and classification, so
random numbers start afresh before every scoring, and scores do not depend on what ran before.
"""

from __future__ import annotations

import logging
import math
import random
import re
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from f2llm.core.errors import ConfigError, DataError, F2LLMError
from f2llm.core.extras import optional
from f2llm.core.files import digest_json, read_json, write_json
from f2llm.core.log import track, warn
from f2llm.eval import mteb_tasks
from f2llm.eval.footprint import model_facts
from f2llm.eval.mteb_model import MtebModel, load_model, nested_dims
from f2llm.eval.results import NOT_A_NUMBER, TaskResult, result_of
from f2llm.model.checkpoint import REFERENCE_TEXTS
from f2llm.model.vectors import PRECISIONS, Precision

NOT_STARTED = "not run: --budget leaves no time for it"
_BATCH = 256


@dataclass(frozen=True)
class Variant:
    """A dimension (None: the full width) and a precision."""

    dim: int | None
    precision: Precision


class ModelRuns:
    """Tasks on one model directory (or hub id), each in all variants.

    `dims` are scored besides the full width, the model's matryoshka dimensions for None; each with every one of
    `precisions` ("float32", "int8", "binary"). With `data` the network is never asked: tasks whose rows are not local
    fail with one line. `footprint` measures memory and speed of the model, once. Further keys of a result's file:
    metric, scores (split -> subset -> mteb's numbers), subsets, languages, instruction, mteb_version, model_facts.

    ConfigError for a wrong option, ModelError for a model that cannot be read or gives vectors that are not finite.
    """

    def __init__(
        self,
        model_dir: Path | str,
        tasks: Sequence[Any],
        out_dir: Path,
        *,
        name: str | None = None,
        data: Path | None = None,
        dims: Sequence[int] | None = None,
        precisions: Sequence[str] = ("float32",),
        instructions_file: Path | None = None,
        weights: str = "float32",
        footprint: bool = False,
    ) -> None:
        if data is not None:
            mteb_tasks.go_offline()
        with _quiet():
            self.model = load_model(
                model_dir, out_dir / "vectors", name=name, instructions_file=instructions_file, weights=weights
            )
            nested = nested_dims(self.model.source, dims)
            variants = [Variant(dim, precision) for dim in nested for precision in _checked(precisions)]
            facts = model_facts(self.model, measure=footprint, weights=weights)
            self.runs = [_TaskRun(task, self.model, variants, out_dir / "results", facts) for task in tasks]

    def results(self, chosen: Collection[str] | None = None, deadline: float = math.inf) -> list[TaskResult]:
        """Results in the order of the tasks; no task is started that is not in `chosen`, nor after `deadline`.

        `chosen` are names, run in their order, all for None; `deadline` is a time of `time.monotonic`.
        """
        by_name, found = {run.name: run for run in self.runs}, {}
        names = list(by_name) if chosen is None else chosen
        with _quiet():
            for name in track(names, f"evaluate {self.model.name}"):
                run = by_name[name]
                found[name] = run.not_started() if time.monotonic() >= deadline else run.results()
        return [result for run in self.runs for result in found.get(run.name) or run.not_started()]

    def seconds(self) -> dict[str, float]:
        """Task -> what running it will take, by the measured speed of the model; 0 for what is done or has no data."""
        with _quiet():
            speed = _characters_per_second(self.model)
            return {run.name: run.seconds(speed) for run in self.runs}


def evaluate_directory(model_dir: Path | str, tasks: Sequence[Any], out_dir: Path, **options: Any) -> list[TaskResult]:
    """Score one model on task objects of mteb; `options` as of `ModelRuns`."""
    return ModelRuns(model_dir, tasks, out_dir, **options).results()


def _checked(precisions: Sequence[str]) -> list[Precision]:
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown or not precisions:
        raise ConfigError(f"--precision is {', '.join(unknown) or 'empty'}; give some of {', '.join(PRECISIONS)}")
    return [precision for precision in PRECISIONS if precision in precisions]


class _TaskRun:
    """One task on one model, in all variants."""

    def __init__(
        self, task: Any, model: MtebModel, variants: Sequence[Variant], directory: Path, facts: Mapping[str, Any]
    ) -> None:
        self.task, self.model, self.variants, self.facts = task, model, variants, facts
        self.name = str(task.metadata.name)
        revisions = [str(part.metadata.revision) for part in mteb_tasks.parts_of(task)]
        self.revision = revisions[0] if len(revisions) == 1 else digest_json(revisions)[:16]
        self.splits = " ".join(task.eval_splits)
        self.directory = directory / _plain(f"{model.name}-{model.digest[:16]}") / _plain(self.name)

    def path(self, variant: Variant) -> Path:
        dim = variant.dim or self.model.source.width
        return self.directory / _plain(f"{self.revision}.{self.splits}.{dim}.{variant.precision}.json")

    def stored(self, variant: Variant) -> TaskResult | None:
        """The result that an earlier run wrote, if it is whole and still answers the same question."""
        path = self.path(variant)
        if not path.is_file():
            return None
        try:
            content = read_json(path)
            result = result_of(content, path)
            same = content["mteb_version"] == _version() and content["instruction"] == self.instruction()
            same = same and content["subsets"] == list(self.task.hf_subsets)
        except (DataError, KeyError, TypeError):
            warn(f"the stored result {path} is damaged; the task is scored again")
            return None
        return result if same and result.error is None else None

    def done(self) -> bool:
        return all(self.stored(variant) for variant in self.variants)

    def results(self) -> list[TaskResult]:
        found = {variant: self.stored(variant) for variant in self.variants}
        for variant in (variant for variant, result in found.items() if result is not None):
            self._refresh(self.path(variant))
        if not all(found.values()):
            found |= self._run([variant for variant, result in found.items() if result is None])
        return [result for result in found.values() if result is not None]

    def not_started(self) -> list[TaskResult]:
        return [self.stored(variant) or self._failed(variant, NOT_STARTED) for variant in self.variants]

    def seconds(self, characters_per_second: float) -> float:
        """What running it will take: encoding its texts, and mteb's scoring of each variant."""
        if self.done():
            return 0.0
        try:
            encoding = mteb_tasks.characters(self.task) / characters_per_second
        except DataError:
            return 0.0  # the run says so in its result
        return encoding + mteb_tasks.scoring_seconds(self.task) * len(self.variants)

    def instruction(self) -> dict[str, str]:
        """Task -> the prompt of its queries."""
        parts = mteb_tasks.parts_of(self.task)
        return {part.metadata.name: self.model.source.prompt(part.metadata, _prompt_type(part)) for part in parts}

    def _run(self, variants: Sequence[Variant]) -> dict[Variant, TaskResult]:
        try:
            mteb_tasks.load(self.task)
        except DataError as error:
            return {variant: self._failed(variant, str(error)) for variant in variants}
        try:
            return {variant: self._score(variant) for variant in variants}
        finally:
            mteb_tasks.unload(self.task)

    def _score(self, variant: Variant) -> TaskResult:
        before, started = replace(self.model.source.speed), time.perf_counter()
        _seed(self.task)
        try:
            with _per_query(self.task) as by_query, _whole_columns():
                outcome = optional("mteb", "eval").evaluate(
                    self.model.at(variant.dim, variant.precision), self.task, cache=None, co2_tracker=False,
                    encode_kwargs={"batch_size": _BATCH, "show_progress_bar": False}, show_progress_bar=False,
                )  # fmt: skip
        except F2LLMError:
            raise
        except Exception as error:  # mteb's evaluators and the task's own code fail in ways of their own
            lines = str(error).strip().splitlines()
            return self._failed(variant, f"mteb stopped with {type(error).__name__}: {lines[0] if lines else ''}")
        if not outcome.task_results:
            return self._failed(variant, f"mteb gave no result: {outcome.exceptions}")
        scores = _numbers(outcome.task_results[0].scores)
        speed = self.model.source.speed.since(before)
        if speed.cut:
            limit = self.model.source.max_seq_length
            warn(f"{self.name}: {speed.cut:,} of {speed.texts:,} texts are longer than {limit} tokens and were cut")
        main_score = _mean([entry["main_score"] for subsets in scores.values() for entry in subsets.values()])
        result = self._result(
            variant,
            main_score=main_score,
            error=NOT_A_NUMBER if main_score is None else None,
            scores_by_language=_by_subset(scores),
            scores_by_query=dict(by_query),
            scores_by_split=_by_split(scores),
            seconds=time.perf_counter() - started,
            tokens_per_second=speed.tokens / speed.seconds if speed.seconds else None,
        )
        return self._write(variant, result, scores)

    def _failed(self, variant: Variant, error: str) -> TaskResult:
        return self._write(variant, self._result(variant, error=error), {})

    def _result(self, variant: Variant, **values: Any) -> TaskResult:
        return TaskResult(
            model=self.model.name, model_digest=self.model.digest, task=self.name, task_type=self.task.metadata.type,
            revision=self.revision, split=self.splits, dims=variant.dim, precision=variant.precision, **values,
        )  # fmt: skip

    def _refresh(self, path: Path) -> None:
        """Add what was not known of the model when a result was written, such as its footprint."""
        content = read_json(path)
        before = content.get("model_facts") or {}
        facts = before | {name: value for name, value in self.facts.items() if value is not None}
        if facts != before:
            write_json(path, content | {"model_facts": facts})

    def _write(self, variant: Variant, result: TaskResult, scores: Mapping[str, Any]) -> TaskResult:
        more = {
            "metric": self.task.metadata.main_score, "scores": scores, "subsets": list(self.task.hf_subsets),
            "languages": dict(getattr(self.task.metadata, "hf_subsets_to_langscripts", {})),
            "instruction": self.instruction(), "mteb_version": _version(), "model_facts": self.facts,
        }  # fmt: skip
        write_json(self.path(variant), asdict(result) | more)
        return result


def _characters_per_second(model: MtebModel) -> float:
    """Measured on texts of a few sentences, once to warm up and once to count."""
    metadata = next(iter(optional("mteb", "eval").get_tasks(tasks=["STS17"]))).metadata
    texts = [" ".join([*REFERENCE_TEXTS, str(number)]) for number in range(16)]
    speed = replace(model.source.speed)
    model.source.encode(texts[:2], metadata, None)
    started = time.perf_counter()
    model.source.encode(texts, metadata, None)
    elapsed = time.perf_counter() - started
    model.source.speed = speed
    return sum(map(len, texts)) / max(elapsed, 1e-6)


def _prompt_type(task: Any) -> str | None:
    return "query" if isinstance(task, optional("mteb.abstasks", "eval").AbsTaskRetrieval) else None


def _seed(task: Any) -> None:
    """Start all random numbers that mteb uses where a task just made would start them."""
    for part in mteb_tasks.parts_of(task):
        random.seed(part.seed)
        np.random.seed(part.seed)
        torch.manual_seed(part.seed)
        part.rng_state, part.np_rng = random.Random(part.seed), np.random.default_rng(part.seed)


@contextmanager
def _whole_columns() -> Iterator[None]:
    """Let NumPy read a column of a data set at once.

    scikit-learn asks for the labels of a task thousands of times, and datasets would decode them row by row: without
    this, most of the time of classification goes there. The values are the same.
    """
    column: Any = optional("datasets.arrow_dataset", "eval").Column
    before = getattr(column, "__array__", None)
    column.__array__ = lambda self, dtype=None, copy=None: np.asarray(self[:], dtype=dtype)
    try:
        yield
    finally:
        if before is None:
            del column.__array__
        else:
            column.__array__ = before


@contextmanager
def _per_query(task: Any) -> Iterator[dict[str, float]]:
    """Collect a retrieval task's main metric for each query, as mteb hands it to `task_specific_scores`."""
    found: dict[str, float] = {}
    if _prompt_type(task) is None:
        yield found
        return
    measure, own = str(task.metadata.main_score).replace("_at_", "_cut_"), task.task_specific_scores

    def listen(scores: Any, qrels: Any, results: Any, hf_split: str, hf_subset: str) -> Any:
        found.update(
            {f"{hf_split}/{hf_subset}/{query}": per[measure] for query, per in scores.items() if measure in per}
        )
        return own(scores, qrels, results, hf_split=hf_split, hf_subset=hf_subset)

    task.task_specific_scores = listen
    try:
        yield found
    finally:
        del task.task_specific_scores


def _numbers(scores: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Split -> subset -> name -> number; a score that is not finite is None, lists and texts are left out."""
    return {
        split: {str(entry["hf_subset"]): _finite_numbers(entry) for entry in entries}
        for split, entries in scores.items()
    }


def _finite_numbers(entry: Mapping[str, Any]) -> dict[str, float | None]:
    numbers = {key: float(value) for key, value in entry.items() if isinstance(value, int | float | np.number)}
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()}


def _by_subset(scores: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, float]:
    """Subset -> main score, the mean over the splits."""
    values: dict[str, list[float | None]] = {}
    for subsets in scores.values():
        for subset, entry in subsets.items():
            values.setdefault(subset, []).append(entry["main_score"])
    means = {subset: _mean(found) for subset, found in values.items()}
    return {subset: value for subset, value in means.items() if value is not None}


def _by_split(scores: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, float]]:
    """Split -> subset -> main score, of those that have one."""
    return {
        split: {subset: score for subset, entry in subsets.items() if (score := entry["main_score"]) is not None}
        for split, subsets in scores.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


@cache
def _version() -> str:
    return str(optional("mteb", "eval").__version__)


def _plain(name: str) -> str:
    """A name as a file may bear it."""
    return re.sub(r"[^\w.+-]", "_", name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep mteb's, datasets' and scikit-learn's notices off the terminal: what matters is in the results."""
    datasets, logger = optional("datasets", "eval"), logging.getLogger("mteb")
    level, bars = logger.level, datasets.is_progress_bar_enabled()
    bar = optional("tqdm", "eval").tqdm
    own = bar.__init__
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    bar.__init__ = partialmethod(own, disable=True)  # some of mteb's evaluators show theirs whatever they are told
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        bar.__init__ = own
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()

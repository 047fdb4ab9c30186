"""Judged pairs of sentences: inference (NLI), similarity by score (STS), paraphrases.

A pair that holds is a query with its positive; pairs of the same sentence that do not hold are its hard negatives, and
such pairs of other sentences are of no use. One file is in memory at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from f2llm.core.errors import DataError
from f2llm.core.types import Example
from f2llm.data.convert_tables import Row, T, Table, TableOptions, groups, matches, rows, tables
from f2llm.data.converter import Converter, Job
from f2llm.data.keys import fold

Judge = Callable[[Row], bool | str]
"""Whether the pair of a row holds; the reason if it is of no use."""


class PairOptions(TableOptions):
    """`first`, `second`: the columns of the two sentences; `negatives`: the most hard negatives of a query."""

    first: str = "sentence1"
    second: str = "sentence2"
    negatives: Annotated[int, Field(ge=0)] = 24


class NliOptions(TableOptions):
    """The columns, and the three labels as the file writes them.

    `neutral_negatives`: neutral hypotheses are hard negatives too, after the contradictions.
    """

    premise: str = "premise"
    hypothesis: str = "hypothesis"
    label: str = "label"
    entailment: str = "entailment"
    neutral: str = "neutral"
    contradiction: str = "contradiction"
    neutral_negatives: bool = False
    negatives: Annotated[int, Field(ge=0)] = 24


class StsOptions(PairOptions):
    """`score`: the column; from `positive` up the sentences mean the same, up to `negative` they do not.

    `highest`: the end of the scale, which starts at 0.
    """

    score: str = "score"
    highest: float = 5.0
    positive: float = 4.0
    negative: float = 1.0

    @model_validator(mode="after")
    def _on_the_scale(self) -> StsOptions:
        if not 0 <= self.negative < self.positive <= self.highest:
            raise ValueError("the scores need 0 <= `negative` < `positive` <= `highest`")
        return self


class ParaphraseOptions(PairOptions):
    """`label`: the column; `same`, `different`: its two values."""

    label: str = "label"
    same: str = "1"
    different: str = "0"


class _Judged(NamedTuple):
    row: Row
    first: str
    second: str
    holds: bool


def nli(job: Job[NliOptions]) -> Iterator[Example]:
    """Each premise with a hypothesis that it entails; hypotheses that contradict it are hard negatives."""
    options = job.options
    neutral = False if options.neutral_negatives else "neutral"
    verdicts = {options.entailment: True, options.contradiction: False, options.neutral: neutral}

    def judge(row: Row) -> bool | str:
        return verdicts.get(row.cells[options.label].strip(), "no agreed label")

    for table in job.share(tables(job)):
        judged = _judged(job, table, options.premise, options.hypothesis, options.label, judge)
        # Contradictions come first, should there be more than `negatives`.
        judged.sort(key=lambda pair: pair.row.cells[options.label].strip() == options.neutral)
        yield from _contrasted(job, table, judged, options.negatives, symmetric=False)


def sts(job: Job[StsOptions]) -> Iterator[Example]:
    """Each pair of a high score; partners of a low score of the same sentence are hard negatives."""
    options = job.options

    def judge(row: Row) -> bool | str:
        score = _number(row, options)
        return score >= options.positive if not options.negative < score < options.positive else "score in between"

    for table in job.share(tables(job)):
        judged = _judged(job, table, options.first, options.second, options.score, judge)
        yield from _contrasted(job, table, judged, options.negatives, symmetric=True)


def _number(row: Row, options: StsOptions) -> float:
    text = row.cells[options.score]
    try:
        score = float(text)
    except ValueError:
        raise DataError(f"{row.id}: the score {text!r} is no number; correct the option 'score'") from None
    if not 0 <= score <= options.highest:
        raise DataError(f"{row.id}: the score {text} is not between 0 and `highest` ({options.highest})")
    return score


def paraphrase(job: Job[ParaphraseOptions]) -> Iterator[Example]:
    """Each pair of paraphrases; partners of the same sentence that look alike but differ are hard negatives."""
    options = job.options
    verdicts = {options.same: True, options.different: False}

    def judge(row: Row) -> bool | str:
        return verdicts.get(row.cells[options.label].strip(), "unknown label")

    for table in job.share(tables(job)):
        judged = _judged(job, table, options.first, options.second, options.label, judge)
        yield from _contrasted(job, table, judged, options.negatives, symmetric=True)


def _judged(job: Job[T], table: Table, first: str, second: str, verdict: str, judge: Judge) -> list[_Judged]:
    """The pairs of a file that hold or fail; every other row is counted by the reason that `judge` gives."""
    found: list[_Judged] = []
    for row in rows(job, table, (first, second, verdict)):
        left, right = row.cells[first].strip(), row.cells[second].strip()
        if not left or not right or not row.cells[verdict].strip():
            job.drops["a sentence or the verdict is missing"] += 1
        elif fold(left) == fold(right):
            job.drops["twice the same sentence"] += 1
        elif isinstance(judgement := judge(row), str):
            job.drops[judgement] += 1
        else:
            found.append(_Judged(row, left, right, judgement))
    return found


def _contrasted(job: Job[T], table: Table, judged: list[_Judged], negatives: int, symmetric: bool) -> Iterator[Example]:
    """A row for each pair that holds; of a `symmetric` pair, that sentence is the query which has negatives."""
    right, wrong = (_partners(judged, holds, symmetric) for holds in (True, False))
    queries = set()
    for row, first, second, holds in judged:
        if not holds:
            continue
        if symmetric and not wrong[fold(first)] and wrong[fold(second)]:
            first, second = second, first
        queries.add(fold(first))
        known = set(map(fold, right[fold(first)]))
        against = [text for text in dict.fromkeys(wrong[fold(first)]) if fold(text) not in known]
        yield Example(
            id=row.id, query=first, positive=second, negatives=tuple(against[:negatives]), task_type="retrieval",
            source=job.source, query_lang=table.query_lang, doc_lang=table.query_lang,
            groups=groups(row.unit, first, second),
        )  # fmt: skip
    for pair in judged:
        if not pair.holds:
            sentences = (pair.first, pair.second) if symmetric else (pair.first,)
            used = any(fold(sentence) in queries for sentence in sentences)
            job.drops["used as a negative" if used else "fails, and the sentence has no positive"] += 1


def _partners(judged: list[_Judged], holds: bool, symmetric: bool) -> dict[str, list[str]]:
    """Sentence -> the sentences it was paired with, in pairs that hold or in those that do not."""
    found: dict[str, list[str]] = defaultdict(list)
    for pair in judged:
        if pair.holds == holds:
            found[fold(pair.first)].append(pair.second)
            if symmetric:
                found[fold(pair.second)].append(pair.first)
    return found


NLI_CONVERTERS = (
    Converter("nli", "retrieval", NliOptions, nli, parts=matches),
    Converter("sts", "retrieval", StsOptions, sts, parts=matches),
    Converter("paraphrase", "retrieval", ParaphraseOptions, paraphrase, parts=matches),
)

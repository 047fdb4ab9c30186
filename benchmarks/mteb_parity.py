"""Whether `f2llm eval` gives the scores that mteb's own wrapper gives, on real tasks and a real model.

    python benchmarks/mteb_parity.py MODEL --data ../shared/data [--task NAME ...] [--out DIR] [--json]

MODEL is a directory of sentence-transformers; without --task, twelve quick tasks of seven types. Both sides score the
same task objects with mteb's evaluators; the wrapper encodes for itself. Our vectors and results are kept in DIR, such
as the folder of a model that `f2llm eval --out` wrote. The largest difference of a main score must stay below 1e-4, or
the exit is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import mteb
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from sentence_transformers import SentenceTransformer

from f2llm.core.allocator import tune_allocator
from f2llm.core.log import track
from f2llm.eval.local_tasks import local_tasks
from f2llm.eval.mteb_run import evaluate_directory
from f2llm.eval.mteb_tasks import go_offline

TASKS = (
    "LocalTatoebaBitextMining", "LocalCMRC2018Retrieval", "LocalMedQuADReranking", "LocalBanking77Classification",
    "LocalWisesightClassification", "LocalNusaXClassification", "LocalSIB200Classification", "LocalCSLClustering",
    "LocalKorSTS", "LocalJSTS", "LocalKLUENLIPairClassification", "LocalJNLIPairClassification",
)  # fmt: skip


def main() -> None:
    options = parse()
    tune_allocator()
    go_offline()
    names = options.task or TASKS
    with tempfile.TemporaryDirectory() as folder:
        results = evaluate_directory(
            options.model, local_tasks(options.data, names), options.out or Path(folder), data=options.data, dims=[]
        )
    ours = {result.task: result.main_score for result in results}
    theirs = by_wrapper(options.model, local_tasks(options.data, names))
    worst = max(abs((ours[name] or 0.0) - theirs[name]) for name in names)
    if options.json:
        print(json.dumps({"f2llm": ours, "mteb": theirs, "max_difference": worst}))
    else:
        for name in names:
            print(f"{name:34} f2llm {ours[name]:.6f}  mteb {theirs[name]:.6f}")
        print(f"largest difference: {worst:.1e}")
    sys.exit(worst >= 1e-4)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--task", action="append", help="a local task (repeatable)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def by_wrapper(directory: Path, tasks: list[object]) -> dict[str, float]:
    """Main scores through mteb's own wrapper, each task made anew, as mteb itself would."""
    model = SentenceTransformerEncoderWrapper(SentenceTransformer(str(directory), device="cpu"))
    found = {}
    for task in track(tasks, "mteb's own wrapper"):
        outcome = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
        found[task.metadata.name] = outcome.task_results[0].get_score()
    return found


if __name__ == "__main__":
    main()

"""Memory and speed of `f2llm embed` beside `Embedder.encode`, each in a process of its own.

    python benchmarks/bulk_embedding.py MODEL --rows 10000 100000 1000000

For each number of rows: peak resident memory and CPU seconds of the whole process (of both, so that a busy machine does
not matter), its start and the loading of the model included. `rows` short lines of three to eight words, seed 0.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

PLAIN = """
import sys
from f2llm import Embedder
lines = open(sys.argv[1], encoding="utf-8").read().splitlines()
Embedder.load(sys.argv[2]).encode_document(lines)
"""
WORDS = [
    "the",
    "of",
    "water",
    "and",
    "house",
    "green",
    "to",
    "seven",
    "run",
    "letter",
    "in",
    "light",
    "sea",
    "a",
    "stone",
]


def write_lines(path: Path, rows: int) -> None:
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(" ".join([*draw.choices(WORDS, k=draw.randint(2, 7)), str(number)]) + "\n")


def measured(command: list[str]) -> tuple[float, float]:
    """Peak memory in MB and CPU seconds of a command."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[:4]} failed")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    print("| rows | embed: MB | CPU s | encode: MB | CPU s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        lines, target = Path(folder) / "lines.txt", Path(folder) / "out.parquet"
        for rows in options.rows:
            write_lines(lines, rows)
            embed = ["embed", str(lines), "--out", str(target), "-m", options.model]
            streamed = measured([sys.executable, "-m", "f2llm", *embed])
            plain = measured([sys.executable, "-c", PLAIN, str(lines), options.model])
            print(
                f"| {rows:,} | {streamed[0]:,.0f} | {streamed[1]:.1f} | {plain[0]:,.0f} | {plain[1]:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()

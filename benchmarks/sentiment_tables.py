"""NusaX and AfriSenti as one table each, with a column for the language: the input of `f2llm classify transfer`.

    python benchmarks/sentiment_tables.py ../shared/data OUT

Writes OUT/nusax.csv (7,200 rows; `id` is the same in all languages, for they are translations) and OUT/afrisenti.csv
(63,685 rows). Languages are ISO 639-3 codes; both data sets name their files otherwise.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from f2llm.core.readers import read_csv

NUSAX = {
    "acehnese": "ace", "balinese": "ban", "banjarese": "bjn", "buginese": "bug", "english": "eng", "indonesian": "ind",
    "javanese": "jav", "madurese": "mad", "minangkabau": "min", "ngaju": "nij", "sundanese": "sun", "toba_batak": "bbc",
}  # fmt: skip
AFRISENTI = {
    "am": "amh", "dz": "arq", "ha": "hau", "ig": "ibo", "kr": "kin", "ma": "ary", "pcm": "pcm", "pt": "por",
    "sw": "swa", "ts": "tso", "twi": "twi", "yo": "yor",
}  # fmt: skip
Row = tuple[str, str, str, str]


def nusax(folder: Path) -> Iterator[Row]:
    for name, code in NUSAX.items():
        for split in ("train", "valid"):
            for _, row in read_csv(folder / "sentiment" / name / f"{split}.csv", ("id", "text", "label")):
                yield f"{split}-{row['id']}", row["text"], row["label"], code


def afrisenti(folder: Path) -> Iterator[Row]:
    for name, code in AFRISENTI.items():
        columns = ("ID", "tweet", "label")
        for _, row in read_csv(folder / "train" / f"{name}_train.tsv", columns, "\t", quoted=False):
            yield row["ID"], row["tweet"], row["label"], code


def write(path: Path, rows: Iterator[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["id", "text", "label", "lang"])
        out.writerows(rows)


if __name__ == "__main__":
    data, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    write(target / "nusax.csv", nusax(data / "nusax"))
    write(target / "afrisenti.csv", afrisenti(data / "afrisenti"))

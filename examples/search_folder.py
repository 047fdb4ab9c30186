"""Index a folder of documents and search it by meaning.

Run it with: python examples/search_folder.py MODEL FOLDER "what to look for"
"""

from __future__ import annotations

import sys
from pathlib import Path

from f2llm.apps.index import Index
from f2llm.apps.index_table import is_filled


def main(model: str, folder: str, query: str) -> None:
    place = f"{folder.rstrip('/')}.db"
    index = Index.open(place, model) if is_filled(place) else Index.create(place, model)
    report = index.add([folder])
    print(f"{report.embedded} passages embedded, {report.passages} in the index")
    for hit in index.search(query, k=3, mode="hybrid"):
        print(f"{hit.score:.3f}  {Path(hit.path).name}, {hit.unit} {hit.position}: {' '.join(hit.text.split())[:80]}")


if __name__ == "__main__":
    main(*sys.argv[1:4])

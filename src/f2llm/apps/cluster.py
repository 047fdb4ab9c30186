"""Groups of texts that mean similar things: a table in, clusters with keywords, scores, a map and a report out.

read -> vectors (kept) -> k-means or HDBSCAN -> keywords, central texts -> agreement with labels, languages -> map.
Written to the folder: clusters.parquet (row, cluster, distance, probability; -1 is noise), clusters.json (everything
told about the clusters), map.png, choice.png where the number was chosen, report.html, and the vectors for a next run.
The same table, model, options and seed give the same result.

Cost beside encoding: see docs/results/cluster.md; memory is the vectors (4 bytes * rows * dims), the texts, and some
100 bytes a row. A million rows are clustered in mini-batches, their number is chosen on 4,000, HDBSCAN learns from
20,000, keywords read 500 texts of a cluster and language, the map has 3,000.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from f2llm.apps import cluster_facts
from f2llm.apps.cluster_count import Choice, choose
from f2llm.apps.cluster_fit import EXTRA, FULL_ROWS, NOISE, Partition, hdbscan, k_means
from f2llm.apps.cluster_labels import central, headline, keywords, script_names
from f2llm.apps.cluster_map import layout, sample
from f2llm.apps.cluster_page import Map, render
from f2llm.apps.cluster_pictures import Groups, draw_choice, draw_map
from f2llm.apps.cluster_vectors import text_vectors
from f2llm.apps.encoding import TextEncoder
from f2llm.apps.tables import is_binary, read_tables, table_files
from f2llm.core import arrow
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.extras import optional
from f2llm.core.files import atomic_path, write_json, write_text
from f2llm.core.log import warn
from f2llm.core.tables import KINDS
from f2llm.model.vectors import Vectors

EXAMPLES, LABELS_SHOWN = 5, 3
MAP_ROWS = 3_000
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Settings:
    """How to cluster. `clusters` None: chosen (k-means); `min_size` None: grows with the rows (HDBSCAN)."""

    method: Literal["kmeans", "hdbscan"] = "kmeans"
    clusters: int | None = None
    min_size: int | None = None
    colour: Literal["cluster", "language"] = "cluster"
    map_rows: int = MAP_ROWS
    seed: int = 0


@dataclass(frozen=True)
class Rows:
    """The texts of a file, the numbers of their rows there, and the language and the label of each where asked for."""

    name: str
    numbers: Sequence[int]
    texts: Sequence[str]
    langs: Sequence[str] | None = None
    labels: Sequence[str] | None = None


def read_texts(
    path: Path,
    text: str | None = None,
    label: str | None = None,
    lang: str | None = None,
    encoding: str = "utf-8",
) -> Rows:
    """The rows of a file that have a text; DataError for a missing column (naming the others) or no text at all."""
    files = table_files([path])
    if len(files) > 1:
        raise ConfigError(f"{path} is a folder of several files; give one file")
    if encoding == "utf-8" and not arrow.reads(files[0]) and is_binary(files[0]):
        raise DataError(f"{files[0]} is no text; give a file of lines or a table ({', '.join(KINDS)})")
    columns = [name for name in (label, lang) if name]
    numbers, texts, cells = list[int](), list[str](), {name: list[str]() for name in columns}
    for row in read_tables(files, text, columns, encoding=encoding):
        numbers.append(row.line)
        texts.append(row.text)
        for name in columns:
            cells[name].append("" if row.cells[name] is None else str(row.cells[name]).strip())
    if not texts:
        raise DataError(f"{path} has no row with a text; give a file that has some, or another --text column")
    langs = [found or UNKNOWN for found in cells[lang]] if lang else None
    return Rows(path.name, numbers, texts, langs, cells[label] if label else None)


def cluster_rows(rows: Rows, encoder: TextEncoder, out: Path, settings: Settings = Settings()) -> dict[str, Any]:
    """Cluster the rows and write everything to the folder `out`; returns what clusters.json holds.

    ConfigError where the options do not fit each other or the rows, before anything is encoded.
    """
    check(settings, rows, out)
    for package in ("sklearn", "matplotlib"):
        optional(package, EXTRA)
    V_ND, different = text_vectors(rows.texts, encoder, out)
    partition, choice = _partition(V_ND, different, settings)
    facts = describe(rows, partition, choice, settings) | {
        "model": encoder.model,
        "dims": V_ND.shape[1],
        "made": _made(rows, encoder, settings),
    }
    _write_rows(out / "clusters.parquet", rows, partition)
    write_json(out / "clusters.json", facts)
    _draw(out, rows, V_ND, partition, choice, facts, settings)
    return facts


def check(settings: Settings, rows: Rows, out: Path) -> None:
    """ConfigError where the options do not fit each other or the rows, or `out` is not a folder for clusters."""
    check_folder(out)
    different = len(set(rows.texts))
    if settings.method == "hdbscan" and settings.clusters is not None:
        raise ConfigError("--clusters is for --method kmeans; HDBSCAN finds the number itself, see --min-size")
    if settings.method == "kmeans" and settings.min_size is not None:
        raise ConfigError("--min-size is for --method hdbscan; k-means takes --clusters")
    if settings.clusters is not None and not 1 <= settings.clusters <= different:
        wrong = f"--clusters {settings.clusters} is more than the {different:,} different texts of the file"
        raise ConfigError(f"{wrong}; give at most {different}")
    if settings.colour == "language" and rows.langs is None:
        raise ConfigError("--colour language needs the languages; give --lang COLUMN or --identify")


def check_folder(out: Path) -> None:
    """ConfigError where writing to `out` would put clusters among other files; an earlier run's are no others."""
    ours = (out / "clusters.json").is_file() or (out / "vectors.json").is_file()
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not ours):
        raise ConfigError(f"--out {out} holds other files than clusters; choose another folder")


def _partition(V_ND: Vectors, different: int, settings: Settings) -> tuple[Partition, Choice | None]:
    if settings.method == "hdbscan":
        return hdbscan(V_ND, settings.min_size or usual_min_size(len(V_ND)), settings.seed), None
    choice = None if settings.clusters else choose(V_ND, different, settings.seed)
    wanted = settings.clusters or (choice.clusters if choice else 1)
    found = k_means(V_ND, wanted, settings.seed)
    if len(found.centres) < wanted:
        warn(f"only {len(found.centres):,} of {wanted:,} clusters have rows: the vectors have no more different places")
    return found, choice


def usual_min_size(rows: int) -> int:
    """The smallest cluster of HDBSCAN where none is told: a fifth of the root of the rows learnt from, at least 5."""
    return max(5, round(math.sqrt(min(rows, FULL_ROWS)) / 5))


def describe(rows: Rows, partition: Partition, choice: Choice | None, settings: Settings) -> dict[str, Any]:
    """Everything that is told about the clusters, as plain JSON values."""
    facts: dict[str, Any] = {
        "file": rows.name,
        "date": date.today().isoformat(),
        "method": settings.method,
        "seed": settings.seed,
        "rows": len(rows.texts),
        "noise": int((partition.cluster == NOISE).sum()),
    }
    if choice:
        facts["choice"] = {
            "clusters": choice.clusters,
            "reason": choice.reason,
            "error": choice.error,
            "trials": [vars(entry) for entry in choice.trials],
        }
    if rows.labels is not None:
        facts["labels"] = cluster_facts.labels_facts(rows.labels, rows.langs, partition.cluster, settings.seed)
    if rows.langs is not None:
        facts["languages"] = cluster_facts.language_facts(rows.langs, partition.cluster, settings.seed)
        facts["language_names"] = list(_ordered(rows.langs))
    facts["clusters"] = _clusters(rows, partition, settings.seed)
    facts["findings"] = cluster_facts.findings(facts, partition)
    return facts


def _clusters(rows: Rows, partition: Partition, seed: int) -> list[dict[str, Any]]:
    count = len(partition.centres)
    groups = rows.langs or script_names(rows.texts)
    labels = keywords(rows.texts, groups, partition.cluster, count, seed)
    overall = _ordered(groups)
    order = np.argsort(partition.cluster, kind="stable")
    bounds = np.searchsorted(partition.cluster[order], np.arange(count + 1))
    found, distances = [], partition.distance.tolist()
    for number in range(count):
        members = order[bounds[number] : bounds[number + 1]].tolist()
        mix = _ordered([groups[row] for row in members])
        entry = {
            "cluster": number,
            "rows": len(members),
            "share": len(members) / len(rows.texts),
            "mean_distance": float(partition.distance[members].mean()),
            "headline": headline(labels[number], mix),
            "keywords": labels[number],
            "languages" if rows.langs is not None else "scripts": mix,
            "one_language": cluster_facts.one_language_alone(mix, overall) if rows.langs is not None else None,
            "labels": _top([rows.labels[row] for row in members]) if rows.labels is not None else {},
            "examples": [_example(rows, partition, row) for row in central(distances, members, rows.texts, EXAMPLES)],
        }
        found.append(entry)
    return found


def _ordered(names: Sequence[str]) -> dict[str, int]:
    """Counts, the most frequent first, ties by name."""
    return dict(sorted(Counter(names).items(), key=lambda entry: (-entry[1], entry[0])))


def _top(labels: Sequence[str]) -> dict[str, int]:
    return dict(list(_ordered([label for label in labels if label]).items())[:LABELS_SHOWN])


def _example(rows: Rows, partition: Partition, row: int) -> dict[str, Any]:
    entry = {"row": rows.numbers[row], "text": rows.texts[row], "distance": float(partition.distance[row])}
    return entry | ({"language": rows.langs[row]} if rows.langs is not None else {})


def _made(rows: Rows, encoder: TextEncoder, settings: Settings) -> dict[str, Any]:
    return {
        "file": rows.name,
        "model": encoder.model,
        "fingerprint of model and prompt": encoder.fingerprint[:16],
        "instruction": encoder.instruction or ("the model's own" if encoder.as_query else "none"),
        "method": settings.method,
        "clusters": settings.clusters or "chosen" if settings.method == "kmeans" else "found by density",
        "smallest cluster": settings.min_size or usual_min_size(len(rows.texts)) if settings.method == "hdbscan" else 1,
        "learnt from": _learnt_from(len(rows.texts), settings.method),
        "seed": settings.seed,
    }


def _learnt_from(rows: int, method: str) -> str:
    if rows <= FULL_ROWS:
        return "all rows"
    if method == "kmeans":
        return "all rows, in mini-batches"
    return f"{FULL_ROWS:,} of the rows; each other one goes where its nearest neighbour among those went"


def _write_rows(path: Path, rows: Rows, partition: Partition) -> None:
    table = pa.table(
        {
            "row": pa.array(rows.numbers, pa.int64()),
            "cluster": pa.array(partition.cluster, pa.int32()),
            "distance": pa.array(partition.distance, pa.float32()),
            "probability": pa.array(partition.probability, pa.float32()),
        }
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _draw(
    out: Path,
    rows: Rows,
    V_ND: Vectors,
    partition: Partition,
    choice: Choice | None,
    facts: Mapping[str, Any],
    settings: Settings,
) -> None:
    drawn, curve = None, None
    for name in ("map.png", "choice.png"):
        (out / name).unlink(missing_ok=True)  # of an earlier run with other options
    if settings.map_rows:
        chosen = sample(len(V_ND), settings.map_rows, settings.seed)
        groups = _map_groups(rows, partition, chosen, facts)
        drawn = Map(
            layout(V_ND[chosen], settings.seed),
            [rows.numbers[row] for row in chosen.tolist()],
            [rows.texts[row] for row in chosen.tolist()],
            groups,
        )
        title = f"{rows.name}: {len(chosen):,} of {len(rows.texts):,} texts, by {settings.colour}"
        draw_map(out / "map.png", drawn.places, groups[settings.colour], title)
    if choice and choice.trials:
        draw_choice(out / "choice.png", choice)
        curve = (out / "choice.png").read_bytes()
    write_text(out / "report.html", render(facts, drawn, curve, settings.colour))


def _map_groups(rows: Rows, partition: Partition, chosen: Any, facts: Mapping[str, Any]) -> dict[str, Groups]:
    """What the points may be coloured by: cluster, language and label where there are some."""
    names = [entry["headline"] for entry in facts["clusters"]]
    found = {"cluster": Groups(partition.cluster[chosen], names, on_the_map=True)}
    for title, values in (("language", rows.langs), ("label", rows.labels)):
        if values is not None:
            ordered = list(_ordered(values))
            place = {name: number for number, name in enumerate(ordered)}
            found[title] = Groups(np.array([place[values[row]] for row in chosen]), ordered, on_the_map=False)
    return found

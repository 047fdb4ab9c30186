"""What a clustering says: sizes, languages of each cluster, agreement with labels, and findings in sentences.

Two questions are asked of a multilingual model. Do the clusters follow the labels, where there are some (V-measure,
AMI, also within each language)? And do they follow the languages instead? A model that puts each language into
clusters of its own has not learnt that they say the same. Every figure stands beside that of the same clusters dealt
to the rows at random, since a V-measure of many clusters and few texts is high by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from f2llm.apps.cluster_fit import NOISE, Ints, Partition
from f2llm.core.agreement import adjusted_mutual_information, clusters_by_language, explained, v_measure

ALONE = 0.9  # from this share on a cluster counts as one of a single language ...
RARE = 0.5  # ... and is told where the language has at most this share of all rows
MANY_NOISE = 0.5


def agreement(labels: Sequence[str], clusters: Ints, seed: int = 0) -> dict[str, float]:
    """V-measure and AMI of labels and clusters, the V-measure of the same clusters dealt at random; no noise."""
    rows = np.flatnonzero(clusters != NOISE)
    if not len(rows):
        return {"rows": 0, "v_measure": 0.0, "ami": 0.0, "v_measure_by_chance": 0.0}
    kept, codes = clusters[rows], _codes(labels)[rows]
    return {
        "rows": len(rows),
        "v_measure": v_measure(codes, kept),
        "ami": adjusted_mutual_information(codes, kept),
        "v_measure_by_chance": v_measure(codes, np.random.default_rng(seed).permutation(kept)),
    }


def _codes(values: Sequence[str]) -> Ints:
    """A number for each value, equal for equal ones."""
    places: dict[str, int] = {}
    return np.array([places.setdefault(value, len(places)) for value in values], np.int64)


def labels_facts(labels: Sequence[str], langs: Sequence[str] | None, clusters: Ints, seed: int = 0) -> dict[str, Any]:
    """Agreement with the labels over all rows that have one, and within each language; noise is left out."""
    rows = np.array([bool(label) for label in labels]) & (clusters != NOISE)
    places = np.flatnonzero(rows).tolist()
    own = [labels[place] for place in places]
    found: dict[str, Any] = {"different": len(set(own))} | agreement(own, clusters[places], seed)
    if langs is not None:
        spoken = [langs[place] for place in places]
        measures = {"v_measure": v_measure, "ami": adjusted_mutual_information}
        by = {name: clusters_by_language(own, clusters[places], spoken, measure) for name, measure in measures.items()}
        found["by_language"] = {
            name: {"rows": count, "v_measure": score, "ami": by["ami"][name][1]}
            for name, (count, score) in by["v_measure"].items()
        }
    return found


def language_facts(langs: Sequence[str], clusters: Ints, seed: int = 0) -> dict[str, Any]:
    """How far the clusters follow the languages; `explained`: share of their entropy that the language tells."""
    inside = clusters != NOISE
    found: dict[str, Any] = {"different": len(set(langs))} | agreement(langs, clusters, seed)
    found["explained"] = explained(clusters[inside], _codes(langs)[inside]) if inside.any() else 0.0
    return found


def one_language_alone(mix: Mapping[str, int], overall: Mapping[str, int]) -> str | None:
    """The language that a cluster is made of alone although most rows are in others; None for a mixed cluster."""
    name, count = next(iter(mix.items()))
    alone = count >= ALONE * sum(mix.values()) and overall[name] <= RARE * sum(overall.values())
    return name if alone else None


def findings(facts: Mapping[str, Any], partition: Partition) -> list[str]:
    """What a reader should know first, a sentence each."""
    sizes, rows = partition.sizes, len(partition.cluster)
    noise = int((partition.cluster == NOISE).sum())
    found = []
    if len(sizes):
        found.append(
            f"{_told(rows, 'row')} in {_told(len(sizes), 'cluster')}{_range(sizes)}"
            + (f"; {noise:,} rows ({noise / rows:.0%}) are noise, in no cluster." if noise else ".")
        )
    else:
        found.append(f"No cluster: {_told(rows, 'row')}, all noise. Lower --min-size, or use --method kmeans.")
    if len(sizes) and noise > MANY_NOISE * rows:
        found.append("Most rows are noise: they are not dense enough for HDBSCAN. Lower --min-size, or use k-means.")
    if "labels" in facts:
        found.append(_labels_sentence(facts["labels"]))
    if "languages" in facts and len(sizes):
        found += _language_sentences(facts["languages"], facts["clusters"])
    return found


def _told(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _range(sizes: Ints) -> str:
    """The sizes of several clusters in words."""
    if len(sizes) == 1:
        return ""
    least, most = int(sizes.min()), int(sizes.max())
    return f" of {least:,} to {most:,} rows" if least < most else f" of {_told(most, 'row')} each"


def _labels_sentence(labels: Mapping[str, Any]) -> str:
    return (
        f"Agreement with the {labels['different']:,} labels: AMI {labels['ami']:.3f} (0 is chance), V-measure "
        f"{labels['v_measure']:.3f} (chance: {labels['v_measure_by_chance']:.3f})."
    )


def _language_sentences(languages: Mapping[str, Any], clusters: Sequence[Mapping[str, Any]]) -> list[str]:
    if languages["different"] < 2:
        return ["All rows are in one language."]
    alone = [cluster for cluster in clusters if cluster["one_language"]]
    found = [
        f"The language alone explains {languages['explained']:.0%} of the clusters (AMI with the "
        f"{languages['different']} languages: {languages['ami']:.3f}; 0 is chance, and good for topics)."
    ]
    if alone:
        shown = ", ".join(f"{cluster['cluster']} ({cluster['one_language']})" for cluster in alone[:8])
        more = f" and {len(alone) - 8} more" if len(alone) > 8 else ""
        verb = "is" if len(alone) == 1 else "are"
        found.append(
            f"{len(alone)} of {len(clusters)} clusters {verb} of one language alone: {shown}{more}. "
            "Texts of that language lie apart from the same topics in others."
        )
    return found

"""The report in sentences: what the numbers say, and only where they say it clearly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def findings(content: Mapping[str, Any]) -> list[str]:
    """What a reader should know first, one sentence each, from the numbers alone."""
    models = {model["name"]: model for model in content["models"]}
    best, small = models[content["best"]], min((models[n] for n in content["family"]), key=lambda m: m["parameters"])
    rows = content["languages"]
    ahead = sum(row["scores"].get(best["name"], 0.0) > row["baseline"] for row in rows)
    found = [
        f"{best['name']} scores {best['scores']['macro']:.3f}, the mean over {len(rows)} languages; character n-gram "
        f"TF-IDF scores {best['baseline']['macro']:.3f} on the same texts. The model is ahead in "
        + (f"all {ahead} languages." if ahead == len(rows) else f"{ahead} of {len(rows)} languages.")
    ]
    if small is not best:
        kept, share = small["scores"]["macro"] / best["scores"]["macro"], small["parameters"] / best["parameters"]
        found.append(f"{small['name']} keeps {kept:.0%} of that score with {share:.0%} of the parameters.")
    enough = [dim for dim, score in best["by_dim"].items() if score >= 0.95 * best["scores"]["macro"]]
    if enough and int(enough[0]) < best["dims"]:
        kept = best["by_dim"][enough[0]] / best["scores"]["macro"]
        found.append(f"{best['name']} keeps {kept:.0%} of its score at {enough[0]} of {best['dims']} dimensions.")
    found += [f"{entry['title']}: {verdict(entry)}." for entry in content["comparisons"]]
    scripts = [entry for entry in content["scripts"] if entry["languages"] >= 3]
    if len(scripts) > 1:
        by_score = sorted(scripts, key=lambda entry: entry["scores"][best["name"]])
        worst, top = (f"{e['script']} ({e['scores'][best['name']]:.2f})" for e in (by_score[0], by_score[-1]))
        found.append(f"Of the scripts with three languages or more, {top} is served best and {worst} worst.")
    return found


def verdict(entry: Mapping[str, Any]) -> str:
    """A comparison in words; no winner where the interval holds zero."""
    interval = f"95% interval {entry['low']:+.3f} to {entry['high']:+.3f} over {entry['languages']} languages"
    if entry["low"] <= 0 <= entry["high"]:
        return f"no clear difference between {entry['a']} and {entry['b']} ({entry['difference']:+.3f}, {interval})"
    winner, loser = (entry["a"], entry["b"]) if entry["difference"] > 0 else (entry["b"], entry["a"])
    return f"{winner} is ahead of {loser} ({entry['difference']:+.3f}, {interval})"

"""Prune a model directory to smaller ones: calibration text -> scores (kept for the next target) -> cut -> directory.

The source is read layer by layer and file by file, never as a whole, so it may be larger than memory: needed are one
shard (mapped from its file), one layer, the hidden states of the calibration text, and the result.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.files import digest_file, digest_json, write_json
from f2llm.core.log import log
from f2llm.model import checkpoint
from f2llm.model.card import short_card
from f2llm.model.importance import Batch, Scores, load_scores, save_scores, score
from f2llm.model.pack import make_pack
from f2llm.model.prune import Choice, Rule, assemble, choose, search_shape
from f2llm.model.sizes import FAMILY, Shape
from f2llm.model.weights import StoredWeights
from f2llm.text.lines import TextLines
from f2llm.text.tokenizer import Tokenizer

RECORD = "pruning.json"
CALIBRATION_TOKENS = 16_384
_TEXT_TOKENS = 512
_DRAWN = 4096  # lines of the calibration file that are looked at, at random
_PACK_TOKENS = 4096
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class Pruned:
    """One result: where it is, its shape and the source's."""

    out: Path
    shape: Shape
    parent: Shape
    scores: Path

    def to_json(self) -> dict[str, Any]:
        parts = {field: getattr(self.shape, field) for field in ("hidden", "layers", "mlp")}
        return {
            "out": str(self.out),
            "parameters": self.shape.parameters,
            "embedding_parameters": self.shape.embedding_parameters,
            "parent_parameters": self.parent.parameters,
            **parts,
            "scores": str(self.scores),
        }


def prune_directory(
    source: Path | str,
    targets: Sequence[str],
    calibration: Path,
    out: Path,
    *,
    rule: Rule | None = None,
    calibration_tokens: int = CALIBRATION_TOKENS,
    seed: int = 0,
) -> list[Pruned]:
    """Cut the model in `source` to each of `targets`; one target goes to `out` itself, several to folders in it.

    A target is a size of the family ("80M"), "hidden=320,layers=8,mlp=2048" (what is left out stays), or "params=60M",
    which looks for the shape. The scores are kept beside `out` and used again for the same model and text.
    """
    directory, rule = checkpoint.resolve(source), replace(rule or Rule(), seed=seed)
    if not targets:
        raise ConfigError("there is no target; give --to, for example --to 80M")
    weights = StoredWeights(directory, checkpoint.read_shape(directory))
    places = [out if len(targets) == 1 else out / re.sub(r"[^\w.-]+", "-", target) for target in targets]
    for target, place in zip(targets, places, strict=True):
        parse_target(target, weights.shape, None, rule)
        checkpoint.check_out(place, [directory])
    settings = checkpoint.read_settings(directory)
    scores, path = _scores(weights, settings.tokenizer, calibration, out, calibration_tokens, seed)
    results = []
    for target, place in zip(targets, places, strict=True):
        shape = parse_target(target, weights.shape, scores, rule)
        _write(
            weights, settings, choose(weights.shape, scores, shape, rule), place, directory.name, rule, scores.tokens
        )
        log(f"  {target}: {weights.shape.parameters:,} -> {shape.parameters:,} parameters in {place}")
        results.append(Pruned(place, shape, weights.shape, path))
    return results


def parse_target(text: str, old: Shape, scores: Scores | None, rule: Rule) -> Shape:
    """The shape that a target names; without `scores`, "params=" is only checked and gives `old`."""
    if text in FAMILY:
        member = FAMILY[text]
        shape = replace(old, hidden=member.hidden, layers=member.layers, mlp=member.mlp)
        if (member.heads, member.kv_heads, member.head_dim) != (old.heads, old.kv_heads, old.head_dim):
            heads = f"{old.heads}/{old.kv_heads} heads of {old.head_dim}"
            raise ConfigError(f"--to {text}: this model has {heads}, which pruning keeps; name hidden, layers and mlp")
        return _within(text, shape, old)
    parts = dict(part.partition("=")[::2] for part in text.split(","))
    if set(parts) == {"params"}:
        count = _count(text, parts["params"])
        return old if scores is None else search_shape(old, scores, count, rule)
    if not set(parts) <= {"hidden", "layers", "mlp"} or not all(value.isdecimal() for value in parts.values()):
        raise ConfigError(f"--to {text}: give a size ({', '.join(FAMILY)}), hidden=..,layers=..,mlp=.. or params=60M")
    return _within(text, replace(old, **{name: int(value) for name, value in parts.items()}), old)


def _within(text: str, shape: Shape, old: Shape) -> Shape:
    for field in ("hidden", "layers", "mlp"):
        if not 1 <= getattr(shape, field) <= getattr(old, field):
            raise ConfigError(
                f"--to {text}: {field} {getattr(shape, field)} is outside 1 to {getattr(old, field)}, which this model "
                "has; pruning only shrinks"
            )
    return shape


def _count(text: str, value: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", value.replace("_", ""))
    if not found or not float(found[1]):
        raise ConfigError(f"--to {text}: write the number of parameters as 60M, 1.2B or 60000000")
    return round(float(found[1]) * _UNITS[found[2]])


def _scores(
    weights: StoredWeights, tokenizer: Tokenizer, calibration: Path, out: Path, tokens: int, seed: int
) -> tuple[Scores, Path]:
    """The scores of an earlier call beside `out`, if they are of this model and text; else new ones, kept there."""
    if not calibration.is_file():
        raise DataError(f"{calibration} is no file; give --calibration a text file with one text a line")
    files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in weights.files]
    identity = digest_json([files, asdict(weights.shape), digest_file(calibration), tokens, seed])
    path = out.parent / f"scores-{identity[:12]}.safetensors"
    found = load_scores(path, identity)
    if found is not None:
        log(f"  scores of {found.tokens:,} tokens found in {path}")
        return found, path
    found = score(weights, calibration_batches(calibration, tokenizer, tokens, seed))
    save_scores(found, path, identity)
    return found, path


def calibration_batches(path: Path, tokenizer: Tokenizer, tokens: int, seed: int) -> list[Batch]:
    """Lines of a text file, drawn at random, as packs of about `tokens` tokens in all; equal lengths are neighbours."""
    ids = tokenizer.limited_to(min(_TEXT_TOKENS, tokenizer.max_seq_length)).encode(_draw_lines(path, seed))
    ends = list(accumulate(len(text) for text in ids))
    chosen = sorted(ids[: bisect_left(ends, tokens) + 1], key=len)
    if ends and ends[-1] < tokens:
        log(f"  the calibration text has {ends[-1]:,} tokens, {tokens:,} were asked for")
    batches: list[Batch] = []
    pack: list[list[int]] = []
    for text in chosen:
        if pack and sum(map(len, pack)) + len(text) > _PACK_TOKENS:
            batches.append(make_pack([np.asarray(one) for one in pack])[:2])
            pack = []
        pack.append(text)
    return [*batches, make_pack([np.asarray(one) for one in pack])[:2]] if pack else batches


def _draw_lines(path: Path, seed: int) -> list[str]:
    """At most `_DRAWN` lines that are not empty, each with the same chance, in one pass (reservoir sampling)."""
    generator, kept = random.Random(seed), []
    for number, line in enumerate(line for line in TextLines(path) if line.strip()):
        if number < _DRAWN:
            kept.append(line)
        elif (place := generator.randrange(number + 1)) < _DRAWN:
            kept[place] = line
    generator.shuffle(kept)
    return kept


def _write(
    weights: StoredWeights,
    settings: checkpoint.Settings,
    choice: Choice,
    out: Path,
    parent: str,
    rule: Rule,
    tokens: int,
) -> None:
    text = (
        f"Pruned from `{parent}` ({weights.shape.parameters:,} parameters) by {rule.importance} importance on "
        f"{tokens:,} tokens of calibration text, and not trained since: its vectors are those of a start, not of a "
        "finished model. Train and distill it before use."
    )
    card = short_card(out.name, choice.shape, text)
    checkpoint.save_like(assemble(weights, choice), out, settings, card=card, dtype=weights.dtype)
    write_json(out / RECORD, record(choice, weights.shape, rule, tokens), indent=None)


def record(choice: Choice, parent: Shape, rule: Rule, tokens: int) -> dict[str, Any]:
    """What was kept, as JSON values."""
    return {
        "parent_shape": asdict(parent),
        "shape": asdict(choice.shape),
        "rule": asdict(rule),
        "calibration_tokens": tokens,
        "layers": choice.layers,
        "channels": choice.channels.tolist(),
    }

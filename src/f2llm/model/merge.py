"""Several trained models as one: the weighted average of their weights, tensor by tensor.

Models that came from the same start, such as the last milestones of a training run or runs on different data, often
average to a better one than any of them ("Model soups", Wortsman et al., 2022). Models that did not, share no axes:
their average is noise, which only an evaluation shows. What can be told beforehand is refused: other shapes, other
tokenizers, numbers that are not finite.

Cost: reads each tensor once and averages in float64; memory is the result and one tensor of each source, mapped from
its file, and at the end a float32 copy of the result, of which the reference vectors are computed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import Tensor

from f2llm.core.errors import ConfigError, ModelError
from f2llm.core.log import track, warn
from f2llm.model import checkpoint
from f2llm.model.card import short_card
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape
from f2llm.model.weights import StoredWeights, Weights

MILESTONE = ".safetensors"
_PIECE = 2**20  # numbers that are averaged at a time
# Fields of config.json that are no part of the weights, or follow from one that is.
_NOT_COMPARED = {"max_position_embeddings", "max_window_layers", "layer_types"}


@dataclass(frozen=True)
class MergeReport:
    """Parameters of the result, and its parts in order: names, as the card tells them, and weights that sum to 1."""

    parameters: int
    names: tuple[str, ...]
    weights: tuple[float, ...]


def merge(directories: Sequence[Path | str], out: Path, *, weights: Sequence[float] | None = None) -> MergeReport:
    """Write the average of at least two models to `out`, in the type in which the first is stored.

    Each is a model directory, a Hub id, or a weights file of a milestone, which then has the shape and the tokenizer of
    the first; the first is a directory, from which prompts, limits and card are taken. `weights` are positive, one a
    model, and are divided by their sum; by default all count the same. ConfigError for a wrong option, ModelError for
    models that do not fit together or are damaged; nothing is written then.
    """
    shares = normalised(weights, len(directories))
    paths, names = [_resolve(given) for given in directories], _names(directories)
    _check_places(paths, out)
    shape, settings = checkpoint.read_shape(paths[0]), checkpoint.read_settings(paths[0])
    whole = {name: path for name, path in zip(names[1:], paths[1:], strict=True) if not _is_file(path)}
    for name, path in whole.items():
        _check_shape(checkpoint.read_shape(path), shape, name, names[0])
    _check_settings({name: checkpoint.read_settings(path) for name, path in whole.items()}, settings, names[0])
    first = StoredWeights(paths[0], shape)
    others = [_milestone(path, shape, names[0]) if _is_file(path) else StoredWeights(path, shape) for path in paths[1:]]
    decoder = _averaged([first, *others], names, shares, first.dtype)
    section = _section(names, shares)
    card = f"{settings.card.rstrip()}\n\n{section}\n" if settings.card else short_card(out.name, shape, section)
    checkpoint.save_like(decoder, out, settings, card=card, dtype=first.dtype)
    return MergeReport(shape.parameters, tuple(names), tuple(shares))


def normalised(weights: Sequence[float] | None, models: int) -> list[float]:
    """Positive weights that sum to 1; ConfigError where there are no two models, or not one weight for each."""
    if models < 2:
        raise ConfigError(f"merging needs at least two models, and {models} is given; name another directory")
    weights = [1.0] * models if weights is None else weights
    if len(weights) != models:
        raise ConfigError(f"weights lists {len(weights)} for {models} models; give one for each model")
    for weight in weights:
        if not 0 < weight < math.inf:
            raise ConfigError(f"a weight is {weight}; give positive numbers, and leave a model out rather than weigh 0")
    # By the largest first, so that the sum is finite whatever they are.
    scaled = [weight / max(weights) for weight in weights]
    return [weight / math.fsum(scaled) for weight in scaled]


def _resolve(given: Path | str) -> Path:
    path = Path(given).expanduser()
    if not _is_file(path) and path.suffix == MILESTONE and not path.is_dir():
        raise ModelError(f"{path} does not exist; give a model directory or the weights file of a milestone")
    return path if _is_file(path) else checkpoint.resolve(given)


def _is_file(path: Path) -> bool:
    return path.suffix == MILESTONE and path.is_file()


def _check_places(paths: Sequence[Path], out: Path) -> None:
    if _is_file(paths[0]):
        raise ConfigError(
            f"the first model, {paths[0]}, is a weights file, which has no tokenizer and no prompts; put the model "
            "directory that it was trained for first"
        )
    checkpoint.check_out(out, paths)


def _milestone(file: Path, shape: Shape, first: str) -> StoredWeights:
    try:
        return StoredWeights(file, shape)
    except ModelError as error:
        raise ModelError(f"a weights file must be of the first model's shape, that of {first}: {error}") from None


def _names(given: Sequence[Path | str]) -> list[str]:
    """The ends of the paths that tell them apart, as a rule the last parts; a milestone without its ending."""
    parts = [_parts(Path(path).expanduser()) for path in given]
    names = (["/".join(part[-depth:]) for part in parts] for depth in count(1))
    return next(ends for ends in names if len(set(ends)) == len(set(parts)))


def _parts(path: Path) -> tuple[str, ...]:
    if not path.exists():  # a Hub id
        return path.parts
    absolute = Path(os.path.abspath(path))  # as `.` has no name; links keep theirs
    return (absolute.with_suffix("") if _is_file(path) else absolute).parts[1:]


def _check_shape(found: Shape, wanted: Shape, name: str, first: str) -> None:
    others = checkpoint.config_of(wanted)
    for field, value in checkpoint.config_of(found).items():
        if value != others[field] and field not in _NOT_COMPARED:
            raise ModelError(
                f"{name}/config.json: {field} is {value}, but {others[field]} in {first}; give models of one shape"
            )


def _check_settings(others: Mapping[str, checkpoint.Settings], wanted: checkpoint.Settings, first: str) -> None:
    """ModelError where the tokenizers give other ids; a warning for each setting that is lost."""
    digest = wanted.tokenizer.vocabulary_digest() if others else ""
    for name, found in others.items():
        if found.tokenizer.vocabulary_digest() != digest:
            raise ModelError(
                f"{name}/tokenizer.json differs from that of {first} ({found.tokenizer.vocab_size} and "
                f"{wanted.tokenizer.vocab_size} ids), so the same id may stand for other text; give models of one "
                "tokenizer"
            )
    for name, found in others.items():
        theirs = _told(found)
        for field, value in _told(wanted).items():
            if theirs[field] != value:
                warn(escape(f"{name}: {field} is {theirs[field]!r}; the merged model takes {value!r} from {first}"))


def _told(settings: checkpoint.Settings) -> dict[str, Any]:
    return {
        "prompts": {"query": "", "document": "", **settings.prompts},
        "default_prompt_name": settings.default_prompt_name,
        "max_seq_length": settings.max_seq_length,
        "matryoshka_dims": settings.matryoshka_dims,
    }


def _averaged(parts: Sequence[Weights], names: Sequence[str], shares: Sequence[float], dtype: torch.dtype) -> Decoder:
    with torch.device("meta"):
        decoder = Decoder(parts[0].shape)
    tensors: dict[str, Tensor] = {}
    for tensor in track(list(decoder.state_dict()), "merging"):
        read = [next(found for _, found in part.stream([tensor])) for part in parts]
        tensors[tensor] = average(read, shares, dtype)
        if not _finite(tensors[tensor]):
            _refuse(tensor, read, names, dtype)
    decoder.load_state_dict(tensors, assign=True)
    return decoder


def average(tensors: Sequence[Tensor], shares: Sequence[float], dtype: torch.dtype) -> Tensor:
    """The sum of `shares` times `tensors`, computed in float64, a few rows at a time."""
    result = torch.empty(tensors[0].shape, dtype=dtype)
    rows = max(_PIECE * len(result) // result.numel(), 1)
    for piece, *read in zip(*(torch.split(tensor, rows) for tensor in (result, *tensors)), strict=True):
        total = read[0].double() * shares[0]
        for other, share in zip(read[1:], shares[1:], strict=True):
            total.add_(other.double(), alpha=share)
        piece.copy_(total)
    return result


def _refuse(tensor: str, read: Sequence[Tensor], names: Sequence[str], dtype: torch.dtype) -> None:
    for name, values in zip(names, read, strict=True):
        if not _finite(values):
            raise ModelError(f"{name}: tensor {tensor} holds values that are not finite; take an earlier checkpoint")
    raise ModelError(
        f"the average of tensor {tensor} is too large for {dtype}, in which {names[0]} is stored; put a model "
        "first that is stored in torch.bfloat16 or torch.float32"
    )


def _finite(tensor: Tensor) -> bool:
    """By the extremes, which are NaN where one number is: `isfinite` takes as much memory again."""
    return all(math.isfinite(bound) for bound in tensor.aminmax())


def _section(names: Sequence[str], shares: Sequence[float]) -> str:
    rows = "\n".join(f"| `{name}` | {share:.6g} |" for name, share in zip(names, shares, strict=True))
    return f"""## Merged

The weights are the average of these models. What else is said here of training and scores is about the first alone.

| model | share |
|---|---:|
{rows}"""

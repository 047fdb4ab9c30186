"""Cut a decoder to a smaller shape: scores on calibration text tell which parts matter, the others are cut away.

F2LLM-v2, section 2.2, makes its 80M, 160M and 330M models so from the 0.6B one after stage 1: it keeps the first n
layers, the hidden channels and the MLP channels with the largest activation norms, and all attention heads. It leaves
open which norm, and how the layers are aggregated for the hidden channels, which all layers share. By default: the L2
norm over tokens of the *output* of each RMSNorm, which is what the layers read, summed over the norms of the layers
that stay and the final norm. Measured before a norm, a few first tokens with huge residuals and the last layers would
decide alone; a norm puts all tokens and depths on one scale. `Rule` has the alternatives, docs/results/pruning.md what
they are worth.

**Scale.** RMSNorm divides by the root mean square over all D channels. Let f be the share of the square sum that the d
kept channels hold (measured, per norm). Then the root mean square over d channels is sqrt(f * D / d) times the old one,
and the output shrinks by that factor: dead channels (f = 1) give sqrt(D / d), channels of equal strength (f = d / D)
give 1. So each norm's weight is multiplied by its sqrt(f * D / d). That leaves the epsilon under the root, which would
weigh less against the larger mean square; so the residual stream itself (token table, o_proj, down_proj) is divided by
the mean of the factors, which the norms undo. Where only dead channels go, the pruned model thus equals the old one,
epsilon included; elsewhere f is an average over tokens and the rest is for training to mend.

Cost: one tensor of the old model at a time, and the new model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

import torch
from torch import Tensor

from f2llm.core.errors import ConfigError
from f2llm.core.log import track
from f2llm.core.types import Aggregate, Depth, Importance
from f2llm.model.decoder import Decoder
from f2llm.model.importance import Scores, top
from f2llm.model.sizes import Shape
from f2llm.model.weights import LoadedWeights, Weights, shapes_of

_NEAR = 0.02  # of the wanted number of parameters


@dataclass(frozen=True)
class Rule:
    """By what is chosen; the names are explained in `f2llm.core.config.PruneConfig`. `seed` is for "random"."""

    importance: Importance = "l2"
    aggregate: Aggregate = "sum"
    depth: Depth = "first"
    seed: int = 0


def make_rule(importance: str, aggregate: str, depth: str, seed: int) -> Rule:
    """A rule from words that a user typed; ConfigError names the one that is unknown."""
    given = {"importance": (importance, Importance), "aggregate": (aggregate, Aggregate), "depth": (depth, Depth)}
    for option, (word, names) in given.items():
        if word not in get_args(names):
            raise ConfigError(f"--{option} {word}: give one of {', '.join(get_args(names))}")
    return Rule(cast(Importance, importance), cast(Aggregate, aggregate), cast(Depth, depth), seed)


@dataclass(frozen=True)
class Choice:
    """What stays: layer numbers, hidden channels, MLP channels of each kept layer (ascending); the norms' rescaling.

    `gains` [2l+1]: factor of each kept norm's weight; the residual stream is divided by `stream`, their mean.
    """

    shape: Shape
    layers: list[int]
    channels: Tensor
    mlp: list[Tensor]
    gains: list[float]

    @property
    def stream(self) -> float:
        return sum(self.gains) / len(self.gains)


def choose(old: Shape, scores: Scores, shape: Shape, rule: Rule | None = None) -> Choice:
    """Which parts of a decoder of shape `old` make up one of `shape`.

    Kept channels stay in their order, so the first dimensions of an embedding remain the first that were kept.
    """
    rule = rule or Rule()
    _check_target(old, shape)
    layers = scores.layers_kept(shape.layers, rule.depth)
    channels = top(scores.hidden(layers, rule.importance, rule.aggregate, rule.seed), shape.hidden)
    by_layer = scores.mlp(rule.importance, rule.seed + 1)
    energy = scores.energy[scores.norms_of(layers)]
    gains = (energy[:, channels].sum(1) / energy.sum(1) * old.hidden / shape.hidden).sqrt()
    return Choice(shape, layers, channels, [top(by_layer[layer], shape.mlp) for layer in layers], gains.tolist())


def prune(decoder: Decoder, scores: Scores, shape: Shape, rule: Rule | None = None) -> Decoder:
    """A new decoder of `shape` cut out of one in memory."""
    weights = LoadedWeights(decoder)
    return assemble(weights, choose(decoder.shape, scores, shape, rule))


def assemble(weights: Weights, choice: Choice) -> Decoder:
    """The decoder that `choice` leaves of `weights`, in their type."""
    with torch.device("meta"):
        small = Decoder(choice.shape)
    tensors = track(cut(weights, choice), "cutting", len(small.state_dict()))
    small.load_state_dict(dict(tensors), assign=True)
    return small


def cut(weights: Weights, choice: Choice) -> Iterator[tuple[str, Tensor]]:
    """(new name, tensor) of the pruned model, one tensor of the old model at a time."""
    new_names = {_old_name(name, choice.layers): name for name in shapes_of(choice.shape)}
    gains = dict(zip(_norm_names(choice.shape.layers), choice.gains, strict=True))
    for old_name, tensor in weights.stream(new_names):
        name = new_names[old_name]
        yield name, _cut(name, tensor, choice, gains)


def search_shape(old: Shape, scores: Scores, parameters: int, rule: Rule | None = None) -> Shape:
    """The shape of at most `parameters` parameters, and at least 98% of them, that keeps most of what was measured.

    Kept is the product of three shares: of the squared activations in the hidden channels, of those in the MLP
    channels, and of the layers' influence. All hidden sizes and MLP sizes in steps of about a 48th are tried, with any
    depth. ConfigError where no shape of the parent's heads has so few parameters, or so many.
    """
    rule = rule or Rule()
    below = list(_shapes_below(old, parameters))
    fitting = [shape for shape in below if shape.parameters >= (1 - _NEAR) * parameters]
    if not fitting:
        smallest = replace(old, hidden=_step(old.hidden), layers=1, mlp=_step(old.mlp))
        nearest = max((shape.parameters for shape in below), default=smallest.parameters)
        raise ConfigError(
            f"params={parameters:,} cannot be reached within 2% by pruning; the nearest is {nearest:,}, the model "
            f"itself has {old.parameters:,}"
        )
    shares = _Shares(scores, rule)
    return max(fitting, key=lambda shape: (shares.kept(shape), shape.layers, shape.hidden))


class _Shares:
    """How much of the measured activations and influence a shape keeps at best; log of the product of the shares."""

    def __init__(self, scores: Scores, rule: Rule) -> None:
        self.scores, self.rule = scores, rule
        self.mlp = (scores.mlp_square.sort(1, descending=True).values.cumsum(1)).log()
        self._hidden: dict[int, Tensor] = {}

    def kept(self, shape: Shape) -> float:
        layers = self.scores.layers_kept(shape.layers, self.rule.depth)
        if shape.layers not in self._hidden:
            squares = self.scores.hidden_square[self.scores.norms_of(layers)]
            strength = (squares / squares.sum(1, keepdim=True)).mean(0)
            self._hidden[shape.layers] = strength.sort(descending=True).values.cumsum(0).log()
        hidden = self._hidden[shape.layers][shape.hidden - 1]
        mlp = (self.mlp[layers, shape.mlp - 1] - self.mlp[layers, -1]).mean()
        influence = self.scores.influence[layers].sum() / self.scores.influence.sum()
        return float(hidden + mlp + influence.log())


def _shapes_below(old: Shape, parameters: int) -> Iterator[Shape]:
    """For each width and depth, the one with the largest MLP within the budget."""
    for hidden in _sizes(old.hidden):
        for layers in range(1, old.layers + 1):
            without = replace(old, hidden=hidden, layers=layers, mlp=1)
            room = (parameters - without.parameters) // (3 * hidden * layers) + 1
            step = _step(old.mlp)
            shape = replace(without, mlp=min(room // step * step, old.mlp))
            if shape.mlp >= step:
                yield shape


def _sizes(size: int) -> range:
    step = _step(size)
    return range(step, size + 1, step)


def _step(size: int) -> int:
    """Steps of about a 48th: a power of two, at least 8."""
    return max(8, 2 ** round(math.log2(size / 48))) if size >= 16 else 1


def _cut(name: str, old: Tensor, choice: Choice, gains: dict[str, float]) -> Tensor:
    channels = choice.channels.to(old.device)
    if name in gains:
        return old[channels] * gains[name]
    if name == "embed_tokens.weight":
        return old.index_select(1, channels) / choice.stream
    kind = name.split(".")[-2]
    if kind in ("q_norm", "k_norm"):
        return old.clone()
    if kind == "o_proj":
        return old[channels] / choice.stream
    if kind in ("q_proj", "k_proj", "v_proj"):
        return old[:, channels]
    inner = choice.mlp[int(name.split(".")[1])].to(old.device)
    return old[channels][:, inner] / choice.stream if kind == "down_proj" else old[inner][:, channels]


def _check_target(old: Shape, new: Shape) -> None:
    for field in ("heads", "kv_heads", "head_dim", "vocab_size", "rope_theta", "rms_eps"):
        if getattr(new, field) != getattr(old, field):
            raise ConfigError(f"shape.{field} is {getattr(new, field)}; pruning keeps it at {getattr(old, field)}")
    for field in ("hidden", "layers", "mlp"):
        if not 1 <= getattr(new, field) <= getattr(old, field):
            raise ConfigError(f"shape.{field} is {getattr(new, field)}; the parent allows 1 to {getattr(old, field)}")


def _old_name(name: str, layers: Sequence[int]) -> str:
    """The parent's name of a tensor of the pruned model."""
    parts = name.split(".")
    if parts[0] == "layers":
        parts[1] = str(layers[int(parts[1])])
    return ".".join(parts)


def _norm_names(layers: int) -> list[str]:
    kinds = ("input_layernorm", "post_attention_layernorm")
    return [*(f"layers.{layer}.{kind}.weight" for layer in range(layers) for kind in kinds), "norm.weight"]

"""Cut a trained decoder to a smaller shape: calibration text tells which channels matter, the others are cut away.

F2LLM-v2, section 2.2, makes its 80M, 160M and 330M models so from the 0.6B one after stage 1: it keeps the first n
layers, the hidden channels and the MLP channels with the largest activation norms, and all attention heads. It leaves
open which norm, and how the layers are aggregated for the hidden channels, which all layers share. Chosen here, in the
manner of Minitron (arXiv 2407.14679):

- hidden channel: L2 norm over tokens of the *output* of each RMSNorm, which is what the layers read, summed over the
  norms of the layers that stay and the final norm. Measured before a norm, a few first tokens with huge residuals and
  the last layers would decide alone; a norm puts all tokens and depths on one scale.
- MLP channel: L2 norm over tokens of silu(gate) * up, per layer.

**Scale.** RMSNorm divides by the root mean square over all D channels. Let f be the share of the square sum that the d
kept channels hold (measured, per norm). Then the root mean square over d channels is sqrt(f * D / d) times the old one,
and the output shrinks by that factor: dead channels (f = 1) give sqrt(D / d), channels of equal strength (f = d / D)
give 1. So each norm's weight is multiplied by its sqrt(f * D / d). That leaves the epsilon under the root, which would
weigh less against the larger mean square; so the residual stream itself (token table, o_proj, down_proj) is divided by
the mean of the factors, which the norms undo. Where only dead channels go, the pruned model thus equals the old one,
epsilon included; elsewhere f is an average over tokens and the rest is for training to mend.

Cost: one forward pass over the calibration text, no gradient; memory two copies of the smaller model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from f2llm.core.errors import ConfigError, DataError
from f2llm.model.decoder import Decoder, RMSNorm
from f2llm.model.sizes import Shape

Norm = Literal["l1", "l2"]
Batch = tuple[Tensor, Tensor | Sequence[int]]


@dataclass(frozen=True)
class ChannelScores:
    """Importance of each channel on calibration text, float64 on the CPU; norms in order: two per layer, the final one.

    `hidden` [2L+1, D] activation norm of each channel after each RMSNorm; `mlp` [L, I] that of each MLP channel;
    `energy` [2L+1, D] mean square of each channel before each RMSNorm, in units of the token's mean square.
    """

    hidden: Tensor
    mlp: Tensor
    energy: Tensor
    tokens: int

    def norms_kept(self, layers: int) -> Tensor:
        """Row numbers of the norms that a model of the first `layers` layers still has."""
        return torch.tensor([*range(2 * layers), self.hidden.shape[0] - 1])


def score_channels(decoder: Decoder, batches: Iterable[Batch], norm: Norm = "l2") -> ChannelScores:
    """Run `decoder` once over `batches` of (input_ids [T], cu_seqlens [N+1]) and measure all channels."""
    if norm not in ("l1", "l2"):
        raise ConfigError(f"norm is {norm!r}; give 'l1' or 'l2'")
    shape, power = decoder.shape, int(norm[1])
    norms = _modules(decoder, _norm_names(shape.layers))
    downs = _modules(decoder, [f"layers.{layer}.mlp.down_proj.weight" for layer in range(shape.layers)])
    hidden, energy = (torch.zeros(len(norms), shape.hidden, dtype=torch.float64) for _ in range(2))
    mlp = torch.zeros(len(downs), shape.mlp, dtype=torch.float64)

    def watch_norm(row: int) -> Callable[..., None]:
        def hook(module: RMSNorm, inputs: tuple[Tensor], output: Tensor) -> None:
            x = inputs[0].float()
            energy[row] += _sums(x * (x.square().mean(-1, keepdim=True) + module.eps).rsqrt(), 2)
            hidden[row] += _sums(output, power)

        return hook

    def watch_mlp(row: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            mlp[row] += _sums(inputs[0], power)

        return hook

    handles = [module.register_forward_hook(watch_norm(row)) for row, module in enumerate(norms)]
    handles += [module.register_forward_pre_hook(watch_mlp(row)) for row, module in enumerate(downs)]
    tokens = 0
    try:
        with torch.inference_mode():
            for input_ids, cu_seqlens in batches:
                decoder(input_ids, cu_seqlens)
                tokens += input_ids.shape[0]
    finally:
        for handle in handles:
            handle.remove()
    if not tokens:
        raise DataError("there is no calibration text; give at least one batch")
    return ChannelScores(hidden ** (1 / power), mlp ** (1 / power), energy / tokens, tokens)


def prune(decoder: Decoder, scores: ChannelScores, shape: Shape) -> Decoder:
    """A new decoder of `shape`: the first layers, the best hidden channels (one choice for all), the best MLP channels.

    Kept channels stay in their order, so the first dimensions of an embedding remain the first that were kept.
    """
    _check_target(decoder.shape, shape)
    norms = scores.norms_kept(shape.layers)
    channels = _top(scores.hidden[norms].sum(0), shape.hidden)
    energy = scores.energy[norms]
    shrunk = (energy[:, channels].sum(1) / energy.sum(1) * decoder.shape.hidden / shape.hidden).sqrt()
    stream = shrunk.mean().item()
    with torch.device("meta"):
        small = Decoder(shape, checkpoint_activations=decoder.checkpoint_activations)
    mlp = [_top(scores.mlp[layer], shape.mlp) for layer in range(shape.layers)]
    gains = dict(zip(_norm_names(shape.layers), shrunk.tolist(), strict=True))
    old = decoder.state_dict()
    tensors = {name: _cut(name, old[name], channels, mlp, gains, stream) for name in small.state_dict()}
    small.load_state_dict(tensors, assign=True)
    return small


def _cut(
    name: str, old: Tensor, channels: Tensor, mlp: Sequence[Tensor], gains: dict[str, float], stream: float
) -> Tensor:
    channels = channels.to(old.device)
    if name in gains:
        return old[channels] * gains[name]
    if name == "embed_tokens.weight":
        return old[:, channels] / stream
    kind = name.split(".")[-2]
    if kind in ("q_norm", "k_norm"):
        return old.clone()
    if kind == "o_proj":
        return old[channels] / stream
    if kind in ("q_proj", "k_proj", "v_proj"):
        return old[:, channels]
    inner = mlp[int(name.split(".")[1])].to(old.device)
    return old[channels][:, inner] / stream if kind == "down_proj" else old[inner][:, channels]


def _check_target(old: Shape, new: Shape) -> None:
    for field in ("heads", "kv_heads", "head_dim", "vocab_size", "rope_theta", "rms_eps"):
        if getattr(new, field) != getattr(old, field):
            raise ConfigError(f"shape.{field} is {getattr(new, field)}; pruning keeps it at {getattr(old, field)}")
    for field in ("hidden", "layers", "mlp"):
        if not 1 <= getattr(new, field) <= getattr(old, field):
            raise ConfigError(f"shape.{field} is {getattr(new, field)}; the parent allows 1 to {getattr(old, field)}")


def _top(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest scores, ascending; of equal scores the first wins."""
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values


def _sums(x: Tensor, power: int) -> Tensor:
    return x.float().abs().pow(power).sum(0).to("cpu", torch.float64)


def _modules(decoder: Decoder, weights: Sequence[str]) -> list[nn.Module]:
    return [decoder.get_submodule(name.removesuffix(".weight")) for name in weights]


def _norm_names(layers: int) -> list[str]:
    kinds = ("input_layernorm", "post_attention_layernorm")
    return [*(f"layers.{layer}.{kind}.weight" for layer in range(layers) for kind in kinds), "norm.weight"]

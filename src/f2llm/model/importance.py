"""How much each part of a decoder matters on calibration text: hidden channels, MLP channels, layers.

One forward pass, layer by layer, measures all that `f2llm.model.prune` may choose by, so that one set of scores serves
every target and every rule. A layer's weights are in memory only while its turn lasts; between turns there are the
hidden states of the calibration text, 4 * T * D bytes. So a model much larger than memory can be scored.

The final norm and each layer's two norms are numbered in the order of the model: 2L + 1 of them.

Sources of the measures: channel activations, Minitron (arXiv 2407.14679); block influence, ShortGPT (arXiv 2403.03853).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from f2llm.core.errors import DataError
from f2llm.core.log import Bar
from f2llm.core.types import Aggregate, Depth, Importance
from f2llm.model.attention import AttentionPlan
from f2llm.model.checkpoint import save_tensors
from f2llm.model.decoder import Layer, RMSNorm, boundaries, rotary
from f2llm.model.sizes import Shape
from f2llm.model.weights import Weights, layer_names

Batch = tuple[Tensor, Tensor | Sequence[int]]
_FORMAT = 1


@dataclass(frozen=True)
class Scores:
    """What one pass over `tokens` tokens measured; float64 on the CPU, sums over tokens unless said otherwise.

    After each RMSNorm: `hidden_sum`, `hidden_abs`, `hidden_square` [2L+1, D] of the values, of their magnitudes, and of
    their squares. Before it: `energy` [2L+1, D], mean square in units of the token's own. Before down_proj: `mlp_sum`,
    `mlp_abs`, `mlp_square` [L, I]. Per layer, means over tokens: `influence` [L], 1 - cosine of its input and output;
    `norm_change` [L], relative change of the length. Of the weights that read or write a channel, L2 norms:
    `hidden_weight` [2L+1, D], `mlp_weight` [L, I].
    """

    tokens: int
    hidden_sum: Tensor
    hidden_abs: Tensor
    hidden_square: Tensor
    energy: Tensor
    mlp_sum: Tensor
    mlp_abs: Tensor
    mlp_square: Tensor
    influence: Tensor
    norm_change: Tensor
    hidden_weight: Tensor
    mlp_weight: Tensor

    @property
    def layers(self) -> int:
        return len(self.influence)

    def norms_of(self, layers: Sequence[int]) -> Tensor:
        """Row numbers of the norms of some layers, and of the final one."""
        return torch.tensor([*(2 * layer + half for layer in layers for half in (0, 1)), 2 * self.layers])

    def hidden(self, layers: Sequence[int], importance: Importance, aggregate: Aggregate, seed: int) -> Tensor:
        """Importance [D] of the hidden channels, which all layers share, over the norms of `layers`."""
        if importance == "prefix":
            return -torch.arange(self.hidden_sum.shape[1], dtype=torch.float64)
        found = _measure(
            importance, self.hidden_sum, self.hidden_abs, self.hidden_square, self.hidden_weight, self.tokens, seed
        )
        found = found[self.norms_of(layers)]
        return {"sum": found.sum(0), "max": found.amax(0), "last": found[-1]}[aggregate]

    def mlp(self, importance: Importance, seed: int) -> Tensor:
        """Importance [L, I] of the MLP channels; "prefix" says nothing about them and means "l2"."""
        chosen: Importance = "l2" if importance == "prefix" else importance
        return _measure(chosen, self.mlp_sum, self.mlp_abs, self.mlp_square, self.mlp_weight, self.tokens, seed)

    def layers_kept(self, count: int, depth: Depth) -> list[int]:
        """Numbers of the `count` layers that stay, ascending."""
        if depth == "first":
            return list(range(count))
        return top(self.influence if depth == "influence" else self.norm_change, count).tolist()


def top(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest scores, ascending; of equal scores the first wins."""
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values


def _measure(
    importance: Importance, total: Tensor, magnitude: Tensor, square: Tensor, weight: Tensor, tokens: int, seed: int
) -> Tensor:
    if importance == "l1":
        return magnitude
    if importance == "l2":
        return square.sqrt()
    if importance == "variance":
        return square / tokens - (total / tokens).square()
    if importance == "magnitude":
        return weight
    return torch.rand(square.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def score(weights: Weights, batches: Iterable[Batch]) -> Scores:
    """Run the model over `batches` of (input_ids [T], cu_seqlens [N+1]) once and measure everything."""
    packs = [(ids, AttentionPlan.from_cu_seqlens(boundaries(cu_seqlens))) for ids, cu_seqlens in batches]
    tokens = sum(len(ids) for ids, _ in packs)
    if not tokens:
        raise DataError("there is no calibration text; give a file with at least one line that is not empty")
    shape, scores = weights.shape, _empty(weights.shape, tokens)
    states = [rows.double() if rows.dtype == torch.float64 else rows.float() for rows in _embedded(weights, packs)]
    with Bar("scoring layers", shape.layers) as bar:
        for number in range(shape.layers):
            layer = _layer(weights, number, states[0].dtype)
            _weigh(scores, number, layer)
            with _watched(scores, number, layer):
                for place, (ids, plan) in enumerate(packs):
                    rope = rotary(plan.positions(ids.device), shape, states[place].dtype)
                    states[place] = _advance(scores, number, layer, states[place], rope, plan)
            del layer  # before the next one comes
            bar.advance()
    _finish(scores, weights, states)
    return scores


def save_scores(scores: Scores, path: Path, identity: str) -> None:
    """Write scores to a safetensors file, with a digest of what they were made from."""
    tensors = {name: value for name, value in vars(scores).items() if isinstance(value, Tensor)}
    about = {"version": str(_FORMAT), "tokens": str(scores.tokens), "identity": identity}
    save_tensors(tensors, path, metadata=about)


def load_scores(path: Path, identity: str) -> Scores | None:
    """The scores in a file, or None where there are none of this `identity`."""
    try:
        with safe_open(path, framework="pt") as handle:
            about = handle.metadata() or {}
            if about.get("identity") != identity or about.get("version") != str(_FORMAT):
                return None
            names = [field.name for field in fields(Scores) if field.name != "tokens"]
            return Scores(int(about["tokens"]), **{name: handle.get_tensor(name).clone() for name in names})
    except (OSError, SafetensorError):
        return None


def _empty(shape: Shape, tokens: int) -> Scores:
    norms = {
        name: torch.zeros(2 * shape.layers + 1, shape.hidden, dtype=torch.float64)
        for name in ("hidden_sum", "hidden_abs", "hidden_square", "energy", "hidden_weight")
    }
    mlp = {
        name: torch.zeros(shape.layers, shape.mlp, dtype=torch.float64)
        for name in ("mlp_sum", "mlp_abs", "mlp_square", "mlp_weight")
    }
    depth = {name: torch.zeros(shape.layers, dtype=torch.float64) for name in ("influence", "norm_change")}
    return Scores(tokens, **norms, **mlp, **depth)


def _embedded(weights: Weights, packs: Sequence[tuple[Tensor, AttentionPlan]]) -> list[Tensor]:
    """The token table's rows of all packs; the table itself is let go."""
    _, table = next(iter(weights.stream(["embed_tokens.weight"])))
    return [table[ids.to(table.device)] for ids, _ in packs]


def _layer(weights: Weights, number: int, dtype: torch.dtype) -> Layer:
    with torch.device("meta"):
        layer = Layer(weights.shape)
    prefix = f"layers.{number}."
    tensors = {
        name.removeprefix(prefix): tensor.to(dtype)
        for name, tensor in weights.stream(layer_names(weights.shape, number))
    }
    layer.load_state_dict(tensors, assign=True)
    return layer


def _advance(
    scores: Scores, number: int, layer: Layer, h: Tensor, rope: tuple[Tensor, Tensor], plan: AttentionPlan
) -> Tensor:
    """The states after the layer; how far it turned and stretched them is added up."""
    after: Tensor = layer(h, rope, plan)
    before, now = h.norm(dim=-1), after.norm(dim=-1)
    cosine = (h * after).sum(-1) / (before * now).clamp_min(1e-12)
    scores.influence[number] += (1 - cosine).double().sum().cpu() / scores.tokens
    scores.norm_change[number] += ((now - before).abs() / before.clamp_min(1e-12)).double().sum().cpu() / scores.tokens
    return after


@contextmanager
def _watched(scores: Scores, number: int, layer: Layer) -> Iterator[None]:
    """Hooks on a layer's norms and on what down_proj reads."""

    def see_mlp(_: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].float() if inputs[0].dtype != torch.float64 else inputs[0]
        _add(scores.mlp_sum[number], scores.mlp_abs[number], scores.mlp_square[number], x)

    handles = [
        layer.input_layernorm.register_forward_hook(_see_norm(scores, 2 * number)),
        layer.post_attention_layernorm.register_forward_hook(_see_norm(scores, 2 * number + 1)),
        layer.mlp.down_proj.register_forward_pre_hook(see_mlp),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _see_norm(scores: Scores, row: int) -> Callable[[RMSNorm, tuple[Tensor], Tensor], None]:
    def hook(module: RMSNorm, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0]
        scale = (x.square().mean(-1, keepdim=True) + module.eps).rsqrt()
        scores.energy[row] += (x * scale).square().sum(0).double().cpu() / scores.tokens
        _add(scores.hidden_sum[row], scores.hidden_abs[row], scores.hidden_square[row], output)

    return hook


def _add(total: Tensor, magnitude: Tensor, square: Tensor, x: Tensor) -> None:
    total += x.sum(0).double().cpu()
    magnitude += x.abs().sum(0).double().cpu()
    square += x.square().sum(0).double().cpu()


def _weigh(scores: Scores, number: int, layer: Layer) -> None:
    """L2 norms of the weights at each channel: the norm's times what reads it, and the MLP's rows and columns."""
    attention, mlp = layer.self_attn, layer.mlp
    readers = {
        layer.input_layernorm: (attention.q_proj, attention.k_proj, attention.v_proj),
        layer.post_attention_layernorm: (mlp.gate_proj, mlp.up_proj),
    }
    for half, (norm, projections) in enumerate(readers.items()):
        columns = torch.stack([projection.weight.square().sum(0) for projection in projections]).sum(0).sqrt()
        scores.hidden_weight[2 * number + half] = (columns * norm.weight.abs()).double().cpu()
    rows = mlp.gate_proj.weight.square().sum(1) + mlp.up_proj.weight.square().sum(1)
    scores.mlp_weight[number] = (rows + mlp.down_proj.weight.square().sum(0)).sqrt().double().cpu()


def _finish(scores: Scores, weights: Weights, states: Sequence[Tensor]) -> None:
    """The final norm's row."""
    _, weight = next(iter(weights.stream(["norm.weight"])))
    norm = RMSNorm(weights.shape.hidden, weights.shape.rms_eps).to(states[0].dtype)
    norm.load_state_dict({"weight": weight.to(states[0].dtype)}, assign=True)
    hook = _see_norm(scores, 2 * scores.layers)
    for h in states:
        hook(norm, (h,), norm(h))
    scores.hidden_weight[-1] = norm.weight.abs().double().cpu()

"""How near a training step comes to the machine's floor: operations executed, and the rate of a bare matrix product.

The floor of a step is the time that its matrix products alone would take at the rate of `matrix_rate`; norms, the
optimizer, the loss and the loading of batches come on top of it in practice.
"""

from __future__ import annotations

import time
from functools import cache

import torch

from f2llm.model.sizes import Shape


def training_operations(
    shape: Shape, tokens: int, sequences: int, attention_pairs: int = 0, *, forwards: float = 1
) -> float:
    """Floating point operations of the matrix products of a forward and backward pass of `Decoder` to embeddings.

    A weight costs 2 per token forward and 4 backward (the gradients of input and weight): all weights for `tokens`,
    but of the last layer only keys and values; its queries, output and MLP see one token for each of `sequences`.

    `attention_pairs` is the sum of L (L + 1) / 2 over the sequences, the pairs that causal attention needs (a kernel
    that also computes the masked ones does more); 0 leaves attention out. A pair costs, for each of heads * head_dim, 2
    per product: 2 products forward, 5 backward (2.5 times as much; fused kernels compute the scores again). In the
    last layer one token asks, which makes `tokens` pairs.

    `forwards` is how often the forward pass runs: 1 and (m - 1) / m with the gradient cached over m micro-batches, one
    more with `checkpoint_activations`.
    Not counted: the loss, and what the last layer's attention sees of a shared prefix (`continuations`).
    """
    inner, kv_inner = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for_all = 2 * shape.hidden * kv_inner
    for_last = 2 * shape.hidden * inner + 3 * shape.hidden * shape.mlp
    weights = tokens * (shape.layers * for_all + (shape.layers - 1) * for_last) + sequences * for_last
    pairs = (shape.layers - 1) * attention_pairs + tokens if attention_pairs else 0
    return float((2 * forwards + 4) * weights + 2 * inner * (2 * forwards + 5) * pairs)


@cache
def matrix_rate(device: torch.device | str, dtype: torch.dtype, *, size: int | None = None, repeats: int = 5) -> float:
    """Operations per second of a product of two square matrices, the best of `repeats` after a warm-up.

    `size` is 8192 on CUDA and 2048 elsewhere if not given. Measured once in a process; call it while nothing else runs.
    """
    device = torch.device(device)
    size = size or (8192 if device.type == "cuda" else 2048)
    own = torch.Generator(device).manual_seed(0)  # the state of the common one is part of a run's checkpoints
    left, right = (torch.randn(size, size, device=device, dtype=dtype, generator=own) for _ in range(2))
    out = torch.empty_like(left)
    seconds = [_product_seconds(left, right, out) for _ in range(repeats + 1)]
    return 2 * size**3 / min(seconds[1:])


@torch.no_grad()
def _product_seconds(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> float:
    _wait(left.device)
    started = time.perf_counter()
    torch.mm(left, right, out=out)
    _wait(left.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

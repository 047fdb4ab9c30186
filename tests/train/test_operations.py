"""The count of operations is the one that torch counts in the Decoder; the measured rate is of the right size."""

from itertools import accumulate

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape
from f2llm.train.operations import matrix_rate, training_operations

SHAPE = Shape(hidden=24, layers=3, mlp=40, heads=4, kv_heads=2, head_dim=8, vocab_size=50)
LENGTHS = [5, 5, 3, 9]


def counted(shape: Shape, *, passes: int = 1) -> dict[str, int]:
    """Operations by kind that torch counts for forward passes, the last of them with its backward pass."""
    decoder = Decoder(shape)
    decoder.init_weights(0)
    ids = torch.arange(sum(LENGTHS)) % shape.vocab_size
    bounds = [0, *accumulate(LENGTHS)]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for _ in range(passes - 1):
            with torch.no_grad():
                decoder(ids, bounds, last_token_only=True)
        decoder(ids, bounds, last_token_only=True).square().sum().backward()
    return {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("layers", [1, 3])
def test_weights_cost_what_torch_counts(layers: int, passes: int) -> None:
    shape = Shape(24, layers, 40, 4, 2, 8, 50)
    found = counted(shape, passes=passes)["aten.mm"]
    assert training_operations(shape, sum(LENGTHS), len(LENGTHS), forwards=passes) == found


def test_attention_costs_what_torch_counts_without_its_mask() -> None:
    """torch's plain kernel computes all L * L pairs and keeps the scores, so its backward pass is 4 products, not 5."""
    squares = sum(length**2 for length in LENGTHS)
    plain = training_operations(SHAPE, sum(LENGTHS), len(LENGTHS))
    found = training_operations(SHAPE, sum(LENGTHS), len(LENGTHS), squares) - plain
    assert found * 6 / 7 == pytest.approx(counted(SHAPE)["aten.bmm"])


def test_last_layer_sees_one_token_a_sequence() -> None:
    one, two = (training_operations(SHAPE, 100, sequences) for sequences in (1, 2))
    assert two - one == 6 * (2 * 24 * 4 * 8 + 3 * 24 * 40)


def test_matrix_rate_is_plausible() -> None:
    assert 1e7 < matrix_rate("cpu", torch.float32, size=256, repeats=2) < 1e14

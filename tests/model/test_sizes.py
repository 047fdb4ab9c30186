import math
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from f2llm.core.errors import ConfigError
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import EPOCHS, FAMILY, LEARNING_RATES, TEACHERS, Shape, inference_bytes, matryoshka_dims

TOTALS = {
    "80M": 80_084_288, "160M": 159_185_024, "330M": 334_349_184, "0.6B": 596_049_920,
    "1.7B": 1_720_574_976, "4B": 4_022_468_096, "8B": 7_568_405_504, "14B": 13_990_394_880,
}  # fmt: skip


@pytest.mark.parametrize("size", TOTALS)
def test_totals_are_the_published_ones(size: str) -> None:
    with torch.device("meta"):
        decoder = Decoder(FAMILY[size])
    assert sum(parameter.numel() for parameter in decoder.parameters()) == TOTALS[size]
    assert FAMILY[size].parameters == TOTALS[size]


def test_the_family_is_complete_and_teachers_are_larger_members() -> None:
    assert set(FAMILY) == set(TOTALS)
    assert all(TOTALS[teacher] > TOTALS[student] for student, teacher in TEACHERS.items())
    assert FAMILY["80M"].embedding_parameters == 320 * 151_936


def test_every_size_has_its_training_facts() -> None:
    assert list(LEARNING_RATES) == list(EPOCHS) == list(FAMILY)
    rates = list(LEARNING_RATES.values())
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (4e-5, 5e-6)
    assert (EPOCHS["80M"], EPOCHS["330M"], EPOCHS["0.6B"]) == (4, 3, 2)


def test_matryoshka_dims() -> None:
    assert matryoshka_dims(320) == [8, 16, 32, 64, 128, 256, 320]
    assert matryoshka_dims(1024) == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert matryoshka_dims(48, min_dim=32) == [32, 48]
    assert matryoshka_dims(8) == [8]
    assert matryoshka_dims(4) == [4]


@pytest.mark.parametrize(
    ("field", "value"), [("hidden", 0), ("layers", -1), ("kv_heads", 3), ("head_dim", 127), ("rms_eps", 0.0)]
)
def test_impossible_shapes_are_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(FAMILY["80M"], **{field: value}).validate()


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that the CPU allocator holds at once of what `call` asks for, temporaries of kernels included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(size for _, size in changes))


FORWARD = {
    "mlp is the fullest": (Shape(512, 4, 1536, 8, 4, 64, 1000), torch.float32, 0.03),
    "attention is the fullest": (Shape(192, 3, 512, 8, 4, 64, 1000), torch.float32, 0.03),
    "half precision": (Shape(512, 2, 1536, 8, 4, 64, 1000), torch.bfloat16, 0.03),
    "wide and flat": (Shape(768, 2, 128, 2, 1, 64, 1000), torch.float32, 0.03),
}


@pytest.mark.parametrize("case", FORWARD)
def test_a_forward_pass_holds_what_was_counted(case: str) -> None:
    shape, dtype, tolerance = FORWARD[case]
    decoder = Decoder(shape).to(dtype)
    decoder.init_weights(0)
    lengths = sorted((5, 9, 17, 30, 31, 36) * 64)
    ids = torch.randint(shape.vocab_size, (sum(lengths),))
    with torch.inference_mode():
        peak = peak_bytes(lambda: decoder(ids, [0, *accumulate(lengths)], last_token_only=True))
    width = dtype.itemsize
    counted = inference_bytes(shape, len(ids), width) - width * shape.parameters
    assert sum(lengths) == 8192
    assert math.isclose(counted, peak, rel_tol=tolerance), f"{counted / peak:.3f}"


def test_weights_are_most_of_a_short_query() -> None:
    assert inference_bytes(FAMILY["80M"], 0, 4) == 4 * TOTALS["80M"]
    assert inference_bytes(FAMILY["0.6B"], 20, 2) < 1.01 * 2 * TOTALS["0.6B"]

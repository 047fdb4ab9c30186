from dataclasses import replace

import pytest
import torch

from f2llm.core.errors import ConfigError
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import FAMILY, TEACHERS, matryoshka_dims

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

import hashlib
import json
from pathlib import Path

import pytest

from f2llm.text.tokenizer import Tokenizer
from tests.golden import reference_bpe

CASES = json.loads((Path(__file__).parent / "qwen3_token_ids.json").read_text(encoding="utf-8"))
OFFICIAL = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
IM_END, END_OF_TEXT = 151_645, 151_643


@pytest.fixture(scope="module")
def file(shared_data: Path) -> Path:
    return shared_data / "qwen3-tokenizer" / "tokenizer.json"


@pytest.fixture(scope="module")
def qwen3(file: Path) -> Tokenizer:
    return Tokenizer.load(file, max_seq_length=512)


@pytest.mark.data
def test_the_file_is_the_official_one(file: Path, qwen3: Tokenizer) -> None:
    assert hashlib.sha256(file.read_bytes()).hexdigest() == OFFICIAL
    assert (qwen3.vocab_size, qwen3.eos_id, qwen3.pad_id) == (151_669, IM_END, END_OF_TEXT)


@pytest.mark.data
def test_ids_are_the_golden_ones_and_then_eos(qwen3: Tokenizer) -> None:
    found = qwen3.encode([case["text"] for case in CASES])
    assert found == [[*case["ids"], IM_END] for case in CASES]


@pytest.mark.data
def test_the_reference_gives_the_golden_ids(file: Path) -> None:
    ranks = reference_bpe.read_ranks(file)
    assert {case["name"]: reference_bpe.encode(case["text"], ranks) for case in CASES} == {
        case["name"]: case["ids"] for case in CASES
    }


def test_the_cases_span_the_scripts() -> None:
    assert len({case["name"].split("_")[1] for case in CASES if "_" in case["name"]}) >= 20

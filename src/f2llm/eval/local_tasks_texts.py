"""Local tasks over sentences and pairs: one function a source reads a subset of it.

Bitext mining, semantic similarity, pair classification, classification and clustering. Caps are constants here, and
each task's description states them.
"""

from __future__ import annotations

from pathlib import Path

from f2llm.eval.local_tasks_files import (
    field,
    number,
    read_aligned,
    read_json,
    read_json_lines,
    read_lines,
    read_rows,
)
from f2llm.eval.local_tasks_shapes import Splits, bitext, classes, clusters, judged, scored

BITEXT_LINES = 200
PAIRS_A_LANGUAGE = 150
PAIRS = 500
JUDGED_A_LANGUAGE = 200
TRAIN_A_LABEL = 16
TEST_A_LABEL = 33
BANKING_TRAIN, BANKING_TEST, BANKING_CLUSTER = 10, 10, 24
WISESIGHT_TEST = 100
SIB_TRAIN = 8
CSL_CLUSTER = 60
NTREX_CODES = {
    "amh_Ethi": "amh", "arb_Arab": "arb", "ben_Beng": "ben", "deu_Latn": "deu", "hau_Latn": "hau", "hin_Deva": "hin",
    "jpn_Jpan": "jpn", "rus_Cyrl": "rus", "swa_Latn": "swa", "tha_Thai": "tha", "yor_Latn": "yor", "zho_Hans": "zho-CN",
}  # fmt: skip
"""mteb's name of a language -> the code in the name of NTREX's file."""
NUSAX_FOLDERS = {
    "ace": "acehnese", "ban": "balinese", "bbc": "toba_batak", "bjn": "banjarese", "bug": "buginese", "eng": "english",
    "ind": "indonesian", "jav": "javanese", "mad": "madurese", "min": "minangkabau", "nij": "ngaju", "sun": "sundanese",
}  # fmt: skip
AFRISENTI_FILES = {
    "amh": "am", "arq": "dz", "ary": "ma", "hau": "ha", "ibo": "ig", "kin": "kr", "pcm": "pcm", "por": "pt",
    "swa": "sw", "tso": "ts", "twi": "twi", "yor": "yo",
}  # fmt: skip
WISESIGHT_CLASSES = ("neg", "pos", "q")


def ntrex(folder: Path, subset: str) -> Splits:
    """News sentences and their English originals: the same lines in every language."""
    code = NTREX_CODES[subset.partition("-")[0]]
    files = folder / "NTREX-128"
    pairs = read_aligned(files / f"newstest2019-ref.{code}.txt", files / "newstest2019-src.eng.txt")
    return bitext(pairs, BITEXT_LINES)


def tatoeba(folder: Path, subset: str) -> Splits:
    """Short sentences and their English translations: all lines of the pair `afr-eng`."""
    first, second = (folder / f"tatoeba.{subset}.{code}" for code in subset.split("-"))
    return bitext(read_aligned(first, second), BITEXT_LINES)


def stsb(folder: Path, subset: str) -> Splits:
    """The STS benchmark in a language: the same rows in every one."""
    path = folder / f"stsb-{subset}-dev.csv"
    rows = read_rows(path, ("sentence1", "sentence2", "score"), header=False)
    return scored([(row["sentence1"], row["sentence2"], number(row["score"], path)) for row in rows], PAIRS_A_LANGUAGE)


def kor_sts(folder: Path, _subset: str) -> Splits:
    """KorSTS, the development part."""
    path = folder / "KorSTS" / "sts-dev.tsv"
    rows = read_rows(path, ("score", "sentence1", "sentence2"), header=True, tabs=True)
    return scored([(row["sentence1"], row["sentence2"], number(row["score"], path)) for row in rows], PAIRS)


def jsts(folder: Path, _subset: str) -> Splits:
    """JSTS of JGLUE, the training part."""
    rows = [
        (field(row, "sentence1", str, place), field(row, "sentence2", str, place), field(row, "label", float, place))
        for place, row in read_json_lines(folder / "jsts-v1.3" / "train-v1.3.json")
    ]
    return scored(rows, PAIRS)


def paws_x(folder: Path, subset: str) -> Splits:
    """Paraphrases and pairs of the same words with another meaning; rows that were not translated are left out."""
    path = folder / f"dev-{subset}.tsv"
    rows = read_rows(path, ("sentence1", "sentence2", "label"), header=False, tabs=True)
    pairs = [
        (row["sentence1"], row["sentence2"], int(number(row["label"], path)))
        for row in rows
        if not {row["sentence1"].strip(), row["sentence2"].strip()} & {"", "NS"}
    ]
    return judged(pairs, JUDGED_A_LANGUAGE)


_ENTAILMENT = {"entailment": 1, "contradiction": 0}


def klue_nli(folder: Path, _subset: str) -> Splits:
    """Entailment against contradiction, in Korean; neutral pairs are left out, as in mteb's own task."""
    path = folder / "klue-nli-v1.1" / "klue-nli-v1.1_dev.json"
    told = [
        tuple(field(row, name, str, str(path)) for name in ("premise", "hypothesis", "gold_label"))
        for row in read_json(path, list)
    ]
    return judged([(a, b, _ENTAILMENT[label]) for a, b, label in told if label in _ENTAILMENT], PAIRS)


def jnli(folder: Path, _subset: str) -> Splits:
    """Entailment against contradiction, in Japanese; neutral pairs are left out."""
    told = [
        tuple(field(row, name, str, place) for name in ("sentence1", "sentence2", "label"))
        for place, row in read_json_lines(folder / "jnli-v1.3" / "valid-v1.3.json")
    ]
    return judged([(a, b, _ENTAILMENT[label]) for a, b, label in told if label in _ENTAILMENT], PAIRS)


def banking77(folder: Path, _subset: str) -> Splits:
    """Questions to a bank by intent."""
    return classes(_banking77(folder), BANKING_TRAIN, BANKING_TEST)


def banking77_clusters(folder: Path, _subset: str) -> Splits:
    """The same questions, to be clustered by intent."""
    return clusters(_banking77(folder), BANKING_CLUSTER)


def _banking77(folder: Path) -> list[tuple[str, str]]:
    rows = read_rows(folder / "banking_data" / "train.csv", ("text", "category"), header=True)
    return [(row["text"], row["category"]) for row in rows]


def nusax(folder: Path, subset: str) -> Splits:
    """Sentiment in a language of Indonesia: learnt from the training file, asked about the validation file."""
    files = folder / "sentiment" / NUSAX_FOLDERS[subset]
    train, valid = (
        [(row["text"], row["label"]) for row in read_rows(files / name, ("text", "label"), header=True)]
        for name in ("train.csv", "valid.csv")
    )
    return classes(train, TRAIN_A_LABEL, TEST_A_LABEL, valid)


def afrisenti(folder: Path, subset: str) -> Splits:
    """Sentiment of messages in an African language."""
    path = folder / "train" / f"{AFRISENTI_FILES[subset]}_train.tsv"
    rows = read_rows(path, ("tweet", "label"), header=True, tabs=True)
    return classes([(row["tweet"], row["label"]) for row in rows], TRAIN_A_LABEL, TEST_A_LABEL)


def wisesight(folder: Path, _subset: str) -> Splits:
    """Negative, positive or a question, in Thai: the class is the name of the file."""
    rows = [(text, name) for name in WISESIGHT_CLASSES for text in read_lines(folder / f"{name}.txt")]
    return classes(rows, TRAIN_A_LABEL, WISESIGHT_TEST)


def sib200(folder: Path, subset: str) -> Splits:
    """Topics of sentences: half of each topic to learn from, at most 8 texts."""
    rows = read_rows(folder / subset / "dev.tsv", ("category", "text"), header=True, tabs=True)
    return classes([(row["text"], row["category"]) for row in rows], SIB_TRAIN, TEST_A_LABEL)


def csl(folder: Path, _subset: str) -> Splits:
    """Titles of Chinese papers, to be clustered by their field."""
    rows = [
        (row["title"], row["field"])
        for name in ("dev", "test")
        for row in read_rows(folder / "cls_ctg" / f"{name}.tsv", ("prompt", "title", "field"), header=False, tabs=True)
    ]
    return clusters(rows, CSL_CLUSTER)

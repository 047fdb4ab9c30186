"""Real tasks of mteb's own classes whose texts come from local files, without the network.

`local_tasks(data)` makes a task of every source in `data`, a folder of public data sets in their original formats
(NTREX, XQuAD, banking77 and so on). Each task is a subclass of mteb's AbsTask of its type, so that mteb's evaluators do
all scoring; only `load_data` is replaced. A task reads its files when mteb loads it, and only for the subsets asked
for; making the tasks digests the files, because the digest is part of the revision (0.5 s for all).

Sizes are bounded by stated caps, 350 to 3,300 texts a task (all-MiniLM-L6-v2 takes 14 to 67 s for one on two busy
cores), so scores are not those of the full task of the same source: names begin with `Local`. `adapted_from` names
mteb's task of the same source, where there is one, to look up its instruction and its contamination.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.extras import optional
from f2llm.core.files import digest_file, digest_json
from f2llm.eval import local_tasks_search as search
from f2llm.eval import local_tasks_texts as texts
from f2llm.eval.local_tasks_shapes import Content, Search, Subsets, is_empty

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

_READERS = 1
"""Part of every revision: raise it when a reader or a cap changes what a task holds."""

_TAGS = {
    "ace": "ace-Latn", "afr": "afr-Latn", "amh": "amh-Ethi", "ar": "arb-Arab", "ara": "ara-Arab", "arb": "arb-Arab",
    "arq": "arq-Arab", "ary": "ary-Arab", "ban": "ban-Latn", "bbc": "bbc-Latn", "bem": "bem-Latn", "ben": "ben-Beng",
    "bjn": "bjn-Latn", "bug": "bug-Latn", "cmn": "cmn-Hans", "cpp": "c++-Code", "de": "deu-Latn", "deu": "deu-Latn",
    "el": "ell-Grek", "en": "eng-Latn", "eng": "eng-Latn", "es": "spa-Latn", "fa": "fas-Arab", "fon": "fon-Latn",
    "fr": "fra-Latn", "fra": "fra-Latn", "hau": "hau-Latn", "hi": "hin-Deva", "hin": "hin-Deva", "ibo": "ibo-Latn",
    "ind": "ind-Latn", "it": "ita-Latn", "ja": "jpn-Jpan", "jav": "jav-Latn", "java": "java-Code",
    "javascript": "javascript-Code", "jpn": "jpn-Jpan", "kin": "kin-Latn", "ko": "kor-Hang", "kotlin": "kotlin-Code",
    "mad": "mad-Latn", "min": "min-Latn", "nij": "nij-Latn", "nl": "nld-Latn", "pcm": "pcm-Latn", "pl": "pol-Latn",
    "por": "por-Latn", "pt": "por-Latn", "python": "python-Code", "ro": "ron-Latn", "ru": "rus-Cyrl",
    "rus": "rus-Cyrl", "spa": "spa-Latn", "sql": "sql-Code", "sun": "sun-Latn", "swa": "swa-Latn", "swh": "swh-Latn",
    "th": "tha-Thai", "tha": "tha-Thai", "tr": "tur-Latn", "tso": "tso-Latn", "tur": "tur-Latn", "twi": "twi-Latn",
    "typescript": "typescript-Code", "vi": "vie-Latn", "vie": "vie-Latn", "yor": "yor-Latn", "zh": "zho-Hans",
    "zho": "zho-Hans", "zul": "zul-Latn",
}  # fmt: skip
"""A source's own code of a language -> mteb's tag."""


@dataclass(frozen=True, kw_only=True)
class LocalTask:
    """A task before mteb is imported. `read(folder, subset)` reads the files below `data/folder`.

    `files` are patterns of the files that it reads, for the revision; `size` says how much is drawn.
    """

    name: str
    type: str
    folder: str
    files: tuple[str, ...]
    read: Callable[[Path, str], Content]
    subsets: Subsets
    size: str
    domains: tuple[str, ...]
    license: str
    mirrors: str | None = None


@dataclass(frozen=True)
class _Kind:
    """What a type of task needs: its class in mteb, main score, category and attributes that bound its cost."""

    base: str
    main_score: str
    category: str = "t2t"
    attributes: Mapping[str, Any] = field(default_factory=dict)


# mteb clusters a draw of 16,384 texts ten times, whatever there are, and embeds only 4% of them; here all are embedded.
_CLUSTERING = {"max_fraction_of_documents_to_embed": None, "max_documents_per_cluster": 2048}
_KINDS = {
    "BitextMining": _Kind("AbsTaskBitextMining", "f1"),
    "Classification": _Kind("AbsTaskClassification", "accuracy", "t2c"),
    "Clustering": _Kind("AbsTaskClustering", "v_measure", "t2c", _CLUSTERING),
    "PairClassification": _Kind("AbsTaskPairClassification", "max_ap"),
    "Reranking": _Kind("AbsTaskRetrieval", "map_at_1000"),
    "Retrieval": _Kind("AbsTaskRetrieval", "ndcg_at_10"),
    "STS": _Kind("AbsTaskSTS", "cosine_spearman"),
}


def _one(*codes: str) -> Subsets:
    return {"default": tuple(_TAGS[code] for code in codes)}


def _each(codes: str, *beside: str) -> Subsets:
    """A subset for each code, named by it; `deu-eng` has both languages, and `beside` is in all of them."""
    return {name: tuple(_TAGS[code] for code in [*name.split("-"), *beside]) for name in codes.split()}


def _tagged(names: Sequence[str], other: str = "") -> Subsets:
    """A subset for each name such as `amh_Ethi`; with `other`, pairs such as `amh_Ethi-eng_Latn`."""
    return {"-".join(filter(None, (n, other))): tuple(t.replace("_", "-") for t in (n, other) if t) for n in names}


_XQUAD = "ar de el en es hi ro ru th tr vi zh"
_XQUAD_SIZE = f"{search.XQUAD_QUESTIONS} questions, {search.XQUAD_ARTICLES} articles of 5 passages a language"
_MEDQUAD_SIZE = f"all questions and answers of {search.MEDQUAD_PAGES} pages"
_SIB = (
    "amh_Ethi", "arb_Arab", "deu_Latn", "eng_Latn", "fra_Latn", "hin_Deva", "jpn_Jpan", "rus_Cyrl", "swh_Latn",
    "tha_Thai", "yor_Latn", "zho_Hans",
)  # fmt: skip

LOCAL_TASKS = (
    LocalTask(
        name="LocalNTREXBitextMining", type="BitextMining", folder="ntrex-128", read=texts.ntrex,
        files=(*(f"NTREX-128/newstest2019-ref.{code}.txt*" for code in texts.NTREX_CODES.values()),
               "NTREX-128/newstest2019-src.eng.txt*"),
        subsets=_tagged(tuple(texts.NTREX_CODES), "eng_Latn"), size=f"{texts.BITEXT_LINES} lines a language",
        domains=("News", "Written"), license="cc-by-sa-4.0", mirrors="NTREXBitextMining",
    ),
    LocalTask(
        name="LocalTatoebaBitextMining", type="BitextMining", folder="tatoeba-v1-sample", read=texts.tatoeba,
        files=("tatoeba.*-eng.*",), size="the first 50 lines a language",
        subsets=_each("afr-eng ara-eng cmn-eng deu-eng fra-eng hin-eng ind-eng jpn-eng rus-eng spa-eng swh-eng "
                      "tur-eng"),
        domains=("Written",), license="cc-by-2.0", mirrors="Tatoeba",
    ),
    LocalTask(
        name="LocalXQuADRetrieval", type="Retrieval", folder="xquad", files=("xquad.*.json*",), read=search.xquad,
        subsets=_each(_XQUAD), size=_XQUAD_SIZE, domains=("Encyclopaedic", "Written"), license="cc-by-sa-4.0",
        mirrors="XQuADRetrieval",
    ),
    LocalTask(
        name="LocalXQuADCrossLingualRetrieval", type="Retrieval", folder="xquad", files=("xquad.*.json*",),
        subsets=_each(" ".join(f"{code}-en" for code in _XQUAD.split() if code != "en")), read=search.xquad,
        size=_XQUAD_SIZE, domains=("Encyclopaedic", "Written"), license="cc-by-sa-4.0", mirrors="XQuADRetrieval",
    ),
    LocalTask(
        name="LocalMLQARetrieval", type="Retrieval", folder="mlqa-dev", files=("dev/*.json*",), read=search.mlqa,
        subsets=_each("ara-ara deu-deu eng-eng hin-hin spa-spa vie-vie zho-zho ara-eng deu-eng hin-eng spa-eng vie-eng "
                      "zho-eng eng-ara eng-deu eng-hin eng-spa eng-vie eng-zho"),
        size=f"{search.MLQA_QUESTIONS} questions, {search.MLQA_PASSAGES} passages a pair of languages",
        domains=("Encyclopaedic", "Written"), license="cc-by-sa-3.0", mirrors="MLQARetrieval",
    ),
    LocalTask(
        name="LocalCMRC2018Retrieval", type="Retrieval", folder="cmrc2018", files=("squad-style-data/*.json*",),
        read=search.cmrc2018, subsets=_one("zh"),
        size=f"{search.CHINESE_QUESTIONS} questions, {search.CHINESE_PASSAGES} passages",
        domains=("Encyclopaedic", "Written"), license="cc-by-sa-4.0",
    ),
    LocalTask(
        name="LocalPQuADRetrieval", type="Retrieval", folder="pquad", files=("Dataset/*.json*",), read=search.pquad,
        subsets=_one("fa"), size=f"{search.PERSIAN_QUESTIONS} questions, {search.PERSIAN_PASSAGES} passages",
        domains=("Encyclopaedic", "Written"), license="cc-by-sa-4.0",
    ),
    LocalTask(
        name="LocalMedQuADRetrieval", type="Retrieval", folder="medquad", files=("*/*.xml",), read=search.medquad,
        subsets=_one("en"), size=_MEDQUAD_SIZE, domains=("Medical", "Written"), license="cc-by-4.0",
        mirrors="MedicalQARetrieval",
    ),
    LocalTask(
        name="LocalAfriQARetrieval", type="Retrieval", folder="afriqa", files=("gold_passages/*/*.json*",),
        read=search.afriqa, subsets=_each(" ".join(f"{code}-{to}" for code, to in search.AFRIQA_PIVOTS.items())),
        size=f"{search.AFRIQA_QUESTIONS} questions, {search.AFRIQA_PASSAGES} passages a language",
        domains=("Encyclopaedic", "Written"), license="cc-by-4.0",
    ),
    LocalTask(
        name="LocalCoSQARetrieval", type="Retrieval", folder="cosqa", files=("search/*",), read=search.cosqa,
        subsets=_one("en", "python"), size=f"{search.COSQA_QUERIES} queries, {search.COSQA_FUNCTIONS} functions",
        domains=("Programming", "Written"), license="mit", mirrors="CosQA",
    ),
    LocalTask(
        name="LocalMBXPRetrieval", type="Retrieval", folder="mbxp", files=("*.jsonl*",), read=search.mbxp,
        subsets=_each(" ".join(search.MBXP_FILES), "en"), domains=("Programming", "Written"), license="cc-by-4.0",
        size=f"{search.MBXP_PROBLEMS} problems, {search.MBXP_SOLUTIONS} solutions a programming language",
        mirrors="MBPPRetrieval",
    ),
    LocalTask(
        name="LocalText2SQLRetrieval", type="Retrieval", folder="text2sql", read=search.text2sql,
        files=("advising.json*", "geography.json*", "scholar.json*"),
        subsets=dict.fromkeys(("advising", "geography", "scholar"), (_TAGS["en"], _TAGS["sql"])),
        size=f"{search.SQL_QUESTIONS} questions, {search.SQL_STATEMENTS} statements a database",
        domains=("Programming", "Written"), license="not specified",
    ),
    LocalTask(
        name="LocalXQuADReranking", type="Reranking", folder="xquad", files=("xquad.*.json*",),
        read=search.xquad_rerank, subsets=_each(_XQUAD), domains=("Encyclopaedic", "Written"), license="cc-by-sa-4.0",
        size=f"{search.XQUAD_QUESTIONS} questions a language, each with the 5 passages of its article",
    ),
    LocalTask(
        name="LocalMedQuADReranking", type="Reranking", folder="medquad", files=("*/*.xml",),
        read=search.medquad_rerank, subsets=_one("en"), domains=("Medical", "Written"), license="cc-by-4.0",
        size=f"{_MEDQUAD_SIZE}, each question with the answers of its page",
    ),
    LocalTask(
        name="LocalBanking77Classification", type="Classification", folder="banking77", files=("banking_data/*.csv*",),
        read=texts.banking77, subsets=_one("en"), domains=("Written",), license="cc-by-4.0",
        size=f"{texts.BANKING_TRAIN} texts to learn from and {texts.BANKING_TEST} to classify for each of 77 intents",
        mirrors="Banking77Classification",
    ),
    LocalTask(
        name="LocalNusaXClassification", type="Classification", folder="nusax", files=("sentiment/*/*.csv*",),
        read=texts.nusax, subsets=_each(" ".join(texts.NUSAX_FOLDERS)), domains=("Social", "Written"),
        size=f"{texts.TRAIN_A_LABEL} texts to learn from, at most {texts.TEST_A_LABEL} to classify a label, language",
        license="cc-by-sa-4.0", mirrors="NusaX-senti",
    ),
    LocalTask(
        name="LocalAfriSentiClassification", type="Classification", folder="afrisenti", files=("train/*.tsv*",),
        read=texts.afrisenti, subsets=_each(" ".join(texts.AFRISENTI_FILES)), domains=("Social", "Written"),
        size=f"{texts.TRAIN_A_LABEL} texts to learn from, {texts.TEST_A_LABEL} to classify a label, language",
        license="cc-by-4.0", mirrors="AfriSentiClassification",
    ),
    LocalTask(
        name="LocalWisesightClassification", type="Classification", folder="wisesight-sentiment", read=texts.wisesight,
        files=tuple(f"{name}.txt*" for name in texts.WISESIGHT_CLASSES), subsets=_one("th"),
        size=f"{texts.TRAIN_A_LABEL} texts to learn from, {texts.WISESIGHT_TEST} to classify for each of 3 labels",
        domains=("Social", "Written"), license="cc0-1.0", mirrors="WisesightSentimentClassification",
    ),
    LocalTask(
        name="LocalSIB200Classification", type="Classification", folder="sib-200-sample", files=("*/dev.tsv*",),
        read=texts.sib200, subsets=_tagged(_SIB), domains=("News", "Written"), license="cc-by-sa-4.0",
        size=f"at most {texts.SIB_TRAIN} texts to learn from for each of 7 topics, the rest of 99 to classify",
        mirrors="SIB200Classification",
    ),
    LocalTask(
        name="LocalBanking77Clustering", type="Clustering", folder="banking77", files=("banking_data/*.csv*",),
        read=texts.banking77_clusters, subsets=_one("en"), domains=("Written",), license="cc-by-4.0",
        size=f"{texts.BANKING_CLUSTER} texts for each of 77 intents", mirrors="Banking77Classification",
    ),
    LocalTask(
        name="LocalCSLClustering", type="Clustering", folder="csl", files=("cls_ctg/*.tsv*",),
        read=texts.csl, subsets=_one("zh"), size=f"at most {texts.CSL_CLUSTER} titles for each of 13 fields",
        domains=("Academic", "Written"), license="apache-2.0", mirrors="CLSClusteringS2S",
    ),
    LocalTask(
        name="LocalSTSBMultilingualSTS", type="STS", folder="stsb-multi-mt", files=("stsb-*-dev.csv*",),
        read=texts.stsb, subsets=_each("de en es fr it ja nl pl pt ru zh"), domains=("News", "Social", "Written"),
        size=f"{texts.PAIRS_A_LANGUAGE} pairs a language", license="cc-by-sa-4.0",
        mirrors="STSBenchmarkMultilingualSTS",
    ),
    LocalTask(
        name="LocalKorSTS", type="STS", folder="kornlu", files=("KorSTS/sts-dev.tsv*",), read=texts.kor_sts,
        subsets=_one("ko"), size=f"{texts.PAIRS} pairs", domains=("News", "Web"), license="cc-by-sa-4.0",
        mirrors="KorSTS",
    ),
    LocalTask(
        name="LocalJSTS", type="STS", folder="jglue", files=("jsts-v1.3/*.json*",), read=texts.jsts,
        subsets=_one("ja"), size=f"{texts.PAIRS} pairs", domains=("Web",), license="cc-by-sa-4.0", mirrors="JSTS",
    ),
    LocalTask(
        name="LocalPawsXPairClassification", type="PairClassification", folder="pawsx", files=("dev-*.tsv*",),
        read=texts.paws_x, subsets=_each("de en es fr ja ko zh"), size=f"{texts.JUDGED_A_LANGUAGE} pairs a language",
        domains=("Encyclopaedic", "Web", "Written"), license="https://github.com/google-research-datasets/paws",
        mirrors="PawsXPairClassification",
    ),
    LocalTask(
        name="LocalKLUENLIPairClassification", type="PairClassification", folder="klue", read=texts.klue_nli,
        files=("klue-nli-v1.1/*.json*",), subsets=_one("ko"), size=f"{texts.PAIRS} pairs",
        domains=("News", "Encyclopaedic", "Written"), license="cc-by-sa-4.0", mirrors="KLUE-NLI",
    ),
    LocalTask(
        name="LocalJNLIPairClassification", type="PairClassification", folder="jglue", files=("jnli-v1.3/*.json*",),
        read=texts.jnli, subsets=_one("ja"), size=f"{texts.PAIRS} pairs", domains=("Web",), license="cc-by-sa-4.0",
    ),
)  # fmt: skip
"""Every local task, by type and source."""


def local_tasks(data: Path | str, names: Sequence[str] | None = None) -> list[AbsTask]:
    """mteb's task objects over the files below `data`, all or those of `names`, in the order of the names.

    A source whose folder is missing gives its task all the same; its `load_data` says so (DataError). ConfigError for
    a name that is none, MissingDependencyError without mteb.
    """
    known = {task.name: task for task in LOCAL_TASKS}
    for name in names or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.3) or [LOCAL_TASKS[0].name]
            raise ConfigError(f"there is no local task {name!r}; perhaps {near[0]!r} is meant")
    if not Path(data).is_dir():
        raise DataError(f"there is no folder {data}; give --data the folder of the public data sets")
    return [_made(known[name], Path(data)) for name in (known if names is None else names)]


def _made(task: LocalTask, data: Path) -> AbsTask:
    """An object of a new class: mteb's of the type, with the metadata and the reader of the task."""
    kind, abstasks = _KINDS[task.type], optional("mteb.abstasks", "eval")
    attributes = {
        "metadata": _metadata(task, kind, data),
        "load_data": _loader(task, data / task.folder),
        "__module__": __name__,
        **kind.attributes,
    }
    made: AbsTask = type(task.name, (getattr(abstasks, kind.base),), attributes)()
    return made


def _metadata(task: LocalTask, kind: _Kind, data: Path) -> Any:
    languages = {subset: list(tags) for subset, tags in task.subsets.items()}
    return optional("mteb.abstasks.task_metadata", "eval").TaskMetadata(
        name=task.name,
        type=task.type,
        category=kind.category,
        description=f"{(task.read.__doc__ or '').split(chr(10))[0]} Local files of {task.folder}; {task.size}, drawn by"
        " a hash.",
        dataset={"path": f"local/{task.folder}", "revision": _revision(task, data / task.folder)},
        eval_splits=["test"],
        eval_langs=languages.get("default", languages),
        main_score=kind.main_score,
        domains=list(task.domains),
        license=task.license,
        adapted_from=[task.mirrors] if task.mirrors else None,
    )


def _revision(task: LocalTask, folder: Path) -> str:
    """A digest of the files and of the reader's number; another file or another reader is another revision."""
    paths = sorted({path for pattern in task.files for path in folder.glob(pattern) if path.is_file()})
    return digest_json([_READERS, {path.relative_to(folder).as_posix(): digest_file(path) for path in paths}])[:16]


def _loader(task: LocalTask, folder: Path) -> Callable[..., None]:
    """The `load_data` of a task: reads the subsets that the object was asked for."""

    def load_data(self: Any, num_proc: int | None = None, **_: Any) -> None:
        if self.data_loaded:
            return
        found = {subset: _subset(task, folder, subset) for subset in self.hf_subsets}
        # mteb asks a task of one subset for its splits, but a retrieval task always for its subset.
        single = not self.metadata.is_multilingual and _KINDS[task.type].base != "AbsTaskRetrieval"
        self.dataset = found["default"] if single else found
        self.data_loaded = True

    return load_data


def _subset(task: LocalTask, folder: Path, subset: str) -> Any:
    content = task.read(folder, subset)
    if is_empty(content):
        where = "" if subset == "default" else f" of the subset {subset!r}"
        raise DataError(f"{folder} has no row{where} for the task {task.name}; fetch the files again")
    datasets = optional("datasets", "eval")
    if not isinstance(content, Search):
        return datasets.DatasetDict({split: datasets.Dataset.from_dict(columns) for split, columns in content.items()})
    queries, corpus = (
        datasets.Dataset.from_dict({"id": list(texts_by_id), "text": list(texts_by_id.values())})
        for texts_by_id in (content.queries, content.documents)
    )
    part = {"queries": queries, "corpus": corpus, "relevant_docs": content.relevant, "top_ranked": content.candidates}
    return {"test": part}

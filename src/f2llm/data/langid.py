"""Which language a text is in, and whether that is the language its source claims; label and confidence are kept.

The script comes first: the letters of a text (Unicode) leave only the languages that are written in that script, and of
these a model chooses. Two models: `Py3langid` (139 languages, inside its package) and `FastTextModel` (a file such as
GlotLID, 2,100 languages, by path). A text of fewer than 20 letters is not judged (a letter of Chinese, Japanese or
Korean counts as two), nor is a programming language. `compare` says how far claim and finding agree: what the model
cannot know is told apart from what it finds to be wrong, and a macro-language (ISO 639-3) agrees with its members.

Cost: `Py3langid` judges about 27,000 sentences of 130 characters in a second of one core if it gets thousands at once,
takes 1.5 s and 150 MB to load, and looks at the first 500 characters. Limits: a confidence is a probability among the
model's own languages of that script, so a language it does not know gets a sister's name with high confidence; where
the model knows one language of a script, the script decides. Bosnian, Croatian and Serbian in Latin letters are not
told apart.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.extras import optional
from f2llm.core.languages import is_programming, language
from f2llm.data.fingerprints import slices

Verdict = Literal[
    "agree", "other script", "macro-language", "disagree", "too short", "unknown to the model", "not judged"
]  # fmt: skip
UNDETERMINED = "und"
"""The tag of a text that is too short to be judged; `und_Nkoo` is one in a script for which the model has nothing."""

# Members of each macro-language: ISO 639-3, macrolanguages table of SIL International, without retired codes.
_MACROLANGUAGES = {
    "aka": "fat twi",
    "ara":
        "aao abh abv acm acq acw acx acy adf aeb aec afb ajp apc apd arb arq ars ary arz auz avl ayh ayl ayn "
        "ayp pga shu ssh",
    "aym": "ayc ayr", "aze": "azb azj", "bal": "bcc bgn bgp", "bik": "bcl bln bto cts fbl lbl rbl ubl",
    "bnc": "ebk lbk obk rbk vbk", "bua": "bxm bxr bxu", "chm": "mhr mrj", "cre": "crj crk crl crm csw cwd",
    "del": "umu unm", "den": "scs xsl", "din": "dib dik dip diw dks", "doi": "dgo xnr", "est": "ekk vro",
    "fas": "pes prs", "ful": "ffm fub fuc fue fuf fuh fui fuq fuv", "gba": "bdt gbp gbq gmm gso gya",
    "gon": "esg gno wsg", "grb": "gbo gec grj grv gry", "grn": "gnw gug gui gun nhd", "hai": "hax hdn",
    "hbs": "bos cnr hrv srp",
    "hmn": "cqd hea hma hmc hmd hme hmg hmh hmi hmj hml hmm hmp hmq hms hmw hmy hmz hnj hrm huj mmr muq mww sfm",
    "iku": "ike ikt", "ipk": "esi esk", "jrb": "aju jye yhd yud", "kau": "kby knc krt",
    "kln": "enb eyo niq oki pko sgc spy tec tuy", "kok": "gom knn", "kom": "koi kpv", "kon": "kng kwy ldi",
    "kpe": "gkp xpe", "kur": "ckb kmr sdh", "lah": "hnd hno jat phr pnb skr xhe", "lav": "ltg lvs",
    "luy": "bxk ida lkb lko lks lri lrm lsm lto lts lwg nle nyd rag", "man": "emk mku mlq mnk msc mwk",
    "mlg": "bhr bmm bzc msh plt skg tdx tkg txy xmv xmw", "mon": "khk mvf",
    "msa":
        "bjn btj bve bvu coa dup hji ind jak jax kvb kvr kxd lce lcf liw max meo mfa mfb min mqg msi mui orn "
        "ors pel pse tmw urk vkk vkt xmm zlm zmi zsm",
    "mwr": "dhd mtr mve rwr swv wry", "nep": "dty npi", "nor": "nob nno", "oji": "ciw ojb ojc ojg ojs ojw otw",
    "ori": "ory spv", "orm": "gax gaz hae orc", "pus": "pbt pbu pst",
    "que":
        "qub qud quf qug quh quk qul qup qur qus quw qux quy quz qva qvc qve qvh qvi qvj qvl qvm qvn qvo qvp "
        "qvs qvw qvz qwa qwh qws qxa qxc qxh qxl qxn qxo qxp qxr qxt qxu qxw",
    "raj": "bgq gda gju hoj mup wbr", "rom": "rmc rmf rml rmn rmo rmw rmy", "sqi": "aae aat aln als",
    "srd": "sdc sdn src sro", "swa": "swc swh", "syr": "aii cld", "tmh": "taq thv thz ttq", "uzb": "uzn uzs",
    "yid": "ydd yih",
    "zap":
        "zaa zab zac zad zae zaf zai zam zao zaq zar zas zat zav zaw zax zca zcd zoo zpa zpb zpc zpd zpe zpf "
        "zpg zph zpi zpj zpk zpl zpm zpn zpo zpp zpq zpr zps zpt zpu zpv zpw zpx zpy zpz zsr zte ztg ztl ztm "
        "ztn ztp ztq zts ztt ztu ztx zty",
    "zha": "zch zeh zgb zgm zgn zhd zhn zlj zln zlq zqe zyb zyg zyj zyn zzj",
    "zho": "cdo cjy cmn cnp cpx csp czh czo gan hak hsn mnp nan wuu yue", "zza": "diq kiu",
}  # fmt: skip
_MACRO_OF = {member: macro for macro, members in _MACROLANGUAGES.items() for member in members.split()}
# Scripts besides a language's usual one in which py3langid names it: of those in the UDHR these, and no others.
_MORE_SCRIPTS = {"crh": "Latn", "srp": "Latn", "uzb": "Cyrl"}
_FAMILIES = {"Hans": "Hani", "Hant": "Hani", "Hanb": "Hani", "Bopo": "Hani", "Hang": "Kore", "Jamo": "Kore",
             "Hira": "Jpan", "Kana": "Jpan", "Hrkt": "Jpan"}  # fmt: skip
_TWO_LETTERS = frozenset({"Hani", "Hira", "Kana", "Hang", "Bopo"})
_SLICE_BYTES = 1_000_000  # of texts that are walked through at a time: 100 MB
_NO_SCRIPT = frozenset({"Zyyy", "Zinh", "Zzzz"})


class Model(Protocol):
    """What chooses among the languages of one script."""

    languages: Set[str]
    """What it can name, as `scripts_of` puts it together: `deu_Latn`, `zho_Hani`, `jpn_Jpan`."""

    def best(self, texts: Sequence[str], scripts: Sequence[str]) -> list[tuple[str, float]]:
        """For each text, the likeliest code among the languages of its script family, and its probability among these.

        Texts hold no line breaks; ("", 0.0) where the model has no language of the script.
        """
        ...


@dataclass(frozen=True)
class Identifier:
    """Names the language of texts."""

    model: Model
    min_letters: int = 20
    max_chars: int = 500

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """(language tag, confidence from 0 to 1) of each text; ("und", 0.0) for one that is too short."""
        found = [(UNDETERMINED, 0.0)] * len(texts)
        heads = [text[: self.max_chars] for text in texts]
        scripts = main_scripts(heads)
        judged = [place for place, (_, letters) in enumerate(scripts) if letters >= self.min_letters]
        lines = [" ".join(heads[place].split()) for place in judged]
        answers = self.model.best(lines, [script_family(scripts[place][0]) for place in judged])
        for place, (code, confidence) in zip(judged, answers, strict=True):
            found[place] = (f"{code or UNDETERMINED}_{scripts[place][0]}", confidence)
        return found


class Remembering:
    """An identifier that asks its model only once about a text that comes again."""

    def __init__(self, identifier: Identifier, most: int = 100_000) -> None:
        """`most`: about so many answers are remembered."""
        self.model, self._identifier, self._most = identifier.model, identifier, most
        self._known: dict[str, tuple[str, float]] = {}

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        if len(self._known) > self._most:
            self._known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, self._identifier.identify(new), strict=True))
        return [self._known[text] for text in texts]


def load_identifier(model: Path | None = None, *, min_letters: int = 20) -> Identifier:
    """An identifier with py3langid, or with a fastText file such as GlotLID (extras `data`, `glotlid`)."""
    return Identifier(FastTextModel(model) if model else Py3langid(), min_letters)


class Py3langid:
    """py3langid: naive Bayes over byte n-grams (Lui and Baldwin, 2012), restricted to the languages of the script.

    The package goes through one text at a time, byte by byte; here its tables are walked by many texts at once, and
    only the n-grams that were met are multiplied. That takes a fifth of the time; the scores are the same but for the
    rounding of float32.
    """

    def __init__(self) -> None:
        module = optional("py3langid.langid", "data")
        self._all = module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)
        self._codes = {label: _code(label) for label in self._all.labels}
        self.languages: Set[str] = _names({code: scripts_of(code) for code in self._codes.values()})
        self._of_script: dict[str, Any] = {}
        self._moves = np.asarray(self._all.tk_nextmove, np.int32)
        self._rows = np.asarray(self._all.tk_row, np.int32) << 8
        self._features = np.asarray(self._all.tk_output, np.int32)

    def best(self, texts: Sequence[str], scripts: Sequence[str]) -> list[tuple[str, float]]:
        found = [("", 0.0)] * len(texts)
        encoded = [self._all._encode(text) for text in texts]
        for run in slices([len(text) for text in encoded], _SLICE_BYTES):
            counts, of_script = self._counts(encoded[run]), defaultdict[str, list[int]](list)
            for place, script in enumerate(scripts[run]):
                of_script[script].append(place)
            for script, places in of_script.items():
                lengths = np.array([len(encoded[run.start + place]) for place in places])
                for place, answer in zip(places, self._classified(counts[places], lengths, script), strict=True):
                    found[run.start + place] = answer
        return found

    def _counts(self, texts: Sequence[bytes]) -> Any:
        """[N, F], sparse: the logarithms of 1 + the counts of each n-gram; all texts go forward together."""
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        lengths = np.array([len(texts[place]) for place in order], np.int64)
        letters = np.frombuffer(b"".join(texts[place] for place in order), np.uint8)
        starts = np.cumsum(lengths) - lengths
        states = np.zeros(len(texts), np.int32)
        rows, columns = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        still = np.searchsorted(
            -lengths, -np.arange(lengths.max(initial=0))
        )  # texts that are longer than so many bytes
        for step, count in enumerate(still.tolist()):
            moves = self._rows[states[:count]] + letters[starts[:count] + step]
            states = self._moves[moves]
            features = self._features[states]
            hits = np.flatnonzero(features >= 0)
            rows.append(hits.astype(np.int32))
            columns.append(features[hits])
        places = np.array(order, np.int32)[np.concatenate(rows)]
        shape = (len(texts), self._all.nb_ptc.shape[0])
        ones = np.ones(len(places), np.float32)
        counts = optional("scipy.sparse", "data").csr_matrix((ones, (places, np.concatenate(columns))), shape=shape)
        counts.sum_duplicates()
        return counts.log1p()

    def _classified(self, counts: Any, lengths: NDArray[Any], script: str) -> list[tuple[str, float]]:
        """The best language of each text and its probability, as `LanguageIdentifier.classify` computes them."""
        chosen = self._restricted(script)
        if chosen is None:
            return [("", 0.0)] * len(lengths)
        scores = counts @ chosen.nb_ptc + chosen.nb_pc
        scores[np.diff(counts.indptr) == 0] = 0.0
        scores /= np.sqrt(np.maximum(lengths, 1))[:, None]
        np.exp(scores - scores.max(axis=1, keepdims=True), out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        for first, other in chosen._alias_pairs:  # two columns of one language
            scores[:, first] += scores[:, other]
            scores[:, other] = 0.0
        best = scores.argmax(axis=1)
        sure = scores[np.arange(len(best)), best].tolist()
        return [(self._codes[chosen.nb_classes[column]], value) for column, value in zip(best, sure, strict=True)]

    def _restricted(self, script: str) -> Any:
        """The identifier for the languages of a script; None where there are none."""
        if script not in self._of_script:
            labels = [label for label, code in self._codes.items() if script in scripts_of(code)]
            chosen = copy.copy(self._all) if labels else None
            if chosen is not None:
                chosen.set_languages(labels)
            self._of_script[script] = chosen
        return self._of_script[script]


class FastTextModel:
    """A fastText classifier with labels such as `__label__deu_Latn` (GlotLID) or `__label__de` (lid.176)."""

    def __init__(self, path: Path, candidates: int = 25) -> None:
        """`candidates`: so many best labels are looked through for one of the text's script."""
        module = optional("fasttext", "glotlid")
        if not Path(path).is_file():
            raise DataError(f"there is no fastText model {path}; correct the path of the language identifier")
        try:
            self._model = module.load_model(str(path))
        except (ValueError, RuntimeError, MemoryError) as error:
            raise DataError(f"{path} is no fastText model ({error}); fetch it again") from None
        self._candidates = candidates
        labels, _ = self._predict("a", -1)
        self.languages: Set[str] = _names(dict(map(_code_and_scripts, labels)))

    def best(self, texts: Sequence[str], scripts: Sequence[str]) -> list[tuple[str, float]]:
        pairs = zip(texts, scripts, strict=True)
        return [_first_of_script(*self._predict(text, self._candidates), script) for text, script in pairs]

    def _predict(self, line: str, count: int) -> tuple[Sequence[str], Sequence[float]]:
        """The best labels (all for -1); a negative threshold leaves none out, also of a hierarchical softmax."""
        try:
            labels, probabilities = self._model.predict(line, k=count, threshold=-1.0)
            return labels, probabilities
        except ValueError:  # fasttext 0.9 under numpy 2 answers lists only, fasttext-predict lines only
            all_labels, all_probabilities = self._model.predict([line], k=count, threshold=-1.0)
            return all_labels[0], all_probabilities[0]


def _first_of_script(labels: Sequence[str], probabilities: Sequence[float], script: str) -> tuple[str, float]:
    pairs = zip(map(_code_and_scripts, labels), probabilities, strict=True)
    fitting = [(code, float(probability)) for (code, scripts), probability in pairs if script in scripts]
    if not fitting:
        return "", 0.0
    total = sum(probability for _, probability in fitting)
    return fitting[0][0], min(1.0, fitting[0][1] / total) if total > 0 else 0.0


@cache
def _code_and_scripts(label: str) -> tuple[str, frozenset[str]]:
    name = label.removeprefix("__label__")
    code = _code(name)
    return code, frozenset({script_family(name[-4:])}) if "_" in name else scripts_of(code)


def _code(label: str) -> str:
    try:
        return language(label).iso639_3 or label
    except ConfigError:
        return label.partition("_")[0]


def _names(scripts: Mapping[str, Set[str]]) -> frozenset[str]:
    return frozenset(f"{code}_{script}" for code, written in scripts.items() for script in written)


@cache
def scripts_of(code: str) -> frozenset[str]:
    """The families of scripts in which a language (ISO 639-3 code) is looked for where the model names no script."""
    try:
        usual = language(code).script
    except ConfigError:
        usual = "Latn"
    return frozenset({script_family(usual), _MORE_SCRIPTS.get(code, script_family(usual))})


def script_family(script: str) -> str:
    """Scripts that one text mixes, or that only its words tell apart, as one: `Hani`, `Jpan`, `Kore`."""
    return _FAMILIES.get(script, script)


class _Scripts(dict[str, str]):
    """Script of each character (Unicode's Scripts.txt, as fontTools brings it); filled as characters are met."""

    def __missing__(self, char: str) -> str:
        self[char] = str(optional("fontTools.unicodedata", "data").script(char))
        return self[char]


_SCRIPT = _Scripts()


def main_scripts(texts: Sequence[str]) -> list[tuple[str, int]]:
    """`main_script` of each text, in a quarter of the time."""
    found: list[tuple[str, int]] = []
    for run in slices(list(map(len, texts)), _SLICE_BYTES):
        found.extend(_main_scripts(texts[run]))
    return found


def _main_scripts(texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Letters are counted by script for all texts at once; one with Asian letters or with a tie is looked at alone."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    scripts, names = _numbered_scripts(codes)
    owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    letters = np.bincount(owners * len(names) + scripts, minlength=len(texts) * len(names)).reshape(len(texts), -1)
    letters[:, [name in _NO_SCRIPT for name in names]] = 0
    most = letters.max(axis=1, initial=0)
    alone = letters[:, [name in _TWO_LETTERS for name in names]].any(axis=1) | ((letters == most[:, None]).sum(1) > 1)
    totals, best = letters.sum(axis=1).tolist(), letters.argmax(axis=1).tolist()
    for place, text in enumerate(texts):
        yield main_script(text) if alone[place] else (names[best[place]] if totals[place] else "Zyyy", totals[place])


def _numbered_scripts(codes: NDArray[np.uint32]) -> tuple[NDArray[np.int64], list[str]]:
    """The script of each code point as a number, and the names of the numbers; there is always one."""
    numbers = np.zeros(sys.maxunicode + 1, np.int16)
    numbers[codes] = 1
    different = np.flatnonzero(numbers)
    scripts = [_SCRIPT[chr(code)] for code in different.tolist()]
    names = sorted({"Zyyy", *scripts})
    numbers[different] = [names.index(script) for script in scripts]
    return numbers[codes].astype(np.int64), names


def main_script(text: str) -> tuple[str, int]:
    """The script (ISO 15924) that most of a text's letters belong to, and how many letters of any script it has.

    A letter of Chinese, Japanese or Korean counts as two. ("Zyyy", 0) for a text without letters.
    """
    letters: Counter[str] = Counter()
    for char, count in Counter(text).items():
        script = _SCRIPT[char]
        if script not in _NO_SCRIPT:
            letters[script] += count * (2 if script in _TWO_LETTERS else 1)
    if not letters:
        return "Zyyy", 0
    total, best = letters.total(), _merge_east_asian(letters).most_common(1)[0][0]
    return (_simplified_or_traditional(text) if best == "Hani" else best), total


def _merge_east_asian(letters: Counter[str]) -> Counter[str]:
    """Chinese characters count as Japanese beside a fifth as many kana, and as Korean beside more Hangul than them."""
    kana, han = letters.pop("Hira", 0) + letters.pop("Kana", 0), letters.pop("Hani", 0) + letters.pop("Bopo", 0)
    hangul = letters.pop("Hang", 0)
    owner = "Jpan" if 5 * kana > han else "Kore" if hangul > han else "Hani"
    for script, count in (("Jpan", kana), ("Kore", hangul), (owner, han)):
        if count:
            letters[script] += count
    return letters


def _simplified_or_traditional(text: str) -> str:
    """Whether more characters exist only in the mainland's character set (GB 2312) or only in Taiwan's (Big 5)."""
    difference = sum(_encodes(char, "gb2312") - _encodes(char, "big5") for char in text if _SCRIPT[char] == "Hani")
    return "Hant" if difference < 0 else "Hans"


@cache
def _encodes(char: str, encoding: str) -> bool:
    try:
        return bool(char.encode(encoding))
    except UnicodeEncodeError:
        return False


def macrolanguage(code: str) -> str:
    """The macro-language of an ISO 639-3 code, or the code itself: `nob` -> `nor`, `arz` -> `ara`."""
    return _MACRO_OF.get(code, code)


def compare(claimed: str, found: str, known: Set[str] | None = None) -> Verdict:
    """How a claimed tag and a found one go together; `known`: `Model.languages` (default: the model knows them all).

    "other script": the language is right, the script is not. "macro-language": one is a member of the other, or both
    are members of one. "unknown to the model": the model could not have found the claimed language in its script, and
    the script does not contradict the claim.
    """
    if is_programming(claimed):
        return "not judged"
    if found == UNDETERMINED:
        return "too short"
    code, script = _parts(claimed)
    found_code, found_script = _parts(found)
    same_script = script_family(script) == script_family(found_script)
    if code == found_code:
        return "agree" if same_script else "other script"
    if macrolanguage(code) == macrolanguage(found_code):
        return "macro-language"
    if known is not None and same_script and not _knows(known, code, script_family(script)):
        return "unknown to the model"
    return "disagree"


def _knows(known: Set[str], code: str, script: str) -> bool:
    """Whether the language, its macro-language, or for a macro-language one of its members is known."""
    codes = [code, macrolanguage(code), *_MACROLANGUAGES.get(code, "").split()]
    return any(f"{name}_{script}" in known for name in codes)


@cache
def _parts(tag: str) -> tuple[str, str]:
    try:
        found = language(tag)
        return found.iso639_3, found.script
    except ConfigError:
        code, _, script = tag.partition("_")
        return code, script


@dataclass
class LanguageCounts:
    """Texts by claimed tag, found tag and verdict."""

    texts: Counter[tuple[str, str, Verdict]] = field(default_factory=Counter)

    def verdicts(self) -> dict[Verdict, int]:
        found: Counter[Verdict] = Counter()
        for (_, _, verdict), count in self.texts.items():
            found[verdict] += count
        return dict(found.most_common())

    def to_json(self, most: int = 100) -> dict[str, Any]:
        """The verdicts, and the `most` frequent pairs of tags that do not agree."""
        order = sorted(self.texts.items(), key=lambda item: (-item[1], item[0]))
        rows = [
            {"claimed": claimed, "found": found, "verdict": verdict, "texts": count}
            for (claimed, found, verdict), count in order
            if verdict not in ("agree", "too short", "not judged")
        ]
        return {"texts": self.texts.total(), "verdicts": self.verdicts(), "pairs": rows[:most]}


def judge(
    texts: Sequence[str],
    claimed: Sequence[str],
    identifier: Identifier | Remembering,
    counts: LanguageCounts | None = None,
) -> list[tuple[str, float, Verdict]]:
    """(found tag, confidence, verdict) of each text; texts in a programming language are passed over as they are."""
    natural = [place for place, tag in enumerate(claimed) if not is_programming(tag)]
    found: list[tuple[str, float]] = [(tag, 0.0) for tag in claimed]
    for place, answer in zip(natural, identifier.identify([texts[place] for place in natural]), strict=True):
        found[place] = answer
    known = identifier.model.languages
    judged = [(tag, sure, compare(claim, tag, known)) for claim, (tag, sure) in zip(claimed, found, strict=True)]
    if counts is not None:
        counts.texts.update((claim, tag, verdict) for claim, (tag, _, verdict) in zip(claimed, judged, strict=True))
    return judged

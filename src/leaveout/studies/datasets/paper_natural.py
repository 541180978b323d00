"""The paper's data sets with groups of their own, rebuilt or stood in for, from raw files.

Neither was published with what is needed: `cdr` is rebuilt, `nli` stands in for MultiNLI.

Source: Koh et al. (2019), section 5 and their released code.
"""

import csv
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from leaveout.runtime.extras import needed
from leaveout.studies.datasets.container import Dataset
from leaveout.studies.datasets.source import File, Origin, dataset, find

__all__ = ["ORIGINS", "cdr", "nli"]

_CDR = Origin(
    folder="cdr",
    files=(
        File(
            "cdr_candidates.tsv.gz",
            "08cdc81bf6dcb2d25ee6637b7b44969122960885309ef05277b7fa0ee086e53b",
        ),
        File(
            "cdr_label_matrix.tsv.gz",
            "44f92f98c3e39b37765605af3ebc4a12cb42d88a7201c5e3c30cf9c8f02e2256",
        ),
        File(
            "cdr_sentences.jsonl.gz",
            "71f6483555c983ba849bf4f1b095990df38913d0ac99fa29136d8a3c0c58e1ae",
        ),
    ),
    page="https://biocreative.bioinformatics.udel.edu/tasks/biocreative-v/track-3-cdr/",
    source="BioCreative V CDR (Li et al. 2016); labelling functions of Hancock et al. (2018)",
    licence="released by the organisers for research",
    derived="candidates and votes of 24 labelling functions, rebuilt for this project",
)
_NLI_PARTS = ("base", "sim", "translate")
_NLI = Origin(
    folder="nli_crowd",
    files=(
        File(
            "semi_automatic_nli_base_wiki_train.jsonl.gz",
            "589473cde7a98ae964f5597665b8bccf1bc4446a169d6b35bb8c78cdeecc78ca",
        ),
        File(
            "semi_automatic_nli_sim_wiki_train.jsonl.gz",
            "189d5d9e81b5e1d6a67fd7624c3dc03b58ef3cd580f588ee2d5885e79066008b",
        ),
        File(
            "semi_automatic_nli_translate_wiki_train.jsonl.gz",
            "485179259b4f08359be07916631039438b2f9cb2047ba49d803d69a539fee4cd",
        ),
        File(
            "semi_automatic_nli_base_wiki_test.jsonl.gz",
            "5353aa583c688ec54ae07e9b8070ea867d46c32f7174880b1a603bb34b988279",
        ),
        File(
            "semi_automatic_nli_sim_wiki_test.jsonl.gz",
            "6ec471cc4cbf7d6a8f01920478c3d126297cd3ebe64b287acfa3d5a29df2101b",
        ),
        File(
            "semi_automatic_nli_translate_wiki_test.jsonl.gz",
            "5e7b85a6ca35fb58b932e417c197e11b2449eb5207ac4551575722455ab3b2c7",
        ),
        File(
            "word_vectors.npz",
            "a3c34a622cd7456892c28a10ad275efdaa39ea7af27a70f2c4b7253c865bcf98",
        ),
    ),
    page="https://github.com/nyu-mll/semi-automatic-nli",
    source="Vania, Chen and Bowman (2020), three Wikipedia sets; spaCy's English word vectors",
    licence="CC BY-SA 3.0 (text), CC0 (vectors)",
    derived="a stand-in for MultiNLI with its crowdworkers; repacked for this project",
)

#: name of a data set to where its raw files come from
ORIGINS = {"cdr": _CDR, "nli": _NLI}


def _dataset(name: str, parse: Callable[[], dict[str, np.ndarray]]) -> Dataset:
    return dataset(name, ORIGINS[name], parse, Path(__file__).read_bytes())


# ---- chemicals and diseases ----------------------------------------------------------------------


def cdr() -> Dataset:
    """Does the chemical cause the disease? 13,784 votes of labelling functions + 4,674 pairs.

    A training example is one vote of one labelling function on one chemical-disease pair of a
    sentence (so a pair that m functions vote on occurs m times), its label the vote; a query is a
    pair with its true label. `labels` names the function and the pair of each training example, and
    the share of the function's votes in all splits that are true; `weights` are one over the votes
    on the pair.
    Rebuilt: the paper's database (24,177 votes) is not public. Features are indicators of the
    words, lemmas and parts of speech between and around the pair, reduced as in the released code
    to those that an L1 penalised logistic regression keeps, at the penalty of the best weighted F1
    on the development pairs' votes.

    Returns:
        the data set; `labels` names the function and the pair.

    Raises:
        FileNotFoundError: if the files are not below LEAVEOUT_DATA; they are published nowhere.

    Example:
        >>> lo.datasets.cdr().n  # doctest: +SKIP

    Source: Li et al. (2016), Hancock et al. (2018).
    """
    return _dataset("cdr", _parse_cdr)


def _parse_cdr():
    with needed("choosing features"):
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.feature_selection import SelectFromModel
        from sklearn.metrics import f1_score

    with gzip.open(find(_CDR, "cdr_sentences.jsonl.gz"), "rt", encoding="utf-8") as file:
        sentences = {row["sent"]: row for row in map(json.loads, file)}
    with gzip.open(find(_CDR, "cdr_candidates.tsv.gz"), "rt", encoding="utf-8") as file:
        pairs = list(csv.DictReader(file, delimiter="\t"))
    with gzip.open(find(_CDR, "cdr_label_matrix.tsv.gz"), "rt", encoding="utf-8") as file:
        table = [
            [int(cell) for cell in row[:3]] for row in list(csv.reader(file, delimiter="\t"))[1:]
        ]
    votes = np.array(table)
    split = np.array([pair["split"] for pair in pairs])
    gold = np.array([int(pair["gold"]) for pair in pairs])
    names = DictVectorizer()
    seen = [_clues(pair, sentences[int(pair["sent_id"])]) for pair in pairs]
    names.fit([clues for clues, part in zip(seen, split, strict=True) if part == "train"])
    every = names.transform(seen).tocsc()
    common = np.diff(every[np.flatnonzero(split == "train")].tocsc().indptr) >= 5
    every, features = every[:, common].tocsr(), names.get_feature_names_out()[common]

    def rows(part):
        mine = votes[split[votes[:, 0]] == part]
        order = np.lexsort((mine[:, 1], mine[:, 0]))
        mine = mine[order]
        _, where, count = np.unique(mine[:, 0], return_inverse=True, return_counts=True)
        return mine, (mine[:, 2] + 1) // 2, 1 / count[where]

    train, y, weights = rows("train")
    dev, y_dev, weights_dev = rows("dev")
    best, kept = -1.0, np.ones(len(features), bool)
    for l1 in len(y) * np.logspace(-4, -1, 10):
        model = _sparse_logistic(1 / l1)
        model.fit(every[train[:, 0]], y, sample_weight=weights)
        guess = model.predict(every[dev[:, 0]])
        score = float(f1_score(y_dev, guess, sample_weight=weights_dev))
        if score > best:
            best, kept = score, SelectFromModel(model, prefit=True, threshold=1e-12).get_support()
    query = np.flatnonzero(split == "test")
    return {
        "x": every[train[:, 0]][:, kept].toarray().astype(np.uint8),
        "y": y.astype(np.int8),
        "x_query": every[query][:, kept].toarray().astype(np.uint8),
        "y_query": ((gold[query] + 1) // 2).astype(np.int8),
        "features": features[kept].astype(str),
        "weights": weights,
        "labels_function": train[:, 1],
        "labels_pair": train[:, 0],
        "labels_precision": _precision(votes, gold)[train[:, 1]],
    }


def _precision(votes, gold) -> np.ndarray:
    """For each labelling function, the share of all its votes, in every split, that are true."""
    right = votes[:, 2] == gold[votes[:, 0]]
    count = np.bincount(votes[:, 1])
    return np.bincount(votes[:, 1], right) / np.maximum(count, 1)


def _sparse_logistic(c: float):
    from sklearn.linear_model import LogisticRegression

    settings = {"solver": "liblinear", "random_state": np.random.RandomState(1), "max_iter": 100}
    return LogisticRegression(l1_ratio=1.0, C=c, **settings)


def _clues(pair: dict[str, str], sentence: dict) -> dict[str, float]:
    """Indicators of what stands between and around the chemical and the disease."""
    lemmas = [lemma.lower() for lemma in sentence["lemmas"]]
    tags = sentence["pos_tags"]
    chemical = int(pair["chem_tok_start"]), int(pair["chem_tok_end"])
    disease = int(pair["dis_tok_start"]), int(pair["dis_tok_end"])
    first, last = sorted([chemical, disease])
    middle = range(first[1] + 1, last[0])
    order = "chemical first" if chemical <= disease else "disease first"
    clues = [order, f"distance {min(len(middle) // 3, 8)}"]
    clues += [f"chemical {lemmas[chemical[1]]}", f"disease {lemmas[disease[1]]}"]
    clues += [f"between {lemmas[i]}" for i in middle]
    clues += [f"{order}, between {lemmas[i]}" for i in middle]
    clues += [f"between {lemmas[i]} {lemmas[i + 1]}" for i in middle[:-1]]
    clues += [f"tags between {tags[i]} {tags[i + 1]}" for i in middle[:-1]]
    for side, begin, step in (("left of both", first[0], -1), ("right of both", last[1], 1)):
        window = [i for i in (begin + step * k for k in (1, 2, 3)) if 0 <= i < len(lemmas)]
        clues += [f"{side} {lemmas[i]}" for i in window]
        clues += [f"tag {side} {tags[i]}" for i in window[:1]]
    clues += [f"sentence has {lemma}" for lemma in lemmas]
    return dict.fromkeys(clues, 1.0)


# ---- natural language inference ------------------------------------------------------------------


def nli() -> Dataset:
    """Entailment (0), neutral (1), contradiction (2): 15,103 + 685 pairs of sentences, by workers.

    Stands in for MultiNLI, whose crowdworkers are not public. The features are the mean word
    vectors of premise and hypothesis, 300 each; words without a vector count as zero. `labels`
    names the worker and the part (base, sim, translate) of each training example; in sim and
    translate the worker labelled a pair that was made by machine.

    Returns:
        the data set; `labels` names the worker and the part.

    Raises:
        FileNotFoundError: if the files are not below LEAVEOUT_DATA.

    Example:
        >>> lo.datasets.nli().n  # doctest: +SKIP

    Source: Vania, Chen and Bowman (2020).
    """
    return _dataset("nli", _parse_nli)


def _parse_nli():
    with np.load(find(_NLI, "word_vectors.npz"), allow_pickle=False) as file:
        row = dict(zip(file["words"].tolist(), file["row"].tolist(), strict=True))
        vectors = file["vectors"].astype(np.float32)

    def mean(text: str) -> np.ndarray:
        words = re.findall(r"\w+|[^\w\s]", text)
        found = [row[word] for word in words if word in row and row[word] >= 0]
        return vectors[found].sum(axis=0) / max(len(words), 1)

    def read(which: str):
        x, y, workers, parts = [], [], [], []
        for part in _NLI_PARTS:
            path = find(_NLI, f"semi_automatic_nli_{part}_wiki_{which}.jsonl.gz")
            with gzip.open(path, "rt", encoding="utf-8") as file:
                for example in map(json.loads, file):
                    if example["label"] not in "enc":
                        continue
                    texts = (example["premise"], example["hypothesis"])
                    x.append(np.concatenate([mean(text) for text in texts]))
                    y.append("enc".index(example["label"]))
                    workers.append(example.get("annId", ""))
                    parts.append(part)
        return np.array(x), np.array(y, np.int8), np.array(workers), np.array(parts)

    x, y, workers, parts = read("train")
    x_query, y_query, _, parts_query = read("test")
    features = [f"{text} {i}" for text in ("premise", "hypothesis") for i in range(300)]
    return {
        "x": x,
        "y": y,
        "x_query": x_query,
        "y_query": y_query,
        "features": np.array(features),
        "labels_worker": workers,
        "labels_part": parts,
        "query_labels_part": parts_query,
    }

"""Data sets with groups of their own: hospitals, occupations, villages, labelling functions."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from leaveout.runtime.extras import needed
from leaveout.studies.datasets.container import Dataset
from leaveout.studies.datasets.source import File, Origin, dataset, find, standardised

__all__ = ["ORIGINS", "adult", "heart", "morocco", "one_hot", "sms", "youtube"]

_HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"
_HEART = Origin(
    folder="heart_sites",
    files=tuple(
        File(name, sha256, (f"{_UCI}/heart-disease/{name}",))
        for name, sha256 in (
            (
                "processed.cleveland.data",
                "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
            ),
            (
                "processed.hungarian.data",
                "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
            ),
            (
                "processed.switzerland.data",
                "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
            ),
            (
                "processed.va.data",
                "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
            ),
        )
    ),
    page="https://archive.ics.uci.edu/dataset/45/heart+disease",
    source="Janosi, Steinbrunn, Pfisterer and Detrano (1988), UCI dataset 45",
    licence="CC BY 4.0; name the principal investigators of the four hospitals",
)
_ADULT = Origin(
    folder="adult",
    files=(
        File("adult.data.gz", "79d673241aeed099ca33f8cfca8928cf5223509841c9857b1af0d5d6326467ab"),
        File("adult.test.gz", "8a2c1bffa6e7ce5abfa43881ae5e87c4311ebc2b3cd526c9c40a43f19f06f799"),
    ),
    page="https://archive.ics.uci.edu/dataset/2/adult",
    source="Becker and Kohavi (1996), UCI dataset 2",
    licence="CC BY 4.0",
    derived="the publisher's two files, each compressed by gzip",
)
_MOROCCO = Origin(
    folder="microcredit",
    files=(
        File(
            "morocco_crepon_2015.csv.gz",
            "bf1ec7094582135ea1bda17cfa658a6c2bb24fab93b05462884705616d80fa35",
        ),
    ),
    page="https://doi.org/10.1257/app.20130535",
    source="Crepon, Devoto, Duflo and Pariente (2015), as in the R package GenericML",
    licence="of the package: GPL-3",
    derived="a table of the package, written as CSV",
)
_SPAM = {
    "youtube": (
        "Alberto, Lochter and Almeida (2015), UCI dataset 380, in the form of WRENCH",
        "38851d5e3bfdd5c1886507792df445ce49b746f632d853ce3a9dfa3acb1200a7",
        "885de36400052f21df7ee6393e6f1b0c57044c367c23fbd936ef9a8a2b685b34",
    ),
    "sms": (
        "Almeida, Hidalgo and Yamakami (2011), UCI dataset 228, in the form of WRENCH",
        "efd15ebfe5df182ddab5dfe1f3956598695ad4f6bc415fe2e89300b8e1429127",
        "c4b5973493468e487e12e9d2f7879de7d4c853ef4a25e8d63ae3ca7d940fc2ca",
    ),
}


def _spam_origin(name: str) -> Origin:
    source, train, test = _SPAM[name]
    return Origin(
        folder=f"weak_supervision/{name}",
        files=(File("train.json.gz", train), File("test.json.gz", test)),
        page="https://github.com/JieyuZ2/wrench",
        source=source,
        licence="CC BY 4.0 (messages), Apache-2.0 (votes); unmoderated text",
        derived="the publisher's files, each compressed by gzip",
    )


#: name of a data set to where its raw files come from
ORIGINS = {
    "heart": _HEART,
    "adult": _ADULT,
    "morocco": _MOROCCO,
    "youtube": _spam_origin("youtube"),
    "sms": _spam_origin("sms"),
}


def _dataset(name: str, parse: Callable[[], dict[str, np.ndarray]], **rest) -> Dataset:
    return dataset(name, ORIGINS[name], parse, Path(__file__).read_bytes(), **rest)


def one_hot(column) -> tuple[np.ndarray, list[str]]:
    """Indicators of the categories of a column, and their names."""
    found, code = np.unique(np.asarray(column, str), return_inverse=True)
    return (code[:, None] == np.arange(found.size)).astype(float), found.tolist()


# ---- heart disease -------------------------------------------------------------------------------

_HEART_NUMBERS = {0: "age", 3: "resting pressure", 4: "cholesterol", 7: "top rate", 9: "oldpeak"}
_HEART_KINDS = {
    1: "male",
    2: "pain",
    5: "fasting sugar",
    6: "resting ECG",
    8: "exercise pain",
    10: "slope",
    11: "vessels",
    12: "thal",
}


def heart() -> Dataset:
    """Heart disease (1 if a vessel is narrowed): 735 + 185 patients of four hospitals.

    Five numbers in standard deviations, what is missing at their median with a column that says so
    (a cholesterol of 0 is missing: Switzerland recorded none); eight kinds one-hot, missing a kind
    of its own. A fifth of each hospital's patients are queries. `labels` names the hospital and the
    sex.

    Returns:
        the data set; `labels` names the hospital and the sex.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> sorted(lo.datasets.heart().labels)  # doctest: +SKIP

    Source: Janosi, Steinbrunn, Pfisterer and Detrano (1988).
    """
    return _dataset("heart", _parse_heart)


def _parse_heart():
    tables, hospitals = [], []
    for hospital in _HOSPITALS:
        text = find(_HEART, f"processed.{hospital}.data").read_text()
        rows = [line.split(",") for line in text.split()]
        tables.append([[np.nan if v == "?" else float(v) for v in row] for row in rows])
        hospitals += [hospital] * len(rows)
    table, hospital = np.concatenate(tables), np.array(hospitals)
    table[table[:, 4] == 0, 4] = np.nan
    rng, held = np.random.default_rng(0), np.zeros(len(table), bool)
    for name in _HOSPITALS:
        mine = np.flatnonzero(hospital == name)
        held[rng.choice(mine, round(0.2 * mine.size), replace=False)] = True
    blocks, names = [], []
    for column, name in _HEART_NUMBERS.items():
        values = table[:, column]
        missing = np.isnan(values)
        filled = np.where(missing, np.median(values[~missing & ~held]), values)
        train, query = standardised(filled[~held, None], filled[held, None])
        placed = np.empty((len(table), 1))
        placed[~held], placed[held] = train, query
        blocks += [placed, missing[:, None].astype(float)]
        names += [name, f"{name} missing"]
    for column, name in _HEART_KINDS.items():
        values = table[:, column]
        block, kinds = one_hot(np.where(np.isnan(values), "missing", values.astype(str)))
        blocks.append(block)
        names += [f"{name}={kind}" for kind in kinds]
    x, y = np.concatenate(blocks, axis=1), (table[:, 13] > 0).astype(np.int8)
    sex = np.where(table[:, 1] == 1, "male", "female")
    return {
        "x": x[~held],
        "y": y[~held],
        "x_query": x[held],
        "y_query": y[held],
        "features": np.array(names),
        "labels_hospital": hospital[~held],
        "labels_sex": sex[~held],
        "query_labels_hospital": hospital[held],
        "query_labels_sex": sex[held],
    }


# ---- census income -------------------------------------------------------------------------------

_ADULT_COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education years", "marital status", "occupation",
    "relationship", "race", "sex", "capital gain", "capital loss", "hours", "country", "income",
)  # fmt: skip
_ADULT_NUMBERS = ("age", "education years", "capital gain", "capital loss", "hours")
_ADULT_KINDS = (
    "workclass", "marital status", "occupation", "relationship", "race", "sex", "country",
)  # fmt: skip


def adult() -> Dataset:
    """Census income, above 50,000 dollars is 1: 32,561 + 16,281 people.

    Five numbers in standard deviations and seven kinds one-hot; "?" is a kind. `labels` names
    occupation, country, sex and race, then what else describes the training examples.

    Returns:
        the data set; `labels` names occupation, country, sex and race.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> data = lo.datasets.adult()  # doctest: +SKIP
        >>> data.n, sorted(data.labels)  # doctest: +SKIP

    Source: Becker and Kohavi (1996).
    """
    return _dataset("adult", _parse_adult)


def _parse_adult():
    def read(name):
        with gzip.open(find(_ADULT, name), "rt", encoding="utf-8") as file:
            rows = [line.strip().rstrip(".").split(", ") for line in file]
        whole = [row for row in rows if len(row) == len(_ADULT_COLUMNS)]
        return dict(zip(_ADULT_COLUMNS, np.array(whole).T, strict=True))

    train, query = read("adult.data.gz"), read("adult.test.gz")
    numbers = [
        np.stack([part[name].astype(float) for name in _ADULT_NUMBERS], 1)
        for part in (train, query)
    ]
    blocks, names = [standardised(*numbers)], list(_ADULT_NUMBERS)
    for name in _ADULT_KINDS:
        both, kinds = one_hot(np.concatenate([train[name], query[name]]))
        blocks.append((both[: len(train[name])], both[len(train[name]) :]))
        names += [f"{name}={kind}" for kind in kinds]
    x, x_query = (np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True))
    arrays = {
        "x": x,
        "y": (train["income"] == ">50K").astype(np.int8),
        "x_query": x_query,
        "y_query": (query["income"] == ">50K").astype(np.int8),
        "features": np.array(names),
    }
    for name in ("occupation", "country", "sex", "race"):
        arrays |= {f"labels_{name}": train[name], f"query_labels_{name}": query[name]}
    for name in ("workclass", "education", "marital status", "relationship"):
        arrays[f"labels_{name}"] = train[name]
    for name in ("age", "hours", "capital gain", "capital loss"):
        arrays[f"labels_{name}"] = train[name].astype(float)
    return arrays


# ---- microcredit in Moroccan villages ------------------------------------------------------------


def morocco() -> Dataset:
    """Loans of 5,513 households in 162 Moroccan villages, one of each pair offered microcredit.

    A regression: the target is the sum of loans in dirhams, the first feature is the offer, then
    covariates and indicators of the pairs, without those that others add up to. Nothing is held
    out, since the coefficient is the question: the queries are the training examples. To be fitted
    by least squares without a penalty. `labels` names the village (pair and arm) and the pair.

    Returns:
        the data set; `labels` names the village and the pair.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> lo.datasets.morocco().x.shape  # doctest: +SKIP

    Source: Crepon, Devoto, Duflo and Pariente (2015).
    """
    return _dataset("morocco", _parse_morocco, l2=0.0)


def _parse_morocco():
    path = find(_MOROCCO, "morocco_crepon_2015.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        header, *lines = file.read().split()
    names = header.split(",")
    table = np.array([[float(cell) for cell in line.split(",")] for line in lines])
    pair, offer = table[:, names.index("vil_pair")].astype(int), table[:, 1].astype(int)
    covariates = [i for i in range(2, len(names)) if names[i] not in ("vil_pair", "demi_paire")]
    indicators, pairs = one_hot([f"{number:03d}" for number in pair])
    x = np.concatenate([table[:, 1:2], table[:, covariates], indicators[:, 1:]], axis=1)
    village = np.array(
        [f"pair {a} {('control', 'treated')[b]}" for a, b in zip(pair, offer, strict=True)]
    )
    features = ["offer", *(names[i] for i in covariates), *(f"pair={name}" for name in pairs[1:])]
    # in their order, those that are not sums of the constant and of others before them
    triangle = np.linalg.qr(np.c_[np.ones(len(x)), x], mode="r")
    own = np.abs(np.diagonal(triangle))[1:] > 1e-9 * np.linalg.norm(x, axis=0)
    x, features = x[:, own], [name for name, kept in zip(features, own, strict=True) if kept]
    return {
        "x": x,
        "y": table[:, 0],
        "x_query": x,
        "y_query": table[:, 0],
        "features": np.array(features),
        "labels_village": village,
        "labels_pair": pair,
        "query_labels_arm": np.array(["control", "treated"])[offer],
    }


# ---- labelling functions for spam ----------------------------------------------------------------


def youtube() -> Dataset:
    """Spam (1) among comments on videos: 2,592 votes of 10 labelling functions + 250 comments.

    As `cdr`: a training example is a vote of a function on a comment, its label the vote, its
    weight one over the votes on the comment. Counts of the words in at least two comments.

    Returns:
        the data set; `labels` names the function.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> lo.datasets.youtube().n  # doctest: +SKIP

    Source: Alberto, Lochter and Almeida (2015); Zhang et al. (2021).
    """
    return _dataset("youtube", lambda: _parse_votes("youtube"))


def sms() -> Dataset:
    """Spam (1) among text messages: 2,390 votes of 73 labelling functions + 500 messages.

    As `youtube`.

    Returns:
        the data set; `labels` names the function.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> lo.datasets.sms().n  # doctest: +SKIP

    Source: Almeida, Hidalgo and Yamakami (2011); Awasthi et al. (2020); Zhang et al. (2021).
    """
    return _dataset("sms", lambda: _parse_votes("sms"))


def _parse_votes(name: str):
    with needed("counting words"):
        from sklearn.feature_extraction.text import CountVectorizer

    def read(part):
        path = find(ORIGINS[name], f"{part}.json.gz")
        with gzip.open(path, "rt", encoding="utf-8") as file:
            entries = list(json.load(file).values())
        texts = [entry["data"]["text"] for entry in entries]
        votes = np.array([entry["weak_labels"] for entry in entries])
        return texts, votes, np.array([entry["label"] for entry in entries])

    (texts, votes, gold), (queries, _, y_query) = read("train"), read("test")
    words = CountVectorizer(min_df=2)
    words.fit(texts)

    def count(texts):
        counts: Any = words.transform(texts)
        return counts.toarray().astype(np.uint8)

    text, function = np.nonzero(votes >= 0)
    y = votes[text, function]
    right = np.bincount(function, y == gold[text]) / np.maximum(np.bincount(function), 1)
    return {
        "x": count(texts)[text],
        "y": y.astype(np.int8),
        "x_query": count(queries),
        "y_query": y_query.astype(np.int8),
        "features": words.get_feature_names_out().astype(str),
        "weights": 1 / np.sum(votes >= 0, axis=1)[text],
        "labels_function": function,
        "labels_text": text,
        "labels_precision": right[function],
    }

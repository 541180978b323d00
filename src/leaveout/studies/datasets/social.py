"""Data of courts and trials: who reoffends, and what microcredit does."""

import csv
import gzip
from pathlib import Path

import numpy as np

from leaveout.studies.datasets.container import Dataset
from leaveout.studies.datasets.natural import one_hot
from leaveout.studies.datasets.source import File, Origin, dataset, find, standardised

__all__ = ["ORIGINS", "compas", "microcredit"]

_COMPAS = Origin(
    folder="compas",
    files=(
        File(
            "compas-scores-two-years.no_identifiers.csv.gz",
            "0af03fcb55aa37156f5ca5bc8296641b46422c7b6106b26e6aeaa2b2183b5728",
        ),
    ),
    page="https://github.com/propublica/compas-analysis",
    source="Angwin, Larson, Mattu and Kirchner (2016), ProPublica",
    licence="none stated",
    derived="the publisher's table without the columns that identify people",
)
_MICROCREDIT = Origin(
    folder="microcredit",
    files=(
        File(
            "microcredit_7_studies.csv.gz",
            "3b0051a5e9d6d20c9570acc24e4986c7be99292042570772bb34c6e24942d53e",
        ),
    ),
    page="https://github.com/wwiecek/baggr",
    source="Meager (2019), seven trials, as in the R package baggr",
    licence="of the package: GPL-3",
    derived="a table of the package, written as CSV",
)
#: name of a data set to where its raw files come from
ORIGINS = {"compas": _COMPAS, "microcredit": _MICROCREDIT}


def _read(origin: Origin) -> dict[str, np.ndarray]:
    """The columns of the table of an origin, as text."""
    path = find(origin, origin.files[0].name)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, np.array(rows).T, strict=True))


def compas() -> Dataset:
    """Reoffending within two years (1) of 6,172 defendants: 4,320 + 1,852.

    The rows that ProPublica kept: screened within 30 days of the arrest, not for ordinary traffic
    offences. Five numbers in standard deviations; sex, race and the charge's degree one-hot. Three
    tenths are queries, drawn at random. `labels` and `query_labels` name race, sex and what else
    the model is told; the labels of training examples the score that COMPAS gave as well.

    Returns:
        the data set; `labels` names race, sex and the charge, the numbers, and the score.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> data = lo.datasets.compas()  # doctest: +SKIP
        >>> data.x.shape, data.x_query.shape  # doctest: +SKIP
        ((4320, 15), (1852, 15))

    Source: Angwin, Larson, Mattu and Kirchner (2016).
    """
    return dataset("compas", _COMPAS, _parse_compas, Path(__file__).read_bytes())


_COUNTS = {
    "age": "age", "priors": "priors_count", "juvenile felonies": "juv_fel_count",
    "juvenile misdemeanours": "juv_misd_count", "other juvenile": "juv_other_count",
}  # fmt: skip
_KINDS = {"race": "race", "sex": "sex", "charge": "c_charge_degree"}


def _parse_compas():
    table = _read(_COMPAS)
    days = table["days_b_screening_arrest"]
    known = days != ""
    near = known & (np.abs(np.where(known, days, "99").astype(float)) <= 30)
    kept = near & (table["is_recid"] != "-1") & (table["c_charge_degree"] != "O")
    kept &= table["score_text"] != "N/A"
    table = {name: column[kept] for name, column in table.items()}
    n = int(kept.sum())
    query = np.zeros(n, bool)
    query[np.random.default_rng(0).permutation(n)[: round(0.3 * n)]] = True
    numbers = np.stack([table[column].astype(float) for column in _COUNTS.values()], 1)
    placed = np.empty_like(numbers)
    placed[~query], placed[query] = standardised(numbers[~query], numbers[query])
    blocks, names = [placed], list(_COUNTS)
    for name, column in _KINDS.items():
        block, kinds = one_hot(table[column])
        blocks.append(block)
        names += [f"{name}={kind}" for kind in kinds]
    x, y = np.concatenate(blocks, axis=1), table["two_year_recid"].astype(np.int8)
    labels = {name: table[column] for name, column in _KINDS.items()}
    labels |= {name: numbers[:, k] for k, name in enumerate(_COUNTS)}
    arrays = {
        "x": x[~query],
        "y": y[~query],
        "x_query": x[query],
        "y_query": y[query],
        "features": np.array(names),
    }
    arrays |= {f"labels_{name}": column[~query] for name, column in labels.items()}
    arrays |= {f"query_labels_{name}": column[query] for name, column in labels.items()}
    return arrays | {"labels_COMPAS score": table["score_text"][~query]}


def microcredit() -> Dataset:
    """Profits of 35,303 households in seven trials of microcredit, in local currency.

    A regression without intercept and penalty: a constant for each trial, then the offer in each,
    whose coefficients are the trials' differences in means. One rate of exchange a trial lies
    between these units and the dollars, at purchasing power parity and a fortnight, of the papers:
    signs do not depend on it. Nothing is held out. `labels` names trial and arm.

    Returns:
        the data set; the queries are the training examples.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> data = lo.datasets.microcredit()  # doctest: +SKIP
        >>> data.x.shape, sorted(data.labels)  # doctest: +SKIP
        ((35303, 14), ['arm', 'trial'])

    Source: Meager (2019); Broderick, Giordano and Meager (2020).
    """
    return dataset(
        "microcredit", _MICROCREDIT, _parse_microcredit, Path(__file__).read_bytes(), l2=0.0,
        intercept=False,
    )  # fmt: skip


def _parse_microcredit():
    table = _read(_MICROCREDIT)
    known = (table["profit"] != "") & (table["treatment"] != "")
    trial, profit, offer = (table[name][known] for name in ("group", "profit", "treatment"))
    offer = offer.astype(float)
    constants, trials = one_hot(trial)
    x, y = np.concatenate([constants, constants * offer[:, None]], axis=1), profit.astype(float)
    return {
        "x": x,
        "y": y,
        "x_query": x,
        "y_query": y,
        "features": np.array([*trials, *(f"offer in {name}" for name in trials)]),
        "labels_trial": trial,
        "labels_arm": np.where(offer > 0, "treated", "control"),
    }

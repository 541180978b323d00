"""Shelf of data sets: functions of nothing (or a folder) to `Dataset`, always the same arrays.

To add one, write a function annotated `-> Dataset` with its source and licence in the result; it is
found by `load`, by the command line and by the shelf's tests.
"""

import dataclasses
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

__all__ = [
    "Dataset",
    "available",
    "breast_cancer",
    "diabetes",
    "digits",
    "gauss4",
    "load",
    "ortho2",
    "wine",
]

#: l2 / n that the paper's cross-validation tries
_GRID = tuple(float(value) for value in np.logspace(-4, -1, 10))


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training examples, and query examples at which effects are measured.

    Attributes:
        name: what `load` calls it.
        x: (n d) training inputs, float64, without a column of ones.
        y: (n) labels 0..K-1.
        x_query: (m d) held-out inputs.
        y_query: (m) their labels.
        outputs: 1 for two classes, else K.
        feature_names: (d).
        source: where it comes from.
        licence: on what terms.
        l2_grid: penalties to choose from, divided by n.
        intercept: whether a model of it has one.
        l2: the penalty (absolute) if the data set prescribes it.
    """

    name: str
    x: Float[np.ndarray, "n d"]
    y: np.ndarray
    x_query: Float[np.ndarray, "m d"]
    y_query: np.ndarray
    outputs: int
    feature_names: tuple[str, ...]
    source: str
    licence: str
    l2_grid: tuple[float, ...] = _GRID
    intercept: bool = True
    l2: float | None = None

    @property
    def n(self) -> int:
        """Training examples."""
        return self.x.shape[0]

    @property
    def d(self) -> int:
        """Features."""
        return self.x.shape[1]


def _shelf() -> dict[str, Callable[..., Dataset]]:
    functions = vars(sys.modules[__name__])
    return {
        name: functions[name] for name in __all__ if name not in ("available", "load", "Dataset")
    }


def available() -> tuple[str, ...]:
    """Names that `load` knows."""
    return tuple(_shelf())


def load(name: str) -> Dataset:
    """The data set of this name.

    Raises:
        ValueError: for an unknown name, with the list of known ones.
    """
    if name not in _shelf():
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(available())}")
    return _shelf()[name]()


# ---- embedded in scikit-learn -------------------------------------------------------------------


def _embedded(name: str, loader: str, source: str, scale: float = 1.0) -> Dataset:
    """A data set that ships with scikit-learn; 80 % of a fixed permutation train, 20 % query."""
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ImportError(
            f'the {name} data set ships with scikit-learn; pip install "leaveout[study]"'
        ) from error
    bunch = getattr(sklearn.datasets, loader)()
    x, y = np.asarray(bunch.data, float) / scale, np.asarray(bunch.target, int)
    order = np.random.default_rng(0).permutation(len(y))
    train, query = np.split(order, [int(0.8 * len(y))])
    classes = int(y.max()) + 1
    return Dataset(
        name=name,
        x=x[train],
        y=y[train],
        x_query=x[query],
        y_query=y[query],
        outputs=1 if classes == 2 else classes,
        feature_names=tuple(str(feature) for feature in bunch.feature_names),
        source=source,
        licence="CC BY 4.0",
    )


def breast_cancer() -> Dataset:
    """Breast Cancer Wisconsin (Diagnostic): 455 + 114 tumours, 30 raw features, 2 classes."""
    return _embedded(
        "breast_cancer",
        "load_breast_cancer",
        "Wolberg, Mangasarian, Street and Street (1993), UCI dataset 17, as in scikit-learn",
    )


def digits() -> Dataset:
    """Handwritten digits: 1,437 + 360 images of 8 x 8, pixels in [0, 1], 10 classes."""
    return _embedded(
        "digits",
        "load_digits",
        "Alpaydin and Kaynak (1998), UCI dataset 80, test part, as in scikit-learn",
        scale=16.0,
    )


def wine() -> Dataset:
    """Wine: 142 + 36 chemical analyses, 13 raw features, 3 growers."""
    return _embedded(
        "wine", "load_wine", "Aeberhard and Forina (1991), UCI dataset 109, as in scikit-learn"
    )


# ---- the paper's ---------------------------------------------------------------------------------

_DIABETES_URL = (
    "https://archive.ics.uci.edu/dataset/296/diabetes+130-us+hospitals+for+years+1999-2008"
)
_DIABETES_NUMERIC = [
    "time_in_hospital",
    "num_lab_procedures",
    "num_procedures",
    "num_medications",
    "number_outpatient",
    "number_emergency",
    "number_inpatient",
    "number_diagnoses",
]
_DIABETES_CATEGORICAL = [
    "gender",
    "race",
    "age",
    "discharge_disposition_id",
    "max_glu_serum",
    "A1Cresult",
    "metformin",
    "repaglinide",
    "nateglinide",
    "chlorpropamide",
    "glimepiride",
    "acetohexamide",
    "glipizide",
    "glyburide",
    "tolbutamide",
    "pioglitazone",
    "rosiglitazone",
    "acarbose",
    "miglitol",
    "troglitazone",
    "tolazamide",
    "examide",
    "citoglipton",
    "insulin",
    "glyburide-metformin",
    "glipizide-metformin",
    "glimepiride-pioglitazone",
    "metformin-rosiglitazone",
    "metformin-pioglitazone",
    "change",
    "diabetesMed",
]


def diabetes(folder: str | os.PathLike | None = None) -> Dataset:
    """Diabetes 130-US hospitals as in the paper: 20,000 balanced + 81,766 records, 127 features.

    Eight counts as they are, then 31 categorical columns one-hot (one column where there are two
    categories); "None" is a category. Positive: readmitted within 30 days. The split is the
    released code's (NumPy's RandomState(2)).

    Args:
        folder: where dataset_diabetes.zip is; default $LEAVEOUT_DATA/diabetes.

    Raises:
        FileNotFoundError: with the publisher's address, if the file is not there.

    Source: Strack et al. (2014); preprocessing of Koh et al. (2019).
    """
    import pandas as pd

    root = os.environ.get("LEAVEOUT_DATA")
    if folder is None and root is not None:
        folder = Path(root) / "diabetes"
    path = None if folder is None else Path(folder) / "dataset_diabetes.zip"
    if path is None or not path.exists():
        looked = "LEAVEOUT_DATA is not set" if path is None else f"there is no {path}"
        raise FileNotFoundError(
            f"the Diabetes data was not found: {looked}; download dataset_diabetes.zip from "
            f"{_DIABETES_URL} into a folder diabetes and set LEAVEOUT_DATA to the folder above it"
        )
    with zipfile.ZipFile(path) as archive:
        members = [
            name
            for name in archive.namelist()
            if name.endswith("diabetic_data.csv") and "__MACOSX" not in name
        ]
        if len(members) != 1:
            raise ValueError(
                f"expected one diabetic_data.csv in {path}, got {len(members)}; "
                f"download it again from {_DIABETES_URL}"
            )
        with archive.open(members[0]) as file:
            table = pd.read_csv(file, keep_default_na=False)
    blocks = [table[_DIABETES_NUMERIC].to_numpy(float)]
    names = list(_DIABETES_NUMERIC)
    for column in _DIABETES_CATEGORICAL:
        categories, codes = np.unique(table[column].to_numpy(), return_inverse=True)
        first = 1 if len(categories) == 2 else 0
        blocks.append((codes[:, None] == np.arange(first, len(categories))).astype(float))
        names += [f"{column}={category}" for category in categories[first:]]
    x = np.concatenate(blocks, axis=1)
    y = (table["readmitted"].to_numpy() == "<30").astype(int)
    rng = np.random.RandomState(2)
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    rng.shuffle(positive)
    rng.shuffle(negative)
    train = np.concatenate([positive[:10_000], negative[:10_000]])
    query = np.concatenate([positive[10_000:], negative[10_000:]])
    rng.shuffle(train)
    rng.shuffle(query)
    return Dataset(
        name="diabetes",
        x=x[train],
        y=y[train],
        x_query=x[query],
        y_query=y[query],
        outputs=1,
        feature_names=tuple(names),
        source=f"Strack et al. (2014), UCI dataset 296, {_DIABETES_URL}",
        licence="CC BY 4.0",
    )


# ---- the paper's counterexamples -----------------------------------------------------------------


def ortho2() -> Dataset:
    """Figure 3, right: 120 copies of four orthogonal points in the plane; the query is (1, 1).

    Fitted without an intercept at l2 = 0.12. The 116 groups are the first m copies of one point.

    Source: Koh et al. (2019), figure 3 and their released code.
    """
    copies = ((0, 0.075, 40, 0), (0, 0.15, 20, 1), (1, 1.0, 40, 0), (1, 0.1, 20, 1))
    x = np.concatenate([np.tile(length * np.eye(2)[axis], (k, 1)) for axis, length, k, _ in copies])
    y = np.concatenate([np.full(k, label) for *_, k, label in copies])
    return _synthetic("ortho2", x, y, np.ones((1, 2)), np.ones(1, int))


def gauss4() -> Dataset:
    """Figure 3, left: two Gaussians of 60 points each in 60 dimensions, means 0.5 apart.

    Fitted without an intercept at l2 = 0.12; the groups are pairs of points. The queries are the
    test points drawn from the same mixture. The random stream is the released code's, which draws
    its other data sets first.

    Source: Koh et al. (2019), figure 3 and their released code.
    """
    rng = np.random.RandomState(0)
    _mixture(rng, 20, 5, 1.0)
    rng.shuffle(np.arange(8))  # "fixed": eight hand-made points, shuffled
    _repeats(rng)
    _mixture(rng, 20, 10, 0.0)
    _mixture(rng, 40, 100, 0.1)
    (x, y), (x_query, y_query) = _mixture(rng, 60, 60, 0.5)
    return _synthetic("gauss4", x, y, x_query, y_query)


def _mixture(rng, count, dimensions, distance):
    """Training and test halves of a balanced mixture of two Gaussians."""
    apart = rng.normal(0, 1, size=dimensions)
    apart = distance * apart / np.linalg.norm(apart)

    def draw():
        first = rng.normal(0, 1, size=(count, dimensions)) + apart / 2
        second = rng.normal(0, 1, size=(count, dimensions)) - apart / 2
        x, y = np.concatenate([first, second]), np.repeat([0, 1], count)
        order = np.arange(2 * count)
        rng.shuffle(order)
        return x[order], y[order]

    return draw(), draw()


def _repeats(rng) -> None:
    """Advance the stream past the "repeats" set: 20 orthogonal directions, then noise."""
    basis: list[np.ndarray] = []
    while len(basis) < 20:
        candidate = rng.normal(0, 1, size=20)
        if np.linalg.matrix_rank(np.array([*basis, candidate])) == len(basis) + 1:
            for row in basis:
                candidate = candidate - (candidate @ row) * row
            basis.append(candidate / np.linalg.norm(candidate))
    rng.normal(0, 1, size=20)
    rng.randint(0, 2, size=20)
    rng.normal(0, 0.1, size=(40, 20))
    rng.randint(0, 2, size=40)


def _synthetic(name, x, y, x_query, y_query) -> Dataset:
    return Dataset(
        name=name,
        x=x,
        y=y,
        x_query=x_query,
        y_query=y_query,
        outputs=1,
        feature_names=tuple(f"x{i}" for i in range(x.shape[1])),
        source="generated here by the recipe of Koh et al. (2019)",
        licence="none needed",
        intercept=False,
        l2=1e-3 * len(x),
    )

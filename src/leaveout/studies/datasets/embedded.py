"""Data sets that ship with scikit-learn."""

import numpy as np

from leaveout.runtime.extras import needed
from leaveout.studies.datasets.container import Dataset

__all__ = ["breast_cancer", "digits", "wine"]


def _embedded(name: str, loader: str, source: str, scale: float = 1.0) -> Dataset:
    """A data set that ships with scikit-learn; 80 % of a fixed permutation train, 20 % query."""
    with needed(f"the data set {name}, which ships with scikit-learn,"):
        import sklearn.datasets
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
    """Breast Cancer Wisconsin (Diagnostic): 455 + 114 tumours, 30 raw features, 2 classes.

    Returns:
        the data set, in scikit-learn's own copy.

    Example:
        >>> lo.datasets.breast_cancer().x.shape
        (455, 30)
    """
    return _embedded(
        "breast_cancer",
        "load_breast_cancer",
        "Wolberg, Mangasarian, Street and Street (1993), UCI dataset 17, as in scikit-learn",
    )


def digits() -> Dataset:
    """Handwritten digits: 1,437 + 360 images of 8 x 8, pixels in [0, 1], 10 classes.

    Returns:
        the data set, in scikit-learn's own copy.

    Example:
        >>> lo.datasets.digits().x.shape
        (1437, 64)
    """
    return _embedded(
        "digits",
        "load_digits",
        "Alpaydin and Kaynak (1998), UCI dataset 80, test part, as in scikit-learn",
        scale=16.0,
    )


def wine() -> Dataset:
    """Wine: 142 + 36 chemical analyses, 13 raw features, 3 growers.

    Returns:
        the data set, in scikit-learn's own copy.

    Example:
        >>> lo.datasets.wine().x.shape
        (142, 13)
    """
    return _embedded(
        "wine", "load_wine", "Aeberhard and Forina (1991), UCI dataset 109, as in scikit-learn"
    )

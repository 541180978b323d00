"""Data sets on which the field compares data attribution: two of UCI, and Fashion-MNIST.

Source: Bae et al. (2024), SOURCE; Grosse et al. (2023).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from leaveout.studies.datasets.container import Dataset
from leaveout.studies.datasets.source import File, Origin, dataset, find, idx, standardised

__all__ = ["ORIGINS", "concrete", "fashion", "fashion_noisy", "parkinsons"]

_GITHUB = "https://raw.githubusercontent.com"
_CONCRETE = Origin(
    folder="uci",
    files=(
        File(
            "concrete.data",
            "11c479fc4c8c79aab632fb1f79871c3a17b5e3bce3632f4f66db97f73dce7a36",
            (
                f"{_GITHUB}/pomonam/kronfluence/e91e6b95fe1b6112c4b5baa0bbfbe2239c4589cc"
                "/examples/uci/data/concrete.data",
            ),
        ),
    ),
    page="https://archive.ics.uci.edu/dataset/165/concrete+compressive+strength",
    source="Yeh (1998), UCI dataset 165",
    licence="CC BY 4.0",
    derived="the publisher's table as text",
)
_PARKINSONS = Origin(
    folder="uci",
    files=(
        File(
            "parkinsons_updrs.data",
            "f2c7d5025dec4e92e7feae367a5f7ccf58789a10ac6b54bdf15976c599f9dd39",
            (
                "https://archive.ics.uci.edu/ml/machine-learning-databases/parkinsons"
                "/telemonitoring/parkinsons_updrs.data",
                f"{_GITHUB}/behnazrzf/Parkinson-s_Telemonitoring"
                "/ba4c9fc9d942920f7d31560226b7f274c6d82fe5/parkinsons_updrs.data",
            ),
        ),
    ),
    page="https://archive.ics.uci.edu/dataset/189/parkinsons+telemonitoring",
    source="Tsanas, Little, McSharry and Ramig (2009), UCI dataset 189",
    licence="CC BY 4.0; the authors ask to be cited",
)


def _fashion_file(name: str, sha256: str) -> File:
    return File(
        name, sha256, (f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}",)
    )


_FASHION = Origin(
    folder="fashion_mnist",
    files=(
        _fashion_file(
            "train-images-idx3-ubyte.gz",
            "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        ),
        _fashion_file(
            "train-labels-idx1-ubyte.gz",
            "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        ),
        _fashion_file(
            "t10k-images-idx3-ubyte.gz",
            "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        ),
        _fashion_file(
            "t10k-labels-idx1-ubyte.gz",
            "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        ),
    ),
    page="https://github.com/zalandoresearch/fashion-mnist",
    source="Xiao, Rasul and Vollgraf (2017), Fashion-MNIST",
    licence="MIT",
    packaged="/usr/share/datasets/fashion-mnist",  # Debian: dataset-fashion-mnist
)

#: name of a data set to where its raw files come from
ORIGINS = {
    "concrete": _CONCRETE,
    "parkinsons": _PARKINSONS,
    "fashion": _FASHION,
    "fashion_noisy": _FASHION,
}


def _dataset(name: str, parse: Callable[[], dict[str, np.ndarray]], scale=1.0) -> Dataset:
    return dataset(name, ORIGINS[name], parse, Path(__file__).read_bytes(), scale)


# ---- UCI -----------------------------------------------------------------------------------------

_MIX = ("cement", "slag", "fly ash", "water", "plasticizer", "coarse", "fine", "age")


def concrete() -> Dataset:
    """Compressive strength of concrete: 927 + 103 mixtures, 8 numbers each; a regression.

    Inputs and strength in standard deviations from the mean, of the rows that train: 90 % of a
    fixed permutation.

    Returns:
        the data set.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> data = lo.datasets.concrete()  # doctest: +SKIP
        >>> data.x.shape, data.x_query.shape  # doctest: +SKIP
        ((927, 8), (103, 8))

    Source: Yeh (1998).
    """
    return _dataset("concrete", _parse_concrete)


def _parse_concrete():
    table = np.loadtxt(find(_CONCRETE, "concrete.data"))
    return _split(table[:, :-1], table[:, -1]) | {"features": np.array(_MIX)}


def parkinsons() -> Dataset:
    """Total UPDRS of patients with Parkinson's, from their voice: 5,287 + 588 recordings.

    19 inputs: age, sex, days since the trial began, and 16 measures of a recording; they and the
    score in standard deviations from the mean, of the rows that train. 90 % of the recordings
    train, of every one of the 42 patients, whom `labels` names; the motor score is left out.

    Returns:
        the data set; `labels` names the patient.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> data = lo.datasets.parkinsons()  # doctest: +SKIP
        >>> data.x.shape, sorted(data.labels)  # doctest: +SKIP
        ((5287, 19), ['patient'])

    Source: Tsanas et al. (2009).
    """
    return _dataset("parkinsons", _parse_parkinsons)


def _parse_parkinsons():
    path = find(_PARKINSONS, "parkinsons_updrs.data")
    names = path.read_text().splitlines()[0].split(",")
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    inputs = [i for i, name in enumerate(names) if name != "subject#" and "UPDRS" not in name]
    found = _split(table[:, inputs], table[:, names.index("total_UPDRS")], patient=table[:, 0])
    return found | {"features": np.array([names[i] for i in inputs])}


def _split(x: np.ndarray, y: np.ndarray, **labels: np.ndarray) -> dict[str, np.ndarray]:
    """90 % of a fixed permutation train, the others are queries; all in units of those that do."""
    order = np.random.default_rng(0).permutation(len(y))
    train, query = np.split(order, [int(0.9 * len(y))])
    inputs, targets = (standardised(each[train], each[query]) for each in (x, y[:, None]))
    kept = {f"labels_{name}": column[train].astype(int) for name, column in labels.items()}
    asked = {f"query_labels_{name}": column[query].astype(int) for name, column in labels.items()}
    found = {
        "x": inputs[0],
        "y": targets[0][:, 0],
        "x_query": inputs[1],
        "y_query": targets[1][:, 0],
    }
    return found | kept | asked


# ---- Fashion-MNIST -------------------------------------------------------------------------------

_KEPT, _WRONG = 6_144, 0.3


def fashion() -> Dataset:
    """Fashion-MNIST: 6,144 of its training images, drawn at random, and 10,000 queries; 10 classes.

    784 pixels in [0, 1].

    Returns:
        the data set.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> data = lo.datasets.fashion()  # doctest: +SKIP
        >>> data.x.shape, data.outputs  # doctest: +SKIP
        ((6144, 784), 10)

    Source: Xiao, Rasul and Vollgraf (2017).
    """
    return _dataset("fashion", _parse_fashion, 255.0)


def fashion_noisy() -> Dataset:
    """The images of `fashion`, 30 % of whose labels are drawn anew, all classes alike.

    `labels` says which were drawn: a tenth of those have their own label all the same.

    Returns:
        the data set; `labels` says whose label was drawn.

    Raises:
        FileNotFoundError: if the raw files are neither here nor to be had.

    Example:
        >>> data = lo.datasets.fashion_noisy()  # doctest: +SKIP
        >>> data.labels["drawn"].mean().round(2)  # doctest: +SKIP
        np.float64(0.3)

    Source: Xiao, Rasul and Vollgraf (2017); the noise as in Bae et al. (2024).
    """
    return _dataset("fashion_noisy", _parse_noisy, 255.0)


def _parse_fashion():
    rows = np.random.default_rng(0).choice(60_000, _KEPT, replace=False)
    return {
        "x": idx(_FASHION, "train-images-idx3-ubyte.gz", 2051)[rows],
        "y": idx(_FASHION, "train-labels-idx1-ubyte.gz", 2049)[rows, 0],
        "x_query": idx(_FASHION, "t10k-images-idx3-ubyte.gz", 2051),
        "y_query": idx(_FASHION, "t10k-labels-idx1-ubyte.gz", 2049)[:, 0],
        "features": np.array([f"pixel {i // 28}, {i % 28}" for i in range(784)]),
    }


def _parse_noisy():
    clean, rng = _parse_fashion(), np.random.default_rng(1)
    drawn = rng.permutation(_KEPT) < round(_WRONG * _KEPT)
    y = np.where(drawn, rng.integers(10, size=_KEPT), clean["y"]).astype(np.uint8)
    return clean | {"y": y, "labels_drawn": drawn.astype(int)}

"""Clusterings of points as the paper's families take them: single linkage, and k-means."""

from typing import Any

import numpy as np

from leaveout.groups.linkage import single_linkage
from leaveout.runtime.extras import needed

__all__ = ["clusterings"]


def clusterings(points: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Labels (n) of single linkage cut by inconsistency, and of k-means for k = 4, 8, ..., 128."""
    return [_single_linkage(points), *_k_means(points, rng)]


def _single_linkage(points) -> np.ndarray:
    """SciPy's fclusterdata(points, 1), in O(n) memory."""
    from scipy.cluster.hierarchy import fcluster

    return fcluster(single_linkage(points), 1, "inconsistent", depth=2)


def _k_means(points, rng) -> list[np.ndarray]:
    with needed("k-means"):
        from sklearn.cluster import KMeans

    settings: dict[str, Any] = {"n_init": 10}  # as in the paper; scikit-learn's stub wants text
    labels = []
    for k in (4, 8, 16, 32, 64, 128):
        seed = int(rng.integers(2**31))
        if k < len(points):
            labels.append(KMeans(k, **settings, random_state=seed).fit_predict(points))
    return labels

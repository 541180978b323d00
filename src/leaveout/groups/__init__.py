"""Groups of training points, and the shelf of families that make them."""

from leaveout.groups.container import Groups
from leaveout.groups.families import (
    feature_clusters,
    folds,
    gradient_clusters,
    lookalikes,
    of_data,
    random,
    same_class,
    seven,
    shared_feature,
    shuffles,
    singles,
    sizes,
    tails,
)

__all__ = [
    "Groups",
    "feature_clusters",
    "folds",
    "gradient_clusters",
    "lookalikes",
    "of_data",
    "random",
    "same_class",
    "seven",
    "shared_feature",
    "shuffles",
    "singles",
    "sizes",
    "tails",
]

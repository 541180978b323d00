"""Groups of training points, and the shelf of families that make them."""

from leaveout.groups.checks import by_group
from leaveout.groups.container import Groups
from leaveout.groups.counted import folds, lookalikes, singles
from leaveout.groups.dealing import dealt_sums, shuffles
from leaveout.groups.families import (
    feature_clusters,
    gradient_clusters,
    of_data,
    random,
    same_class,
    seven,
    shared_feature,
    sizes,
    tails,
)
from leaveout.groups.lattice import Cells, Lattice, conjunctions

__all__ = [
    "Cells",
    "Groups",
    "Lattice",
    "by_group",
    "conjunctions",
    "dealt_sums",
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

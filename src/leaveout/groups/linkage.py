"""Single linkage for tens of thousands of points: a minimum spanning tree by matrix products.

Borůvka's rounds: every component is joined to the nearest point outside it. A point's nearest
outsider stays its nearest until it comes inside, and until then its distance bounds the next one
from below, so that after the first round (n^2 d multiplications) few points are looked at again.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

__all__ = ["single_linkage"]

_ROWS = 512  # points whose distances to all others are formed at once


def single_linkage(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n-1 4"]:
    """The linkage matrix of single linkage in Euclidean distance, as SciPy's `linkage` lays it out.

    Args:
        points: (n d), at least two.

    Returns:
        per merge: the two clusters, their distance, the size of the new one. Among equal distances
        the order is arbitrary.
    """
    begin, end, length = _spanning_tree(points)
    order = np.argsort(length, kind="stable")
    return _merges(begin[order], end[order], length[order])


def _spanning_tree(points):
    """Edges (begin, end, length) of a minimum spanning tree."""
    count = len(points)
    centred = jnp.asarray(points - points.mean(axis=0), jnp.result_type(float))
    squares = jnp.sum(centred**2, axis=1)
    component = np.arange(count)
    nearest, distance = np.zeros(count, int), np.zeros(count)
    begin: list[int] = []
    end: list[int] = []
    stale = np.ones(count, bool)
    while len(begin) < count - 1:
        best = np.full(count, np.inf)
        np.minimum.at(best, component[~stale], distance[~stale])
        look = np.flatnonzero(stale & (distance <= best[component]))
        for at in range(0, look.size, _ROWS):
            rows = look[at : at + _ROWS]
            padded = np.resize(rows, _ROWS)  # one shape, so that one program is compiled
            who, far = _outsiders(centred, squares, jnp.asarray(component), padded)
            nearest[rows], distance[rows] = np.asarray(who)[: rows.size], far[: rows.size]
        stale[look] = False
        fresh = np.flatnonzero(~stale)
        ranked = fresh[np.lexsort((distance[fresh], component[fresh]))]
        first = ranked[np.unique(component[ranked], return_index=True)[1]]
        parent = np.arange(count)  # of components
        for point in first[np.argsort(distance[first], kind="stable")].tolist():
            one = _top(parent, component[point])
            other = _top(parent, component[nearest[point]])
            if one != other:  # two components may have chosen the same edge
                begin.append(point)
                end.append(int(nearest[point]))
                parent[max(one, other)] = min(one, other)
        while (parent != parent[parent]).any():
            parent = parent[parent]
        component = parent[component]
        stale |= component[nearest] == component
    begin_, end_ = np.array(begin), np.array(end)
    length = np.linalg.norm(points[begin_] - points[end_], axis=1)
    return begin_, end_, length


@eqx.filter_jit
def _outsiders(points, squares, component, rows):
    """For some points, the nearest point of another component and the distance to it."""
    here = points[rows]
    apart = squares[rows][:, None] + squares[None] - 2 * here @ points.T
    apart = jnp.where(component[rows][:, None] == component[None], jnp.inf, apart)
    return jnp.argmin(apart, axis=1), jnp.sqrt(jnp.maximum(jnp.min(apart, axis=1), 0.0))


def _top(parent, node):
    """The root above a node; the way to it is shortened."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _merges(begin, end, length):
    """Edges in order of length to SciPy's rows of merges."""
    count = len(begin) + 1
    parent, size = np.arange(2 * count - 1), np.ones(2 * count - 1)
    merges = np.empty((count - 1, 4))

    for i, (a, b) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        one, other = sorted((_top(parent, a), _top(parent, b)))
        new = count + i
        parent[one] = parent[other] = new
        size[new] = size[one] + size[other]
        merges[i] = one, other, length[i], size[new]
    return merges

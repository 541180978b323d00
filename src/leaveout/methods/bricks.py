"""A metric of what is left, where groups leave little: sums of Hessians that are formed once.

In the coordinates of all the data the Hessian of what stays is I - S. Where a group takes nearly
all of the curvature along some directions and little along others (a whole one-hot column, all but
a few examples) that is far from round. The examples that the groups tell apart, those that leave
with the same of them, are an atom; a brick is an atom's Hessian at theta_hat. I - S is then a sum
of bricks, and its factor costs p^3 a group, which can be less than the evaluations it saves.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from leaveout.fitting.fitted import Fit, expansion_of
from leaveout.groups import Groups
from leaveout.methods.coordinates import Coordinates, Plain
from leaveout.objectives.expansion import LinearExpansion
from leaveout.runtime.memory import rung
from leaveout.runtime.sharding import devices, is_traced, to_host
from leaveout.solvers import factorise

__all__ = ["Atoms", "Bricks", "atoms_of", "bricks_of"]

_PIECE = 256  # examples of an atom that are looked at together
_ATOMS = 256  # that are looked at; families of more are no coalitions
_ROUND = 12  # evaluations of a lane in its own metric
_ALONE = 48  # after which one in the metric of all goes alone, as a rule
_WAITING = 1e8  # multiplications that could be done while it is waited for
_COMPILED = 1e10  # that could be done while what a metric of each group's own needs is compiled
_INVERSE = 4  # p^3 that a factor and its inverse take the time of
_READ = 32  # p^2 that two products with it do, which come from memory


@dataclasses.dataclass(frozen=True, eq=False)
class Atoms:
    """Examples that leave with the same groups.

    Attributes:
        owner: (n) the atom of each example.
        w: (g a) how much of each atom leaves with each group.
    """

    owner: Int[np.ndarray, "n"]
    w: Float[np.ndarray, "g a"]


def atoms_of(groups: Groups, n: int) -> Atoms | None:
    """The atoms of some groups, None where there are too many to be of use, or points are added."""
    if (groups.w < 0).any():
        return None
    # points of the same groups add the same random numbers in the same order: equal to the bit
    marks = np.random.default_rng(0).random(len(groups))
    key = np.bincount(groups.indices, marks[groups.lanes] * groups.w, n)
    _, first, owner = np.unique(key, return_index=True, return_inverse=True)
    if first.size > _ATOMS:
        return None
    stands_for = np.full(n, -1)
    stands_for[first] = np.arange(first.size)
    atom = stands_for[groups.indices]
    w, there = np.zeros((len(groups), first.size)), atom >= 0
    w[groups.lanes[there], atom[there]] = groups.w[there]
    return Atoms(owner.reshape(-1), w)


class Bricks(eqx.Module):
    """What groups take of the Hessian, in coordinates that make it the identity.

    Attributes:
        each: (a p p) the Hessian of every atom.
        w: (g a) how much of it leaves with each group.
    """

    each: Float[Array, "a p p"]
    w: Float[np.ndarray, "g a"]

    def turns(self, rows: np.ndarray) -> Float[Array, "b p p"]:
        """For some groups, C with C' (I - S) C = I; the identity where that is not definite."""
        return _turns(self.each, self.w[rows])


@eqx.filter_jit
def _turns(each, w):
    count, p = len(each), each.shape[1]
    eye = jnp.eye(p, dtype=each.dtype)
    matrices = eye[None] - (w @ each.reshape(count, p * p)).reshape(-1, p, p)

    def one(matrix):
        factor, definite = factorise(matrix)
        return jnp.where(definite, factor.lower, eye)

    lower = jax.vmap(one)(matrices)
    turn = jax.scipy.linalg.solve_triangular(lower, jnp.broadcast_to(eye, lower.shape), lower=True)
    return turn.mT


def bricks_of(problem: Coordinates, groups: Groups) -> tuple[Bricks, np.ndarray] | None:
    """The bricks of groups, and which (r) of these are better off in a metric of their own.

    None where there are none, or what they save is not worth what they cost.
    """
    fit = problem.fit
    if not _serves(problem) or not _may_pay(fit, len(groups)):
        return None
    atoms, expansion = atoms_of(groups, fit.objective.n), expansion_of(fit)
    if atoms is None or not isinstance(expansion, LinearExpansion):
        return None
    rows = _chosen(fit, expansion, atoms)
    if not rows.size:
        return None
    each = _formed(problem, atoms)
    w = np.pad(atoms.w[rows], ((0, 0), (0, len(each) - atoms.w.shape[1])))
    return Bricks(each, w), rows


def _serves(problem: Coordinates) -> bool:
    """Whether these are coordinates of one Hessian for all groups, on one device."""
    fit = problem.fit
    if is_traced(fit) or devices() > 1 or fit.metric is None or fit.flat.dtype != jnp.float64:
        return False
    return not (isinstance(problem, Plain) and problem.eigenvalues is not None)


def _may_pay(fit: Fit, groups: int) -> bool:
    """Whether so many could save what `_chosen` asks, whatever they leave."""
    n, p = fit.objective.n, fit.objective.p
    most = 4 * n * p * (_ALONE - _ROUND) + _WAITING - (_ROUND * _READ + 2) * p**2 - _INVERSE * p**3
    return groups * most > 2 * n * p**2 + _COMPILED


def _chosen(fit: Fit, expansion: LinearExpansion, atoms: Atoms) -> np.ndarray:
    """(r) the groups whose own metric saves more than it costs, in multiplications.

    A group that goes alone in the end costs waiting besides; what is compiled for a metric of each
    group's own must be worth it too.
    """
    n, p, count = fit.objective.n, fit.objective.p, atoms.w.shape[1]
    evaluation, factor = 4 * n * p, 2 * count * p**2 + _INVERSE * p**3
    there = _evaluations(_shares_left(fit, expansion, atoms))
    spent = evaluation * there + np.where(there >= _ALONE, _WAITING, 0.0)
    saved = spent - _ROUND * (evaluation + _READ * p**2) - factor
    own = np.flatnonzero(saved > 0)
    return own if saved[own].sum() > 2 * n * p**2 + _COMPILED else own[:0]


def _evaluations(left: Float[np.ndarray, "g"]) -> Float[np.ndarray, "g"]:
    """About how many a group takes in the metric of all the data, which leaves this share of it."""
    return np.minimum(_ROUND * (1 + np.log2(1 / np.maximum(left, 1e-12))), _ALONE)


def _shares_left(fit: Fit, expansion: LinearExpansion, atoms: Atoms) -> Float[np.ndarray, "g"]:
    """The least share of a parameter's own curvature, penalty included, that each group leaves."""
    design = np.asarray(to_host(expansion.design))
    curvature = np.asarray(to_host(expansion.curvature)).diagonal(axis1=1, axis2=2)
    order = np.argsort(atoms.owner, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(atoms.owner))[:-1])
    own = np.stack([(curvature[rows].T @ design[rows] ** 2).reshape(-1) for rows in parts])
    penalty = np.asarray(to_host(fit.objective.penalty))[np.argsort(expansion.layout.order())]
    whole = own.sum(axis=0) + penalty
    share = 1 - (atoms.w @ own) / np.where(whole > 0, whole, 1.0)
    return share.min(axis=1)


def _formed(problem: Coordinates, atoms: Atoms) -> Float[Array, "a p p"]:
    """The Hessian of every atom in the problem's coordinates."""
    count = atoms.w.shape[1]
    order = np.argsort(atoms.owner, kind="stable")
    sizes = np.bincount(atoms.owner, minlength=rung(count, 16))
    starts = np.cumsum(sizes) - sizes
    return _summed(problem, np.pad(order, (0, _PIECE)), starts, sizes)


@eqx.filter_jit
def _summed(problem: Coordinates, order, starts, sizes):
    fit = problem.fit
    expansion, p = fit.expansion(), fit.objective.p
    factor = fit.metric
    assert factor is not None  # see `_serves`

    def brick(atom):
        start, size = atom

        def add(piece, total):
            at = piece * _PIECE
            rows = jax.lax.dynamic_slice_in_dim(order, start + at, _PIECE)
            some = expansion.restrict(rows)
            v = jnp.where(at + jnp.arange(_PIECE) < size, some.weights, 0.0)
            return total + some.hessian(v)

        pieces = (size + _PIECE - 1) // _PIECE
        matrix = jax.lax.fori_loop(0, pieces, add, jnp.zeros((p, p), fit.flat.dtype))
        return factor.whiten(factor.whiten(matrix).T)

    return jax.lax.map(brick, (starts, sizes))

"""Groups that hold nearly all the curvature of a direction which hardly any penalty holds.

The gradient of such a direction dies out long before theta has arrived: no residual tells.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import fuzz
from scipy.special import expit

import leaveout as lo
from leaveout.fitting.fitted import with_rows
from leaveout.methods.coordinates import Whitened, around
from leaveout.methods.hold import grip_of, least_kept
from leaveout.solvers import full_matrix
from problems import mostly_slow

RNG = np.random.default_rng(7)
N = 90
Z = RNG.normal(size=(N, 2))
LABELS = np.arange(N) % 5
MINE = (LABELS == 2) * 1.0
STAYS = 1 - MINE
SCORES = Z[:, 0] + RNG.normal(size=N) + 2 * MINE
TARGETS = {
    "squares": SCORES,
    "logistic": (SCORES > 0) * 1.0,
    "poisson": RNG.poisson(np.exp(0.3 * Z[:, 0] + 0.5 * MINE)) * 1.0,
}
SLOPES = {"squares": lambda m: m, "logistic": expit, "poisson": np.exp}
BENDS = {"squares": np.ones_like, "logistic": lambda m: expit(m) * expit(-m), "poisson": np.exp}
SPREAD = MINE * (1 + 0.3 * RNG.random(N))
SHARED = RNG.normal(size=N)
TURN = np.linalg.qr(RNG.normal(size=(32, 32)))[0]
WIDE = np.c_[RNG.normal(size=(N, 30)), MINE * 1e4 * RNG.normal(size=N), Z[:, :1]] @ TURN
CASES = {
    "dollars": (np.c_[Z, SPREAD * 1e4], 1.0),
    "a dummy": (np.c_[Z, MINE], 1e-8),
    "one coefficient": (np.c_[Z, MINE], [1, 1, 1e-9]),
    "two columns": (np.c_[Z, SHARED, SHARED + MINE * RNG.normal(size=N) / 2], 1e-8),
    "three columns": (np.c_[Z, MINE[:, None] * RNG.normal(size=(N, 3)) * [1e1, 1e3, 1e4]], 1.0),
    "turned": (WIDE, 1.0),
}


def minimum(loss: str, x, penalty, weights):
    """By damped Newton steps in NumPy, columns scaled to a length of 1."""
    scale = np.linalg.norm(x, axis=0)
    x, penalty, theta, y = x / scale, penalty / scale**2, np.zeros(x.shape[1]), TARGETS[loss]
    for _ in range(200):
        scores = x @ theta
        gradient = x.T @ (weights * (SLOPES[loss](scores) - y)) + penalty * theta
        hessian = (x.T * (weights * BENDS[loss](scores))) @ x + np.diag(penalty)
        own = np.sqrt(np.diag(hessian))  # of columns that nobody has left, the penalty's
        step = np.linalg.solve(hessian / np.outer(own, own), gradient / own) / own
        theta = theta - step * min(1.0, 3 / max(abs(x @ step).max(), 1e-300))
    return theta / scale


def truth(loss: str, x, l2):
    """What the scores of six examples change by without the group."""
    x = np.c_[x, np.ones(N)]
    penalty = np.r_[np.broadcast_to(l2, x.shape[1] - 1), 0.0]
    whole, without = (minimum(loss, x, penalty, v) for v in (np.ones(N), STAYS))
    return x[:6] @ (without - whole)


@pytest.mark.parametrize(
    "case",
    mostly_slow(
        itertools.product(TARGETS, CASES),
        ("squares", "dollars"), ("squares", "two columns"), ("logistic", "a dummy"),
        ("logistic", "turned"), ("poisson", "one coefficient"),
    ),
)  # fmt: skip
def test_a_group_that_holds_a_direction_alone_is_retrained_to_the_end(case):
    """Up to 100 % off before, and called converged."""
    loss, name = case
    x, l2 = CASES[name]
    fit = lo.fit(getattr(lo, loss)(x, TARGETS[loss], l2=np.asarray(l2, float)))
    group, right = lo.Groups.from_labels(LABELS)[[2]], truth(loss, x, l2)
    for tolerance in (1e-8, 1e-6):
        found = lo.retrain(fit, group, lo.Retrain(tolerance))
        assert found.status.tolist() == [0]
        moved = np.c_[x, np.ones(N)][:6] @ found.value[0]
        np.testing.assert_allclose(moved, right, atol=30 * tolerance * abs(right).max())


@pytest.mark.parametrize(
    "case",
    mostly_slow([(4, 3), (4, 14), (8, 9), (8, 21), (16, 3), (20, 1), (24, 9)], (4, 14), (8, 9)),
)
def test_by_every_route_and_of_several_classes(case):
    """The fuzzer's own columns: squares and Poisson were 1e-6 and 1 to 80 % off before."""
    found = fuzz.check(fuzz.draw(fuzz.CASES[case[0]], case[1], fuzz.OWN))
    assert found["compared"]
    assert not found["wrong"], found


def test_of_a_loss_of_ones_own():
    x, y = np.c_[Z, MINE, np.ones(N)], TARGETS["logistic"]

    def loss(theta, example):
        x, y = example
        return jnp.logaddexp(0.0, x @ theta) - y * (x @ theta)

    held = np.array([True, True, True, False])
    objective = lo.Objective(loss, (x, y), jnp.zeros(4), l2=1e-8, penalised=held)
    found = lo.retrain(lo.fit(objective), lo.Groups.from_labels(LABELS)[[2]])
    assert found.status.tolist() == [0]
    right = truth("logistic", x[:, :3], 1e-8)
    np.testing.assert_allclose(x[:6] @ found.value[0], right, atol=1e-7 * abs(right).max())


def test_under_a_penalty_of_each_groups_own():
    x, group = np.c_[Z, MINE], lo.Groups.from_labels(LABELS)[[2, 2]]
    fit = lo.fit(lo.squares(x, SCORES, l2=1.0))
    found = lo.retrain(fit, group, l2=np.array([1.0, 1e-9]))
    assert found.status.tolist() == [0, 0]
    design = np.c_[x, np.ones(N)]
    for change, l2 in zip(found.value, (1.0, 1e-9), strict=True):
        right = minimum("squares", design, np.array([l2, l2, l2, 0]), STAYS) - fit.flat
        np.testing.assert_allclose(change, right, atol=1e-7 * float(abs(right).max()))


def coordinates(loss: str, x, l2: float) -> Whitened:
    fit = lo.fit(getattr(lo, loss)(x, TARGETS[loss], l2=l2))
    found = around(with_rows(fit, 2**30), False)
    assert isinstance(found, Whitened)
    return found


def whole(problem: Whitened, v) -> np.ndarray:
    """The Hessian of what stays at theta_hat, in coordinates of all the data's."""
    fit, lower = problem.fit, problem.factor.lower
    inner = np.linalg.solve(lower, full_matrix(fit.objective.at(fit.flat), v))
    return np.linalg.solve(lower, inner.T)


@pytest.mark.parametrize("l2", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("loss", TARGETS)
def test_what_is_kept_at_least_is_no_more_than_what_is_kept(loss, l2):
    """Of random groups and coherent ones: against every eigenvalue."""
    x = np.c_[RNG.normal(size=(N, 20)) * 10.0 ** np.arange(-10, 10)[None], MINE]
    problem = coordinates(loss, x, l2)
    random = (RNG.random((6, N)) > 0.2) * 1.0
    v = jnp.asarray(np.r_[random, [STAYS], 1 - np.eye(N)[:2]])
    least = np.array([np.linalg.eigvalsh(whole(problem, lane))[0] for lane in v])
    at = jnp.zeros((len(v), problem.fit.flat.size))
    bend = problem.curvature(at, problem.lay(v), None)
    assert problem.grip is not None
    assert (np.asarray(bend.kept) <= least + 1e-12).all()
    assert bend.steady.all()  # no score has moved
    found = least_kept(problem.taken(at, problem.lay(v), None), at + 1, jnp.ones(len(v), bool))
    firm = np.asarray(found) > 0.5
    assert (least[firm] > 1e-3).all()
    np.testing.assert_array_less(found[~firm], 1.5 * least[~firm] + 1e-12)


def test_a_penalty_that_holds_says_so():
    """Where l2 makes up a share of all directions but a few, no product with the data is needed."""
    x = RNG.normal(size=(N, 20))
    grip = coordinates("squares", x, 1.0).grip
    assert grip is not None
    assert 1e-4 < float(grip.usual) < 1e-2
    assert grip_of(np.linalg.cholesky(np.cov(x.T)), np.zeros(20), tuple(range(20))) is None

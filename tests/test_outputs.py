"""Many outputs: blocks of the outputs in the place of a dense Hessian give the same numbers."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from leaveout.fitting import optimum
from leaveout.fitting.fitted import expansion_of
from leaveout.methods.newton_batches import plan_of
from leaveout.objectives.linear import LinearObjective
from leaveout.objectives.scored import ScoredExpansion, scored, stored
from leaveout.runtime import batches
from leaveout.solvers import factorise_outputs, full_matrix

K, D, N = 5, 3, 150


def drawn(l2: Any, **options: Any) -> LinearObjective:
    rng = np.random.default_rng(3)
    y = np.r_[np.arange(K), rng.integers(0, K, N - K)]
    x = rng.normal(size=(K, D))[y] + rng.normal(size=(N, D))
    return lo.softmax(x, y, l2=l2, weights=np.linspace(0.5, 1.5, N), **options)


@pytest.fixture(scope="module")
def wide():
    """A softmax regression with a penalty for each coefficient, fitted as if p were too large."""
    objective = drawn(np.exp(np.random.default_rng(0).normal(size=(K, D))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimum, "DENSE", 0)
        return lo.fit(objective)


@pytest.fixture(scope="module")
def dense(wide):
    return lo.fit(wide.objective)


@pytest.fixture(scope="module")
def groups():
    return lo.Groups.from_labels(np.arange(N) // 30)


def test_the_optimum_is_the_one_of_dense_newton_steps(wide, dense):
    assert wide.metric is None
    assert wide.blocks is not None
    assert dense.blocks is None
    # both end at rounding of the gradient, 1e-11 sandwich lengths, times the inverse Hessian
    np.testing.assert_allclose(wide.flat, dense.flat, atol=1e-9)
    assert int(wide.steps) < 60  # without blocks: hundreds


@pytest.mark.parametrize("verb", [pytest.param(lo.influence, marks=pytest.mark.slow), lo.newton])
def test_steps_by_blocks_are_those_of_the_dense_factor(verb, wide, dense, groups):
    ours, theirs = verb(wide, groups), verb(dense, groups)
    assert not np.any(ours.status)
    scale = np.abs(theirs.value).max()
    np.testing.assert_allclose(ours.value, theirs.value, atol=1e-7 * scale)  # CG to 1e-8
    assert np.max(ours.steps) <= 25


class Watched(lo.solvers.CG):
    """Conjugate gradients that keep a record of how many right-hand sides they are given."""

    seen: ClassVar[list[int]] = []

    def full(self, expansion, factor, b):
        self.seen.append(len(b))
        return super().full(expansion, factor, b)


def test_few_groups_run_in_as_few_lanes_as_keep_a_product_broad(wide, dense, groups, monkeypatch):
    monkeypatch.setattr(batches, "BROAD", 2 * K)
    Watched.seen.clear()
    found, three = lo.influence(wide, groups[:3], Watched()), lo.influence(dense, groups[:3])
    assert set(Watched.seen) == {2}
    scale = np.abs(three.value).max()
    np.testing.assert_allclose(found.value, three.value, atol=1e-7 * scale)
    plan = plan_of(wide, expansion_of(wide), groups[:3], lo.solvers.CG(), 1)
    assert {batch.lanes for batch in plan} == {2}


def test_retraining_by_blocks_is_a_fit_without_the_group(wide, dense, groups):
    change = lo.retrain(wide, groups)
    assert not np.any(change.status)
    assert np.max(change.steps) <= 40
    for rows, value in zip(groups.dense()[:2], change.value, strict=False):
        weights = wide.objective.weights * (1 - rows)
        there = lo.fit(dataclasses.replace(wide.objective, weights=weights))
        np.testing.assert_allclose(value, there.flat - dense.flat, atol=1e-7)  # asked: 1e-8


@pytest.mark.slow
def test_blocks_of_outputs_that_do_not_meet_are_the_hessian():
    rng = np.random.default_rng(1)
    objective = lo.squares(rng.normal(size=(400, 3)), rng.normal(size=(400, 4)), l2=2.0)
    theta, b = objective.initial(), jnp.asarray(rng.normal(size=(2, objective.p)))
    factor = factorise_outputs(objective, theta)
    assert factor is not None
    exact = np.linalg.solve(np.asarray(full_matrix(objective.at(theta))), np.asarray(b).T).T
    np.testing.assert_allclose(factor.solve(b), exact, rtol=1e-9)
    np.testing.assert_allclose(factor.unwhiten(factor.push(b)), b, rtol=1e-9)


@pytest.mark.slow
def test_along_common_shifts_blocks_are_exact(wide):
    objective = wide.objective
    factor = factorise_outputs(objective, wide.flat)  # that of the fit is a step older
    assert factor is not None
    matrix = full_matrix(objective.at(wide.flat))
    shifts = jax.vmap(objective.layout.flat)(
        jnp.repeat(jnp.eye(D + 1)[:, None], K, axis=1)
    )  # of every column
    np.testing.assert_allclose(factor.solve(shifts @ matrix), shifts, atol=1e-9)
    # and coordinates leave them out: whatever u, the penalty does not feel a shift of theirs
    change = factor.unwhiten(jnp.ones((1, objective.p)))
    np.testing.assert_allclose(change @ (matrix @ shifts.T), 0.0, atol=1e-9)


def test_the_spectrum_in_the_metric_of_blocks_is_narrow(wide):
    matrix = full_matrix(wide.objective.at(wide.flat))
    values = np.linalg.eigvals(np.asarray(wide.blocks.solve(matrix))).real
    assert values.min() > 0.1
    assert values.max() < 5.0


def test_methods_expand_losses_by_scores_where_there_are_blocks(wide, dense):
    assert isinstance(expansion_of(wide), ScoredExpansion)
    assert not isinstance(expansion_of(dense), ScoredExpansion)


@pytest.mark.slow
def test_an_expansion_by_scores_is_the_one_that_is_stored(wide):
    objective = wide.objective
    ours = scored(objective, wide.flat)
    assert ours is not None
    theirs = objective.at(wide.flat)
    rng = np.random.default_rng(2)
    v, x = jnp.asarray(rng.random((3, N))), jnp.asarray(rng.normal(size=(3, objective.p)))
    np.testing.assert_allclose(ours.hvps(v, x), theirs.hvps(v, x), atol=1e-10)
    np.testing.assert_allclose(ours.gradients(v), theirs.gradients(v), atol=1e-10)
    np.testing.assert_allclose(ours.dots(x), theirs.dots(x), atol=1e-10)
    np.testing.assert_allclose(np.asarray(ours.pinned(x)), np.asarray(theirs.pinned(x)), atol=1e-10)
    assert eqx.tree_equal(stored(ours), theirs, rtol=1e-9, atol=1e-12)
    numbers = max(leaf.size for leaf in jax.tree.leaves(ours))
    assert numbers == N * K  # and not n K^2


def test_sums_in_blocks_of_examples_are_those_of_all(wide, monkeypatch):
    monkeypatch.setattr("leaveout.objectives.scored._TOGETHER", 0)  # 32 at a time
    ours, theirs = scored(wide.objective, wide.flat), wide.objective.at(wide.flat)
    assert ours is not None
    v, x = jnp.ones((2, N)), jnp.eye(2, wide.objective.p)
    np.testing.assert_allclose(ours.hvps(v, x), theirs.hvps(v, x), atol=1e-10)


@pytest.mark.parametrize("name", ["softmax", "squares"])
def test_the_diagonal_of_a_loss_is_that_of_its_hessian(name):
    loss, scores = getattr(lo.losses, name), jnp.array([0.3, -1.0, 2.0])
    y = jnp.asarray(1) if name == "softmax" else jnp.ones(3)
    hessian = jax.hessian(lambda s: loss(s, y))(scores)
    np.testing.assert_allclose(loss.diagonal(scores, y), jnp.diagonal(hessian), atol=1e-12)


def test_a_column_that_some_classes_are_penalised_on_needs_no_gauge():
    l2 = np.ones((K, D))
    l2[0, 1] = 0.0  # a common shift of this column is held by the other classes
    objective = drawn(l2, intercept=False)
    expansion, alone = objective.at(objective.initial()), jnp.arange(N) < 20
    gradient = np.asarray(expansion.gradient(1.0 * alone))
    exact = np.linalg.solve(np.asarray(objective.hessian(objective.initial())), gradient)
    found = np.linalg.solve(np.asarray(full_matrix(expansion)), gradient)
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-12)


def test_a_common_shift_is_pinned_by_those_who_have_a_weight():
    """At equal chances each class has the curvature (1 - 1/K) / K; one example's is no number."""
    weights = jnp.linspace(0.5, 1.5, N).at[7].set(0.0)
    objective = dataclasses.replace(drawn(1.0), weights=weights)
    ours = scored(objective, objective.initial())
    assert ours is not None
    for bad in (0.2, jnp.nan, jnp.inf):
        some = eqx.tree_at(lambda e: e.own, ours, ours.own.at[7].set(bad))
        expected = [0.0] * D + [float(weights.sum()) * (1 - 1 / K) / K]  # the intercept alone
        np.testing.assert_allclose(np.asarray(some.pins()), expected, rtol=1e-12)


@pytest.mark.slow  # a pool of its own for either fit, and hundreds of evaluations
@pytest.mark.parametrize("verb", [lo.newton, lo.retrain])
def test_a_group_that_holds_a_whole_class_ends_as_it_does_densely(verb, wide, dense):
    whole = np.flatnonzero(np.asarray(wide.objective.y) == 2)
    groups = lo.Groups.from_indices([whole], n=N)
    assert int(verb(wide, groups).status[0]) == int(verb(dense, groups).status[0])


@pytest.mark.slow
def test_classes_that_can_be_separated_have_no_optimum(monkeypatch):
    monkeypatch.setattr(optimum, "DENSE", 0)
    y = np.arange(60) % 3
    objective = lo.softmax(np.eye(3)[y] + 0.01 * np.arange(60)[:, None], y, l2=0.0)
    assert lo.fit(objective, throw=False).status != lo.Status.converged

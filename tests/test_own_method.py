"""A user's own method: a dozen lines that go wherever those of the shelf go."""

import collections
import dataclasses
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from leaveout.fitting import gates
from leaveout.runtime.solution import Solution
from problems import groups_of, linear, measures_of, mostly_slow, problem, wrong

N, P, L2 = 40, 4, 0.5
LENGTH = 0.02


@jax.jit
def gradients(objective, theta, v):
    """The gradient of J(.; v), for every row of v."""
    return jax.vmap(lambda v: objective.gradient(theta, v))(v)


@dataclasses.dataclass(frozen=True)
class GradientStep(lo.Method):
    """One step of gradient descent on what stays."""

    length: float = LENGTH

    @property
    def name(self) -> str:
        return f"a gradient step of {self.length}"

    def prepare(self, fit, measures):
        def change(groups):
            stays = fit.objective.stays(groups.dense())
            return -self.length * gradients(fit.objective, fit.flat, stays)

        return lo.Prepared(change)


@dataclasses.dataclass(frozen=True)
class Ready(lo.Method):
    """A method whose answers are made by hand."""

    answers: Callable[[lo.Fit, Sequence], lo.Prepared]
    linear: bool = False

    @property
    def name(self) -> str:
        return "by hand"

    @property
    def first_order(self) -> bool:
        return self.linear

    def prepare(self, fit, measures):
        return self.answers(fit, measures)


@pytest.fixture(scope="module")
def fit():
    return lo.fit(problem("logistic", n=N, l2=L2, intercept=False))


@pytest.fixture(scope="module")
def groups():
    return groups_of(N, 5)


@pytest.fixture(scope="module")
def measures(fit):
    """Predictions of two examples, the own loss, and a function."""
    predict = measures_of(fit.objective, 2)[0]
    return [predict, lo.measures.self_loss(), lambda theta: jnp.sum(theta.weight**2)]


COLUMNS, NAMES = 2 + 1 + 1, ["prediction", "self_loss"]


def data(fit):
    """Inputs, targets and base weights."""
    objective = linear(fit)
    return tuple(np.asarray(part) for part in (objective.x, objective.y, objective.weights))


def calculus(fit, theta, v):
    """The slope of each loss, and the gradient and the Hessian of J(.; v), of logistic regression.

    Here and below everything that is compared with is written down by hand.
    """
    x, y, _ = data(fit)
    p = 1 / (1 + np.exp(-x @ theta))
    hessian = (x.T * (v * p * (1 - p))) @ x + L2 * np.eye(P)
    return p - y, (v * (p - y)) @ x + L2 * theta, hessian


def stepped(fit, groups):
    """Theta (g p) after the step."""
    flat, s = np.asarray(fit.flat), data(fit)[2]
    stays = s * (1 - groups.dense())
    return np.stack([flat - LENGTH * calculus(fit, flat, v)[1] for v in stays])


def retrained(fit, w):
    """Theta without a group."""
    theta, v = np.asarray(fit.flat), data(fit)[2] * (1 - w)
    for _ in range(20):
        _, gradient, hessian = calculus(fit, theta, v)
        theta = theta - np.linalg.solve(hessian, gradient)
    assert np.abs(calculus(fit, theta, v)[1]).max() < 1e-10
    return theta


def by_hand(fit, theta, w):
    """The columns of `measures` at one theta."""
    x, y, s = data(fit)
    score = x @ theta
    losses = np.logaddexp(0, score) - y * score
    return np.r_[score[:2], np.sum(s * w * losses), np.sum(theta**2)]


@pytest.fixture(scope="module")
def expected(fit, groups):
    """Effects (g m) of the step."""
    flat = np.asarray(fit.flat)
    pairs = zip(stepped(fit, groups), groups.dense(), strict=True)
    return np.stack([by_hand(fit, new, w) - by_hand(fit, flat, w) for new, w in pairs])


@pytest.fixture(scope="module")
def actual(fit, groups):
    """Effects (g m) of retraining."""
    flat, rows = np.asarray(fit.flat), groups.dense()
    new = [retrained(fit, w) for w in rows]
    pairs = zip(new, rows, strict=True)
    return np.stack([by_hand(fit, theta, w) - by_hand(fit, flat, w) for theta, w in pairs])


# ---- everywhere ----------------------------------------------------------------------------------


def test_effects_are_streamed_and_certified(fit, groups, measures, expected, actual):
    done = []
    found = lo.effects(
        fit, groups, measures, GradientStep(), certify=True, memory=7_000, progress=done.append
    )
    assert len(done) > 2
    assert sum(done) == len(groups)
    np.testing.assert_allclose(found.value, expected, atol=1e-12)
    assert found.method == "a gradient step of 0.02"
    assert not found.status.any()
    assert not found.residual.any()
    assert found.lower is not None
    assert found.upper is not None
    assert (found.lower <= actual + 1e-9).all()
    assert (actual <= found.upper + 1e-9).all()
    assert np.isfinite(found.width[:, :3]).all()  # nothing is known of a function


def test_effects_are_narrowed_until_they_are_right(fit, groups, measures, actual):
    with pytest.warns(UserWarning, match="nothing can be proven of <lambda>"):
        found = lo.effects(fit, groups, measures, GradientStep(), tolerance=1e-3, memory=7_000)
    scale = np.sqrt(np.mean(actual**2, axis=0))
    assert found.lower is not None
    assert found.upper is not None
    assert (np.abs(found.value - actual) <= 2.5e-3 * scale).all()
    assert (found.lower <= actual + 1e-9).all()
    assert (actual <= found.upper + 1e-9).all()
    assert (found.width[:, :3] <= 1.1e-3 * scale[:3]).all()


def test_credit_takes_it_and_so_does_its_null_band(fit, groups):
    first, mine, measure = lo.Influence(), GradientStep(), lo.measures.parameter([0, 1])
    credit = lo.credit(fit, groups, measure, [first, mine], null=lo.Null(3, method=mine))
    moved = (stepped(fit, groups) - np.asarray(fit.flat))[:, :2]
    assert list(credit.effects) == [first.name, mine.name]
    np.testing.assert_allclose(credit.best.value, moved, atol=1e-12)
    assert credit.null is not None
    assert credit.null.method == mine.name
    np.testing.assert_allclose(credit.null.effect, moved, atol=1e-12)


def test_cross_validation_takes_it(fit, groups):
    held = lo.cross_validate_groups(fit, groups, GradientStep())
    assert held.method == GradientStep().name
    new = zip(stepped(fit, groups), groups.dense(), strict=True)
    np.testing.assert_allclose(held.loss, [by_hand(fit, theta, w)[2] for theta, w in new])


def test_its_change_in_theta_can_be_asked_for_alone(fit, groups):
    change = GradientStep().change(fit, groups)
    np.testing.assert_allclose(change.value + fit.flat[None], stepped(fit, groups), atol=1e-13)
    assert not change.status.any()
    tree = change.tree()
    np.testing.assert_allclose(tree.weight.reshape(len(groups), P), change.value)


def test_what_is_no_method_is_refused(fit, groups, as_users_run_it):
    for given in ("newton", GradientStep, lo.newton):
        for verb in (
            lambda given: lo.effects(fit, groups, lo.measures.self_loss(), wrong(given)),
            lambda given: lo.credit(fit, groups, lo.measures.self_loss(), wrong([given])),
            lambda given: lo.cross_validate_groups(fit, groups, wrong(given)),
        ):
            with pytest.raises(ValueError, match="expected a method such as"):
                verb(given)


# ---- what may be given ---------------------------------------------------------------------------


def never(groups):
    raise AssertionError("theta is not needed")


def rows_of(table):
    """Groups to their rows of a table, by the number that is their name."""
    return lambda groups: table[groups.names.astype(int)]


def told_by(change):
    """Groups to their part of a change, likewise."""

    def part(groups):
        at = groups.names.astype(int)
        rows = [getattr(change, name)[at] for name in ("value", "residual", "steps", "status")]
        return lo.Change(rows[0], rows[1], rows[2], rows[3], change.objective)

    return part


def changes(seed=0, count=5):
    return 0.1 * np.random.default_rng(seed).normal(size=(count, P))


def test_a_change_may_be_an_array_or_say_how_it_was_found(fit, groups, measures):
    value, flat = changes(), np.asarray(fit.flat)
    rows = groups.dense()
    expected = [
        by_hand(fit, flat + c, w) - by_hand(fit, flat, w) for c, w in zip(value, rows, strict=True)
    ]
    residual, steps, proofs = np.arange(5.0), np.arange(5, dtype=np.int32), []
    status = np.array([0, 0, lo.Status.stalled, 0, 0], np.int8)
    told = lo.Change(
        jnp.asarray(value),
        jnp.asarray(residual),
        jnp.asarray(steps),
        jnp.asarray(status),
        fit.objective,
    )
    for given in (rows_of(value), rows_of(jnp.asarray(value)), told_by(told)):
        method = Ready(lambda fit, measures, given=given: lo.Prepared(given))
        found = lo.effects(fit, groups, measures, method)
        np.testing.assert_allclose(found.value, expected, atol=1e-12)
        np.testing.assert_array_equal(method.change(fit, groups).value, value)
        proofs.append([found.residual.tolist(), found.steps.tolist(), found.status.tolist()])
    assert proofs[0] == proofs[1] == [[0] * 5] * 3
    assert proofs[2] == [residual.tolist(), steps.tolist(), status.tolist()]
    method = Ready(lambda fit, measures: lo.Prepared(told_by(told)))
    with pytest.raises(lo.SolveError, match=rf"group '{groups.names[2]}'.*stalled"):
        lo.effects(fit, groups, measures, method, throw=True)


def test_a_change_that_is_no_number_is_told(fit, groups, measures):
    value = changes()
    value[3] = np.nan
    method = Ready(lambda fit, measures: lo.Prepared(rows_of(jnp.asarray(value))))
    status = lo.effects(fit, groups, measures, method).status
    assert status.tolist() == [0, 0, 0, lo.Status.nonfinite, 0]


def test_effects_may_be_one_array_of_all_columns(fit, groups, measures):
    table = np.random.default_rng(1).normal(size=(5, COLUMNS))
    for given in (table, jnp.asarray(table)):
        method = Ready(lambda fit, measures, given=given: lo.Prepared(never, rows_of(given)))
        for memory in (None, 7_000):  # all at once, and chunk by chunk
            found = lo.effects(fit, groups, measures, method, memory=memory)
            np.testing.assert_array_equal(found.value, table)
            assert len(found.columns) == COLUMNS


def test_effects_may_be_given_for_some_measures(fit, groups, measures, expected):
    """An entry a measure; those of None are evaluated at the changed theta."""
    table = np.random.default_rng(2).normal(size=(5, 2))
    solved = Solution(
        jnp.asarray(table[:, :1]),
        jnp.full(5, 0.25),
        jnp.full(5, 7, jnp.int32),
        jnp.array([0, 0, 0, 0, lo.Status.max_steps], jnp.int8),
    )

    def answers(fit, measures):
        def effects(groups):
            at = groups.names.astype(int)
            return [None, jax.tree.map(lambda leaf: leaf[at], solved), table[at, 1:]]

        return lo.Prepared(GradientStep().prepare(fit, measures).change, effects)

    for memory in (None, 7_000):
        found = lo.effects(fit, groups, measures, Ready(answers), memory=memory)
        np.testing.assert_allclose(found.value[:, :2], expected[:, :2], atol=1e-12)
        np.testing.assert_array_equal(found.value[:, 2:], table)
        assert found.residual.tolist() == [0.25] * 5  # the worst of a group's
        assert found.steps.tolist() == [7] * 5
        assert found.status.tolist() == [0, 0, 0, 0, lo.Status.max_steps]


FRACTIONS = np.zeros((3, N))
FRACTIONS[0, [1, 4, 9]] = 1.0
FRACTIONS[1, [4, 30]] = 0.25, 0.5
FRACTIONS[2, [2, 3]] = -1.0, 0.75


def test_points_may_be_given_as_one_array_of_all_columns(fit, measures):
    """A group's effect is then the sum of w times those of its points."""
    groups = lo.Groups.from_weights(FRACTIONS)
    table = np.random.default_rng(3).normal(size=(N, COLUMNS))
    explicit = np.zeros((3, COLUMNS))
    for g, i in zip(*np.nonzero(FRACTIONS), strict=True):
        explicit[g] += FRACTIONS[g, i] * table[i]
    for given in (table, jnp.asarray(table)):
        method = Ready(lambda fit, measures, given=given: lo.Prepared(never, per_point=given))
        for memory in (None, 7_000):
            found = lo.effects(fit, groups, measures, method, memory=memory)
            np.testing.assert_allclose(found.value, explicit, rtol=1e-13)


def test_points_may_be_given_for_some_measures(fit, groups, measures, expected):
    """They go before effects, and those before theta."""
    table = np.random.default_rng(4).normal(size=(N, 2))
    status = np.array([0, lo.Status.max_steps], np.int8)
    told = lo.PerPoint(table, np.array([0.1, 0.5]), np.array([3, 2], np.int32), status)
    own = np.random.default_rng(5).normal(size=(5, 3))

    def answers(fit, measures):
        def effects(groups):
            at = groups.names.astype(int)
            return [own[at, :2], own[at, 2:], None]

        change = GradientStep().prepare(fit, measures).change
        return lo.Prepared(change, effects, [told, None, None])

    found = lo.effects(fit, groups, measures, Ready(answers))
    np.testing.assert_allclose(found.value[:, :2], groups.dense() @ table, rtol=1e-12)
    np.testing.assert_array_equal(found.value[:, 2:3], own[:, 2:])
    np.testing.assert_allclose(found.value[:, 3], expected[:, 3], atol=1e-12)
    assert found.residual.tolist() == [0.5] * 5
    assert found.steps.tolist() == [3] * 5
    assert found.status.tolist() == [lo.Status.max_steps] * 5


def test_a_method_of_the_influence_of_points_is_influence(fit, groups, measures):
    """On the own loss, which does not add up over points, by its change in theta."""

    def answers(fit, measures):
        each = [None if m.needs_w else lo.per_point(fit, m) for m in measures]
        return lo.Prepared(lambda groups: lo.influence(fit, groups), per_point=each)

    found = lo.effects(fit, groups, measures, Ready(answers, linear=True))
    first = lo.effects(fit, groups, measures, lo.Influence())
    np.testing.assert_allclose(found.value, first.value, atol=1e-13)


MISFITS = {
    "parameters": lo.Prepared(lambda groups: np.zeros((len(groups), P + 1))),
    "changes": lo.Prepared(lambda groups: np.zeros((len(groups) - 1, P))),
    "columns": lo.Prepared(never, lambda groups: np.zeros((len(groups), COLUMNS + 1))),
    "groups": lo.Prepared(never, lambda groups: np.zeros((len(groups) - 1, COLUMNS))),
    "columns of a measure": lo.Prepared(never, lambda groups: [np.zeros((len(groups), 3))] * 3),
    "measures": lo.Prepared(never, lambda groups: [None]),
    "columns of points": lo.Prepared(never, per_point=np.zeros((N, COLUMNS + 1))),
    "points": lo.Prepared(never, per_point=np.zeros((N - 1, COLUMNS))),
    "points of a measure": lo.Prepared(never, per_point=[np.zeros((N, 3))] * 3),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_answers_of_another_shape_are_refused(fit, groups, measures, misfit):
    with pytest.raises(ValueError, match="expected"):
        lo.effects(fit, groups, measures, Ready(lambda fit, measures: MISFITS[misfit]))


# ---- what is taken for granted -------------------------------------------------------------------


class Curved(GradientStep):
    """Says that it needs the factor of H."""

    needs: ClassVar = (lo.Need.optimum, lo.Need.curvature)


class Followed(GradientStep):
    """Says that it needs the way on which theta was trained."""

    needs: ClassVar = (lo.Need.trajectory,)


class Modest(GradientStep):
    """Says that it needs nothing."""

    needs: ClassVar = ()


VERBS = {
    "effects": lambda fit, groups, method: lo.effects(fit, groups, CELL, method),
    "credit": lambda fit, groups, method: lo.credit(fit, groups, CELL, method, null=0),
    "null": lambda fit, groups, method: lo.credit(
        fit, groups, CELL, Modest(), null=lo.Null(3, method=method)
    ),
    "cross_validate_groups": lo.cross_validate_groups,
    "change": lambda fit, groups, method: method.change(fit, groups),
}
CELL = lo.measures.parameter([0])


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_fit_lacks_is_refused_before_anything_is_prepared(fit, groups, verb):
    bare = dataclasses.replace(fit, metric=None)
    for method, sentence in (
        (Curved(), "this method needs the factor of the Hessian"),
        (Followed(), "this method needs the way on which theta was trained"),
    ):
        with pytest.raises(ValueError, match=sentence):
            VERBS[verb](bare, groups, method)


def test_a_method_that_needs_curvature_has_it(fit, groups, expected):
    found = lo.effects(fit, groups, lo.measures.self_loss(), Curved())
    np.testing.assert_allclose(found.value, expected[:, 2:3], atol=1e-12)


def test_a_method_that_needs_no_optimum_takes_any_theta(fit, groups):
    started, groups = lo.fit(fit.objective, max_steps=1, throw=False), groups[:3]
    assert started.status
    with pytest.raises(lo.SolveError, match="theta is not at its optimum"):
        lo.effects(started, groups, CELL, GradientStep())
    found = lo.effects(started, groups, CELL, Modest())
    assert not found.status.any()
    moved = stepped(started, groups) - np.asarray(started.flat)
    np.testing.assert_allclose(found.value, moved[:, :1], atol=1e-12)
    held = lo.cross_validate_groups(started, groups, Modest())
    assert not held.status.any()


# ---- once a call ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Counted(GradientStep):
    """Writes down when it is prepared, and for how many groups at once it is asked."""

    prepared: list = dataclasses.field(default_factory=list)
    asked: list = dataclasses.field(default_factory=list)
    fits: int = N

    def prepare(self, fit, measures):
        self.prepared.append([measure.name for measure in measures])
        change = super().prepare(fit, measures).change

        def counted(groups):
            self.asked.append(len(groups))
            if len(groups) > self.fits:
                raise MemoryError
            return change(groups)

        return lo.Prepared(counted)


@pytest.mark.parametrize(("memory", "chunks"), [(None, 1), (7_000, 3), (2_000, 5)])
def test_a_method_is_prepared_once_whatever_the_number_of_chunks(
    fit, groups, measures, expected, memory, chunks
):
    method = Counted()
    certified = memory == 7_000
    found = lo.effects(fit, groups, measures, method, certify=certified, memory=memory)
    np.testing.assert_allclose(found.value, expected, atol=1e-12)
    assert len(method.prepared) == 1
    assert [name.split("[")[0] for name in method.prepared[0][:2]] == NAMES
    assert len(method.asked) == chunks
    assert len(set(method.asked)) == 1  # one shape is compiled


def test_where_memory_runs_out_half_as_many_groups_are_asked(fit, groups, measures, expected):
    method = Counted(fits=2)
    with pytest.warns(UserWarning, match="memory ran out with") as told:
        found = lo.effects(fit, groups, measures, method)
    assert [each.filename for each in told] == [__file__] * len(told)
    np.testing.assert_allclose(found.value, expected, atol=1e-12)
    assert len(method.prepared) == 1
    assert method.asked[0] == 5
    assert method.asked[-1] == 2


GATED = {
    "effects": lambda fit, g, _: lo.effects(fit, g, CELL, GradientStep(), memory=7_000),
    "certified effects": lambda fit, g, measures: lo.effects(
        fit, g, measures, GradientStep(), tolerance=1e-3, memory=7_000
    ),
    "credit": lambda fit, g, _: lo.credit(
        fit, g, CELL, [lo.Influence(), GradientStep()], null=lo.Null(2, method=GradientStep())
    ),
    "trust": lambda fit, g, _: lo.trust(fit, g),
    "cross_validate_groups": lambda fit, g, _: lo.cross_validate_groups(fit, g),
    "influence": lambda fit, g, _: lo.influence(fit, g),
    "newton": lambda fit, g, _: lo.newton(fit, g),
    "retrain": lambda fit, g, _: lo.retrain(fit, g, lo.Retrain(1e-9)),
    "a method's change": lambda fit, g, _: GradientStep().change(fit, g),
    "decompose": lambda fit, g, _: lo.bounds.decompose(fit, g, CELL, lo.Retrain(1e-9)),
    "cone": lambda fit, g, _: lo.bounds.cone(fit, g),
    "newton_gap": lambda fit, g, _: lo.bounds.newton_gap(fit, g, CELL),
    "prediction_gap": lambda fit, g, _: lo.bounds.prediction_gap(fit, g, CELL),
    "shares": lambda fit, g, _: lo.bounds.shares(fit, g),
}


@pytest.fixture
def passed(monkeypatch):
    """How often the gates are passed: every module that imported them has its own name for it."""
    calls, admit = [], gates.admit
    assert all(
        getattr(lo, name) for name in lo.__all__
    )  # which loads what is loaded when asked for

    def counted(*args: Any, **options: Any):
        calls.append(args)
        return admit(*args, **options)

    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "leaveout" and vars(module).get("admit") is admit:
            monkeypatch.setattr(module, "admit", counted)
    return calls


@pytest.mark.parametrize("verb", mostly_slow(GATED, "effects", "credit", "newton"))
def test_the_gates_are_passed_once_a_call(fit, groups, measures, passed, verb):
    """And where theta is is looked at once: a theta a little off is warned of, once."""
    flat, s = np.asarray(fit.flat), data(fit)[2]
    slopes, _, hessian = calculus(fit, flat, s)
    pulls = (groups.dense() * s * slopes) @ data(fit)[0]
    lengths = np.sum(pulls * np.linalg.solve(hessian, pulls.T).T, axis=1)  # squared
    off = dataclasses.replace(fit, residual=jnp.asarray(0.05 * np.sqrt(lengths.mean())))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        GATED[verb](off, groups, measures)
    assert len(passed) == 1
    told = [each for each in caught if "theta is not at its optimum" in str(each.message)]
    assert len(told) == 1
    assert "it is 0.05 of the predicted changes" in str(told[0].message)
    assert told[0].filename == __file__


# ---- arrays beside effects -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(fit, groups):
    """Effects of the step and of influence on two columns."""
    measure = lo.measures.parameter([0, 1])
    return [lo.effects(fit, groups, measure, m) for m in (GradientStep(), lo.Influence())]


def test_a_comparison_takes_arrays_on_either_side(two):
    one, other = two
    sides = (one.value, other.value)
    expected = lo.compare(one, other, resamples=0)
    slope = (sides[0] * sides[1]).sum(axis=0) / (sides[1] ** 2).sum(axis=0)
    for p, a in ((one, other), (sides[0], other), (one, sides[1]), sides):
        found = lo.compare(p, a, resamples=0)
        np.testing.assert_allclose(found.slope, slope, rtol=1e-12)
        np.testing.assert_array_equal(found.spearman, expected.spearman)
        known = ("parameter[0]", "parameter[1]") if p is one or a is other else None
        assert found.columns == (known or ("column 0", "column 1"))
        levels = collections.Counter(row["by"] for row in found.rows)
        assert ("kind" in levels) == (known is not None)  # groups are known of effects only


def test_a_comparison_takes_an_array_of_one_column(fit, groups):
    effects = lo.effects(fit, groups, CELL, GradientStep())
    flat = 2 * effects.value[:, 0] + 0.1
    one = lo.compare(flat, effects, resamples=0)
    other = lo.compare(flat[:, None], effects.value[:, 0], resamples=0)
    assert one.columns == ("parameter[0]",)
    for report in (one, other):
        np.testing.assert_allclose(report.pearson, 1, rtol=1e-12)
        want = flat @ effects.value[:, 0] / np.sum(effects.value**2)
        np.testing.assert_allclose(report.slope, want, rtol=1e-12)


@pytest.mark.parametrize("column", [0, 1])
def test_a_figure_takes_arrays_on_either_side(two, column):
    one, other = two
    for p, a in ((one, other), (one.value, other), (one, other.value), (one.value, other.value)):
        ax = lo.plot.scatter(p, a, column=column)
        points = np.concatenate([np.asarray(part.get_offsets()) for part in ax.collections])
        shown = np.column_stack([other.value[:, column], one.value[:, column]])
        np.testing.assert_allclose(np.sort(points, axis=0), np.sort(shown, axis=0))
        assert ax.get_ylabel() == (one.method if p is one else "predicted effect")
        named = "parameter" if p is one or a is other else "column "
        assert ax.get_xlabel().startswith(f"actual effect on {named}")
    flat = lo.plot.scatter(one.value[:, column], other.value[:, column])
    assert len(flat.collections) == 1


def test_arrays_of_other_groups_or_columns_are_refused(two):
    one, other = two
    for p, a in ((one.value[:, 0], other), (one, other.value[1:]), (one.value[None], other)):
        for verb in (lo.compare, lo.plot.scatter):
            with pytest.raises(ValueError, match="expected effects of"):
                verb(p, a)

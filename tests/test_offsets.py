"""Known amounts that are added to scores, and targets of several parts."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from problems import groups_of, linear, mostly_slow, problem

N, D = 60, 3
RNG = np.random.default_rng(3)
X, OFFSET = RNG.normal(size=(N, D)), RNG.normal(size=N)
EXPOSURE = RNG.choice([0.5, 3.0, 40.0], N)
COUNT = RNG.poisson(EXPOSURE * np.exp(-1 + 0.4 * X[:, 0]))
GROUPS = groups_of(N, 5)
EXACT = lo.Retrain(1e-12)
METHODS = [lo.Influence(), lo.SecondOrder(), lo.Newton(), lo.NewtonChebyshev(), EXACT]
NAMES = [method.name for method in METHODS]


def rates(score, y):
    """Poisson's loss, the offset among the targets."""
    score = score + y["offset"]
    return jnp.exp(score) - y["count"] * score


PARTS = {"count": COUNT.astype(float), "offset": np.log(EXPOSURE)}


@pytest.fixture(scope="module")
def exposed():
    """A model of counts with the log of their exposure as offset."""
    return lo.fit(lo.poisson(X, COUNT, l2=0.7, offset=np.log(EXPOSURE)))


@pytest.fixture(scope="module")
def in_parts():
    """The same, the offset among its targets."""
    return lo.fit(lo.glm(rates, X, PARTS, l2=0.7))


@pytest.mark.parametrize(
    "method", mostly_slow(METHODS, lo.Influence(), lo.Newton(), EXACT), ids=NAMES
)
def test_least_squares_with_an_offset_is_that_of_what_remains(method):
    y = X[:, 0] + OFFSET + 0.3 * RNG.normal(size=N)
    shifted = lo.fit(lo.squares(X, y, l2=0.5, offset=OFFSET))
    plain = lo.fit(lo.squares(X, y - OFFSET, l2=0.5))
    np.testing.assert_allclose(shifted.flat, plain.flat, atol=1e-12)
    one = lo.effects(shifted, GROUPS, [lo.measures.loss((X, y, OFFSET)), lo.measures.self_loss()],
                     method)  # fmt: skip
    two = lo.effects(plain, GROUPS, [lo.measures.loss((X, y - OFFSET)), lo.measures.self_loss()],
                     method)  # fmt: skip
    np.testing.assert_allclose(one.value, two.value, atol=1e-10)


@pytest.mark.parametrize("loss", ["poisson", "softmax"])
def test_one_offset_for_all_is_taken_back_by_the_intercept(loss):
    """Exposures in seconds or in millennia: log-exposures far from 0, all much alike."""
    if loss == "poisson":
        fits = [
            lo.fit(lo.poisson(X, COUNT, offset=np.full(N, each))) for each in (0.0, 40.0, -600.0)
        ]
        for fit, offset in zip(fits[1:], (40.0, -600.0), strict=True):
            np.testing.assert_allclose(fit.theta.bias + offset, fits[0].theta.bias, atol=1e-10)
    else:
        offsets = np.tile([600.0, -600.0, 0.0], (N, 1))
        fits = [lo.fit(lo.softmax(X, COUNT.clip(0, 2), offset=each)) for each in (None, offsets)]
        np.testing.assert_allclose(fits[1].theta.bias + offsets[0], fits[0].theta.bias, atol=1e-10)
    for fit in fits[1:]:
        np.testing.assert_allclose(fit.theta.weight, fits[0].theta.weight, atol=1e-10)


@pytest.mark.slow
def test_rates_by_an_offset_are_rates_weighted_by_their_exposure(exposed):
    weighted = lo.fit(lo.poisson(X, COUNT / EXPOSURE, l2=0.7, weights=EXPOSURE))
    np.testing.assert_allclose(exposed.flat, weighted.flat, atol=1e-10)
    one, two = (lo.retrain(fit, GROUPS, EXACT).value for fit in (exposed, weighted))
    np.testing.assert_allclose(one, two, atol=1e-9 * np.abs(two).max())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_an_offset_of_its_own_and_one_among_the_targets_agree(exposed, in_parts, method):
    by = np.arange(N) % 3
    loss, tree = (X, COUNT, np.log(EXPOSURE)), (X, PARTS)
    for reduce in (None, "mean"):
        each = [
            lo.effects(fit, GROUPS, [lo.measures.loss(data, reduce=reduce),
                                     lo.measures.loss(data, by=by), lo.measures.prediction(X[:4])],
                       method)
            for fit, data in ((exposed, loss), (in_parts, tree))
        ]  # fmt: skip
        np.testing.assert_allclose(each[0].value, each[1].value, rtol=1e-6, atol=1e-10)


@pytest.mark.slow
def test_intervals_of_losses_with_an_offset_hold_the_retrained_loss(exposed):
    data = X[:5], COUNT[:5], np.log(EXPOSURE[:5])
    found = lo.effects(exposed, GROUPS, lo.measures.loss(data), lo.Retrain(1e-6), certify=True)
    assert found.lower is not None
    assert found.upper is not None
    stays = 1 - GROUPS.dense()
    for k, v in enumerate(stays):
        fit = lo.fit(lo.poisson(X, COUNT, 0.7, weights=v, offset=np.log(EXPOSURE)))
        score = X[:5] @ fit.theta.weight + fit.theta.bias + data[2]
        before = X[:5] @ exposed.theta.weight + exposed.theta.bias + data[2]
        truth = np.exp(score) - data[1] * score - (np.exp(before) - data[1] * before)
        assert (found.lower[k] <= truth).all()
        assert (truth <= found.upper[k]).all()
    assert np.isfinite(found.lower).any()


@pytest.mark.slow
def test_several_scores_have_an_offset_each():
    y, offset = np.argmax(X + RNG.gumbel(size=(N, 3)), axis=1), RNG.normal(size=(N, 3))
    fit = lo.fit(lo.softmax(X, y, l2=0.5, offset=offset))
    wide = np.c_[X, np.ones(N)]

    def loss(theta, example):
        scores = example["x"] @ theta["w"] + theta["b"] + example["o"]
        top = jnp.max(scores)
        return top + jnp.log(jnp.sum(jnp.exp(scores - top))) - scores[example["y"]]

    free = {"w": True, "b": False}
    start = {"w": np.zeros((3, 3)), "b": np.zeros(3)}
    slow = lo.Objective(loss, {"x": X, "y": y, "o": offset}, start, 0.5, penalised=free)
    theta = {"w": np.asarray(fit.theta.weight).T, "b": np.asarray(fit.theta.bias)}
    assert np.abs(slow.gradient(slow.flat(theta))).max() < 1e-8
    queries = X[:6], y[:6], offset[:6]
    found = lo.effects(fit, GROUPS, [lo.measures.accuracy(queries), lo.measures.margin(queries)])
    theta = fit.flat + lo.newton(fit, GROUPS).value[0]
    scores = wide[:6] @ np.asarray(linear(fit).layout.matrix(theta)).T + offset[:6]
    right = (scores.argmax(1) == y[:6]).mean()
    scores = wide[:6] @ np.asarray(linear(fit).layout.matrix(fit.flat)).T + offset[:6]
    np.testing.assert_allclose(found.value[0, 0], right - (scores.argmax(1) == y[:6]).mean())


@pytest.mark.slow
def test_added_and_relabelled_points_carry_their_offset():
    offset, y = np.log(EXPOSURE), COUNT
    seen = lo.fit(lo.poisson(X[:50], y[:50], 0.7, offset=offset[:50]))
    fit, groups = lo.add(seen, (X[50:], y[50:], offset[50:]), np.zeros(10))
    change = lo.retrain(fit, groups, EXACT).value[0]
    whole = lo.fit(lo.poisson(X, y, 0.7, offset=offset))
    np.testing.assert_allclose(seen.flat + change, whole.flat, atol=1e-9)
    other = np.where(np.arange(N) < 5, y + 2, y)
    five = lo.Groups.from_indices([np.arange(5)], n=N)
    with pytest.warns(UserWarning, match="does not depend on the target"):
        fit, groups = lo.relabel(whole, five, other)
    change = lo.retrain(fit, groups, EXACT).value[0]
    again = lo.fit(lo.poisson(X, other, 0.7, offset=offset))
    np.testing.assert_allclose(whole.flat + change, again.flat, atol=1e-9)


@pytest.mark.slow
def test_targets_of_several_parts_go_through_credit_relabelling_and_the_choice_of_l2(in_parts):
    found = lo.credit(in_parts, GROUPS, lo.measures.loss((X, PARTS), reduce="mean"), null=20)
    assert len(found.columns) == 1
    other = PARTS | {"count": PARTS["count"] + 1}
    with pytest.warns(UserWarning, match="does not depend on the target"):
        fit, groups = lo.relabel(in_parts, GROUPS, other)
    change = lo.retrain(fit, groups[[2]], EXACT).value[0]
    moved = GROUPS.dense()[2] > 0
    mixed = PARTS | {"count": np.where(moved, other["count"], PARTS["count"])}
    again = lo.fit(lo.glm(rates, X, mixed, l2=0.7))
    np.testing.assert_allclose(in_parts.flat + change, again.flat, atol=1e-9)
    grid, folds = [0.1, 1.0, 10.0], np.arange(N) % 3
    both = lo.glm(rates, X, PARTS), lo.poisson(X, COUNT, offset=np.log(EXPOSURE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an edge may win: that is not what is asked here
        one, two = (lo.cross_validate(each, grid, folds=folds) for each in both)
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-7)
    assert one.accuracy is None


@pytest.mark.slow
def test_data_over_devices_keeps_its_offset(exposed):
    spread = lo.fit(lo.shard(exposed.objective))
    np.testing.assert_allclose(spread.flat, exposed.flat, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda f: lo.poisson(X, COUNT, offset=OFFSET[1:]), "offset for each of 60 examples"),
        (lambda f: lo.poisson(X, COUNT, offset=np.full(N, np.inf)), "offset must be finite"),
        (lambda f: lo.softmax(X, COUNT % 3, offset=OFFSET), "60 examples and 3 scores"),
        (lambda f: lo.measures.loss((X, COUNT)).bind(f.objective), r"give \(x, y, offset\), zeros"),
        (lambda f: lo.add(f, (X[:2], COUNT[:2])), "lo.add needs those of its examples"),
        (lambda f: lo.measures.loss(X), r"takes \(x, y, offset\)"),
        (lambda f: lo.measures.loss((X, {"count": COUNT[1:]})), "one target for each of the 60"),
        (
            lambda f: lo.add(lo.fit(problem("poisson", d=D)), (X, COUNT, OFFSET)),
            "this model has no offset",
        ),
    ],
)
def test_offsets_that_do_not_fit_are_refused(exposed, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(exposed)

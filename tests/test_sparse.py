"""Sparse inputs, and more columns than rows: the span of the rows gives what dense columns give."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import leaveout as lo
from leaveout.objectives.centre import measured
from leaveout.objectives.layout import Layout
from leaveout.objectives.span import span_of
from leaveout.objectives.sparse import Sparse
from leaveout.runtime.memory import limited
from problems import linear, mostly_slow, wrong

N, D = 40, 90
METHODS = [
    lo.Influence(),
    lo.SecondOrder(),
    lo.Krylov(),
    lo.Newton(),
    lo.NewtonChebyshev(),
    lo.Retrain(),
]


def _drawn(count: int, seed: int = 0):
    return scipy.sparse.random_array(
        (count, D), density=0.1, rng=np.random.default_rng(seed), format="csr"
    )


def _rows():
    """Rows of which two are there twice, one is empty, and two entries are given in two parts."""
    x = _drawn(N).tolil()
    x[1], x[2], x[3] = x[0], x[0], 0.0
    x = x.tocoo()
    twice = (np.repeat(x.data / 2, 2), (np.repeat(x.row, 2), np.repeat(x.col, 2)))
    return scipy.sparse.coo_array(twice, x.shape)


X = _rows()
Y = np.where(X.toarray() @ np.random.default_rng(1).normal(size=D) > 0, "spam", "ham")
S = np.linspace(0.5, 1.5, N)
Q: Any = _drawn(5, 7)
LABELS = np.array(["spam", "ham", "ham", "spam", "spam"])
GROUPS = lo.Groups.from_indices([[0], [4, 5, 6], list(range(10, 18))], n=N)


@pytest.fixture(scope="module")
def both() -> tuple[lo.Fit, lo.Fit]:
    """The fit of sparse rows, and that of the same written out."""
    return tuple(lo.fit(lo.logistic(x, Y, l2=0.5, weights=S)) for x in (X, X.toarray()))  # pyright: ignore[reportReturnType]


def _measures(x):
    return [
        lo.measures.prediction(x, by=["a", "a", "b", "b", "b"]),
        lo.measures.loss((x, LABELS)),
        lo.measures.margin((x, LABELS), reduce="mean"),
        lo.measures.accuracy((x, LABELS)),
        lo.measures.auroc((x, LABELS)),
        lo.measures.calibration_error((x, LABELS)),
        lo.measures.self_loss(),
        lo.measures.parameter([0, -1]),
        lo.measures.linear(np.ones((1, D + 1))),
        lambda theta: jnp.sum(theta.weight**2) + theta.bias,
    ]


def _alike(one, two, within=1e-9):
    scale = np.abs(two).max()
    np.testing.assert_allclose(one, two, rtol=0, atol=within * scale)


def test_the_rows_span_is_where_theta_is_sought(both):
    sparse, dense = both
    assert linear(sparse).sparse
    assert isinstance(linear(sparse).design, Sparse)
    inner = sparse.centred.objective
    assert inner.p == N - 3 + 1  # a row three times, an empty one, and the intercept
    _alike(sparse.flat, dense.flat)
    _alike(linear(sparse).losses(sparse.flat), linear(dense).losses(dense.flat))
    assert float(sparse.sandwich) == pytest.approx(float(dense.sandwich), rel=1e-9)
    assert sparse.theta.weight.shape == (D,)


@pytest.mark.parametrize("method", mostly_slow(METHODS, METHODS[3]), ids=lambda method: method.name)
def test_effects_are_those_of_the_rows_written_out(both, method):
    sparse, dense = both
    found = lo.effects(sparse, GROUPS, _measures(Q), method)
    known = lo.effects(dense, GROUPS, _measures(Q.toarray()), method)
    assert found.columns == known.columns
    assert not found.status.any()
    _alike(found.value, known.value)
    change = method.change(sparse, GROUPS)
    assert change.value.shape == (3, D + 1)
    _alike(change.value, method.change(dense, GROUPS).value)


def test_sparse_and_dense_queries_serve_either_model(both):
    sparse, dense = both
    known = linear(dense).scores(dense.flat, Q.toarray())[:, 0]
    for fit in both:
        inner = fit.centred or fit
        theta, objective = inner.flat, inner.objective
        for x in (Q, Q.tocoo(), Q.toarray()):
            measure = lo.measures.prediction(x).bind(objective)
            _alike(measure.values(objective, theta, None), known)
    _alike(linear(sparse).scores(sparse.flat, Q)[:, 0], known)


@pytest.mark.slow
def test_points_outside_the_span_are_added(both):
    new = _drawn(3, 11)
    values = []
    for fit, x in zip(both, (new, new.toarray()), strict=True):
        more, groups = lo.add(fit, (x, ["ham", "spam", "spam"]), ["one", "two", "two"])
        query = lo.measures.prediction(x)
        values.append(lo.effects(more, groups, query, lo.Retrain()).value)
    _alike(*values)
    y = np.concatenate([Y, ["ham"]])  # and fitted anew with the first of them
    x = scipy.sparse.vstack([X, new[:1]]).toarray()
    anew = lo.fit(lo.logistic(x, y, l2=0.5, weights=np.append(S, 1.0)))
    dense = both[1]
    gained = x[N:] @ (anew.theta.weight - dense.theta.weight) + anew.theta.bias - dense.theta.bias
    _alike(values[0][0, 0], gained[0])


@pytest.mark.slow
def test_relabelled_points_come_back(both):
    flipped, values = np.where(Y == "ham", "spam", "ham"), []
    for fit in both:
        with pytest.warns(UserWarning, match="does not depend on the target"):
            changed, groups = lo.relabel(fit, GROUPS, flipped)
        values.append(
            lo.effects(changed, groups, lo.measures.parameter([0, -1]), lo.Retrain()).value
        )
    _alike(*values)


CASES = {
    "softmax": ("softmax", {}),
    "squares": ("squares", {"intercept": False}),
    "poisson": ("poisson", {"offset": np.linspace(0, 1, N)}),
    "an l2 for each": ("logistic", {"l2": np.linspace(0.5, 2, D)}),
    "a penalised intercept": ("logistic", {"penalised": np.append(np.ones(D), 2.0)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", mostly_slow(CASES, "an l2 for each"))
def test_every_loss_and_penalty(case):
    make, options = CASES[case]
    rng = np.random.default_rng(3)
    y = {"softmax": rng.integers(0, 3, N), "squares": rng.normal(size=N)}
    y |= {"poisson": rng.poisson(1.0, N), "logistic": Y}
    found = []
    for x, query in ((X, Q), (X.toarray(), Q.toarray())):
        fit = lo.fit(getattr(lo, make)(x, y[make], **{"l2": 0.7, "weights": S, **options}))
        measures = [lo.measures.prediction(query), lo.measures.self_loss()]
        found.append(lo.effects(fit, GROUPS, measures, lo.Retrain()).value)
    _alike(*found)


def test_a_fit_is_kept_and_read_again(both, tmp_path):
    sparse = both[0]
    again = pickle.loads(pickle.dumps(sparse))
    measure = lo.measures.prediction(Q)
    known = lo.effects(sparse, GROUPS, measure, lo.Newton())
    assert (lo.effects(again, GROUPS, measure, lo.Newton()).value == known.value).all()
    known.save(tmp_path / "effects.npz")
    assert (lo.load(tmp_path / "effects.npz").value == known.value).all()


def test_trained_by_scikit_learn(both):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000).fit(X.tocsr(), Y, S)
    fit = lo.from_sklearn(model, X.tocsr(), Y, weights=S)
    assert linear(fit).sparse
    _alike(fit.flat, both[0].flat)


def test_a_sparse_table_keeps_its_names(both):
    pd = pytest.importorskip("pandas")
    names = [f"word {j}" for j in range(D)]
    table = pd.DataFrame.sparse.from_spmatrix(scipy.sparse.csr_matrix(X), columns=names)
    fit = lo.fit(lo.logistic(table, Y, l2=0.5, weights=S))
    assert linear(fit).sparse
    _alike(fit.flat, both[0].flat)
    measures = [lo.measures.parameter(["word 3", "intercept"]), lo.measures.prediction(table[:2])]
    found = lo.effects(fit, GROUPS, measures, lo.Newton())
    assert found.columns[:2] == ("parameter[word 3]", "parameter[intercept]")
    turned = table[names[::-1]]
    with pytest.raises(ValueError, match="another order"):
        lo.effects(fit, GROUPS, lo.measures.prediction(turned), lo.Newton())


def test_rows_that_were_replaced_are_refused(both):
    sparse = both[0]
    other = linear(lo.fit(lo.logistic(_drawn(N, 5), Y, l2=0.5, weights=S)))
    swapped = jax.tree_util.tree_map(lambda leaf: leaf, sparse)
    swapped = type(sparse)(**{**vars(sparse), "objective": other})
    with pytest.raises(ValueError, match="inputs were replaced"):
        lo.influence(swapped, GROUPS)
    assert swapped is not sparse


def test_nothing_is_proven_of_sparse_rows(both):
    found = lo.effects(both[0], GROUPS, lo.measures.prediction(Q), lo.Retrain(), certify=True)
    assert np.isinf(found.width).all()


def test_a_large_matrix_is_not_written_out_in_silence():
    wide = scipy.sparse.random_array((30, 2_000_000), density=1e-6, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"0\.45 GiB, and more than 0\.25 GiB is not copied"):
        np.asarray(Sparse.of(scipy.sparse.csr_array(wide), float))
    dense = lo.fit(lo.logistic(np.eye(4)[:, :2], [0, 1, 0, 1]))
    with pytest.raises(ValueError, match="expected inputs of shape"):
        lo.effects(dense, lo.Groups.from_indices([[0]], n=4), lo.measures.prediction(Q))


def test_entries_that_are_no_numbers_are_refused():
    bad = X.tocsr()
    bad.data[5] = np.nan
    with pytest.raises(ValueError, match=r"x\[\d+, \d+\] is nan"):
        lo.logistic(bad, Y)
    with pytest.raises(ValueError, match="expected x as a numeric matrix"):
        lo.logistic(wrong(X.astype(complex)), Y)


@pytest.mark.parametrize("product", ["forward", "backward", "square"])
def test_products_are_those_of_the_matrix_written_out(product):
    dense, given = X.toarray(), Sparse.of(scipy.sparse.csr_array(X), float)
    rng = np.random.default_rng(0)
    right, left = rng.normal(size=(D, 3)), jnp.asarray(rng.normal(size=(2, N)))
    pairs = {
        "forward": (given @ right, dense @ right),
        "backward": (left @ given, np.asarray(left) @ dense),
        "square": (given.gram(left[0]), (dense * np.asarray(left)[0][:, None]).T @ dense),
    }
    _alike(*pairs[product])


def test_bound_examples_are_not_coded_again(both):
    """Retraining what is too wide binds measures that are bound already."""
    objective = both[0].centred.objective
    for measure in (lo.measures.loss((Q, LABELS)), lo.measures.accuracy((Q, LABELS))):
        once = measure.bind(objective)
        assert once.bind(objective) is once


@pytest.mark.slow
def test_intervals_are_narrowed_where_columns_are_far_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2)) + np.array([0.0, 1e5])
    y = np.where(x[:, 0] + rng.normal(size=30) > 0, "yes", "no")
    fit = lo.fit(lo.logistic(x, y, l2=1.0))
    groups = lo.Groups.from_indices([[0, 1, 2], [5]], n=30)
    measure = lo.measures.loss((x[:2], y[:2]))
    found = lo.effects(fit, groups, measure, lo.Influence(), tolerance=1e-4)
    _alike(found.value, lo.effects(fit, groups, measure, lo.Retrain(1e-12)).value, 1e-4)


@pytest.mark.slow
def test_products_serve_where_the_span_does_not(both, monkeypatch):
    monkeypatch.setattr("leaveout.objectives.span._serves", lambda x, outputs: False)
    fit = lo.fit(lo.logistic(X, Y, l2=0.5, weights=S))
    assert fit.centred is None
    _alike(fit.flat, both[1].flat, 1e-7)
    for method in (lo.Influence(), lo.Newton(), lo.Retrain()):
        found = lo.effects(fit, GROUPS, _measures(Q), method)
        known = lo.effects(both[1], GROUPS, _measures(Q.toarray()), method)
        assert not found.status.any()
        _alike(found.value, known.value, 1e-7)
    with pytest.raises(ValueError, match="theta is not determined"):
        lo.fit(lo.logistic(X, Y, l2=0.0))


def test_columns_are_written_out_one_by_one(both):
    at = np.array([7, 0, D])  # the last is the intercept's
    found = linear(both[0]).design.column(at)
    np.testing.assert_array_equal(found, np.c_[X.toarray(), np.ones(N)][:, at])


def test_the_span_is_left_alone_where_its_products_have_no_room(both):
    with limited(6 * 8 * N**2 - 1):
        assert lo.logistic(X, Y, l2=0.5, weights=S).centred().span is None
    with limited(6 * 8 * N**2):
        assert lo.logistic(X, Y, l2=0.5, weights=S).centred().span is not None


@pytest.mark.slow
def test_dense_rows_go_into_their_span_too():
    rng = np.random.default_rng(0)
    x, q = rng.normal(size=(50, 1200)), rng.normal(size=(3, 1200))
    y = x[:, 0] + 0.5 * rng.normal(size=50) > 0
    fit = lo.fit(lo.logistic(x, y, l2=5.0))
    assert fit.centred is not None
    assert fit.centred.flat.size == 51
    assert fit.metric is not None  # of all p parameters, as ever
    whole = type(fit)(**{**vars(fit), "centred": None})
    groups = lo.Groups.from_indices([[0], [3, 4, 5], list(range(20))], n=50)
    for method in (lo.Influence(), lo.Newton(), lo.Retrain()):
        one, two = (
            lo.effects(each, groups, lo.measures.prediction(q), method).value
            for each in (fit, whole)
        )
        _alike(one, two, 1e-8)
    proven = lo.effects(fit, groups, lo.measures.prediction(q), lo.Retrain(), certify=True)
    assert (proven.certificate == 0).all()
    assert ((proven.lower <= two) & (two <= proven.upper)).all()


def _times(x, spread: float) -> Any:
    """Sparse rows with a Unix time, a count of pages in thousands and a constant behind them."""
    rng = np.random.default_rng(3)
    more = [1.6e9 + spread * rng.random(x.shape[0]), 1e6 * rng.poisson(0.2, x.shape[0])]
    more.append(np.full(x.shape[0], 7e5))
    return scipy.sparse.hstack([x, np.column_stack(more)], format="csr")


def _unscaled(spread: float):
    """Models of sparse rows, and of the same written out by hand: centred, in units."""
    words = scipy.sparse.random_array((120, 150), density=0.1, rng=np.random.default_rng(5))
    x = _times(words, spread)
    dense = x.toarray()
    centre = np.where(np.arange(153) < 150, 0.0, dense.mean(axis=0))
    unit = np.r_[np.ones(150), spread, 1e6, 1.0]
    z = (dense - centre) / unit
    z[:, 152] = 0.0
    y = (z[:, :10].sum(axis=1) + z[:, 150] > np.random.default_rng(6).normal(size=120)).astype(
        float
    )
    by_hand = lo.logistic(z, y, l2=np.append(1 / unit**2, 0.0))
    return x, lo.logistic(x, y, l2=1.0), by_hand, (centre, unit)


@pytest.mark.parametrize("spread", mostly_slow([3e7, 10.0]))
def test_columns_far_out_and_of_any_size_are_measured_so(spread):
    x, sparse, by_hand, (centre, unit) = _unscaled(spread)
    one, two = lo.fit(sparse), lo.fit(by_hand)
    assert sparse.sparse
    assert one.centred is not None
    how = linear(one.centred).measured
    assert how is not None
    assert how.knows(linear(one).design)  # and verbs need not measure them again
    assert not how.knows(linear(one).design[:100])
    groups = lo.Groups.from_indices([range(9), [50, 60], range(90, 115)], n=120)
    query = x[:4]
    measured = (query.toarray() - centre) / unit
    measured[:, 152] = 0.0
    for method in (lo.Influence(), lo.Newton(), lo.Retrain()):
        a = lo.effects(one, groups, lo.measures.prediction(query), method)
        b = lo.effects(two, groups, lo.measures.prediction(measured), method)
        assert not a.status.any()
        _alike(a.value, b.value, 1e-6)
    column = lo.measures.parameter(150)
    a, b = (lo.effects(fit, groups, column, lo.Retrain()).value for fit in (one, two))
    _alike(a * spread, b, 1e-6)


def test_sparse_columns_get_the_centre_and_unit_of_their_weighted_moments():
    """Of few rows, by NumPy: only what is far out is moved, only what is constant is dropped."""
    rng, weights = np.random.default_rng(0), np.linspace(0.0, 3.0, 60)
    word = rng.normal(size=60) * (rng.random(60) < 0.2)
    time, count = 1.6e9 + 10 * rng.random(60), 1e6 * rng.poisson(0.2, 60)
    dense = np.c_[word, time, count, np.full(60, 7e5), np.ones(60)]
    penalty = np.array([1.0, 1.0, 2.0, 1.0, 0.0])
    given = Sparse.of(scipy.sparse.csr_array(dense), float)
    found = measured(given, jnp.asarray(weights), penalty, 4, free=True)
    assert found is not None
    how, kept = found
    mean = np.average(dense, axis=0, weights=weights)
    variance = np.average((dense - mean) ** 2, axis=0, weights=weights)
    np.testing.assert_array_equal(kept, [True, True, True, False, True])
    assert how.centre[0] == how.centre[2] == 0.0
    assert abs(how.centre[1] - mean[1]) < 0.11 * np.sqrt(variance[1])
    assert how.unit is not None
    about = variance[:3] + (mean[:3] - how.centre[:3]) ** 2 + penalty[:3] / weights.sum()
    off = np.log2(np.asarray(how.unit)[:3] / np.sqrt(about))
    assert (np.abs(off) <= 0.5 + 1e-9).all()  # powers of 2 no further than that


@pytest.mark.slow
def test_points_are_added_among_columns_far_out():
    x, sparse, _, _ = _unscaled(3e7)
    fit = lo.fit(sparse)
    more, y = x[:6], np.r_[1.0, 0, 1, 0, 1, 0]
    bigger, groups = lo.add(fit, (more, y), ["all"] * 6)
    both: Any = scipy.sparse.vstack([x, more], format="csr")
    whole = lo.fit(lo.logistic(both, np.r_[np.asarray(sparse.y), y], l2=1.0))
    effect = lo.effects(bigger, groups, lo.measures.prediction(x[:4]), lo.Retrain())
    scores = [linear(each).scores(each.flat, x[:4])[:, 0] for each in (whole, fit)]
    expected = scores[0] - scores[1]
    _alike(effect.value[0], np.asarray(expected), 1e-6)


def test_the_span_serves_where_the_penalty_holds_every_weight_alike():
    """Without one, in a direction or in all, theta is not in the span of the rows."""
    x, layout = np.random.default_rng(0).normal(size=(6, 20)), Layout(20, 2, True)
    every = np.r_[np.ones(40), 0.0, 0.0]
    assert span_of(jnp.asarray(x), layout, every, 0.5, always=True) is not None
    assert span_of(jnp.asarray(x), layout, every, 0.0, always=True) is None
    for at, value in ((3, 0.0), (3, 2.0), ([3, 23], 0.0)):  # of one output, or of both
        other = every.copy()
        other[at] = value
        assert span_of(jnp.asarray(x), layout, other, 0.5, always=True) is None

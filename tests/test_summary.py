"""What a fit says of itself: standard errors beside statsmodels, predictions, files, names."""

import dataclasses
import datetime
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression, PoissonRegressor

import leaveout as lo
from problems import linear, wrong

N = 150
RNG = np.random.default_rng(3)
X = pd.DataFrame({"age": RNG.normal(50, 10, N), "dose": RNG.normal(size=N)})
WARD = RNG.integers(0, 12, N)
Y = np.asarray(RNG.random(N) < 1 / (1 + np.exp(-(X["age"] - 50) / 10 - X["dose"]))).astype(int)
KIND = np.array(["low", "mid", "top"])[np.digitize(X["age"] + RNG.normal(0, 10, N), [45, 55])]
COUNTS = RNG.poisson(np.exp(0.3 * X["dose"] + 0.5))
COST = (2 * X["dose"] + 0.1 * X["age"] + RNG.normal(size=N)).to_numpy()
WEIGHTS = RNG.uniform(0.5, 2, N)
DESIGN = X.assign(intercept=1.0)
WARDS = {"groups": WARD}


@pytest.fixture(scope="module")
def fits():
    return {
        "logistic": lo.fit(lo.logistic(X, Y, l2=0.0)),
        "poisson": lo.fit(lo.poisson(X, COUNTS, l2=0.0)),
        "squares": lo.fit(lo.squares(X, COST, l2=0.0, weights=WEIGHTS)),
        "softmax": lo.fit(lo.softmax(X, KIND, l2=0.0)),
    }


THEIRS: dict[str, Any] = {
    "logistic": sm.Logit(Y, DESIGN),
    "poisson": sm.GLM(COUNTS, DESIGN, sm.families.Poisson()),
    "squares": sm.WLS(COST, DESIGN, weights=wrong(WEIGHTS)),
    "softmax": sm.MNLogit(pd.Categorical(KIND).codes, DESIGN),
}


def theirs(loss: str, **options) -> dict[str, np.ndarray]:
    """The table of statsmodels, a class after another."""
    quiet = {} if loss == "squares" else {"tol": 1e-14}
    quiet |= (
        {"disp": 0, "method": "newton", "maxiter": 100} if loss in ("logistic", "softmax") else {}
    )
    found = THEIRS[loss].fit(**(quiet | options))
    ends = np.asarray(found.conf_int()).reshape(-1, 2)
    table = {"estimate": found.params, "error": found.bse, "statistic": found.tvalues,
             "p": found.pvalues}  # fmt: skip
    flat = {name: np.asarray(values).T.ravel() for name, values in table.items()}
    return flat | {"low": ends[:, 0], "high": ends[:, 1]}


def agree(found, truth, but=(), rtol=1e-7):
    for name, values in truth.items():
        if name not in but:
            np.testing.assert_allclose(getattr(found, name), values, rtol, 1e-12, err_msg=name)


@pytest.mark.parametrize("loss", THEIRS)
def test_errors_by_the_model_are_those_of_statsmodels(fits, loss):
    agree(fits[loss].summary(), theirs(loss, **({"use_t": True} if loss == "squares" else {})))


@pytest.mark.parametrize("loss", ["logistic", "poisson", "squares"])
def test_robust_errors_are_those_of_statsmodels(fits, loss):
    for correct, kind in ((False, "HC0"), (True, "HC1")):
        if loss == "squares":
            truth = theirs(loss, cov_type=kind, use_t=True)
            agree(fits[loss].summary(robust=True, correct=correct), truth)
        else:  # there HC1 is HC0
            factor = N / (N - 3) if correct else 1.0
            error = theirs(loss, cov_type="HC0")["error"] * factor**0.5
            np.testing.assert_allclose(
                fits[loss].summary(robust=True, correct=correct).error, error, 1e-7
            )


@pytest.mark.parametrize("loss", THEIRS)
def test_clustered_errors_are_those_of_statsmodels(fits, loss):
    found = fits[loss].summary(lo.Groups.from_labels(WARD))
    truth = theirs(loss, cov_type="cluster", cov_kwds=WARDS, use_t=True)
    if loss == "softmax":  # p counts all parameters here, those of one class there
        left = theirs(loss, cov_type="cluster", cov_kwds=WARDS | {"use_correction": False})
        truth = {"error": left["error"] * (12 / 11 * (N - 1) / (N - 6)) ** 0.5}
    agree(found, truth)
    assert found.degrees == 11
    agree(fits[loss].summary(WARD), {"error": found.error})  # labels serve
    assert "12 clusters are few" in repr(found)


def test_clusters_and_points_without_weight_are_not_there():
    weights = np.where(WARD == 4, 0.0, WEIGHTS)
    clusters = WARD.astype(object)
    clusters[np.flatnonzero(weights == 0)[0]] = None
    left = WARD != 4
    found = lo.fit(lo.squares(X, COST, weights=weights)).summary(clusters)
    truth = lo.fit(lo.squares(X[left], COST[left], weights=WEIGHTS[left])).summary(WARD[left])
    np.testing.assert_allclose(found.error, truth.error, 1e-12)
    assert found.degrees == truth.degrees == 10


def test_ratios_are_odds_ratios_with_their_intervals(fits):
    found, plain = fits["logistic"].summary().ratios(), fits["logistic"].summary()
    np.testing.assert_allclose(found.estimate, np.exp(plain.estimate))
    np.testing.assert_allclose(found.high, np.exp(plain.high))
    np.testing.assert_allclose(found.error, plain.error)  # of the logarithm
    objective = fits["logistic"].objective
    measure = lo.measures.odds_ratio(["age", "dose", "intercept"]).bind(objective)
    np.testing.assert_allclose(
        measure.values(objective, fits["logistic"].flat, None), found.estimate
    )
    ten = lo.measures.odds_ratio("age", per=10).bind(objective)
    assert ten.columns(objective) == ("odds ratio per 10[age]",)
    np.testing.assert_allclose(
        ten.values(objective, fits["logistic"].flat, None), np.exp(10 * plain.estimate[:1])
    )


def test_a_penalised_estimate_varies_as_its_draws_do():
    x = np.asarray(X) - [50, 0]
    chance = 1 / (1 + np.exp(-x @ [0.05, 0.5]))
    rng, draws = np.random.default_rng(0), []
    for _ in range(400):
        model = LogisticRegression(C=0.2, solver="newton-cholesky", tol=1e-10)
        draws.append(model.fit(x, rng.random(N) < chance).coef_[0])
    fit = lo.fit(lo.logistic(x, rng.random(N) < chance, l2=5.0))
    found = fit.summary()
    np.testing.assert_allclose(found.error[:2], np.std(draws, axis=0), rtol=0.2)
    bare = np.sqrt(np.diagonal(np.linalg.inv(np.asarray(fit.objective.hessian(fit.flat)))))
    assert (found.error[:2] < bare[:2]).all()  # the penalty holds it
    assert "they do not say how far the penalty has drawn these to 0" in repr(found)


def test_under_a_penalty_each_example_has_its_share_of_it():
    """How theta moves with each weight, under a penalty on the mean of the losses."""
    l2, design = 40.0, DESIGN.to_numpy()

    def theta(weights):
        bent = design.T @ (weights[:, None] * design) + np.diag([l2, l2, 0]) * weights.sum() / N
        return np.linalg.solve(bent, design.T @ (weights * COST))

    moves = np.array([theta(1 + 1e-30j * one).imag / 1e-30 for one in np.eye(N)])  # exact
    fit = lo.fit(lo.squares(X, COST, l2=l2))
    robust = fit.summary(robust=True, correct=False)
    np.testing.assert_allclose(robust.error, np.sqrt(np.sum(moves**2, axis=0)), rtol=1e-8)
    wards = np.array([moves[ward == WARD].sum(axis=0) for ward in np.unique(WARD)])
    clustered = fit.summary(WARD, correct=False)
    np.testing.assert_allclose(clustered.error, np.sqrt(np.sum(wards**2, axis=0)), rtol=1e-8)
    assert "take its penalised predictions for the noise" in repr(fit.summary())
    assert "penalised predictions" not in repr(robust)


@pytest.mark.slow
def test_far_columns_and_wide_ones_have_errors_too():
    far = lo.fit(lo.logistic(X + np.array([1e6, 0]), Y, l2=0.0))
    near = lo.fit(lo.logistic(X, Y, l2=0.0))
    assert far.centred is not None
    np.testing.assert_allclose(far.summary().error[:2], near.summary().error[:2], rtol=1e-6)
    rng = np.random.default_rng(1)
    wide = scipy.sparse.random_array((40, 90), density=0.2, rng=rng).tocsr()
    spanned = lo.fit(lo.logistic(wide, np.arange(40) % 2))
    dense = lo.fit(lo.logistic(wide.toarray(), np.arange(40) % 2))
    assert spanned.objective.sparse
    one, two = (fit.summary(robust=True, correct=False) for fit in (spanned, dense))
    np.testing.assert_allclose(one.error, two.error, atol=1e-9)


def test_a_summary_says_what_it_is(fits):
    text = repr(fits["softmax"].summary(level=0.9))
    assert text.startswith("Fit(softmax loss of 'low', 'mid', 'top' on 150 examples, 9 parameters")
    assert "age, mid against low" in text
    assert "90 % confidence" in text
    table = fits["squares"].summary().to_pandas()
    assert table["name"].tolist() == ["age", "dose", "intercept"]
    assert "t with 147 degrees" in repr(fits["squares"].summary())


@pytest.mark.parametrize("name", ["logistic", "squares"])
def test_the_summary_of_another_objective_than_was_fitted_is_refused(fits, name):
    fit = fits[name]
    other = dataclasses.replace(fit, objective=fit.objective.with_l2(50.0))
    with pytest.raises(ValueError, match="the objective of this fit is not the one"):
        other.summary(robust=True)


def test_what_has_no_errors_is_refused(fits):
    collinear = lo.squares(np.c_[X, X["age"] * 2], COST, l2=0.0)
    with pytest.raises(ValueError, match=r"is no optimum, singular|Hessian is singular"):
        lo.fit(collinear, throw=False).summary()
    fit = fits["logistic"]
    with pytest.raises(ValueError, match="level between 0 and 1"):
        fit.summary(level=95.0)
    with pytest.raises(ValueError, match="3 of 150 points are in no cluster"):
        fit.summary([None] * 3 + list(WARD[3:].astype(str)))
    with pytest.raises(ValueError, match="the clusters overlap"):
        fit.summary(lo.Groups.from_indices([range(100), range(50, 150)], n=N))
    with pytest.raises(ValueError, match="removes every example"):
        fit.summary(["one"] * N)
    with pytest.raises(ValueError, match="of 20 points, the fit of 150"):
        fit.summary(np.arange(20) % 4)


def test_a_loss_of_ones_own_is_no_likelihood_unless_one_says_so():
    def pinball(score, y):
        return jnp.logaddexp(0.0, score - y) + jnp.logaddexp(0.0, y - score)

    fit = lo.fit(lo.glm(pinball, X, COST, l2=0.1))
    assert "robust=True takes nothing for granted" in repr(fit.summary())
    assert "robust=True" not in repr(fit.summary(robust=True))
    with pytest.raises(ValueError, match="of the loss pinball only scores are known"):
        fit.predict(X)
    whole = lo.fit(lo.Objective(lambda t, e: jnp.sum((t - e) ** 2), np.asarray(X), jnp.zeros(2)))
    assert whole.summary().names == ("theta[0]", "theta[1]")


# ---- predictions ---------------------------------------------------------------------------------


def test_predictions_are_scikit_learns(fits):
    fit = lo.fit(lo.softmax(X, KIND, l2=1.0))
    model = LogisticRegression(C=1, solver="newton-cholesky", tol=1e-12).fit(X, KIND)
    assert fit.predict(X).tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(fit.predict(X, chances=True), model.predict_proba(X), atol=1e-7)
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(X, Y)
    np.testing.assert_allclose(
        fits["logistic"].predict(X, chances=True), model.predict_proba(X), atol=1e-6
    )
    assert fits["logistic"].predict(X).tolist() == model.predict(X).tolist()
    rates = PoissonRegressor(alpha=0, solver="newton-cholesky", tol=1e-10).fit(X, COUNTS)
    np.testing.assert_allclose(fits["poisson"].predict(X), rates.predict(X), rtol=1e-6)
    expected = np.asarray(DESIGN) @ fits["squares"].flat
    np.testing.assert_allclose(fits["squares"].predict(X), expected)


def test_predictions_take_the_offset_of_a_model_that_has_one(fits):
    exposure = np.log(np.linspace(1, 3, N))
    fit = lo.fit(lo.poisson(X, COUNTS, l2=0.0, offset=exposure))
    scores = np.asarray(DESIGN) @ fit.flat + exposure
    np.testing.assert_allclose(fit.predict(X, offset=exposure), np.exp(scores))
    with pytest.raises(ValueError, match="this model has an offset, so predict needs"):
        fit.predict(X)
    with pytest.raises(ValueError, match="chances are of classes"):
        fits["squares"].predict(X, chances=True)
    with pytest.raises(ValueError, match="in another order"):
        fits["squares"].predict(X[["dose", "age"]])


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", THEIRS)
def test_a_fit_is_loaded_as_it_was_saved(fits, loss, tmp_path):
    fit, path = fits[loss], tmp_path / "fit.npz"
    fit.save(path)
    again = lo.load(path)
    np.testing.assert_allclose(again.flat, fit.flat, atol=1e-12)
    one, two = linear(again), linear(fit)
    assert (one.names, one.classes, one.loss) == (two.names, two.classes, two.loss)
    np.testing.assert_array_equal(one.weights, two.weights)
    groups, wanted = lo.Groups.from_labels(WARD), lo.measures.parameter("age")
    np.testing.assert_allclose(
        lo.effects(again, groups, wanted).value, lo.effects(fit, groups, wanted).value, atol=1e-12
    )


def test_sparse_data_names_and_penalties_by_coefficient_come_back(tmp_path):
    rows = scipy.sparse.random_array((30, 60), density=0.2, rng=2).tocsr()
    fit = lo.fit(lo.logistic(rows, np.arange(30) % 2, l2=np.linspace(1, 2, 60)))
    fit.save(tmp_path / "fit.npz")
    again = lo.load(tmp_path / "fit.npz")
    assert again.objective.sparse
    np.testing.assert_array_equal(again.objective.x.host().toarray(), rows.toarray())
    np.testing.assert_array_equal(again.objective.penalised, fit.objective.penalised)
    np.testing.assert_allclose(again.flat, fit.flat, atol=1e-12)


def test_a_loss_of_ones_own_is_given_again_and_compared(tmp_path):
    def quartic(power):
        return lambda score, y: (score - y) ** 2 + 0.1 * (score - y) ** power

    objective = lo.glm(quartic(4), X, COST)
    fit, path = lo.fit(objective), tmp_path / "own.npz"
    fit.save(path)
    again = lo.load(path, objective=lo.glm(quartic(4), X, COST))
    np.testing.assert_allclose(again.flat, fit.flat, atol=1e-10)
    with pytest.raises(ValueError, match=r"give the objective again, lo.load\(path, objective="):
        lo.load(path)
    with pytest.raises(ValueError, match="the loss of this objective is not the one"):
        lo.load(path, objective=lo.glm(quartic(6), X, COST))
    for other in (lo.glm(quartic(4), X, COST + 1), objective.with_l2(3.0)):
        with pytest.raises(ValueError, match="the data, weights or penalty of this objective"):
            lo.load(path, objective=other)


def test_files_of_fits_are_read_without_trust(fits, tmp_path):
    path = tmp_path / "fit.npz"
    fits["logistic"].save(path)
    with np.load(path) as file:
        parts = dict(file)
    with pytest.raises(ValueError, match=r"holds fit, not groups; read it with lo.load"):
        lo.Groups.load(path)
    broken = {
        "flat": np.zeros(9),
        "y": np.zeros(3),
        "text": np.array("{}"),
        "x": np.zeros((N, 9)),
    }
    for name, value in broken.items():
        np.savez(path, **(parts | {name: value}))
        with pytest.raises(ValueError, match="is damaged"):
            lo.load(path)
    np.savez(path, **(parts | {"flat": parts["flat"] + 1}))
    with pytest.raises(lo.SolveError, match="theta is not near an optimum"):
        lo.load(path)
    with pytest.raises(ValueError, match=r"ending in .npz"):
        fits["logistic"].save(tmp_path / "fit.pkl")
    days = [datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)] * 75
    dated = lo.fit(lo.logistic(X, days))
    with pytest.raises(ValueError, match="a file holds classes that are texts, numbers or bool"):
        dated.save(path)


# ---- names ---------------------------------------------------------------------------------------


def test_a_fit_says_what_it_is(fits):
    assert repr(fits["logistic"]).startswith(
        "Fit(logistic loss of 1 against 0 on 150 examples, 3 parameters, l2 0, Newton decrement"
    )
    assert repr(fits["logistic"]).endswith("converged)")
    rough = lo.fit(lo.logistic(X, Y), max_steps=1, throw=False)
    assert "max_steps: the steps ran out" in repr(rough)


def test_scores_and_coefficients_bear_the_class(fits):
    objective = fits["softmax"].objective
    asked = lo.measures.prediction(X[:2]).bind(objective)
    assert asked.columns(objective)[:3] == (
        "prediction[0, low]", "prediction[0, mid]", "prediction[0, top]",
    )  # fmt: skip
    odds = lo.measures.odds_ratio("dose").bind(objective)
    assert odds.columns(objective) == (
        "odds ratio[dose, mid against low]", "odds ratio[dose, top against low]",
    )  # fmt: skip
    weight = fits["softmax"].theta.weight[:, 1]
    np.testing.assert_allclose(
        odds.values(objective, fits["softmax"].flat, None), np.exp(weight[1:] - weight[0])
    )
    numbered = lo.softmax(X, np.digitize(COST, [4, 6]))
    asked = lo.measures.parameter("age").bind(numbered)
    assert asked.columns(numbered)[1] == "parameter[age, class 1]"


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run_it")
def test_odds_ratios_are_enclosed_and_refused_where_there_are_no_odds(fits):
    groups, measure = lo.Groups.from_labels(WARD), lo.measures.odds_ratio(["dose", "age"], per=2)
    fit = lo.fit(lo.logistic(X, Y, l2=1.0))
    found = lo.effects(fit, groups, measure, lo.Newton(), certify=True)
    actual = lo.effects(fit, groups, measure, lo.Retrain(1e-12)).value
    assert found.lower is not None
    assert found.upper is not None
    assert ((found.lower <= actual) & (actual <= found.upper)).all()
    assert np.isfinite(found.upper).all()
    with pytest.raises(ValueError, match=r"odds ratio needs lo.logistic"):
        lo.effects(fits["poisson"], groups, lo.measures.odds_ratio("age"))
    with pytest.raises(ValueError, match="expected the name of a feature"):
        lo.measures.odds_ratio(wrong(0))
    with pytest.raises(ValueError, match="per as a positive number"):
        lo.measures.odds_ratio("age", per=0)
    with pytest.raises(ValueError, match="did you mean 'dose'"):
        lo.effects(fit, groups, lo.measures.odds_ratio("does"))

"""statsmodels' results taken over: the same answers as fitting them again without a group."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

import leaveout as lo
from problems import linear, mostly_slow, wrong

N = 120
RNG = np.random.default_rng(4)
FRAME = pd.DataFrame(
    {
        "age": RNG.normal(size=N),
        "site": RNG.choice(["a", "b", "c"], N),
        "time": RNG.uniform(1, 3, N),
    },
    index=np.arange(N) + 1000,
)
FRAME["died"] = (RNG.random(N) < 1 / (1 + np.exp(-FRAME["age"]))).astype(int)
FRAME["falls"] = RNG.poisson(np.exp(0.3 * FRAME["age"]) * FRAME["time"])
FRAME["cost"] = 2 * FRAME["age"] + RNG.normal(size=N)
FRAME["kind"] = RNG.choice(["u", "v", "w"], N)
WARD = np.arange(N) % 5
GROUPS = lo.Groups.from_labels(WARD)
QUIET: dict[str, Any] = {"disp": 0, "method": "newton", "tol": 1e-12}


def design(frame):
    return sm.add_constant(frame[["age"]], has_constant="add")


MODELS = {
    "Logit": lambda frame: smf.logit("died ~ age + C(site)", frame).fit(**QUIET),
    "OLS": lambda frame: smf.ols("cost ~ age + C(site)", frame).fit(),
    "WLS": lambda frame: sm.WLS(frame["cost"], design(frame), weights=frame["time"]).fit(),
    "Poisson": lambda frame: sm.Poisson(
        frame["falls"], design(frame), exposure=frame["time"]
    ).fit(**QUIET),
    "GLM Poisson": lambda frame: smf.glm(
        "falls ~ age", frame, family=sm.families.Poisson(), offset=np.log(frame["time"])
    ).fit(tol=1e-14),
    "GLM Binomial": lambda frame: sm.GLM(
        frame["died"].to_numpy(), np.asarray(design(frame)), family=sm.families.Binomial(),
        freq_weights=np.asarray(np.round(frame["time"])),
    ).fit(tol=1e-14),
    "GLM Gaussian": lambda frame: sm.GLM(frame["cost"], frame[["age"]]).fit(),
    "MNLogit": lambda frame: sm.MNLogit(frame["kind"], design(frame)).fit(**QUIET),
}  # fmt: skip


@pytest.mark.parametrize("model", mostly_slow(MODELS, "Logit", "WLS"))
def test_leaving_a_ward_out_is_fitting_again_without_it(model):
    results = MODELS[model](FRAME)
    fit = lo.from_statsmodels(results)
    where = "x1" if model == "GLM Binomial" else "age"
    name = linear(fit).names
    assert name is not None
    assert where in name
    found = lo.effects(fit, GROUPS, lo.measures.parameter(where), lo.Retrain(1e-12))

    def slope(res) -> np.ndarray:
        params = np.asarray(res.params)
        position = list(res.model.exog_names).index(where)
        each = np.atleast_1d(params[position])
        if len(each) == 1:
            return each
        each = np.append(0.0, each)
        return each - each.mean()

    base = slope(results)
    truth = [slope(MODELS[model](FRAME[ward != WARD])) - base for ward in range(5)]
    value = found.value
    if model == "MNLogit":  # of three classes, up to a shift of all
        value = value - value.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(value, truth, atol=1e-7)


def test_errors_are_theirs_and_the_intercept_has_no_column():
    results = MODELS["Logit"](FRAME)
    found = lo.from_statsmodels(results).summary()
    theirs = results.bse.rename({"Intercept": "intercept"})
    np.testing.assert_allclose(found.error, theirs[list(found.names)], rtol=1e-7)
    bare = lo.from_statsmodels(MODELS["GLM Gaussian"](FRAME))
    assert bare.objective.p == 1  # it had none


def test_rows_that_statsmodels_left_out_are_told_from_those_it_kept():
    frame = FRAME.copy()
    frame.loc[1003, "age"] = np.nan
    fit = lo.from_statsmodels(smf.ols("cost ~ age", frame).fit())
    assert fit.objective.n == N - 1
    kept = frame.dropna()
    lo.effects(fit, lo.Groups.from_labels(kept["site"]), lo.measures.parameter("age"))
    with pytest.raises(ValueError, match=r"is not that of|points"):
        lo.effects(
            fit, lo.Groups.from_labels(FRAME["site"].iloc[:-1]), lo.measures.parameter("age")
        )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: sm.Probit(FRAME["died"], design(FRAME)).fit(disp=0), "Probit cannot be taken"),
        (
            lambda: sm.GLM(
                FRAME["time"], design(FRAME), sm.families.Gamma(sm.families.links.Log())
            ).fit(),
            r"Gamma with the link log .* known are Gaussian \(identity\)",
        ),
        (
            lambda: sm.OLS(FRAME["cost"], design(FRAME)).fit_regularized(alpha=1),
            "fitted with fit_regularized",
        ),
        (
            lambda: sm.Logit(FRAME["died"], design(FRAME)).fit_regularized(alpha=1, disp=0),
            "fitted with fit_regularized",
        ),
        (
            lambda: sm.GLM(
                np.c_[FRAME["falls"], FRAME["falls"] + 1], design(FRAME), sm.families.Binomial()
            ).fit(),
            "counts of several trials",
        ),
        (lambda: "results", "expected what fit.. of statsmodels returned, got 'results'"),
    ],
)
def test_what_has_another_objective_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        lo.from_statsmodels(wrong(make()))

"""statsmodels: GLMInfluence.d_params, which for one point is the Newton step.

It is theta_hat less theta without the point; the fit is not timed. `get_influence` makes it anew in
every call, and gives it the weights that GLMInfluence(result) would leave out.
"""

import numpy as np
import statsmodels.api as sm
from serve import serve


def prepare(problem):
    """A function that returns the change in theta when each point leaves."""
    model = sm.GLM(problem["y"], problem["x"], family=sm.families.Binomial())
    result = model.fit(tol=1e-14, maxiter=100, start_params=problem["theta"])

    def run():
        return {"change": -np.asarray(result.get_influence().d_params)}, {}

    return run


if __name__ == "__main__":
    serve(prepare, "statsmodels", "numpy", "scipy")

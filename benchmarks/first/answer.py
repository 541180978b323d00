"""Fit, 16 groups by influence, Newton steps and retraining, a table; then 23 groups more.

Called with an npz file of the problem. The last line is JSON: programs compiled, or taken from the
cache, until the table and after it, and the seconds of the 23 groups.
"""

import json
import sys
import time

import jax
import numpy as np

import leaveout as lo

jax.config.update("jax_enable_x64", True)
programs: list[float] = []


def listen(event: str, duration_secs: float, **about: str | int) -> None:
    """Counts programs."""
    if event.endswith("backend_compile_duration"):
        programs.append(duration_secs)


def ask(count: int) -> list[np.ndarray]:
    """The effects of some groups, evenly spread over the sizes, by three methods."""
    rows = np.linspace(0, len(groups) - 1, count).astype(int)
    methods = lo.Influence(), lo.Newton(), lo.Retrain()
    return [lo.effects(fit, groups[rows], measure, method).value[:, 0] for method in methods]


jax.monitoring.register_event_duration_secs_listener(listen)
with np.load(sys.argv[1]) as given:
    problem = dict(given)
groups = lo.Groups.from_indices(
    np.split(problem["points"], problem["ends"][:-1]), n=len(problem["x"])
)
fit = lo.fit(lo.logistic(problem["x"], problem["y"], l2=float(problem["l2"])))
measure = lo.measures.loss((problem["x_query"], problem["y_query"]), reduce="mean")
for row in zip(*ask(16), strict=True):
    print("  ".join(f"{effect:+.3e}" for effect in row))
first, begin = len(programs), time.perf_counter()
ask(23)
more = {"programs": first, "more_programs": len(programs) - first}
print(json.dumps(more | {"more_seconds": time.perf_counter() - begin}))

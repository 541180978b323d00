"""Mutants that change nothing a user can see, each with its reason; `mutants` counts none."""

__all__ = ["EQUIVALENT"]

#: (module, its line, what stood there, what it became) to why nobody can see it
EQUIVALENT: dict[tuple[str, str, str, str], str] = {
    (
        "src/leaveout/analysis/compare.py",
        "values = np.zeros(0, object)",
        "0",
        "1",
    ): "any array of objects is refused in the same words",
    (
        "src/leaveout/analysis/confidence.py",
        'table |= {"low": self.without_low.reshape(-1), "high": self.without_high.reshape(-1)}',
        "1",
        "2",
    ): "NumPy takes any negative length for what is left",
    (
        "src/leaveout/analysis/exact.py",
        "count = min(int(sizes.max()) - 1, block.shape[1] - 1)",
        "int(sizes.max()) - 1",
        "int(sizes.max()) + 1",
    ): "two entries more are sorted, and not summed",
    (
        "src/leaveout/analysis/trust.py",
        "gap = spread / np.where(apart, above, 1.0)  # the other node is that far below the mean",
        "1.0",
        "2.0",
    ): "where the nodes are not apart the gap is not used",
    (
        "src/leaveout/certify/balls.py",
        "known &= (longest * radius <= _REACH) & (loose < 0.5)",
        "longest * radius <= _REACH",
        "longest * radius < _REACH",
    ): "a radius at the reach itself proves as much",
    (
        "src/leaveout/certify/enclose.py",
        "room = 2**26 if outputs == 1 and not isinstance(kind, Frame) else 2**23",
        "2",
        "3",
    ): "how many lanes go together, not what they find",
    (
        "src/leaveout/certify/enclose.py",
        "return jnp.where(known, lower, -jnp.inf), jnp.where(known, upper, jnp.inf)",
        "-jnp.inf",
        "jnp.inf",
    ): "infinite bounds of a ball are subtracted: what is then no number is made infinite",
    (
        "src/leaveout/methods/bricks.py",
        "count, p = len(each), each.shape[1]",
        "1",
        "2",
    ): "matrices are as wide as they are high",
    (
        "src/leaveout/methods/bricks.py",
        "share = 1 - (atoms.w @ own) / np.where(whole > 0, whole, 1.0)",
        "whole > 0",
        "whole >= 0",
    ): "a parameter without curvature or penalty has no fit",
    (
        "src/leaveout/methods/coordinates.py",
        "rest = factor.whiten(objective.gradient(fit.flat)[None])[0]",
        "0",
        "1",
    ): "JAX reads the last row for one that is not there",
    (
        "src/leaveout/methods/pool.py",
        "self.some = max(lanes // 4, 1)  # lanes that are filled, and that are emptied, together",
        "1",
        "2",
    ): "how many lanes are emptied together, not what they find",
    (
        "src/leaveout/methods/pool.py",
        "renewal = n * p**2 * (outputs + 1) / outputs + 2 * p**3",
        "2",
        "3",
    ): "when a hard lane gets a Hessian of its own: a matter of time",
    (
        "src/leaveout/methods/pool.py",
        "worth = max(HARD, int(renewal / evaluation / 2))",
        "2",
        "3",
    ): "when a hard lane gets a Hessian of its own: a matter of time",
    (
        "src/leaveout/methods/pool.py",
        "enough = max(int(held.sum()) - self.some, 0) if len(self.queue) else 0",
        "0",
        "1",
    ): "when lanes are emptied, not what they find",
    (
        "src/leaveout/methods/lanes.py",
        "(whole.push(theta[None], None), jnp.full(1, spent, jnp.int32)),",
        "1",
        "2",
    ): "the evaluations of one lane, written twice",
    (
        "src/leaveout/methods/strain.py",
        "grown = high / jnp.where(here > 0, here, 1.0)",
        "1.0",
        "2.0",
    ): "a quotient that the next line leaves out",
    (
        "src/leaveout/objectives/centre.py",
        "typical = np.where(curvature > 0, curvature, 1.0)",
        "1.0",
        "2.0",
    ): "the unit of a column that is 0 everywhere",
    (
        "src/leaveout/analysis/sets_found.py",
        "for title, (*some, right) in zip(self.groups.names, numbers, strict=True)",
        "True",
        "False",
    ): "there are as many names as rows of numbers",
    (
        "src/leaveout/analysis/games.py",
        "_RIDGES = np.logspace(-7, 1, 9)  # penalties tried, of columns in standard deviations",
        "7",
        "8",
    ): "one end of a grid that held-out errors choose from, further out than they choose",
    (
        "src/leaveout/methods/retraining.py",
        "_FEW = 128  # parameters up to which every direction is looked at, "
        "not only that of the change",
        "128",
        "129",
    ): "a limit of cost: models of 129 parameters are looked at in more directions",
    (
        "src/leaveout/methods/lanes.py",
        "first = 1 / jnp.maximum(force, 1.0) if fit.is_bare else None",
        "1.0",
        "2.0",
    ): "a first guess of a step's length, which the search along the line corrects",
    (
        "src/leaveout/methods/end_point.py",
        "return 8 * (6 * end.count + end.fit.objective.n * end.fit.objective.floats_per_example)",
        "6 * end.count + end.fit.objective.n * end.fit.objective.floats_per_example",
        "6 * end.count - end.fit.objective.n * end.fit.objective.floats_per_example",
    ): "how many groups are solved together, not what they find",
    (
        "src/leaveout/analysis/spectrum.py",
        "held = 8 * 4 * (objective.p**2 + objective.n * objective.floats_per_example)",
        "objective.p ** 2 + objective.n * objective.floats_per_example",
        "objective.p ** 2 - objective.n * objective.floats_per_example",
    ): "what is planned to be held, not what is found",
    (
        "src/leaveout/certify/enclose.py",
        "room = 2**26 if outputs == 1 and not isinstance(kind, Frame) else 2**23",
        "outputs == 1",
        "outputs != 1",
    ): "how many lanes go together, not what they find",
    (
        "src/leaveout/methods/newton_batches.py",
        "held += 8 * p * p * (not isinstance(solver, CG))  # the group's factor",
        "8",
        "9",
    ): "what is planned to be held, not what is found",
}

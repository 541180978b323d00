# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# %% [markdown]
# # Your own loss
#
# A loss is a JAX function of one example. Two of them: a robust regression whose scale is learnt,
# and Bradley and Terry's model of who beats whom. Nothing else is written by hand: gradients,
# curvature, retraining and Newton steps come from it.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import leaveout as lo

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)

# %% [markdown]
# ## Robust regression
#
# A pseudo-Huber loss of a linear score: `lo.glm` takes it as it is. A tenth of the targets are
# spoilt, in one batch.

# %%
n, d = 400, 5
x, truth = rng.normal(size=(n, d)), np.array([2.0, -1.0, 0.5, 0.0, 1.0])
y = x @ truth + 0.3 * rng.normal(size=n)
batch = np.arange(n) // 40
y[batch == 7] += 6


def pseudo_huber(score, target):
    """Quadratic near, linear far."""
    return jnp.sqrt(1 + (score - target) ** 2) - 1


robust = lo.fit(lo.glm(pseudo_huber, x, y, l2=1.0))
plain = lo.fit(lo.squares(x, y, l2=1.0))
groups = lo.Groups.from_labels(batch, kind="batch")
coefficients = lo.measures.parameter([0, 1, 2, 3, 4, 5])
effects = {
    name: lo.effects(fit, groups, coefficients, lo.Retrain())
    for name, fit in (("pseudo-Huber", robust), ("least squares", plain))
}
lengths = {name: np.linalg.norm(e.value, axis=1) for name, e in effects.items()}
print({name: length.round(3) for name, length in lengths.items()})

# %% [markdown]
# The spoilt batch moves least squares several times as far as the robust fit, and more than any
# other batch.

# %%
assert lengths["least squares"].argmax() == 7
assert lengths["least squares"][7] > 3 * lengths["pseudo-Huber"][7]
step = lo.effects(robust, groups, coefficients, lo.Newton())
report = lo.compare(step, effects["pseudo-Huber"])
print(report.table(["parameter[0]"]))

# %% [markdown]
# ## Who beats whom
#
# Any PyTree of parameters and data: `lo.Objective`. A match is a pair of players and who won;
# leaving out a judge leaves out the matches they judged. One judge favours player 0.

# %%
players, matches, judges = 12, 900, 15
strength = np.linspace(-1.5, 1.5, players)
first = rng.integers(players, size=matches)
second = (first + rng.integers(1, players, size=matches)) % players
judge = rng.integers(judges, size=matches)
chance = 1 / (1 + np.exp(strength[second] - strength[first]))
won = rng.random(matches) < chance
won = np.where((judge == 3) & (first == 0), True, won)
won = np.where((judge == 3) & (second == 0), False, won)


def bradley_terry(theta, match):
    """Minus the log-likelihood of one match."""
    gap = theta["strength"][match["first"]] - theta["strength"][match["second"]]
    return jnp.logaddexp(0.0, jnp.where(match["won"], -gap, gap))


fit = lo.fit(
    lo.Objective(
        bradley_terry,
        {"first": first, "second": second, "won": won},
        {"strength": jnp.zeros(players)},
        l2=1.0,
    )
)
panel = lo.Groups.from_labels(judge, kind="judge")


def lead_of_0(theta):
    """How far player 0 stands above the mean."""
    return theta["strength"][0] - jnp.mean(theta["strength"])


answers = {
    method.name: lo.effects(fit, panel, lead_of_0, method)
    for method in (lo.Influence(), lo.Newton(), lo.Retrain())
}
for name, effect in answers.items():
    print(f"{name:<10}", effect.value[:, 0].round(3))
actual = answers["actual"].value[:, 0]
assert actual.argmin() == 3  # without that judge, player 0 falls most
assert (lo.compare(answers["Newton"], answers["actual"]).spearman > 0.99).all()

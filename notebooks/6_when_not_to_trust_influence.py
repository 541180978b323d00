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
# # When not to trust influence
#
# Influence ranks groups well on most data, and the paper says why and when it cannot. Here are the
# cases in which it fails, the signs by which to know them before anything is retrained, and
# intervals that hold the truth for sure.

# %%
import jax
import numpy as np

import leaveout as lo
from leaveout.studies.koh2019 import plot_theory

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## Four points in a plane
#
# 120 copies of four points. The groups are the first copies of one of them; influence and the
# truth lie on four different lines, and their order is scrambled (Koh et al. 2019, figure 3).

# %%
example = lo.counterexamples.ortho2()
influence, newton, actual = (
    example.effects(method) for method in (lo.Influence(), lo.Newton(), lo.Retrain())
)
print("Spearman", lo.compare(influence, actual).spearman, lo.compare(newton, actual).spearman)
assert lo.compare(influence, actual).spearman[0] < 0.999

# %%
figure, axes = lo.plot.canvas(1, 1)
plot_theory.signs(influence, newton, ax=axes[0, 0], title="copies of four points")
figure

# %% [markdown]
# ## The cone
#
# How short influence falls on the group's own loss is bounded by the largest share of curvature
# that the group takes along any direction: `lo.bounds.cone`.

# %%
data = lo.datasets.breast_cancer()
fit = lo.fit(lo.logistic(data.x, data.y, l2=1.0))
sizes = lo.groups.sizes(data.n, 60)
groups = lo.groups.random(jax.random.key(0), data, sizes=sizes) + lo.groups.same_class(
    jax.random.key(1), data, sizes=sizes
)
own = lo.measures.self_loss()
parts = lo.bounds.decompose(fit, groups, own)
first = parts.influence[:, 0]
ratio = (parts.newton - parts.rest)[:, 0] / first  # Newton's effect, to second order in the change
cone = lo.bounds.cone(fit, groups)
print("Newton / influence from", ratio.min().round(2), "to", ratio.max().round(2))
assert (ratio >= np.asarray(cone.lower) - 1e-9).all()
assert (ratio <= np.asarray(cone.upper) * (1 + 1e-9)).all()

# %% [markdown]
# ## A light before any solve
#
# `lo.trust` says from leverages alone whether influence can be believed.

# %%
trust = lo.trust(fit, groups)
actual = lo.effects(fit, groups, own, lo.Retrain(), certify=True)
error = np.abs(first - actual.value[:, 0]) / np.abs(actual.value[:, 0])
for light in lo.Light:
    mine = trust.light == light
    if mine.any():
        print(f"{light.name:<6} {mine.sum():>4} groups, median error {np.median(error[mine]):.1%}")
worst = error[trust.light == lo.Light.red]
best = error[trust.light != lo.Light.red]
assert np.median(worst) > np.median(best)

# %% [markdown]
# ## Certificates
#
# Retraining is a computation, and computations err. The interval around each effect is proven, up
# to rounding: it holds the effect of the exact optimum without the group.

# %%
width = actual.width[:, 0] / np.sqrt(np.mean(actual.value**2))
codes = [lo.Certificate(int(code)).name for code in actual.certificate]
print({name: codes.count(name) for name in sorted(set(codes))})
print("median half-width, as a share of the rms effect:", f"{np.median(width):.1e}")
assert (np.isfinite(width)).mean() > 0.9
approximate = lo.effects(fit, groups, own, lo.NewtonChebyshev(), certify=True)
finite = np.isfinite(approximate.width[:, 0])
truth = actual.value[finite, 0]
assert (approximate.lower[finite, 0] <= truth + 1e-9).all()
assert (truth - 1e-9 <= approximate.upper[finite, 0]).all()
print(f"one Newton-Chebyshev step certifies {finite.mean():.0%} of the groups")

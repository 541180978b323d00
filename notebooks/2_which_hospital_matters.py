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
# # Which hospital matters?
#
# Four hospitals sent their patients' records; one model predicts heart disease for all. What does
# each hospital's data do for the patients of each? Leave it out, and see.
#
# The records are UCI's (Janosi, Steinbrunn, Pfisterer and Detrano 1988), read from the folder that
# `LEAVEOUT_DATA` names, or downloaded.

# %%
import jax
import numpy as np

import leaveout as lo

jax.config.update("jax_enable_x64", True)

data = lo.datasets.heart()
fit = lo.fit(lo.logistic(data.x, data.y, l2=0.01 * data.n))
hospitals = lo.Groups.from_labels(data.labels["hospital"], kind="hospital")
hospitals

# %% [markdown]
# One measure with a column for each part of the held-out patients: the loss summed over those of
# each hospital. `lo.credit` makes the table: effects by influence, by one Newton step and by
# retraining, and where each stands among a thousand random groups of the same size with as many
# sick and well patients.

# %%
queries = data.x_query, data.y_query
measure = lo.measures.loss(queries, by=data.query_labels["hospital"])
found = lo.credit(fit, hospitals, measure, actual=True, certify=True)
print(found)

# %% [markdown]
# Without Cleveland, its own patients are predicted worse; so it is with Hungary and Switzerland.
# The Long Beach hospital (va) is hardly missed, even at home.

# %%
actual = found.effects["actual"].value
home = np.diag(actual)
print(dict(zip(hospitals.names.tolist(), home.round(2).tolist(), strict=True)))
assert (home[:3] > 4).all()
assert abs(home[3]) < 0.1
assert (np.diag(found.effects["actual"].width) < 1e-3).all()  # and that is certain

# %%
columns = [name.split("[")[1][:-1] for name in found.columns]
lo.plot.heat(actual, hospitals.names, columns, title="loss on patients of ... when ... leaves")

# %% [markdown]
# A hospital is a third of the data, and influence is a straight line: it sees less than a third of
# what happens. One Newton step knows what curvature leaves with the hospital.

# %%
influence, newton = (found.effects[name].value for name in ("influence", "Newton"))
print("influence / actual at home", (np.diag(influence) / home)[:3].round(2))
print("Newton    / actual at home", (np.diag(newton) / home)[:3].round(2))
assert (np.diag(influence)[:3] < 0.35 * home[:3]).all()
assert (np.abs(np.diag(newton)[:3] / home[:3] - 1) < 0.25).all()

# %% [markdown]
# Is a hospital unlike a random set of patients of its size? The null band answers for influence
# first; with four groups any method is affordable, so here it is again by Newton steps.

# %%
chance = lo.Null(200, lo.Newton(), key=jax.random.key(1))
against = lo.credit(fit, hospitals, measure, lo.Newton(), null=chance)
lo.plot.bands(against, column=2)

# %%
switzerland = against.groups.names.tolist().index("switzerland")
assert against.null.q[switzerland, 2] < 0.05  # on its own patients: it is unlike the others

# %% [markdown]
# The error that a *new* hospital must expect is that of leaving each out, not that of random folds.

# %%
sites = lo.cross_validate_groups(fit, hospitals, lo.Retrain())
folds = lo.cross_validate_groups(fit, lo.groups.folds(jax.random.key(0), data, 4), lo.Retrain())
print(sites, folds, sep="\n")
assert sites.mean > folds.mean > folds.training_mean

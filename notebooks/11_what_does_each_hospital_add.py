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
# # What does each hospital add?
#
# Leave a hospital out, and its patients are missed only as far as the others cannot stand in for
# them. Ask instead what it adds to every set of the others, averaged over all orders in which
# hospitals could have joined: that is Shapley's value. It takes the model of every coalition, 2^8
# of them for the women and the men of four hospitals.
#
# The records are UCI's (Janosi, Steinbrunn, Pfisterer and Detrano 1988), read from the folder that
# `LEAVEOUT_DATA` names, or downloaded.

# %%
import warnings

import jax
import numpy as np

import leaveout as lo

jax.config.update("jax_enable_x64", True)

data = lo.datasets.heart()
fit = lo.fit(lo.logistic(data.x, data.y, l2=0.01 * data.n))
who = np.stack([data.labels["hospital"], data.labels["sex"]], axis=1)
players = lo.Groups.from_labels(who, kind="hospital, sex")
players

# %% [markdown]
# The measure is the mean loss on held-out patients, so that what helps has a **negative** value:
# values are f(with) - f(without), opposite to effects. A coalition of women who were all ill has no
# minimum (its intercept runs away); it predicts their smoothed base rate, and is named.

# %%
measure = lo.measures.loss((data.x_query, data.y_query), reduce="mean")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    values = lo.value(fit, players, measure)
print(said[0].message)
print(values)

# %% [markdown]
# The values add up to what all data is worth: from predicting 1/2 for everybody to the model.

# %%
assert values.exact
assert np.isclose(values.value.sum(), values.total[0], atol=1e-12)

# %%
lo.plot.values(values, title="heart disease, held-out patients").figure

# %% [markdown]
# Leave-one-out (crosses) says that hardly anybody matters, as the others stand in for each. Alone
# (circles) almost everybody would teach most of what there is to learn.

# %%
alone, last = np.abs(values.alone).mean(), np.abs(values.last).mean()
print(f"mean size alone {alone:.3f}, last {last:.4f}")
assert last < 0.1 * alone

# %% [markdown]
# Banzhaf's value weighs every coalition alike. The coalitions are trained already, so that it costs
# nothing; nor does it change the order much.

# %%
banzhaf = values.under(lo.Banzhaf())
print(banzhaf)
order = [list(each.groups.names[each.order()]) for each in (values, banzhaf)]
assert order[0][0] in order[1][:2]

# %% [markdown]
# With more players, or less patience, some of the coalitions say what the others would: here 66 of
# 256, with standard errors.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    some = lo.value(fit, players, measure, trainings=66)
wrong = some.value - values.value
print(some)
print(f"error {np.sqrt(np.mean(wrong**2)) / values.value.std():.3f} of the values' spread")
assert np.sqrt(np.mean(wrong**2)) < 0.3 * values.value.std()

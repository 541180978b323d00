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
# # Who would turn the result?
#
# A regression says that an offer of credit raises loans by 1,122 dirhams. On how many of 5,513
# households does that hang? A classifier treats men and women differently. Which people taught it?
# Influence proposes, retraining decides.
#
# The data are Morocco's villages (Crepon, Devoto, Duflo and Pariente 2015) and UCI's hearts, read
# from the folder that `LEAVEOUT_DATA` names, or downloaded.

# %%
import jax
import numpy as np

import leaveout as lo

jax.config.update("jax_enable_x64", True)

morocco = lo.datasets.morocco()
fit = lo.fit(lo.squares(morocco.x, morocco.y, l2=0.0))
offer = lo.measures.parameter(0, name="offer")

# %% [markdown]
# The fewest households found whose leaving turns the sign. `influence says` is what sorting and
# adding up would report, and would not check.

# %%
flips = lo.flips(fit, offer)
print(flips)
assert flips.size[0] <= 42
assert flips.now[0] + flips.effects.value[0, 0] < 0  # retrained without them

# %% [markdown]
# That they were found does not say that fewer would not do. Of least squares a limit can be proven
# for every set there is; the 80 indicators of pairs of villages make it useless, and without them
# it is sharp.

# %%
own = [k for k, name in enumerate(morocco.feature_names) if not name.startswith("pair=")]
plain = lo.fit(lo.squares(morocco.x[:, own], morocco.y, l2=0.0))
found = lo.extreme(plain, offer, [5, 10, 20], direction=-1, bound=True)
print(found)
assert (found.upper / found.value < 1.06).all()

# %% [markdown]
# Of other losses nothing is linear. Here the score of one patient is pushed towards the other
# class: one pass by influence finds a third of what there is, and the accuracy beside it shows how
# much of the model is left.

# %%
data = lo.datasets.breast_cancer()
fit = lo.fit(lo.logistic(data.x, data.y, l2=1.0))
score = lo.measures.prediction(data.x_query[[30]])
way = 1 if data.y_query[30] == 0 else -1
found = lo.extreme(fit, score, [5, 28, 57], direction=way)
print(found)
assert (np.abs(found.value) >= np.abs(found.one_pass) - 1e-9).all()
assert abs(found.value[-1] / found.one_pass[-1]) > 1.5

# %% [markdown]
# A set of points is hard to talk about. `lo.discover` looks for groups that can be described, here
# by what a table says of the patients, that make the gap between men and women in the predicted
# probability of disease: 13 columns, every conjunction of three.

# %%
heart = lo.datasets.heart()
fit = lo.fit(lo.logistic(heart.x, heart.y, l2=0.01 * heart.n))
gap = lo.measures.gap(heart.x_query, by=heart.query_labels["sex"], between=("male", "female"))
frame = {**heart.labels, "ill": heart.y}
frame |= {name: heart.x[:, k] for k, name in enumerate(heart.feature_names)}
credit = lo.discover(fit, frame, gap, support=(0.02, 0.2), show=5, null=lo.Null(99))
print(credit)
assert credit.best.value[0, 0] < 0

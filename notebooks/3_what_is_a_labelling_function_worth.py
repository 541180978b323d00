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
# # What is a labelling function worth?
#
# Nobody labelled these comments on videos as spam or not: ten small programs voted. Each vote is a
# training example, weighted by one over the votes on its comment. Which program is worth its keep?
# Koh et al. (2019, section 5) ask this of a relation extractor; `leaveout figure 4` does that.
#
# The data (Alberto et al. 2015, votes of WRENCH) is read from the folder `LEAVEOUT_DATA` names.

# %%
import jax
import numpy as np

import leaveout as lo

jax.config.update("jax_enable_x64", True)

data = lo.datasets.youtube()
fit = lo.fit(lo.logistic(data.x, data.y, l2=1e-3 * data.n, weights=data.weights))
functions = lo.Groups.from_labels(data.labels["function"], kind="function")
functions

# %% [markdown]
# The loss on test comments, by true class. A function always votes for one class, so it helps that
# class and hurts the other.

# %%
names = np.where(data.y_query == 1, "spam", "ham")
measure = lo.measures.loss((data.x_query, data.y_query), by=names)
found = lo.credit(fit, functions, measure, actual=True, null=200)
votes = np.where(found.balance[:, 1] > 0, "spam", "ham")
print(found.table("sum of loss[spam]"))

# %%
actual = found.effects["actual"]
own = actual.value[np.arange(10), (votes == "spam").astype(int)]
print("without it, loss of its own class:", own.round(1))
assert (own > 0).sum() >= 9

# %%
rank = lo.compare(found.effects["influence"], actual).spearman
print("Spearman, influence against retraining:", rank)
assert (rank > 0.9).all()

# %%
figure, axes = lo.plot.canvas(1, 2)
precision = [data.labels["precision"][data.labels["function"] == k].mean() for k in range(10)]
for ax, trait, label in zip(
    axes[0], (functions.size / data.n, precision), ("coverage", "precision"), strict=True
):
    lo.plot.against(trait, own, ax=ax, kinds=votes, xlabel=label, ylabel="effect on own class")
figure

# %% [markdown]
# What if a function had voted the other way? Relabelling is a change like any other. One Newton
# step cannot tell it from influence here, because the curvature of the logistic loss does not
# depend on the label; there is a warning, and retraining knows.

# %%
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    turned, both = lo.relabel(fit, functions[[9]], 1 - data.y)
answers = {
    method.name: lo.effects(turned, both, measure, method).value[0]
    for method in (lo.Influence(at_changed=True), lo.Newton(), lo.Retrain())
}
print(answers)
np.testing.assert_allclose(
    answers["influence at changed theta"], answers["Newton"], rtol=1e-6, atol=1e-9
)

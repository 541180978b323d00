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
# # One group, three answers
#
# A model predicts whether a tumour is malignant. What would it be if the ten smallest malignant
# tumours, the ones easiest to mistake, had not been in its training data? Influence, one Newton
# step, and retraining answer.

# %%
import jax
import numpy as np

import leaveout as lo

jax.config.update("jax_enable_x64", True)

data = lo.datasets.breast_cancer()
fit = lo.fit(lo.logistic(data.x, data.y, l2=1.0))
fit.status, fit.residual

# %% [markdown]
# A group is a list of points. Its effect is measured on the test example that the model gets most
# wrong, and on the group's own loss. Effects are *without minus with*, in units of the measure.

# %%
malignant = np.flatnonzero(data.y == 0)
smallest = malignant[np.argsort(data.x[malignant, 0])[:10]]
groups = lo.Groups.from_indices([smallest], n=data.n, names=["ten smallest malignant"])

scores = data.x_query @ np.asarray(fit.theta.weight) + float(fit.theta.bias)
worst = np.argmax(np.logaddexp(0, scores) - data.y_query * scores)
measures = [
    lo.measures.loss((data.x_query[[worst]], data.y_query[[worst]])),
    lo.measures.self_loss(),
]
answers = {
    method.name: lo.effects(fit, groups, measures, method).value[0]
    for method in (lo.Influence(), lo.Newton(), lo.Retrain())
}
answers

# %% [markdown]
# Influence is a straight line through the present model; the Newton step allows for the curvature
# that leaves with the group. The self-loss is where the difference shows: a group that is no longer
# trained on is always fitted worse than influence says.

# %%
influence, newton, actual = (answers[name][1] for name in ("influence", "Newton", "actual"))
assert 0 < influence < actual
assert abs(newton - actual) < abs(influence - actual)

# %% [markdown]
# Many groups are no harder than one: here two hundred random ones, retrained together.

# %%
many = lo.groups.random(jax.random.key(0), data, sizes=lo.groups.sizes(data.n, 200))
actual = lo.effects(fit, many, measures, lo.Retrain())
report = lo.compare(lo.effects(fit, many, measures, lo.Newton()), actual)
print(report)
assert not actual.status.any()
assert (report.spearman > 0.9).all()

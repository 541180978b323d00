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
# # Who taught the model?
#
# 326 crowdworkers labelled 15,103 pairs of sentences as entailment, neutral or contradiction. What
# did each contribute, to each part of the test set? All 326 models without one worker are trained,
# all at once.
#
# This is *not* MultiNLI, whose workers are not public: it is Vania, Chen and Bowman (2020), three
# Wikipedia sets, read from the folder that `LEAVEOUT_DATA` names. In one part workers wrote the
# second sentence, in two they labelled what a machine had made.

# %%
import jax
import numpy as np

import leaveout as lo

jax.config.update("jax_enable_x64", True)

data = lo.datasets.nli()
fit = lo.fit(lo.softmax(data.x, data.y, l2=4.64e-3 * data.n))
workers = lo.Groups.from_labels(data.labels["worker"], kind="worker")
workers

# %%
part = data.query_labels["part"]
measure = lo.measures.loss((data.x_query, data.y_query), by=part)
found = lo.credit(fit, workers, measure, (lo.Influence(), lo.Retrain()), null=200)
report = lo.compare(found.effects["influence"], found.best)
print(report)
assert not found.best.status.any()
assert (report.spearman > 0.99).all()

# %% [markdown]
# Each worker is a column, those of like effects side by side. Some help one part and hurt another.

# %%
names = [name.split("[")[1][:-1] for name in found.columns]
lo.plot.heat(found.best.value, workers.names, names, title="effect on the loss of each part")

# %% [markdown]
# The more a worker wrote, the more removing them can do, either way: size alone says little.

# %%
figure, axes = lo.plot.canvas(1, 3)
for j, ax in enumerate(axes[0]):
    lo.plot.against(
        workers.size, found.best.value[:, j], ax=ax, title=names[j], xlabel="examples",
        ylabel="effect on loss",
    )  # fmt: skip
figure

# %% [markdown]
# Is any worker unlike a random set of as many examples with the same labels? With 326 workers and
# three parts chance alone would show some; Benjamini and Hochberg allow for that. Two hundred
# random groups cannot prove much (p is never below 2 / 201), so ask for more of them.

# %%
sure = lo.credit(fit, workers, measure, lo.Influence(), null=10_000)
stand = (sure.null.q <= 0.05).sum(axis=0)
print(
    "workers who stand out at a false discovery rate of 5 %:",
    dict(zip(names, stand.tolist(), strict=True)),
)
assert sure.null.p.min() < 0.01
assert np.abs(np.mean(sure.null.p <= 0.05) - 0.05) < 0.1

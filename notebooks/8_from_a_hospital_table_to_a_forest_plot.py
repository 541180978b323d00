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
# # From a hospital table to a forest plot
#
# A table of patients, a column that says where they were treated, and a question: how large is the
# odds ratio of a symptom, and does it hang on one hospital?
#
# The table is UCI's of four hospitals (Janosi, Steinbrunn, Pfisterer and Detrano 1988). Here it is
# written as a CSV first, because that is how tables come. Age and the top heart rate are in
# standard deviations.

# %%
import jax
import numpy as np
import pandas as pd

import leaveout as lo

jax.config.update("jax_enable_x64", True)

heart = lo.datasets.heart()
x = pd.DataFrame(heart.x, columns=list(heart.feature_names))
pain = np.select([x["exercise pain=1.0"] == 1, x["exercise pain=0.0"] == 1], ["yes", "no"], "")
pd.DataFrame({
    "hospital": heart.labels["hospital"],
    "ill": np.where(heart.y == 1, "yes", "no"),
    "age": x["age"],
    "male": x["male=1.0"].astype(int),
    "top_rate": x["top rate"].where(x["top rate missing"] == 0),
    "exercise_pain": pain,
}).to_csv("hospitals.csv", index=False)  # fmt: skip
pd.read_csv("hospitals.csv").head()

# %% [markdown]
# ## Ten lines
#
# The CSV becomes a data set: columns coded and named, groups by hospital, nothing missing in
# silence. The model is logistic without a penalty to speak of: coefficients are log odds ratios.

# %%
data = lo.table("hospitals.csv", target="ill", groups="hospital", missing="drop")
fit = lo.fit(data.objective(l2=1e-6))
asked = lo.measures.odds_ratio(["exercise_pain", "male", "age", "top_rate"])
found = lo.confidence(fit, data.groups, asked, null=1000)
found

# %% [markdown]
# The intervals are confidence intervals: statistical, of other samples of hospitals. They are
# jackknifed, clustered by hospital, from Student's t with three degrees of freedom, for there are
# four hospitals. Few clusters make wide intervals, and that is honest: what is believed of patients
# in general rests on four places.
#
# One row a hospital: the odds ratio without it, and the confidence interval that the other three
# give. The grey band is where the odds ratio would be without as many patients drawn at random: a
# hospital outside its band differs from the others by more than its size.

# %%
PAIN = next(name for name in found.columns if "exercise_pain" in name)
lo.plot.forest(found, PAIN, title="Pain under exercise, and heart disease")

# %% [markdown]
# The same numbers as a table:

# %%
rows = found.without_pandas()
rows[rows["column"] == PAIN]

# %% [markdown]
# What is without a hospital is what refitting without it gives, to the last digits that matter:

# %%
rest = data.labels["hospital"] != "va"
again = lo.fit(lo.logistic(data.x[rest], data.y[rest] == "yes", l2=1e-6))
mine = rows[(rows["group"] == "va") & (rows["column"] == PAIN)]["without"].item()
place = [i for i, name in enumerate(data.feature_names) if "exercise_pain" in name]
theirs = np.exp(np.asarray(again.flat)[place]).item()
print(mine, theirs)
assert abs(mine / theirs - 1) < 1e-6

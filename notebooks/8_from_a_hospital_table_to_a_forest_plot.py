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
# written as a CSV first, because that is how tables come.

# %%
import jax
import numpy as np
import pandas as pd

import leaveout as lo

jax.config.update("jax_enable_x64", True)

heart = lo.datasets.heart()
table = pd.DataFrame(heart.x, columns=list(heart.feature_names))
keep = table.nunique() > 1
table = table.loc[:, keep].assign(
    hospital=heart.labels["hospital"], ill=np.where(heart.y == 1, "yes", "no")
)
table.to_csv("hospitals.csv", index=False)
table.head()

# %% [markdown]
# ## Ten lines
#
# The CSV becomes a data set: columns coded and named, groups by hospital, nothing missing in
# silence. The model is logistic without a penalty to speak of: coefficients are log odds ratios.

# %%
columns = ["age", "sex", "trestbps", "thalach", "exang", "oldpeak"]
data = lo.table("hospitals.csv", target="ill", groups="hospital", features=columns)
fit = lo.fit(data.objective(l2=1e-6))
found = lo.confidence(fit, data.groups, lo.measures.odds_ratio(columns), null=1000)
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
figure = lo.plot.forest(
    found, "odds ratio[exang]", title="Angina under exercise, and heart disease"
)
figure

# %% [markdown]
# The same numbers as a table:

# %%
rows = found.without_pandas()
rows[rows["column"] == "odds ratio[exang]"]

# %% [markdown]
# What is without a hospital is what refitting without it gives, to the last digits that matter:

# %%
without = table["hospital"] != "va"
again = lo.fit(lo.logistic(data.x[without], data.y[without], l2=1e-6))
mine = rows[(rows["group"] == "va") & (rows["column"] == "odds ratio[exang]")]["without"].item()
theirs = float(np.exp(again.flat[columns.index("exang")]))
print(mine, theirs)
assert abs(mine / theirs - 1) < 1e-6

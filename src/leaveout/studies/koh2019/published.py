"""The paper's own numbers, and which figure shows what.

Source: Koh, Ang, Teo and Liang (2019), figures 1, 2, 3, C.1, C.2, C.4 and table 1; the correlations
printed in the notebooks released with it.
"""

__all__ = [
    "CHOSEN",
    "DATA",
    "FIGURES",
    "MEASURES",
    "PREDICTIONS",
    "PUBLISHED",
    "SWEEP",
    "TABLE_1",
    "WORDS",
]

#: data set to its heading; in the paper's order
DATA = {
    "diabetes": "Diabetes",
    "enron": "Enron (other words)",
    "fishdog": "Fish-dog (for Dogfish)",
    "cdr": "CDR (rebuilt)",
    "mnist": "MNIST",
    "mnist_small": "MNIST-small",
}

#: figure to the data sets it shows
FIGURES = {
    "1": ("diabetes", "enron", "fishdog", "cdr", "mnist"),
    "2": ("diabetes", "enron", "fishdog", "cdr", "mnist"),
    "3": (),  # the counterexamples: generated, and no study
    "C.1": ("diabetes", "enron", "fishdog", "cdr", "mnist"),
    "C.2": ("diabetes", "enron", "fishdog", "mnist_small"),
    "C.4": ("diabetes", "enron", "fishdog", "cdr", "mnist"),
}

#: l2 / n of figure C.2
SWEEP = tuple(10.0**k for k in range(-7, 3))

#: l2 / n where the data is the paper's and its choice hangs on one example (see `docs/paper.md`)
CHOSEN = {"diabetes": 10 ** (-4 + 1 / 3)}

#: the paper's l2 / n and test accuracy (table 1)
TABLE_1 = {
    "diabetes": (2.2e-4, 0.682),
    "enron": (1e-3, 0.961),
    "fishdog": (2.2e-2, 0.985),
    "mnist": (1e-3, 0.921),
    "cdr": (1e-4, 0.674),
}

#: (method, measure) to the Spearman correlations with actual effects in the released notebooks
PUBLISHED = {
    ("influence", "test prediction"): {
        "diabetes": 0.99861,
        "enron": 0.88605,
        "fishdog": 0.97574,
        "cdr": 0.99491,
    },
    ("influence", "test loss"): {
        "diabetes": 0.99861,
        "enron": 0.88605,
        "fishdog": 0.97574,
        "cdr": 0.99491,
        "mnist": 0.99640,
    },
    ("influence", "self_loss"): {
        "diabetes": 0.99815,
        "enron": 0.88783,
        "fishdog": 0.98022,
        "cdr": 0.99247,
        "mnist": 0.99357,
    },
    ("newton", "test prediction"): {
        "diabetes": 0.99867,
        "enron": 0.99490,
        "fishdog": 0.99757,
        "cdr": 0.99125,
    },
}

#: what effects are on, as columns of a study name it
MEASURES = ("test prediction", "test loss", "self_loss")

#: a measure in words, where the column says it otherwise
WORDS = {"self_loss": "self-loss"}

#: words of the methods that are compared with retraining; their names are those of the methods
PREDICTIONS = ("influence", "changed", "newton")

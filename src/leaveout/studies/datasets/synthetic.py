"""Generated: the paper's counterexamples (figure 3), and crowdworkers in MultiNLI's numbers."""

import numpy as np

from leaveout.studies.datasets.container import Dataset

__all__ = ["crowd", "gauss4", "ortho2"]


def ortho2() -> Dataset:
    """Figure 3, right: 120 copies of four orthogonal points in the plane; the query is (1, 1).

    Fitted without an intercept at l2 = 0.12. The 116 groups are the first m copies of one point.

    Returns:
        the data set.

    Example:
        >>> lo.datasets.ortho2().x.shape
        (120, 2)

    Source: Koh et al. (2019), figure 3 and their released code.
    """
    copies = ((0, 0.075, 40, 0), (0, 0.15, 20, 1), (1, 1.0, 40, 0), (1, 0.1, 20, 1))
    x = np.concatenate([np.tile(length * np.eye(2)[axis], (k, 1)) for axis, length, k, _ in copies])
    y = np.concatenate([np.full(k, label) for *_, k, label in copies])
    return _synthetic("ortho2", x, y, np.ones((1, 2)), np.ones(1, int))


def gauss4() -> Dataset:
    """Figure 3, left: two Gaussians of 60 points each in 60 dimensions, means 0.5 apart.

    Fitted without an intercept at l2 = 0.12; the groups are pairs of points. The queries are the
    test points drawn from the same mixture. The random stream is the released code's, which draws
    its other data sets first.

    Returns:
        the data set.

    Example:
        >>> lo.datasets.gauss4().x.shape
        (120, 60)

    Source: Koh et al. (2019), figure 3 and their released code.
    """
    rng = np.random.RandomState(0)
    _mixture(rng, 20, 5, 1.0)
    rng.shuffle(np.arange(8))  # "fixed": eight hand-made points, shuffled
    _repeats(rng)
    _mixture(rng, 20, 10, 0.0)
    _mixture(rng, 40, 100, 0.1)
    (x, y), (x_query, y_query) = _mixture(rng, 60, 60, 0.5)
    return _synthetic("gauss4", x, y, x_query, y_query)


def _mixture(rng, count, dimensions, distance):
    """Training and test halves of a balanced mixture of two Gaussians."""
    apart = rng.normal(0, 1, size=dimensions)
    apart = distance * apart / np.linalg.norm(apart)

    def draw():
        first = rng.normal(0, 1, size=(count, dimensions)) + apart / 2
        second = rng.normal(0, 1, size=(count, dimensions)) - apart / 2
        x, y = np.concatenate([first, second]), np.repeat([0, 1], count)
        order = np.arange(2 * count)
        rng.shuffle(order)
        return x[order], y[order]

    return draw(), draw()


def _repeats(rng) -> None:
    """Advance the stream past the "repeats" set: 20 orthogonal directions, then noise."""
    basis: list[np.ndarray] = []
    while len(basis) < 20:
        candidate = rng.normal(0, 1, size=20)
        if np.linalg.matrix_rank(np.array([*basis, candidate])) == len(basis) + 1:
            for row in basis:
                candidate = candidate - (candidate @ row) * row
            basis.append(candidate / np.linalg.norm(candidate))
    rng.normal(0, 1, size=20)
    rng.randint(0, 2, size=20)
    rng.normal(0, 0.1, size=(40, 20))
    rng.randint(0, 2, size=40)


def crowd(n: int = 392_702, d: int = 600, workers: int = 387, seed: int = 0) -> Dataset:
    """Three classes, two overlapping halves of features, and workers of very unequal diligence.

    In the numbers of MultiNLI and its crowdworkers, which are not public with names: shows what the
    same commands take on data of that size. Labels are drawn from a softmax model of the features;
    each worker has a taste of their own in features and labels, five genres; sizes fall as a power
    of the rank, the largest near 9 % of all.

    Args:
        n: training examples; a fortieth as many queries.
        d: features.
        workers: how many.
        seed: of the draws.

    Returns:
        the data set; `labels` names the worker.

    Example:
        >>> data = lo.datasets.crowd(n=400, d=5, workers=7)
        >>> data.x.shape, len(set(data.labels["worker"]))
        ((400, 5), 7)
    """
    rng = np.random.default_rng(seed)
    share = 1 / (np.arange(workers) + 2.0)
    genres = np.array(["fiction", "government", "slate", "telephone", "travel"])
    centre = rng.normal(0, 0.3, (len(genres), d))
    taste, habit = rng.normal(0, 0.1, (workers, d)), rng.normal(0, 0.3, (workers, 3))
    truth = rng.normal(0, 0.08, (d, 3))

    def draw(count, ids):
        genre = rng.integers(len(genres), size=count)
        x = rng.standard_normal((count, d), dtype=np.float32).astype(float)
        x += centre[genre]
        scores = x @ truth
        if ids is not None:
            x += taste[ids]
            scores = scores + habit[ids]
        y = np.argmax(scores + rng.gumbel(size=(count, 3)), axis=1)
        return x, y, genres[genre]

    worker = np.concatenate(
        [np.arange(workers), rng.choice(workers, n - workers, p=share / share.sum())]
    )
    x, y, genre = draw(n, worker)
    x_query, y_query, genre_query = draw(max(n // 40, 30), None)
    return Dataset(
        name="crowd",
        x=x,
        y=y,
        x_query=x_query,
        y_query=y_query,
        outputs=3,
        feature_names=tuple(f"feature {i}" for i in range(d)),
        source="generated in the numbers of MultiNLI (Williams, Nangia and Bowman 2018)",
        licence="none needed",
        l2=1e-4 * n,
        labels={"worker": worker, "genre": genre},
        query_labels={"genre": genre_query},
    )


def _synthetic(name, x, y, x_query, y_query) -> Dataset:
    return Dataset(
        name=name,
        x=x,
        y=y,
        x_query=x_query,
        y_query=y_query,
        outputs=1,
        feature_names=tuple(f"x{i}" for i in range(x.shape[1])),
        source="generated here by the recipe of Koh et al. (2019)",
        licence="none needed",
        intercept=False,
        l2=1e-3 * len(x),
    )

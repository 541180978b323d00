"""How far noise of seeds lets a prediction come: ceilings, and slopes free of it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from leaveout.analysis.agreement import spearman

__all__ = [
    "SEEDED",
    "Noise",
    "ceiling_by_halves",
    "ceiling_of",
    "noise_of",
    "refuse_other_question",
    "reliability_of",
    "splits_of",
]

#: what is computed besides where the actual effects come from several seeds
SEEDED = ("ceiling", "share_of_ceiling", "split_slope")
_SPLITS = 20  # ways to cut the seeds in two halves, drawn at random


class Noise(NamedTuple):
    """What seeds say of one column; NaN where they say nothing.

    Attributes:
        ceiling: the rank correlation that a perfect prediction of the mean over all seeds could
            have with this mean: the root of its reliability.
        share_of_ceiling: the rank correlation of the prediction, divided by the ceiling.
        split_slope: sum p a_A / sum a_A a_B, A and B halves of the seeds: the slope, free of the
            noise that pulls a least-squares slope towards 0. Predictions that were made seed by
            seed are those of B, whose noise a_A does not share.
    """

    ceiling: float
    share_of_ceiling: float
    split_slope: float


def noise_of(
    predicted: Float[np.ndarray, "g"] | Float[np.ndarray, "s g"],
    seeds: Float[np.ndarray, "s g"],
    rng: np.random.Generator,
) -> Noise:
    """Ceiling, share of it and slope of one column, over random halves of the seeds.

    Args:
        predicted: of the mean, or of each seed.
        seeds: the actual effects.
        rng: of the halves.
    """
    each, splits = np.broadcast_to(predicted, seeds.shape), splits_of(len(seeds), rng)
    slopes = []
    for halves in splits:
        (p, q), (one, other) = ([of[half].mean(axis=0) for half in halves] for of in (each, seeds))
        slopes.append(((p @ other + q @ one) / 2, one @ other))
    ceiling = ceiling_by_halves(reliability_of(seeds, splits), len(seeds))
    above, below = np.sum(slopes, axis=0)
    share = spearman(each.mean(axis=0), seeds.mean(axis=0)) / ceiling
    return Noise(ceiling, float(share), float(above / below) if below > 0 else np.nan)


def ceiling_of(
    reliability: float | Float[np.ndarray, "..."], times: int | float
) -> float | Float[np.ndarray, "..."]:
    """The root of the reliability of `times` as many seeds, by Spearman-Brown; NaN below 0.

    Of several columns give their mean reliability: to leave out those below 0 would keep those that
    are above it by chance. The root of a mean is an upper bound of the mean of roots.
    """
    some = np.where(np.greater(reliability, 0), reliability, np.nan)
    return np.sqrt(times * some / (1 + (times - 1) * some))


def ceiling_by_halves(reliability: float, count: int) -> float:
    """The ceiling of the mean over so many seeds, by the reliability of halves of them."""
    return float(ceiling_of(reliability, count / (count // 2)))


def reliability_of(seeds: Float[np.ndarray, "s g"], splits: list[list[np.ndarray]]) -> float:
    """The rank correlation of halves of the seeds, their means', over these splits."""
    pairs = [[seeds[half].mean(axis=0) for half in halves] for halves in splits]
    return float(np.mean([spearman(*pair) for pair in pairs]))


def splits_of(count: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Two halves of so many seeds, drawn at random, some times; an odd one is left out."""
    times = _SPLITS if count > 2 else 1
    return [np.array_split(rng.permutation(count)[: count // 2 * 2], 2) for _ in range(times)]


def refuse_other_question(predicted, actual) -> None:
    """Refuse to compare effects that mean other things by removal.

    Raises:
        ValueError: with both meanings.
    """
    meanings = [
        {note for note in getattr(each, "notes", ()) if note.startswith("removal:")}
        for each in (predicted, actual)
    ]
    if all(meanings) and meanings[0] != meanings[1]:
        one, other = (next(iter(each)) for each in meanings)
        raise ValueError(
            f"these effects mean different things by removal ({one!r} and {other!r}): compare "
            "those of recipes with one normaliser"
        )

"""How far noise of seeds lets a prediction come: ceilings, and slopes free of it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from leaveout.analysis.agreement import spearman

__all__ = ["SEEDED", "Noise", "noise_of", "refuse_other_question"]

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
            noise that pulls a least-squares slope towards 0.
    """

    ceiling: float
    share_of_ceiling: float
    split_slope: float


def noise_of(
    predicted: Float[np.ndarray, "g"], seeds: Float[np.ndarray, "s g"], rng: np.random.Generator
) -> Noise:
    """Ceiling, share of it and slope of one column, over random halves of the seeds.

    Reliability is the mean rank correlation of the halves' means, brought to all seeds by
    Spearman-Brown, 2 r / (1 + r).
    """
    count = len(seeds)
    reliable, slopes = [], []
    for _ in range(_SPLITS if count > 2 else 1):
        order = rng.permutation(count)
        one, other = (
            seeds[part].mean(axis=0) for part in np.array_split(order[: count // 2 * 2], 2)
        )
        reliable.append(spearman(one, other))
        slopes.append((predicted @ (one + other) / 2, one @ other))
    r, (above, below) = np.mean(reliable), np.sum(slopes, axis=0)
    ceiling = np.sqrt(2 * r / (1 + r)) if r > 0 else np.nan
    share = spearman(predicted, seeds.mean(axis=0)) / ceiling
    return Noise(float(ceiling), float(share), float(above / below) if below > 0 else np.nan)


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

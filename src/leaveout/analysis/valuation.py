"""The verb: what each group adds to f, averaged over the coalitions of others that it joins."""

import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, PyTree

from leaveout.analysis.coalitions import (
    Contents,
    Trained,
    check_players,
    coalition_names,
    say_flagged,
    trainer,
    worth_of_everybody,
)
from leaveout.analysis.games import Draws, Semivalue, Shapley, allotted, every, fewest
from leaveout.analysis.values import Game, Values, check_semivalue, read, reckoned, written
from leaveout.attribution.verb import check_method
from leaveout.fitting.double import in_double
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import admit
from leaveout.groups import Groups
from leaveout.measures import Measures
from leaveout.methods import Method, Retrain
from leaveout.runtime.files import write_npz
from leaveout.runtime.memory import CHUNK_GROUPS, limited
from leaveout.runtime.options import check_integer, check_positive, seed_of
from leaveout.runtime.sharding import entry_point
from leaveout.runtime.text import warn

__all__ = ["value"]

_MOST = 4096  # coalitions that are trained where nobody says how many: all of 12 groups


@in_double
@entry_point
def value(
    fit: Fit,
    groups: Groups,
    measures: Measures,
    of: Semivalue = Shapley(),
    *,
    trainings: int | None = None,
    error: float = 0.1,
    empty: PyTree | None = None,
    method: Method = Retrain(),
    key: Array | None = None,
    out: str | os.PathLike | None = None,
    memory=None,
    progress: Callable[[int], None] | None = None,
) -> Values:
    """What each group adds to f, averaged over every order of joining.

        value_i = sum over coalitions C without i of weight(|C|) [f(C and i) - f(C)]

    f(C) is the measure of the model trained on the groups in C and on the data in no group, which
    always stays. The sign is f(with) - f(without), opposite to an effect: of a loss, what is useful
    has a negative value. Up to 12 groups all coalitions are trained, 2^g of them, about 5 to 15
    evaluations each; beyond, pairs of a coalition and its complement are drawn by leverage, and a
    model of what sizes, class balances and members make of f is taken in the place of those that
    are not: what it leaves is corrected for, so that it can cost precision, not truth.

    l2 stays what it is, so that small coalitions are penalised more. A coalition that lacks a
    class has no minimum where the intercept is free, nor has nobody: it predicts the smoothed base
    rates, weights 0 and an intercept at (n_k + 1) / (n + K). Those are warned of by name. Choose a
    loss for f: an accuracy jumps.

    Args:
        fit: the fitted objective.
        groups: the players: no two share a point.
        measures: as in `effects`, of theta alone.
        of: how sizes of coalitions are weighed: `Shapley()`, `Banzhaf()` or `Beta(a, b)`.
        trainings: how many coalitions are trained, of more than 12 groups, or fewer than all;
            default as many as `error` needs, at most 4,096.
        error: where nobody says how many: the standard error, as a share of the standard deviation
            of the values over groups, at which to stop.
        empty: theta of a coalition of nobody (shaped like `fit.theta`, or flat), for models that
            have no minimum there and no base rates.
        method: by which coalitions are trained. A Newton step is for those that leave little: it
            is near leave-one-out, not near Shapley's value.
        key: of the draws; default one fixed key, so that the same call gives the same values.
        out: an .npz file that is written as coalitions are trained. Where it is there already, and
            of the same question, those in it are not trained again.
        memory: bytes that working arrays may take; default a quarter of what is free.
        progress: called with the number of coalitions done, after each chunk.

    Returns:
        the values (g m), a row a group and a column a column of the measures, with their standard
        errors, leave-one-in, leave-one-out, and the coalitions they come from.

    Raises:
        ValueError: if groups overlap, hold points in part, or are none; for a measure of what left,
            too few trainings, a file of another question, or a coalition of nobody that has no
            minimum and no convention.

    Example:
        >>> found = lo.value(fit, groups, measure)
        >>> found.value.shape, found.columns
        ((4, 1), ('mean of loss',))
        >>> np.allclose(found.last, -lo.effects(fit, groups, measure, lo.Retrain()).value)
        True

    Source: Ghorbani and Zou (2019), Wang and Jia (2023), Kwon and Zou (2022); the estimate after
    Musco and Witter (2025) and Witter et al. (2025).
    """
    check_method(fit, method)
    _check_settings(of, trainings, error, groups, progress)
    inner, players = admit(fit, groups, method.needs)
    seed = np.array(seed_of(jax.random.key(0) if key is None else key), np.uint32)
    with limited(memory):
        contents = Contents.of(inner.objective, players)
        question, train = trainer(inner, players, measures, method, empty, contents)
        game = Game(
            groups=players,
            columns=tuple(column for part in question.columns for column in part),
            measure=tuple(
                measure.name
                for measure, part in zip(question.measures, question.columns, strict=True)
                for _ in part
            ),
            whole=worth_of_everybody(question),
            method=method.name,
            contents=contents,
            key=seed,
        )
        ledger = _Ledger(game, train, None if out is None else Path(out), progress)
        found = _valued(game, of, trainings, error, ledger)
    if out is not None:
        found.save(out)
    say_flagged(found.trained, lambda rows: coalition_names(players, found.members[rows]))
    return found


def _check_settings(of, trainings, error, groups, progress) -> None:
    check_semivalue(of)
    check_players(groups)
    check_positive(error, "error")
    if progress is not None and not callable(progress):
        raise ValueError(f"expected progress as a function of coalitions done, got {progress!r}")
    if trainings is not None:
        check_integer(trainings, "trainings")
        least = fewest(len(groups))
        if trainings < least:
            raise ValueError(
                f"expected trainings of at least {least:,} for {len(groups)} groups (each alone, "
                f"all but each, and a pair of every other size), got {trainings:,}"
            )


def _valued(game: Game, of: Semivalue, trainings, error: float, ledger: "_Ledger") -> Values:
    """The values from all coalitions, from as many as are asked, or until the error is small."""

    def from_these(members: np.ndarray) -> Values:
        return reckoned(game, members, ledger.of(members), of)

    players = len(game.groups)
    everything = 2**players - 2
    if min(_MOST if trainings is None else trainings, everything) == everything:
        return from_these(every(players))
    draws = Draws(players, game.key)
    if trainings is not None:
        return from_these(draws.upto(allotted(players, of, trainings // 2)))
    pairs, most = max(fewest(players) // 2, 5 * players), _MOST // 2
    while True:
        pairs = min(pairs, max(most, fewest(players) // 2))
        found = from_these(draws.upto(allotted(players, of, pairs)))
        share = _share(found)
        if share <= error or pairs >= most:
            break
        pairs = int(1.6 * pairs)
    if share > error:
        warn(
            f"{2 * pairs:,} coalitions leave standard errors of {share:.2g} of the values' spread "
            f"where {error:g} was asked; give trainings= for more"
        )
    return found


def _share(values: Values) -> float:
    """The root mean square error, as a share of the spread of the values, in the worst column."""
    spread = values.value.std(axis=0)
    errors = np.sqrt((values.error**2).mean(axis=0))
    return float(np.max(errors / np.where(spread > 0, spread, 1.0), initial=0.0))


class _Ledger:
    """What is known of coalitions, in a file too if there is one; the others are trained."""

    def __init__(self, game: Game, train, path: Path | None, progress):
        self.game, self.train, self.path, self.progress = game, train, path, progress
        players = len(game.groups)
        self.members = np.zeros((0, players), bool)
        self.trained = Trained.nothing(len(game.columns))
        if path is not None and path.exists():
            theirs, self.members, self.trained, _ = read(path)
            theirs.check_same(game, path)
        self.at = {row.tobytes(): i for i, row in enumerate(self.members)}

    def of(self, members: np.ndarray) -> Trained:
        """What these coalitions are worth, everybody 0."""
        new = np.array([row for row in members if row.tobytes() not in self.at])
        for some in np.split(new, range(CHUNK_GROUPS, len(new), CHUNK_GROUPS)) if len(new) else []:
            self._add(some)
        return self.trained[[self.at[row.tobytes()] for row in members]]

    def _add(self, members: np.ndarray) -> None:
        everybody = np.asarray(members.all(axis=1))
        found = Trained.everybody(len(members), len(self.game.columns))
        if not everybody.all():
            found = found.with_rows(~everybody, self.train(members[~everybody]))
        for row in members:
            self.at[row.tobytes()] = len(self.at)
        self.members = np.concatenate([self.members, members])
        self.trained = self.trained.joined(found)
        if self.path is not None:
            write_npz(self.path, "values", written(self.game, self.members, self.trained, None))
        if self.progress is not None:
            self.progress(len(members))

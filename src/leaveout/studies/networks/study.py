"""A study of a network: what groups do to a training, by retraining and by every other method.

A study is a folder like the others: it goes on where it was stopped, to the same bits, and `read`
opens a finished one. It asks the paper's last question: does all this hold for models that are
trained, not solved?
"""

import dataclasses
import importlib.metadata
import json
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from leaveout import measures
from leaveout.attribution.container import Effects
from leaveout.attribution.trained import mean_over_seeds
from leaveout.curvature import LastLayer
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import Need, admit
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.methods import (
    Corrected,
    Influence,
    Metagradient,
    Method,
    Newton,
    PerPoint,
    Retrain,
    formed_once,
    smoothness,
)
from leaveout.objectives.networks import Network
from leaveout.runtime.files import read_json, write_json
from leaveout.runtime.memory import most_resident
from leaveout.runtime.options import check_integer, is_positive
from leaveout.studies import datasets, engine
from leaveout.studies.configured import Chosen, chosen, parsed
from leaveout.studies.datasets import Dataset
from leaveout.studies.engine import Experiment, Found, Setting, collected
from leaveout.studies.folder import (
    Progress,
    Say,
    Workspace,
    is_finished,
    read_groups,
    write_effects,
)
from leaveout.studies.networks import families, figures, setups
from leaveout.studies.networks.setups import Setup
from leaveout.studies.networks.table import Score, scores
from leaveout.training.run import Run, Trained, load_run, replayed, train

__all__ = ["WORDS", "Configuration", "Report", "found", "read", "run"]

_T = TypeVar("_T")
_LAST = LastLayer()
#: the word that the command line has for a method on a network
WORDS: dict[str, Method] = {
    "influence": Influence(),
    "newton": Newton(),
    "metagradient": Metagradient(check=False),
    "corrected": Corrected(check=False),
    "influence_last": Influence(curvature=_LAST),
    "newton_last": Newton(curvature=_LAST),
    "corrected_last": Corrected(_LAST, check=False),
    "actual": Retrain(),
}
_TOGETHER = 32  # groups of a chunk: what is lost when a study is stopped
_QUERIES = 10
_MOST = 1_000  # queries in the mean loss


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What `run` leaves behind.

    Attributes:
        folder: where the files are.
        effects: name of a method to the effects of all groups, of every seed.
        scores: how each method agrees with retraining, by family, measure and question.
        costs: name of a method to what it cost, in trainings a seed.
        summary: what `summary.json` holds.
        resumed: chunks that were there already.
    """

    folder: Path
    effects: dict[str, Effects]
    scores: list[Score]
    costs: dict[str, float]
    summary: dict[str, Any]
    resumed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Configuration(Experiment[Report]):
    """What determines the numbers of a study of a network; another configuration, another folder.

    Attributes:
        dataset: a name known to `setups.named`.
        setup: a word of `setups.VARIANTS`, or None for what was published.
        trainings: retrainings in all, at most: groups times seeds.
        seeds: trainings that each group is left out of.
        rate: of learning, or None for the recipe's.
        seed: of the groups, the queries and the trainings.
        methods: words of `WORDS`, or methods of your own; retraining is always among them. None
            for those that the size of the network allows.
    """

    dataset: str
    setup: str | None = None
    trainings: int = 2000
    seeds: int = 4
    rate: float | None = None
    seed: int = 0
    methods: tuple[str | Method, ...] | None = None

    def __post_init__(self):
        check_integer(self.trainings, "trainings")
        check_integer(self.seeds, "seeds")
        families.check(self.count)
        if self.rate is not None and not is_positive(self.rate):
            raise ValueError(f"expected a rate > 0, got {self.rate!r}")
        found = setups.named(self.dataset, self.setup, self.rate)
        object.__setattr__(self, "setup", found.variant)
        given = found.methods if self.methods is None else self.methods
        every = chosen(_method(each) for each in given)
        actual = () if "actual" in (each.name for each in every) else ("actual",)
        object.__setattr__(self, "methods", (*(each.given for each in every), *actual))

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        """The methods by all their names."""
        return chosen(self.methods or ())

    @property
    def actual(self) -> Chosen:
        """Retraining, by all its names."""
        return next(each for each in self.chosen if each.name == "actual")

    @property
    def repeats(self) -> int:
        """Every seed is computed on its own."""
        return self.seeds

    @property
    def recipe(self) -> Setup:
        """How the network is trained."""
        return setups.named(self.dataset, self.setup, self.rate)

    @property
    def count(self) -> int:
        """Groups, at most."""
        return self.trainings // self.seeds

    @classmethod
    def owns(cls, fields: dict[str, Any]) -> bool:
        """Whether these fields are those of a study of a network."""
        return "setup" in fields

    def folder(self) -> str:
        """The default name of the study's folder: it changes with the configuration."""
        return f"leaveout-networks-{self.dataset}-{self.setup}-{self.mark()}"

    def in_words(self) -> str:
        """What it is, for a line of a list."""
        rate = "" if self.rate is None else f", rate {self.rate:g}"
        return (
            f"{self.dataset:<14} network, {self.setup}{rate}, {self.trainings:,} trainings, "
            f"{self.seeds} seeds"
        )

    def gathered(self, each: Chosen, repeats: Sequence[Effects]) -> Effects:
        """The mean over seeds, with the effects on each."""
        needs = each.method.needs if each.method.of_run is None else each.method.of_run
        follows = Need.trajectory in needs
        meaning = setups.NORMALISER.meaning
        return mean_over_seeds(repeats, (meaning,) if follows else ())

    def set_up(self, space: Workspace) -> "_Setting":
        """The data, the training from every seed, and the queries."""
        recipe = self.recipe
        data = setups.whole(datasets.load(self.dataset), recipe)
        families.share(data, self.count)  # refuses a budget that is too small for them
        space.say(f"{data.name}: {data.n:,} training examples, {data.d:,} features")
        space.say(recipe.in_words())
        trained = _trained(self, data, recipe, space)
        space.clock.lap("train")
        space.say(f"trained {self.seeds} seeds: {_quality(trained, data)}")
        return _Setting(trained.at(0), _measures(data, self.seed), self, data, trained)

    def opened(self, folder: Path) -> Report:
        """The finished study, from its folder."""
        return read(folder)


def run(
    configuration: Configuration,
    out: str | os.PathLike | None = None,
    *,
    progress: Progress | None = None,
    say: Say = lambda sentence: None,
    memory: float | int | None = None,
) -> Report:
    """Run a study of a network, go on with it, or read it if it is finished.

    Args:
        configuration: what to do.
        out: the folder; default `configuration.folder()` in the current one.
        progress: called after each chunk.
        say: called with a sentence at each stage.
        memory: bytes that working arrays may take; default a quarter of what is free.

    Raises:
        ValueError: if the folder holds another study, or another process is at work in it.
    """
    with formed_once():  # methods ask for the curvature of a seed one after the other
        return engine.run(configuration, out, progress, say, memory)


def read(folder: str | os.PathLike) -> Report:
    """A finished study, from its folder; methods of your own need not be there.

    Raises:
        FileNotFoundError: if the folder holds no finished study of a network.
        ValueError: if a file of it is damaged.
    """
    folder = Path(folder)
    if not is_finished(folder):
        raise FileNotFoundError(f"{folder} holds no finished study; run `leaveout networks` first")
    summary = read_json(folder / "summary.json", "scores", "costs")
    path = folder / "configuration.json"
    configuration = parsed(Configuration, read_json(path, "dataset", "setup", "methods"), path)
    planned = read_groups(folder)
    effects = _labelled(collected(folder, configuration, planned))
    count = len(planned.chunks) * len(effects) * configuration.seeds
    kept = [Score.of_json(row) for row in summary["scores"]]
    return Report(folder, effects, kept, summary["costs"], summary, count)


def found(where: str | os.PathLike = ".") -> list[dict[str, Any]]:
    """The studies in the folders of a folder: what each is, and how far it is."""
    return engine.found(where, Configuration)


def _method(given: str | Method) -> str | Method:
    """A method by its word here, or by what a folder holds of it; any other as it is."""
    if isinstance(given, str):
        return WORDS.get(given, given)
    return next((each for each in WORDS.values() if repr(each) == repr(given)), given)


# ---- on its data ---------------------------------------------------------------------------------


def _trained(asked: Configuration, data: Dataset, recipe: Setup, space: Workspace) -> Run:
    """The training from every seed, from the folder if it is there."""
    objective, how = setups.objective(data, recipe), setups.recipe(data, recipe)
    path = space.folder / "run.npz"
    if path.exists():
        return load_run(path, objective, how)
    trained = train(objective, how, key=jax.random.key(asked.seed), seeds=asked.seeds)
    trained.save(path)
    return trained


def _quality(trained: Run, data: Dataset) -> str:
    """How well the seeds predict: a sentence's end."""
    value = _qualities(trained, data)
    what = "accuracy" if data.labelled else "mean loss of queries"
    return f"{what} {value.min():.3f} to {value.max():.3f}"


def _qualities(trained: Run, data: Dataset) -> np.ndarray:
    """(s) accuracy of each seed on the queries; of numbers the mean loss."""
    found = (
        measures.accuracy(data.query) if data.labelled else measures.loss(data.query, reduce="mean")
    )
    measure = found.bind(trained.objective)
    values = [measure.values(trained.objective, theta, None)[0] for theta in trained.theta]
    return np.asarray(values)


def _measures(data: Dataset, seed: int) -> list[Measure]:
    """On queries that are drawn at random: what is predicted, the loss, and the mean of many."""
    rng = np.random.default_rng([seed, 1])
    drawn = rng.permutation(len(data.y_query))
    some, many = drawn[:_QUERIES], drawn[:_MOST]
    query = data.x_query[some], data.y_query[some]
    first = measures.margin(query) if data.labelled else measures.prediction(query[0])
    mean = measures.loss((data.x_query[many], data.y_query[many]), reduce="mean", name="query loss")
    return [first, measures.loss(query), mean]


@dataclasses.dataclass(frozen=True, eq=False)
class _Setting(Setting[Report]):
    """A study on its data.

    Attributes:
        fit: the end of the first seed's training.
        measures: of queries.
        configuration: what determines its numbers.
        data: the examples that train.
        run: the training from every seed.
    """

    fit: Fit
    measures: list[Measure]
    configuration: Configuration
    data: Dataset
    run: Run

    def at(self, repeat: int) -> Trained:
        """A seed's training, done again."""
        return replayed(self.run, repeat)[0]

    def admit(self, groups: Groups, methods: Collection[Chosen]) -> None:
        """Refuse groups of other data."""
        admit(self.fit, groups, ())

    def chunks(self, groups: Groups) -> list[np.ndarray]:
        """A few groups at a time: each of them is a training."""
        return np.array_split(np.arange(len(groups)), -(-len(groups) // _TOGETHER))

    def groups(self, space: Workspace) -> Groups:
        """Families of groups, those of influence on the query that the first seed gets worst."""
        space.say("making groups: clusters take a while where n is large")
        objective, theta = self.run.objective, self.run.theta[0]
        query = self.data.x_query, self.data.y_query
        losses = np.asarray(measures.loss(query).bind(objective).values(objective, theta, None))
        worst = np.argsort(-losses)[:1]
        return families.families(
            jax.random.key(self.configuration.seed), self.data, self.configuration.count,
            features=setups.features(objective, theta),
            residuals=_residuals(objective, theta),
            scores=_pulls(self.run.at(0), measures.loss((query[0][worst], query[1][worst]))),
        )  # fmt: skip

    def finish(self, found: Found, space: Workspace) -> Report:
        """Score the methods; write the table, figures and the summary."""
        folder, effects = space.folder, _labelled(found.effects)
        rest = {name: each for name, each in effects.items() if name != "actual"}
        scored = scores(rest, effects["actual"])
        space.clock.lap("scores")
        costs = _costs(found, space, self.configuration)
        smooth = _smoothness(self.run) if rest else []
        space.clock.lap("smoothness")
        write_effects(folder, effects.values())
        figures.draw(folder, effects)
        space.clock.lap("table and figures")
        summary = json.loads(json.dumps(self._summary(found, space, scored, costs, smooth)))
        write_json(folder / "summary.json", summary)
        return Report(folder, effects, scored, costs, summary, found.resumed)

    def _summary(self, found: Found, space, scored, costs, smooth) -> dict[str, Any]:
        data, objective, groups = self.data, self.run.objective, found.plan.groups
        actual = found.effects[self.configuration.actual]
        return {
            "configuration": self.configuration.to_json(),
            "setup": dataclasses.asdict(self.configuration.recipe),
            "data": {"source": data.source} | data.fingerprint(),
            "parameters": objective.p,
            "steps": self.run.recipe.steps,
            "removal": self.run.recipe.normaliser.meaning,
            "quality": _qualities(self.run, data).tolist(),
            "smoothness": smooth,
            "damping": _damping(self.run),
            "groups": {"made": len(groups), "notes": list(groups.notes)},
            "flagged": int(np.count_nonzero(actual.status)),
            "costs": costs,
            "seconds": space.clock.total(),
            "processor_seconds": space.clock.processor,
            "resumed_chunks": found.resumed,
            "peak_memory_gib": most_resident() / 2**30,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("leaveout", "jax", "optax", "equinox", "numpy")
            },
            "device": str(jax.devices()[0]),
            "scores": [each.to_json() for each in scored],
        }


def _residuals(objective: Network, theta) -> np.ndarray:
    """(n K) derivative of each loss in the outputs."""
    slopes = jax.vmap(jax.grad(objective.point_loss))(objective.scores(theta), objective.y)
    return np.asarray(slopes, float)


def _pulls(one: Trained, measure: Measure) -> np.ndarray:
    """(n m) what each example's leaving does to a measure, by the derivative of training."""
    prepared = Metagradient(check=False).prepare(one, [measure.bind(one.objective)])
    psi = None if prepared.per_point is None else prepared.per_point[0]
    assert isinstance(psi, PerPoint)  # of a smooth measure of one column
    return np.asarray(psi.value, float)


def _labelled(effects: dict[Chosen, Effects]) -> dict[str, Effects]:
    return {each.name: found for each, found in effects.items()}


def _costs(found: Found, space: Workspace, asked: Configuration) -> dict[str, float]:
    """What each method cost, in trainings a seed: seconds of processors beside retraining's."""
    spent, groups = space.clock.processor, len(found.plan.groups)
    one = spent.get(asked.actual.word, 0.0) / groups
    words = {each.name: each.word for each in asked.chosen}
    return {name: spent.get(word, 0.0) / one for name, word in words.items() if one > 0}


def _damping(run: Run) -> float:
    """That of the recipe; whether it is to be trusted the methods say that use it."""
    return _unwarned(run.recipe.damping)


def _smoothness(run: Run) -> list[float]:
    """The cosine of each seed, where there is one: not of an optimiser without derivative."""
    return _unwarned(lambda: smoothness(run)).cosine.tolist()  # the summary says it


def _unwarned(call: Callable[[], _T]) -> _T:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()

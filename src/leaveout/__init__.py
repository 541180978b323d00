"""What would this model be if that group of training points had not been there?

A group's removal is a vector of w, what leaves; a method (`influence`, `newton`, `retrain`) turns w
into a change in theta; a measure turns a change into an effect, f(without) - f(with); a report
compares effects.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

from leaveout.runtime.deprecated import found_elsewhere as _found_elsewhere

if _TYPE_CHECKING:  # what is loaded when it is asked for: see `_OFFERED`
    from leaveout import curvature, groups, measures, plot, solvers
    from leaveout.analysis import propositions as bounds
    from leaveout.analysis.compare import Comparison, compare
    from leaveout.analysis.confidence import CRV, Confidence, confidence
    from leaveout.analysis.credit import Credit, credit
    from leaveout.analysis.cross_validation import HeldOut, cross_validate_groups
    from leaveout.analysis.datamodels import LDS, lds
    from leaveout.analysis.discovery import discover
    from leaveout.analysis.games import Banzhaf, Beta, Shapley
    from leaveout.analysis.jackknife import jackknife
    from leaveout.analysis.null import Null, Standing, Within
    from leaveout.analysis.sets import extreme, flips
    from leaveout.analysis.sets_found import Extreme, Flips
    from leaveout.analysis.trust import Light, Trust, trust
    from leaveout.analysis.valuation import value
    from leaveout.analysis.values import Values
    from leaveout.attribution.container import Effects, load
    from leaveout.attribution.join import concat
    from leaveout.attribution.sweep import damping_sweep
    from leaveout.attribution.verb import effects
    from leaveout.fitting.edits import add, rebalance, relabel, reweight
    from leaveout.fitting.fitted import Change, Fit
    from leaveout.fitting.gates import Need
    from leaveout.fitting.optimum import fit
    from leaveout.fitting.penalties import Criterion, CrossValidation, cross_validate
    from leaveout.fitting.sklearn import from_sklearn
    from leaveout.fitting.statsmodels import from_statsmodels
    from leaveout.groups import Groups
    from leaveout.methods import (
        Corrected,
        Influence,
        Krylov,
        Metagradient,
        Method,
        Newton,
        NewtonChebyshev,
        PerPoint,
        Prepared,
        Retrain,
        SecondOrder,
        Smoothness,
        influence,
        newton,
        per_point,
        retrain,
        smoothness,
    )
    from leaveout.objectives import losses
    from leaveout.objectives.general import Objective
    from leaveout.objectives.layout import Linear
    from leaveout.objectives.models import glm, logistic, poisson, softmax, squares
    from leaveout.objectives.networks import network
    from leaveout.objectives.sharded import shard
    from leaveout.runtime.compilation import keep_compiled
    from leaveout.runtime.solution import Certificate, SolveError, Status
    from leaveout.studies import datasets
    from leaveout.studies.koh2019 import counterexamples
    from leaveout.studies.own.verb import table
    from leaveout.studies.report.of_credit import report
    from leaveout.training.recipe import Fixed, Left, LeftKeepingPenalty, Order, Recipe
    from leaveout.training.run import Run, train

__all__ = [
    # what is minimised
    "Linear",
    "Objective",
    "glm",
    "logistic",
    "losses",
    "network",
    "poisson",
    "shard",
    "softmax",
    "squares",
    # a fit, and its penalty
    "Criterion",
    "CrossValidation",
    "Fit",
    "cross_validate",
    "fit",
    "from_sklearn",
    "from_statsmodels",
    "solvers",
    # a training, where there is no optimum
    "Fixed",
    "Left",
    "LeftKeepingPenalty",
    "Order",
    "Recipe",
    "Run",
    "Smoothness",
    "curvature",
    "smoothness",
    "train",
    # what leaves, comes or changes
    "Groups",
    "add",
    "groups",
    "rebalance",
    "relabel",
    "reweight",
    # how a change in theta is found
    "Change",
    "Corrected",
    "Influence",
    "Krylov",
    "Metagradient",
    "Method",
    "Need",
    "Newton",
    "NewtonChebyshev",
    "PerPoint",
    "Prepared",
    "Retrain",
    "SecondOrder",
    "influence",
    "newton",
    "per_point",
    "retrain",
    # what it does
    "Certificate",
    "Effects",
    "SolveError",
    "Status",
    "concat",
    "damping_sweep",
    "effects",
    "load",
    "measures",
    # what to make of it
    "CRV",
    "Comparison",
    "Confidence",
    "Credit",
    "Extreme",
    "Flips",
    "HeldOut",
    "LDS",
    "Light",
    "Null",
    "Standing",
    "Trust",
    "Within",
    "bounds",
    "compare",
    "confidence",
    "credit",
    "cross_validate_groups",
    "discover",
    "extreme",
    "flips",
    "jackknife",
    "lds",
    "plot",
    "trust",
    # what each group adds to coalitions of the others
    "Banzhaf",
    "Beta",
    "Shapley",
    "Values",
    "value",
    # what is compiled, kept for another start
    "keep_compiled",
    # data, one's own, and where influence fails
    "counterexamples",
    "datasets",
    "table",
    # a page for those who decide
    "report",
]

#: module to its names. All are loaded when they are asked for, like the modules of `_LATE`: the
#: whole takes longer than JAX, and nobody needs the whole
_OFFERED = {
    "leaveout.analysis.compare": "Comparison compare",
    "leaveout.analysis.confidence": "CRV Confidence confidence",
    "leaveout.analysis.credit": "Credit credit",
    "leaveout.analysis.cross_validation": "HeldOut cross_validate_groups",
    "leaveout.analysis.datamodels": "LDS lds",
    "leaveout.analysis.discovery": "discover",
    "leaveout.analysis.games": "Banzhaf Beta Shapley",
    "leaveout.analysis.jackknife": "jackknife",
    "leaveout.analysis.null": "Null Standing Within",
    "leaveout.analysis.sets": "extreme flips",
    "leaveout.analysis.sets_found": "Extreme Flips",
    "leaveout.analysis.trust": "Light Trust trust",
    "leaveout.analysis.valuation": "value",
    "leaveout.analysis.values": "Values",
    "leaveout.attribution.container": "Effects load",
    "leaveout.attribution.join": "concat",
    "leaveout.attribution.sweep": "damping_sweep",
    "leaveout.attribution.verb": "effects",
    "leaveout.fitting.edits": "add rebalance relabel reweight",
    "leaveout.fitting.fitted": "Change Fit",
    "leaveout.fitting.gates": "Need",
    "leaveout.fitting.optimum": "fit",
    "leaveout.fitting.penalties": "Criterion CrossValidation cross_validate",
    "leaveout.fitting.sklearn": "from_sklearn",
    "leaveout.fitting.statsmodels": "from_statsmodels",
    "leaveout.groups": "Groups",
    "leaveout.methods": (
        "Corrected Influence Krylov Metagradient Method Newton NewtonChebyshev PerPoint "
        "Prepared Retrain SecondOrder Smoothness influence newton per_point retrain "
        "smoothness"
    ),
    "leaveout.objectives.general": "Objective",
    "leaveout.objectives.layout": "Linear",
    "leaveout.objectives.models": "glm logistic poisson softmax squares",
    "leaveout.objectives.networks": "network",
    "leaveout.objectives.sharded": "shard",
    "leaveout.runtime.compilation": "keep_compiled",
    "leaveout.runtime.solution": "Certificate SolveError Status",
    "leaveout.studies.own.verb": "table",
    "leaveout.studies.report.of_credit": "report",
    "leaveout.training.recipe": "Fixed Left LeftKeepingPenalty Order Recipe",
    "leaveout.training.run": "Run train",
}
_LATE = {
    "bounds": "leaveout.analysis.propositions",
    "counterexamples": "leaveout.studies.koh2019.counterexamples",
    "curvature": "leaveout.curvature",
    "datasets": "leaveout.studies.datasets",
    "groups": "leaveout.groups",
    "losses": "leaveout.objectives.losses",
    "measures": "leaveout.measures",
    "plot": "leaveout.plot",
    "solvers": "leaveout.solvers",
    **{name: f"{where}:{name}" for where, names in _OFFERED.items() for name in names.split()},
}

_moved = _found_elsewhere(
    "lo",
    {
        "certificates": "leaveout.certify.balls",
        "changes": "leaveout.fitting.edits",
        "cli": "leaveout.studies.cli.main",
        "coordinates": "leaveout.methods.coordinates",
        "estimators": "leaveout.fitting.sklearn",
        "files": "leaveout.runtime.files",
        "general": "leaveout.objectives.general",
        "held_out": "leaveout.analysis.cross_validation",
        "inputs": "leaveout.objectives.checks",
        "lbfgs": "leaveout.fitting.lbfgs",
        "memory": "leaveout.runtime.memory",
        "models": "leaveout.objectives.layout",
        "natural": "leaveout.studies.natural",
        "objective": "leaveout.objectives.linear",
        "paper": "leaveout.studies.koh2019.figures",
        "path": "leaveout.fitting.paths",
        "radius": "leaveout.certify.radius",
        "sharding": "leaveout.runtime.sharding",
        "solution": "leaveout.runtime.solution",
        "study": "leaveout.studies.removal",
        "theory": "leaveout.studies.koh2019.cones",
        "validation": "leaveout.fitting.penalties",
    },
)


def __getattr__(name: str) -> object:
    if name in _LATE:
        module, _, member = _LATE[name].partition(":")
        found = _importlib.import_module(module)
        return globals().setdefault(name, getattr(found, member) if member else found)
    if name == "__version__":
        return _importlib.import_module("importlib.metadata").version("leaveout")
    return _moved(name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""What would this model be if that group of training points had not been there?

A group's removal is a vector of weights; a method (`influence`, `newton`, `retrain`) turns weights
into a change in theta; a measure turns a change into an effect, f(without) - f(with); a report
compares effects.
"""

from importlib.metadata import version as _version

from leaveout import (
    groups as groups,
)
from leaveout import (
    measures as measures,
)
from leaveout import (
    plot as plot,
)
from leaveout import (
    solvers as solvers,
)
from leaveout.analysis import (
    propositions as bounds,  # noqa: F401
)
from leaveout.analysis.compare import Comparison as Comparison
from leaveout.analysis.compare import compare as compare
from leaveout.analysis.credit import Credit as Credit
from leaveout.analysis.credit import credit as credit
from leaveout.analysis.cross_validation import HeldOut as HeldOut
from leaveout.analysis.cross_validation import cross_validate_groups as cross_validate_groups
from leaveout.analysis.jackknife import jackknife as jackknife
from leaveout.analysis.null import Null as Null
from leaveout.attribution.container import Effects as Effects
from leaveout.attribution.container import load as load
from leaveout.attribution.verb import effects as effects
from leaveout.fitting.edits import add as add
from leaveout.fitting.edits import relabel as relabel
from leaveout.fitting.edits import reweight as reweight
from leaveout.fitting.fitted import Change as Change
from leaveout.fitting.fitted import Fit as Fit
from leaveout.fitting.optimum import (
    fit as fit,
)
from leaveout.fitting.penalties import CrossValidation as CrossValidation
from leaveout.fitting.penalties import cross_validate as cross_validate
from leaveout.fitting.sklearn import from_sklearn as from_sklearn
from leaveout.groups import Groups as Groups
from leaveout.methods.first_order import (
    Influence as Influence,
)
from leaveout.methods.first_order import (
    influence as influence,
)
from leaveout.methods.first_order import (
    per_point as per_point,
)
from leaveout.methods.group_newton import Krylov as Krylov
from leaveout.methods.group_newton import Newton as Newton
from leaveout.methods.group_newton import NewtonChebyshev as NewtonChebyshev
from leaveout.methods.group_newton import newton as newton
from leaveout.methods.retraining import Retrain as Retrain
from leaveout.methods.retraining import retrain as retrain
from leaveout.methods.second_order import SecondOrder as SecondOrder
from leaveout.objectives import (
    losses as losses,
)
from leaveout.objectives.general import Objective as Objective
from leaveout.objectives.layout import Linear as Linear
from leaveout.objectives.linear import (
    glm as glm,
)
from leaveout.objectives.linear import (
    logistic as logistic,
)
from leaveout.objectives.linear import (
    poisson as poisson,
)
from leaveout.objectives.linear import (
    softmax as softmax,
)
from leaveout.objectives.linear import (
    squares as squares,
)
from leaveout.runtime.sharding import shard as shard
from leaveout.runtime.solution import Certificate as Certificate
from leaveout.runtime.solution import SolveError as SolveError
from leaveout.runtime.solution import Status as Status
from leaveout.studies import (
    datasets as datasets,
)
from leaveout.studies.koh2019 import (
    counterexamples as counterexamples,
)

__version__ = _version("leaveout")

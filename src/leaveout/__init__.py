"""What would this model be if that group of training points had not been there?

A group's removal is a vector of weights; a method (`influence`, `newton`, `retrain`) turns weights
into a change in theta; a measure turns a change into an effect, f(without) - f(with); a report
compares effects.
"""

from importlib.metadata import version as _version

from leaveout import (
    bounds as bounds,
)
from leaveout import (
    counterexamples as counterexamples,
)
from leaveout import (
    datasets as datasets,
)
from leaveout import (
    groups as groups,
)
from leaveout import (
    losses as losses,
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
from leaveout.changes import add as add
from leaveout.changes import relabel as relabel
from leaveout.changes import reweight as reweight
from leaveout.credit import Credit as Credit
from leaveout.credit import Null as Null
from leaveout.credit import credit as credit
from leaveout.effects import Effects as Effects
from leaveout.effects import effects as effects
from leaveout.effects import load as load
from leaveout.estimators import from_sklearn as from_sklearn
from leaveout.fit import (
    Change as Change,
)
from leaveout.fit import (
    Fit as Fit,
)
from leaveout.fit import (
    fit as fit,
)
from leaveout.general import Objective as Objective
from leaveout.groups import Groups as Groups
from leaveout.held_out import HeldOut as HeldOut
from leaveout.held_out import cross_validate_groups as cross_validate_groups
from leaveout.influence import (
    Influence as Influence,
)
from leaveout.influence import (
    SecondOrder as SecondOrder,
)
from leaveout.influence import (
    influence as influence,
)
from leaveout.influence import (
    per_point as per_point,
)
from leaveout.models import Linear as Linear
from leaveout.newton import Krylov as Krylov
from leaveout.newton import Newton as Newton
from leaveout.newton import NewtonChebyshev as NewtonChebyshev
from leaveout.newton import newton as newton
from leaveout.objective import (
    glm as glm,
)
from leaveout.objective import (
    logistic as logistic,
)
from leaveout.objective import (
    poisson as poisson,
)
from leaveout.objective import (
    softmax as softmax,
)
from leaveout.objective import (
    squares as squares,
)
from leaveout.report import Comparison as Comparison
from leaveout.report import compare as compare
from leaveout.report import jackknife as jackknife
from leaveout.retrain import Retrain as Retrain
from leaveout.retrain import retrain as retrain
from leaveout.sharding import shard as shard
from leaveout.solution import Certificate as Certificate
from leaveout.solution import SolveError as SolveError
from leaveout.solution import Status as Status
from leaveout.validation import CrossValidation as CrossValidation
from leaveout.validation import cross_validate as cross_validate

__version__ = _version("leaveout")

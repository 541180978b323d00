"""What would this model be if that group of training points had not been there?

A group's removal is a vector of weights; a method (`influence`, `newton`, `retrain`) turns weights
into a change in theta; a measure turns a change into an effect, f(without) - f(with); a report
compares effects.
"""

from importlib.metadata import version as _version

from leaveout import (
    datasets as datasets,
    groups as groups,
    losses as losses,
    measures as measures,
    plot as plot,
    solvers as solvers,
)
from leaveout.effects import Effects as Effects, effects as effects, load as load
from leaveout.fit import (
    Change as Change,
    CrossValidation as CrossValidation,
    Fit as Fit,
    cross_validate as cross_validate,
    fit as fit,
    from_sklearn as from_sklearn,
)
from leaveout.groups import Groups as Groups
from leaveout.influence import (
    Influence as Influence,
    influence as influence,
    per_point as per_point,
)
from leaveout.models import Linear as Linear
from leaveout.newton import Newton as Newton, newton as newton
from leaveout.objective import (
    Objective as Objective,
    glm as glm,
    logistic as logistic,
    poisson as poisson,
    softmax as softmax,
    squares as squares,
)
from leaveout.report import Comparison as Comparison, compare as compare
from leaveout.retrain import Retrain as Retrain, retrain as retrain
from leaveout.solution import SolveError as SolveError, Status as Status

__version__ = _version("leaveout")

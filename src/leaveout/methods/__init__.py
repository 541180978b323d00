"""Shelf of methods: how a change in theta, or an effect, is found for each group.

To add one, write a frozen dataclass with a name and `prepare` (see `Method`) in a file of this
folder and import it here.
"""

import jax

from leaveout.methods.end_point import Corrected, formed_once
from leaveout.methods.first_order import Influence, influence, per_point, self_influence
from leaveout.methods.group_newton import Krylov, Newton, NewtonChebyshev, newton
from leaveout.methods.protocol import (
    Method,
    PerPoint,
    Prepared,
    as_change,
    as_solution,
    l2_of_groups,
)
from leaveout.methods.retraining import Retrain, retrain, retrainer
from leaveout.methods.second_order import SecondOrder
from leaveout.methods.trajectory import Metagradient, Smoothness, smoothness

__all__ = [
    "BY_WORD",
    "Corrected",
    "Influence",
    "Krylov",
    "Metagradient",
    "Method",
    "Newton",
    "NewtonChebyshev",
    "PerPoint",
    "Prepared",
    "Retrain",
    "SecondOrder",
    "Smoothness",
    "as_change",
    "as_solution",
    "formed_once",
    "influence",
    "l2_of_groups",
    "newton",
    "per_point",
    "retrain",
    "retrainer",
    "self_influence",
    "smoothness",
]

for _method in (Influence, Krylov, Newton, NewtonChebyshev, Retrain, SecondOrder):
    jax.tree_util.register_static(_method)  # constants of a program, so that gates are reached

#: the word that the command line and the files of studies have for a method
BY_WORD = {
    "influence": Influence(),
    "changed": Influence(at_changed=True),
    "newton": Newton(),
    "actual": Retrain(),
}

"""Build a network from a list of layers, and infer the input size of each layer."""

from lamella.network.freeze import freeze_parameters
from lamella.network.layers import Affine, Concat, Network, Residual, Sequential
from lamella.network.plan import Plan, plan, plan_module

__all__ = [
    "Affine",
    "Concat",
    "Network",
    "Plan",
    "Residual",
    "Sequential",
    "freeze_parameters",
    "plan",
    "plan_module",
]

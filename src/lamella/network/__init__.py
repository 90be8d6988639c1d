"""Build a network from a list of layers, and infer the input size of each layer."""

from lamella.network.attention import SelfAttention, TransformerEncoderLayer
from lamella.network.freeze import freeze_parameters
from lamella.network.initialization import initialize_parameters
from lamella.network.layers import Add, Affine, Concat, Multiply, Network, Residual, Scale, Sequential
from lamella.network.learned import ClassToken, Parameter, Positions
from lamella.network.plan import Plan, plan, plan_module
from lamella.network.reshaping import Pad, Permute, Reshape
from lamella.network.selecting import Pool, Select
from lamella.network.whitening import Whitening2d

__all__ = [
    "Add",
    "Affine",
    "ClassToken",
    "Concat",
    "Multiply",
    "Network",
    "Pad",
    "Parameter",
    "Permute",
    "Plan",
    "Pool",
    "Positions",
    "Reshape",
    "Residual",
    "Scale",
    "Select",
    "SelfAttention",
    "Sequential",
    "TransformerEncoderLayer",
    "Whitening2d",
    "freeze_parameters",
    "initialize_parameters",
    "plan",
    "plan_module",
]

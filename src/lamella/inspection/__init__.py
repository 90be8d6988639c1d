"""Show what a network computes for a batch: activations, gradients and the autograd graph."""

from lamella.inspection.activations import activations, layer_outputs
from lamella.inspection.autograd_graph import graph_nodes
from lamella.inspection.gradients import backward, check_gradients

__all__ = [
    "activations",
    "backward",
    "check_gradients",
    "graph_nodes",
    "layer_outputs",
]

"""Callbacks that draw pictures in TensorBoard."""

from lamella.visuals.classes import Confusion, PRCurves
from lamella.visuals.samples import Mistakes, SampleImages
from lamella.visuals.structure import Graph, Text
from lamella.visuals.weights import Histograms, Weights

__all__ = [
    "Confusion",
    "Graph",
    "Histograms",
    "Mistakes",
    "PRCurves",
    "SampleImages",
    "Text",
    "Weights",
]

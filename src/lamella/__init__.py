"""Lamella: deep-learning experiments as layers of YAML.

Importing the package imports no torch, so that `lamella --help` answers at once.
"""

__version__ = "0.1.0"

"""The command line and YAML files become one checked config.

The YAML files themselves are in `conf/` at the top of the repository (in the wheel: `lamella/conf/`).
"""

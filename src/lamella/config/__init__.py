"""Turn the command line and YAML files into one checked config.

The YAML files themselves are in `conf/` at the top of the repository (in the wheel: `lamella/conf/`).
"""

"""Build, train, resume, evaluate and load one run."""

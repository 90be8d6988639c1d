"""Build, train, resume and evaluate one run."""

"""Run one command; each module has a function `main`."""

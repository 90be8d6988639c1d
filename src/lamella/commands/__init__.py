"""Run one command; each module that is named after a command has a function `main`."""

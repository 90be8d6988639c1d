"""Imported by the process from which the tests' programs are forked: what the server of `lamella warm` imports."""

from lamella.warm.preloaded import import_all

import_all()

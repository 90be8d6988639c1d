"""Imported first by the process from which a sweep's jobs are forked: no signal that the group gets is for it."""

import signal

from lamella.interrupts import SIGNALS

# Not ignored, or the jobs would ignore them too until they listen.
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
# Not ignored, or the jobs would ignore them too until they listen.
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

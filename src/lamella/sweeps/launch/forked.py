"""Block the signals of a process group in the fork server, which imports this module before all others."""

import signal

from lamella.interrupts import SIGNALS

# Blocked, and not ignored: jobs inherit this, and a job that ignored signals would miss those sent before it listens.
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

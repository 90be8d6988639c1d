"""Imported first by the process from which a sweep's jobs are forked: no signal that the group gets is for it."""

import signal

HELD = (signal.SIGTERM, signal.SIGUSR1)

signal.signal(signal.SIGINT, signal.SIG_IGN)
# Not ignored, or the jobs would ignore them too until they listen.
signal.pthread_sigmask(signal.SIG_BLOCK, HELD)

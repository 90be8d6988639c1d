"""Runs that are killed and resumed, compared with a run that is not."""

import signal
from pathlib import Path

import kill


def kill_and_resume(
    reference: Path, killed: Path, *options: str, shares: tuple[float, ...] = (1 / 3,)
) -> tuple[Path, str]:
    """Train in both directories, kill the second run after shares of the moments of the first, and let it finish.

    Both runs end with the same bits. Returns the first one, and all that was printed in the second directory.
    """
    assert kill.lamella(reference, "train", *options, moment=0) == 0, kill.beside(reference, "output").read_text()
    moments = int(kill.beside(reference, "ended").read_text().split()[1])
    arguments = ("train", *options)
    for share in shares:
        assert kill.lamella(killed, *arguments, moment=int(share * moments)) == -signal.SIGKILL
        run = kill.run_of(killed)
        assert run
        arguments = ("resume", str(run.relative_to(killed)))
    status, printed = kill.lamella(killed, *arguments), kill.beside(killed, "output").read_text()
    assert status == 0, printed
    whole = kill.run_of(reference)
    assert run
    assert whole
    assert kill.differences(whole, run) == []
    return whole, printed

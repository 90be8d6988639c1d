"""The one error that means: the request was wrong, and nothing has been trained."""

from collections.abc import Iterable
from difflib import get_close_matches


class RequestError(ValueError):
    """A config, an override or an input that cannot be run. The program ends with exit status 2.

    `key` is the config key that is to blame, where there is one, so that the command line can say
    which file or override it came from; `unknown` says that it is the key itself, whatever its value.
    """

    def __init__(self, message: str, key: str | None = None, unknown: bool = False) -> None:
        super().__init__(message)
        self.key, self.unknown = key, unknown


def nearest(name: str, names: Iterable[str]) -> str:
    """The hint that ends an error about an unknown name: its nearest valid ones, or all of them."""
    known = sorted(set(map(str, names)))
    folded: dict[str, str] = {valid.lower(): valid for valid in known}
    close = [folded[match] for match in get_close_matches(str(name).lower(), folded, n=3, cutoff=0.7)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    if len(known) > 40:
        return f"there are {len(known)} names, none of them close"
    return f"known: {', '.join(known)}" if known else "there are none"


def first_line(error: BaseException) -> str:
    """What an exception of a library says, cut to what fits into one line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

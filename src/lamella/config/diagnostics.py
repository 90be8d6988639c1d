"""The error that explains an exception which composing a config raised."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml
from hydra.errors import ConfigCompositionException
from omegaconf.errors import OmegaConfBaseException

from lamella.config.files import read_config, shown_path
from lamella.config.hydra_errors import explain_exception
from lamella.config.origins import ConfigFile, Origins
from lamella.errors import RequestError, first_line


def explained_error(
    error: Exception, overrides: Sequence[str], files: Callable[[], Sequence[ConfigFile]] = tuple
) -> RequestError:
    """Return the error that explains an exception, with the override or the line that the blamed value comes from.

    overrides: the overrides of the command line. files: returns those that the config is composed from, the strongest
    first, if they are known.
    """
    explained = as_request_error(error)
    source = explained.key and Origins(overrides, files).place_of(explained.key, follow=not explained.unknown)
    if not source:
        return explained
    return RequestError(f"{explained}\n  from {source}", explained.key, explained.unknown)


def as_request_error(error: Exception) -> RequestError:
    """Return the RequestError that explains an exception of composing or of applying overrides."""
    for link in _chain(error):
        if isinstance(link, RequestError):
            return link
        if isinstance(link, yaml.MarkedYAMLError):
            return _invalid_yaml(link)
        if isinstance(link, yaml.reader.ReaderError):
            return RequestError(f"{shown_path(Path(link.name))}: this is no YAML: {link.reason}")
        if isinstance(link, RecursionError):
            return RequestError("an interpolation leads back to itself")
    inner = error.__cause__ or error.__context__
    explained = None
    if isinstance(error, ConfigCompositionException) and isinstance(inner, OmegaConfBaseException):
        explained = explain_exception(inner, str(error))
    return explained or explain_exception(error, str(error)) or RequestError(first_line(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and the exceptions that led to it, also those that `raise … from None` hides."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _invalid_yaml(error: yaml.MarkedYAMLError) -> RequestError:
    """Return the error that names the file and the line at which the parser stopped.

    The mistake may be in the line before that one.
    """
    mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
    if mark is None:
        return RequestError(f"a config file is no YAML: {problem}")
    path = Path(mark.name)
    lines = read_config(path).splitlines() if path.is_file() else []
    line = lines[mark.line] if mark.line < len(lines) else ""
    if not line.strip() and error.context_mark and error.context_mark.line < len(lines):
        line = lines[error.context_mark.line]  # where the bracket or the quote begins that is not closed
    hint = "check the dashes, colons and indentation of this line and the one above"
    if str(problem).startswith("expected <block end>"):
        hint = "lines with a dash (a list) and lines without (a mapping) cannot be mixed on one level"
    if re.search(r"[\[{,]\s*\$\{", line):
        hint = 'within brackets an interpolation is quoted: "${…}"'
    if re.search(r"[\[{].*\?\?\?", line):
        hint = 'within brackets a missing value is quoted: "???"'
    if "\t" in line[: mark.column + 1] or any("\u00a0" in text for text in lines[: mark.line + 1]):
        hint = "indent with ordinary spaces, and not with tabs or no-break spaces"
    where = f"{shown_path(path)}, line {mark.line + 1}, column {mark.column + 1}"
    return RequestError(f"{where}: this is no YAML: {problem}\n  {line.strip()}\n  {hint}")

"""The `error: …` block for an exception that composing a config raised."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from hydra.errors import ConfigCompositionException
from omegaconf.errors import OmegaConfBaseException

from lamella.config.files import project_folder, value_origin
from lamella.config.hydra_errors import explain_exception
from lamella.errors import RequestError, first_line


def error_block(error: Exception, overrides: Sequence[str], choices: Mapping[str, object] | None = None) -> str:
    """Return the `error: …` block for an exception, with the file or override that the blamed value comes from.

    overrides: the overrides of the command line. choices: the option that was chosen in each group, if the exception
    was raised after the groups were known.
    """
    explained = _request_error(error)
    source = explained.key and value_origin(explained.key, overrides, choices or {}, follow=not explained.unknown)
    return f"error: {explained}" + (f"\n  from {source}" if source else "")


def _request_error(error: Exception) -> RequestError:
    """Return the RequestError that explains an exception."""
    for link in _chain(error):
        if isinstance(link, RequestError):
            return link
        if isinstance(link, yaml.MarkedYAMLError):
            return _invalid_yaml(link)
        if isinstance(link, yaml.reader.ReaderError):
            return RequestError(f"{link.name}: this is no YAML: {link.reason}")
        if isinstance(link, UnicodeDecodeError):
            return RequestError(
                f"a config file is no text in UTF-8 ({link.reason}); save it as such{_first_not_utf8()}"
            )
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


def _first_not_utf8() -> str:
    """Return `: PATH` for the first config file that is not UTF-8, because the parser does not name the file."""
    for path in sorted(project_folder().rglob("*.yaml")):
        try:
            path.read_text("utf-8")
        except UnicodeDecodeError:
            return f": {path}"
    return ""


def _invalid_yaml(error: yaml.MarkedYAMLError) -> RequestError:
    """Return the error that names the file and the line at which the parser stopped.

    The mistake may be in the line before that one.
    """
    mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
    if mark is None:
        return RequestError(f"a config file is no YAML: {problem}")
    path = Path(mark.name)
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    line = lines[mark.line] if mark.line < len(lines) else ""
    hint = "check the dashes, colons and indentation of this line and the one above"
    if str(problem).startswith("expected <block end>"):
        hint = "lines with a dash (a list) and lines without (a mapping) cannot be mixed on one level"
    if re.search(r"[\[{,]\s*\$\{", line):
        hint = 'within brackets an interpolation is quoted: "${…}"'
    where = f"{path}, line {mark.line + 1}, column {mark.column + 1}"
    return RequestError(f"{where}: this is no YAML: {problem}\n  {line.strip()}\n  {hint}")

"""Name the schemas in VS Code's settings.json, a JSON file that may hold comments and commas before a bracket."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from lamella.errors import RequestError

SETTINGS = Path(".vscode", "settings.json")
KEY = "yaml.schemas"
COMMENT = re.compile(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/', re.S)
LAST_COMMA = re.compile(r'("(?:\\.|[^"\\\n])*")|,(?=\s*[}\]])')


def with_schemas(text: str, schemas: Mapping[str, str]) -> str:
    """Return the text of settings.json with the entries `schemas` in yaml.schemas; what is written stays as it is.

    schemas: a pattern of names of files for each schema. Raises RequestError, with the line, for a text that is not
    JSON with comments.
    """
    if not _plain(text).strip():  # VS Code takes a file without an object for an empty one
        text = f"{text}{{}}\n" if text.endswith("\n") or not text else f"{text}\n{{}}\n"
    if KEY not in _members(text, _start(text)):
        text = _inserted(text, _start(text), KEY, {}, "  ")
    for path, pattern in schemas.items():
        start, _ = _members(text, _start(text))[KEY]
        if path not in _members(text, start):
            text = _inserted(text, start, path, pattern, "    ")
    return text


def _plain(text: str) -> str:
    """Return a text with spaces in place of comments, and of commas before a bracket: each place stays the same."""
    text = COMMENT.sub(lambda match: match[1] or re.sub(r"[^\n]", " ", match[0]), text)
    return LAST_COMMA.sub(lambda match: match[1] or " ", text)


def _start(text: str) -> int:
    """Return where the value of a whole text begins, after a check that it is an object in JSON."""
    plain = _plain(text)
    try:
        content = json.loads(plain)
    except json.JSONDecodeError as error:
        raise RequestError(
            f"{SETTINGS}, line {error.lineno}: this is not JSON ({error.msg}); correct it, and run the command again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get(KEY, {}), dict):
        place = KEY if isinstance(content, dict) else "the file"
        line = plain[: plain.find(f'"{KEY}"') if isinstance(content, dict) else 0].count("\n") + 1
        raise RequestError(f"{SETTINGS}, line {line}: {place} is no object; write {{…}}, and run the command again")
    return plain.index("{")


def _members(text: str, start: int) -> dict[str, tuple[int, int]]:
    """Return where the value of each key of an object begins and ends. start: of the object."""
    plain, decoder, found = _plain(text), json.JSONDecoder(), dict[str, tuple[int, int]]()
    place = start + 1
    while match := re.compile(r'[\s,]*(?=")').match(plain, place):
        key, place = decoder.raw_decode(plain, match.end())
        begin = re.compile(r"\s*:\s*").match(plain, place)
        assert begin
        _, place = decoder.raw_decode(plain, begin.end())
        found[key] = begin.end(), place
    return found


def _inserted(text: str, start: int, key: str, value: object, indent: str) -> str:
    """Return a text with a further member at the end of the object that begins at `start`."""
    members = _members(text, start)
    place = max((end for _, end in members.values()), default=start + 1)
    written = f"{',' if members else ''}\n{indent}{json.dumps(key)}: {json.dumps(value)}"
    if not members and "\n" not in text[place : _plain(text).index("}", place)]:
        written += f"\n{indent[2:]}"
    return text[:place] + written + text[place:]

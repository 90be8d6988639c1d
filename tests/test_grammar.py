"""One grammar for overrides: what `train` reads, the commands that take a run read alike, in value and in type."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Lamella
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import example, given
from hypothesis import strategies as st
from programs import run as run_program

from lamella.config.grammar import parse_overrides
from lamella.config.overrides import apply_overrides
from lamella.config.value_text import parse_value
from lamella.errors import RequestError

RECORD: dict[str, Any] = {"overrides": [], "reads": {}}
PARSER = OverridesParser.create()
# Texts that are numbers, booleans or dates in one grammar and not in another, and any others.
ODD = ["01", "no", "yes", "12:30", "1e3", "1_000", ".5", "5.", "~", "null", "NULL", "True", "on", "0x1f", "0o7", "-0"]
ODD += [
    "set #2",
    '"set #2"',
    "'a'",
    "[1,2]",
    "[01,no]",
    "{a:1}",
    "[]",
    "",
    " ",
    "a b",
    "a:b",
    "1,2",
    "inf",
    "nan",
    "+5",
]
ODD += ["2020-01-01", "é", "\\$", "${name}", "a=b", "range(0,3)", "int(3)", "str(3)", "[a,[b,{c:d}]]", "!x", "&a", "*a"]
TEXTS = st.one_of(
    st.sampled_from(ODD),
    st.text(st.sampled_from("01279aeno_-+.,:;#~'\"[]{}()=$\\ \t/éü*&!%"), max_size=8),
    st.text(max_size=6),
)


def read_by_hydra(text: str) -> list[object]:
    """Return what `train` reads, as a list with its type at each level, or an empty list for a refusal."""
    try:
        override = PARSER.parse_override(f"key={text}")
    except HydraException:
        return []
    return [] if override.is_sweep_override() else [repr(override.value())]


@given(TEXTS)
@example("set #2")
@example("01")
def test_every_text_is_read_as_train_reads_it(text: str) -> None:
    try:
        applied = apply_overrides({"key": "old"}, RECORD, [f"key={text}"], ["key"], "stays")
    except RequestError:
        # An interpolation of a key that does not exist is refused once the config is composed.
        assert not read_by_hydra(text) or "${" in text
    else:
        assert "${" in text or [repr(applied["key"])] == read_by_hydra(text)


@example("0, ")  # ends where a value should follow
@given(st.text(st.sampled_from("019ae_+-.,no:#'\"[]{ "), max_size=6) | st.sampled_from(ODD))
def test_conditions_and_tables_read_values_as_train_does(text: str) -> None:
    read = read_by_hydra(text)
    assert repr(parse_value(text)) == (read[0] if read else repr(text))


@given(st.text(st.sampled_from("a$\\{}}.:x "), max_size=12))
def test_a_recorded_text_is_never_resolved(text: str) -> None:
    """What a stranger's config.yaml holds is text, whatever it would mean in a config that is composed."""
    config = {"key": 1, "other": text, "nested": {"items": [text]}}
    assert apply_overrides(config, RECORD, ["key=2"], ["key"], "stays") == config | {"key": 2}


def test_an_override_may_interpolate_other_keys() -> None:
    config = {"name": "x", "data": {"root": "a", "source": {"root": "a"}}}
    record = {"overrides": [], "reads": {"data.source.root": "data.root"}}
    changed = apply_overrides(config, record, ["data.root=${name}/b"], ["data.root"], "stays")
    assert changed["data"] == {"root": "x/b", "source": {"root": "x/b"}}


def test_a_key_that_reads_another_through_a_third_follows_it() -> None:
    config = {"a": 1, "b": 1, "c": 1, "d": {"e": 1}, "f": 1}
    record = {"overrides": [], "reads": {"b": "a", "c": "b", "f": "d.e"}}
    keys = ["a", "b", "d"]
    assert apply_overrides(config, record, ["a=2"], keys, "stays") == config | {"a": 2, "b": 2, "c": 2}
    assert apply_overrides(config, record, ["b=3"], keys, "stays") == config | {"b": 3, "c": 3}
    assert apply_overrides(config, record, ["d={e:4}"], keys, "stays") == config | {"d": {"e": 4}, "f": 4}


@pytest.mark.parametrize("text", ["key=a,b", "key=range(0,3)", "key=choice(1,2)", "key=interval(0,1)", "key=glob(*)"])
def test_several_values_are_for_a_sweep(text: str) -> None:
    with pytest.raises(RequestError, match="several values are a sweep, which takes `lamella train -m`"):
        parse_overrides([text])
    assert parse_overrides([text], several=True)[0].is_sweep_override()


@pytest.mark.slow
def test_brackets_without_end_are_refused() -> None:
    with pytest.raises(RequestError, match="nested too deep"):
        parse_overrides(["key=" + "[" * 3000 + "]" * 3000])


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose overrides are of every kind."""
    root = tmp_path_factory.mktemp("odd")
    options = ["network=linear", "network.name=N01", "+trainer.limit_train_batches=2", "++trainer.limit_val_batches=1"]
    options += [
        "trainer.max_epochs=1",
        "~visuals.graph",
        "visuals=none",
        "optimizer={lr:0.01}",
        'name="a #2"',
        "device=cpu",
    ]
    run_program(root, "train", *options[:5], *options[6:], "optimizer.betas=[0.9,0.99]", "data.augment=[{crop: 1}]")
    return next(root.glob("outputs/*/*"))


@pytest.fixture
def odd(odd_run: Path, lamella: Lamella) -> Path:
    """A copy of that run in the working directory."""
    return Path(shutil.copytree(odd_run, "run"))


@pytest.mark.slow
def test_what_train_has_recorded_can_be_given_back(lamella: Lamella, odd: Path) -> None:
    record = json.loads((odd / "run.json").read_text())
    overrides: list[str] = record["overrides"]
    assert "+trainer.limit_train_batches=2" in overrides
    for command in (["eval", str(odd)], ["resume", str(odd)], ["export", str(odd), "--format", "safetensors"]):
        result = lamella(*command, *overrides)
        assert result.status == 0, result.err
    assert json.loads((odd / "run.json").read_text())["overrides"] == overrides
    evaluated = json.loads((odd / "eval.json").read_text())
    assert evaluated["metrics"]["test/loss"] == pytest.approx(record["metrics"]["test/loss"], rel=1e-6)


@pytest.mark.slow
def test_a_name_with_a_hash_is_one_value_in_each_command(lamella: Lamella, odd: Path) -> None:
    for command in ("eval", "reproduce", "resume"):
        refused = lamella(command, str(odd), "data.root=set #2")
        assert refused.status == 2
        assert refused.err.startswith("error: data.root=set #2: '#' at character 15 is not part of a plain value")
    assert yaml.safe_load((odd / "config.yaml").read_text())["name"] == "a #2"

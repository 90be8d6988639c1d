"""The conditions of `lamella runs --filter`: their grammar, what they mean, and errors that point to a place."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Lamella
from hypothesis import given
from hypothesis import strategies as st

import lamella as package
from lamella.errors import RequestError
from lamella.runs.query import parse_condition

RUN: Mapping[str, object] = {
    "seed": 3, "optimizer.lr": 0.01, "status": "finished", "tags": ["good", "base-line"], "data.shape": [1, 28, 28],
    "note": "The learning rate\nis (much) too high", "started": "2026-11-05T12:30:00.000+00:00", "best_epoch": None,
    "network._target_": "mine.Net(2)",
}  # fmt: skip


def nothing(key: str) -> None:
    """Accept any key."""


def meets(text: str) -> bool:
    return parse_condition(text, nothing)(RUN.get)


@pytest.mark.parametrize(
    "text",
    [
        "(seed=3)", "((seed = 3)and(status='finished'))", "not seed=4", "not not seed=3", "not(seed=4 or seed=5)",
        "seed=4 and seed=4 or seed=3", "seed=3 or seed=4 and seed=5", "not seed=4 and seed=3",
        "tags ~ good", "tags~good", "not tags ~ goo", "note ~ 'learning Rate'", 'note ~ "(much)"', "note~rate",
        "status ~ fin", "status in [finished, failed]", "status in ['finished']", "seed in [1,2,3]",
        "optimizer.lr in [1e-2, 0.1]", "data.shape in [[1, 28, 28]]", "not seed in []", "not seed in ['3']",
        "started>2026-11-01", "started>=2026-11-05", "started=2026-11-05", "not started>2026-11-05",
        "started<2026-11-06 and started <= 2026-11-05", "started > '2026-11-04 23:00'", "started!=2026-11-04",
        "started>2026-11-05T12:29:59+00:00", "started<2026-11-05T13:31:00+01:00", "not seed>2026-11-01",
        "started=2026-11-05T12:30:00.000+00:00", "started in [2026-11-05]", "best_epoch=null", "not best_epoch>1",
        "not unknown ~ x", "unknown!=1", "network._target_=mine.Net(2)", "(network._target_=mine.Net(2))",
        "data.shape=[1, 28, 28] and seed==3", "tags=['good', 'base-line']", "status != 'a and b'",
    ],
)  # fmt: skip
def test_conditions_that_a_run_meets(text: str) -> None:
    assert meets(text)
    assert not meets(f"not ({text})")


@pytest.mark.parametrize(
    ("text", "problem", "pointer"),
    [
        ("seed=1 AND seed=2", "between two conditions, write `and` or `or`", "       ^^^"),
        ("seed=1 and", "a condition is missing here", "          ^"),
        ("", "a condition is missing here", "^"),
        ("(seed=1 or (seed=2)", "this parenthesis is not closed", "^"),
        ("seed=1)", "between two conditions", "      ^"),
        ("seed", "seed is not a condition; write KEY, one of < <= = != >= > ~ in, and a value", "^^^^"),
        ("not", "a condition is missing here", "   ^"),
        ("seed=", "a value is missing here", "     ^"),
        ("(seed= )", "a value is missing here", "       ^"),
        ("seed<<1", "a value is missing here", "     ^^"),
        ("status<x and seed=1", "< compares with a number or a date, and 'x' is neither of them", "       ^"),
        ("seed in 3", "`in` takes a list, as in [1, 2]", "        ^"),
        ("data.shape=[1,[2", "this bracket is not closed", "              ^"),
        ("note = 'good", "between two conditions", None),
        ("tags = good", "tags is a list; write tags ~ good", "       ^^^^"),
        ("seed=1 and tags!=good", "tags is a list; write not tags ~ good", "                 ^^^^"),
        ("started=today", "started is a date, and 'today' is none", "        ^^^^^"),
        ("note ~ learning rate", "put quotes around a value that contains a space", "                ^^^^"),
        ("seed=1 or sead=2", "there is no key sead", "          ^^^^"),
    ],
)
def test_errors_point_to_the_place(text: str, problem: str, pointer: str | None) -> None:
    def check(key: str) -> None:
        if key == "sead":
            raise RequestError("there is no key sead")

    if pointer is None:  # an apostrophe alone is a letter of a value
        assert parse_condition(text, check)({"note": "'good"}.get)
        return
    with pytest.raises(RequestError) as caught:
        parse_condition(text, check)
    message, shown, below = str(caught.value).split("\n")
    assert problem in message
    assert (shown, below) == (f"  {text}", f"  {pointer}")


Reference = Callable[[Mapping[str, Any]], bool]
VALUES = {
    "a": st.integers(-2, 2),
    "b": st.sampled_from(["x", "y y", "(", "and"]),
    "c": st.lists(st.sampled_from("pqr")),
}


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[str, Reference]:
    key = draw(st.sampled_from("abc"))
    space = draw(st.sampled_from(["", " "]))
    if key == "a":
        number = draw(st.integers(-2, 2))
        compare: dict[str, Callable[[int], bool]] = {
            "<": lambda x: x < number, "<=": lambda x: x <= number, ">": lambda x: x > number,
            ">=": lambda x: x >= number, "=": lambda x: x == number, "!=": lambda x: x != number,
        }  # fmt: skip
        sign = draw(st.sampled_from(sorted(compare)))
        return f"a{space}{sign}{space}{number}", lambda run: compare[sign](run["a"])
    if key == "b":
        texts = draw(st.lists(VALUES["b"], min_size=1, max_size=2))
        if len(texts) > 1:
            return f"b in {json.dumps(texts)}", lambda run: run["b"] in texts
        return f"b{space}={space}'{texts[0]}'", lambda run: bool(run["b"] == texts[0])
    letter = draw(st.sampled_from("pqr"))
    return f"c{space}~{space}{letter}", lambda run: letter in run["c"]


def combined(inner: st.SearchStrategy[tuple[str, Reference]]) -> st.SearchStrategy[tuple[str, Reference]]:
    """Conditions made of others, with parentheses where the order of binding would change the meaning."""
    return st.one_of(
        inner.map(lambda one: (f"not ({one[0]})", lambda run: not one[1](run))),
        inner.map(lambda one: (f"(  {one[0]} )", one[1])),
        st.tuples(inner, inner).map(
            lambda two: (f"({two[0][0]}) and ({two[1][0]})", lambda run: two[0][1](run) and two[1][1](run))
        ),
        st.tuples(inner, inner).map(
            lambda two: (f"({two[0][0]})or({two[1][0]})", lambda run: two[0][1](run) or two[1][1](run))
        ),
    )


@given(st.recursive(comparisons(), combined, max_leaves=8), st.fixed_dictionaries(VALUES))
def test_a_condition_means_what_python_would_mean(condition: tuple[str, Reference], run: dict[str, Any]) -> None:
    text, reference = condition
    assert parse_condition(text, nothing)(run.get) == reference(run)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["and", "or"]), st.integers(0, 1)), min_size=1))
def test_not_binds_before_and_before_or(words: list[tuple[bool, str, int]]) -> None:
    texts = [f"{'not ' * negated}a={number}" for negated, _, number in words]
    python = [f"{'not ' * negated}a=={number}" for negated, _, number in words]
    joined = [
        " ".join(f"{word} {text}" for (_, word, _), text in zip(words, form, strict=True)) for form in (texts, python)
    ]
    mine, wanted = (text.partition(" ")[2] for text in joined)
    assert parse_condition(mine, nothing)({"a": 1}.get) == eval(wanted, {"a": 1})


def test_one_grammar_in_python_and_on_the_command_line(lamella: Lamella, trained: Path) -> None:
    for number in range(3):
        path = Path(shutil.copytree(trained, f"outputs/tuned/run{number}"))
        fields = json.loads((path / "run.json").read_text())
        (path / "run.json").write_text(json.dumps(fields | {"seed": number}))
    condition = "(seed in [0, 2] or seed=1) and not seed>=2 and started > 2020-01-01"
    assert [record["seed"] for record in package.runs(filter=condition)] == [0, 1]
    assert [record["seed"] for record in package.runs.runs("outputs", condition)] == [0, 1]  # type: ignore[attr-defined]
    result = lamella("runs", "--filter", condition, "--json")
    assert [record["seed"] for record in json.loads(result.out)] == [0, 1]
    result = lamella("runs", "--filter", "seed=1 or (sed=2)")
    assert result.status == 2
    message, *place = result.err.splitlines()
    assert message.startswith("error: no run has a key 'sed'; did you mean seed")
    assert place == ["  seed=1 or (sed=2)", "             ^^^"]

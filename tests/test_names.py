"""Names of run directories."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.runs.files import truncate_growing_files
from lamella.runs.names import LONGEST, claim_directory, member_names, slug, sweep_name

KEYS = st.from_regex(r"[+~]?[a-z_./]{1,30}", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
OVERRIDES = st.lists(st.builds("{}={}".format, KEYS, VALUES), max_size=6)


def test_slugs_are_legible() -> None:
    assert slug([]) == "defaults"
    assert slug(["seed=1", "optimizer.lr=0.01"]) == "optimizer.lr=0.01,seed=1"
    assert slug(["data.root=/a/b"]).startswith("data.root=-a-b-")
    long = [f"trainer.some.long.name.of.a.key.that.goes.on={n}" for n in range(3)] + ["optimizer.lr=0.1", "seed=1"]
    assert slug(long).startswith("lr=0.1,seed=1,on=0,on=1,on=2-")


@pytest.mark.slow
@given(OVERRIDES)
def test_slugs_are_names_of_directories(overrides: list[str]) -> None:
    name = slug(overrides)
    assert 0 < len(name.encode()) <= LONGEST
    assert "/" not in name
    assert not name.startswith(".")
    assert name == slug(overrides[::-1])


@pytest.mark.slow
@given(OVERRIDES, OVERRIDES)
def test_slugs_differ_where_overrides_do(one: list[str], other: list[str]) -> None:
    assert (slug(one) == slug(other)) == (sorted(one) == sorted(other))


LOSS = "loss={{_target_: torch.nn.{}, reduction: mean}}"


@pytest.mark.parametrize(
    ("jobs", "swept", "names"),
    [
        (
            [["optimizer.lr=0.01", "network.width=64", "name=a", "trainer.max_epochs=3", f"seed={n}"] for n in (0, 1)],
            ["optimizer.lr", "network.width", "seed"],
            ["lr=0.01,width=64,seed=0", "lr=0.01,width=64,seed=1"],
        ),
        ([["seed=0", "data.seed=1"]], ["seed", "data.seed"], ["seed=0,data.seed=1"]),
        ([["+network.layers.0.p=1", "network.widths.1=2"]], ["+network.layers.0.p", "network.widths.1"],
         ["p=1,widths.1=2"]),
        ([[LOSS.format("L1Loss")], [LOSS.format("MSELoss")]], ["loss"], ["loss=L1Loss", "loss=MSELoss"]),
        ([["+trainer.callbacks=[{_target_: a.Own, inner: {_target_: b.C}}]"]], ["+trainer.callbacks"],
         ["callbacks=Own"]),
        ([["trainer.max_epochs=3"]], [], ["trainer.max_epochs=3"]),
    ],
)  # fmt: skip
def test_members_are_named_by_what_was_swept(jobs: list[list[str]], swept: list[str], names: list[str]) -> None:
    assert member_names(jobs, swept, {}) == names


def test_names_of_members_that_would_be_equal_have_a_hash() -> None:
    jobs = [["data.root=/a/b"], ["data.root=/a-b"], ["network.activation=relu"], ["network.activation=ReLU"]]
    names = member_names(jobs, ["data.root", "network.activation"], {})
    assert len({name.lower() for name in names}) == 4
    assert [name[:-8] for name in names] == ["root=-a-b-", "root=-a-b-", "activation=relu-", "activation=ReLU-"]
    # `lr=1` is taken by a job that differs in nothing that a name could show.
    [name] = member_names([["name=b", "optimizer.lr=1"]], ["optimizer.lr"], {"lr=1": ["name=a", "optimizer.lr=1"]})
    assert name.startswith("lr=1-")


def test_sweeps_are_named_by_their_keys() -> None:
    line = ["optimizer.lr=1,2", "network.width=3,4"]
    name = sweep_name(["optimizer.lr", "network.width"], line)
    assert name == sweep_name(["network.width", "optimizer.lr"], line[::-1])
    assert name.startswith("lr×width-")
    assert len(name) == len("lr×width-3f2a")
    assert sweep_name(["optimizer.lr", "network.width"], [*line, "seed=1"]) != name
    assert len(sweep_name([f"group.quite_a_long_key_{n}" for n in range(20)], line).encode()) == LONGEST


@pytest.mark.slow
@given(st.lists(OVERRIDES, max_size=4, unique_by=lambda job: tuple(sorted(job))))
def test_names_of_members_are_names_of_directories(jobs: list[list[str]]) -> None:
    names = member_names(jobs, ["a", "optimizer.lr"], {})
    assert len({name.lower() for name in names}) == len(jobs)
    for name in names:
        assert 0 < len(name.encode()) <= LONGEST
        assert "/" not in name
        assert not name.startswith(".")


def test_a_claimed_directory_has_one_owner(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: claim_directory(tmp_path / "runs", "run"), range(40)))
    assert len(set(paths)) == 40
    assert all(path.is_dir() for path in paths)


def test_tensorboards_files_sort_as_they_were_opened(tmp_path: Path) -> None:
    """A later file's name begins with a later second, whatever the numbers of the processes that follow in it."""
    second = int(time.time())
    name = f"events.out.tfevents.{second}.host.99.0"
    (tmp_path / name).write_bytes(b"kept, and cut off")
    truncate_growing_files(tmp_path, {name: 4})
    assert (tmp_path / name).read_bytes() == b"kept"
    assert int(time.time()) > second

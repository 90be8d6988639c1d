"""Names of run directories."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.runs.files import truncate_growing_files
from lamella.runs.names import LONGEST, claim_directory, slug

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

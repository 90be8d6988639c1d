"""`lamella new`: a project that trains at once, and whose own test passes."""

import json
import subprocess
import sys
from pathlib import Path

import programs
import pytest
from conftest import Lamella, contents

STARTER = Path(__file__).parents[1] / "starter"


@pytest.mark.slow(8)
def test_a_project_trains_and_tests_itself(lamella: Lamella, tmp_path: Path) -> None:
    made = lamella("new", "two spirals")
    assert (made.status, made.err) == (0, "")
    *_, change, train = made.out.splitlines()
    assert (change.strip(), train.strip()) == ("cd 'two spirals'", "lamella train experiment=first")
    project = tmp_path / "two spirals"
    assert (project / "README.md").read_text().startswith("# two spirals\n")
    listed = subprocess.run(["git", "ls-files"], cwd=STARTER, check=True, capture_output=True, text=True)
    assert sorted(map(str, contents(project))) == sorted(f"{project}/{name}" for name in listed.stdout.split())
    for name in ("mine.py", "test_mine.py", "pyproject.toml"):
        assert (project / name).read_text() == (STARTER / name).read_text()
    programs.run(project, *train.split()[1:])
    record = json.loads((project / "outputs/first/experiment=first/run.json").read_text())
    assert record["status"] == "finished"
    assert record["metrics"]["test/accuracy"] > 0.95
    assert "2 passed" in programs.run(project, kind=programs.Pytest)


def test_an_empty_directory_is_filled(lamella: Lamella, tmp_path: Path) -> None:
    assert lamella("new", ".").status == 0
    assert (tmp_path / "README.md").read_text().startswith(f"# {tmp_path.name}\n")
    assert lamella("train", "--cfg", "job", "experiment=first").status == 0


def test_a_directory_that_is_in_use_is_not_touched(lamella: Lamella, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".kept").write_text("kept")
    (tmp_path / "file").write_text("kept")
    before = contents(tmp_path)
    lamella("new", "mine").check_refusal("mine is not empty, so nothing was written; name a directory")
    lamella("new", "file").check_refusal("file is a file; `lamella new` takes a directory that is new or empty")
    lamella("new").check_refusal("lamella new takes DIR")
    assert contents(tmp_path) == before


def test_the_workflow_is_one_of_github() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    subprocess.run([*checker, str(STARTER / ".github/workflows/test.yml")], check=True, capture_output=True)

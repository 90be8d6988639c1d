"""The architecture: the direction of imports, the size of files, one name for one thing, and what imports no torch."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import packages
import pytest

MODULES = packages.modules()
DESIGN = Path(__file__).parents[1] / "docs" / "design.md"


@pytest.mark.slow
def test_packages_import_downwards_on_at_most_ten_levels() -> None:
    arrows = packages.arrows()
    assert max(packages.levels(arrows).values()) < 10  # raises ValueError where there is a circle
    allowed = {
        "data": set(),
        "startup": set(),
        "network": {"config", "startup"},
        "config": {"data"},
        "runs": {"config"},
        "tracking": {"runs", "config"},
        "training": {"data", "config", "network", "runs"},
        "experiment": {"tracking", "training", "runs", "network", "config", "data"},
        "inspection": {"network", "training"},
        "editors": {"experiment", "visuals", "training", "network", "config", "data"},
        "visuals": {"inspection", "network", "training", "data"},
        "warm": set(),
        "sweeps": {"warm", "experiment", "visuals", "tracking", "training", "runs", "network", "config", "data"},
    }
    for package, others in allowed.items():
        assert arrows[package] <= others | {packages.GROUND}, package
    assert arrows[packages.GROUND] == set()


def test_files_import_each_other_in_no_circle() -> None:
    assert packages.levels({name: packages.imports(name, MODULES) for name in MODULES})


def test_a_circle_is_found() -> None:
    with pytest.raises(ValueError, match="a -> b -> a"):
        packages.levels({"a": {"b"}, "b": {"a"}})


def test_strings_and_inner_imports_count() -> None:
    assert "lamella.commands.train" in packages.imports("lamella.__main__", MODULES)
    assert "lamella.sweeps.launch.worker" in packages.imports("lamella.sweeps.launch.forkserver", MODULES)
    assert "lamella.experiment.session" in packages.imports("lamella.experiment.resume", MODULES)


def test_the_picture_of_the_packages_is_of_this_code() -> None:
    assert packages.PICTURE.read_text() == packages.draw(), "run: python docs/packages.py"


def test_the_design_page_names_each_package_and_file_of_the_ground() -> None:
    page = DESIGN.read_text()
    ground = [name.split(".")[1] for name in MODULES if packages.package(name) == packages.GROUND and "." in name]
    assert [name for name in (*packages.arrows(), *ground) if f"| `{name}" not in page and name != "ground"] == []


def test_there_are_at_most_ten_files_of_ground() -> None:
    ground = [name for name in MODULES if packages.package(name) == packages.GROUND]
    assert len(ground) - len({"lamella", "lamella.__main__"}) <= 10


# What is usable from a notebook takes plain values, and knows no config objects.
PLAIN = [
    name for name in MODULES if packages.package(name) not in ("config", "sweeps", "commands", "experiment", "warm")
]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_packages_know_no_config_objects(name: str) -> None:
    names = (
        name
        for node in ast.walk(ast.parse(MODULES[name].read_text()))
        for name in (
            [item.name for item in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    )
    assert not {name.split(".")[0] for name in names} & {"hydra", "omegaconf"}


def test_no_file_holds_a_second_concept() -> None:
    lines = sorted(len(path.read_text().splitlines()) for path in MODULES.values())
    assert lines[-1] <= 300
    assert lines[len(lines) // 2] <= 120


@pytest.mark.slow
def test_no_two_public_classes_or_functions_have_one_name() -> None:
    counts = Counter(
        node.name
        for name, path in MODULES.items()
        if not path.name.startswith("__init__")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    )
    assert {name for name, count in counts.items() if count > 1} == {"main"}  # each command has one


def docstrings() -> Iterator[tuple[str, str]]:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                yield f"{name}.{node.name}", text.splitlines()[0]


def test_first_lines_of_functions_begin_with_a_verb() -> None:
    """Hold the rule of CONTRIBUTING.md as far as a program can: no first line begins with these words."""
    wrong = ("The ", "What ", "Whether ", "How ", "Which ", "Those ", "Where ", "Why ", "That ", "Of ", "In ", "It ")
    functions = {
        f"{name}.{node.name}"
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert [(name, line) for name, line in docstrings() if name in functions and line.startswith(wrong)] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--cfg", "job"],
        ["train", "network=cnnn"],
        ["train", "optimizer.lr=abc"],
        ["train", "--cfg", "job", "data.batch_size=big"],
        ["train", "+trainer.max_epoch=3"],
        ["train", "name=a=b"],
        ["train", "name=../x"],
        ["train", "-m", "seed=1,2", "optimizer.lr=abc"],
        ["train", "--lr", "1"],
        ["eval"],
        ["explain-nan", "--help"],
        ["find", "lr", "--help"],
        ["find", "lr", "optimizer.lr=abc"],
        ["runs", "--srot", "x"],
        ["why", "optimizer.lr", "seed=3"],
        ["completion", "bash"],
        ["completion", "fish", "--", "eval", "outputs/", "--"],
        ["new", "mine"],
        ["note", "nowhere", "a text"],
        ["tag", "nowhere"],
        ["clean"],
        ["warm", "--help"],
        ["sync", "nowhere", "--to", "csv"],
    ],
)
@pytest.mark.slow
def test_no_torch_where_none_is_needed(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom lamella.__main__ import main\n"
        f"sys.argv = ['lamella', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stderr.endswith("False\n")


@pytest.mark.parametrize("package", ["config", "runs", "tracking", "experiment", "editors", "sweeps", "commands"])
def test_importing_a_package_imports_no_torch(package: str) -> None:
    program = f"import sys, lamella.{package}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_everything_that_is_printed_goes_through_one_function() -> None:
    """It makes codes harmless that records, configs and names of files could send to the terminal."""
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        used = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        direct = [call for call in used if re.search(r"std(out|err)(__)?.write$|traceback.print_|console.print$", call)]
        assert not direct or name == "lamella.console", (name, direct)
        if "print" in used and name != "lamella.console":
            imported = {
                item.name
                for node in tree.body
                if isinstance(node, ast.ImportFrom) and node.module == "lamella.console"
                for item in node.names
            }
            assert "print" in imported, f"{name}: from lamella.console import print"
        assert "argparse.ArgumentParser" not in used or name == "lamella.console", name

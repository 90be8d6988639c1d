"""The wheel: built for real, and used without the repository."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return next(out.glob("*.whl"))


def test_wheel_brings_the_starter(wheel: Path) -> None:
    """Also the files whose names begin with a dot."""
    tracked = subprocess.run(["git", "ls-files", "starter"], cwd=ROOT, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(wheel) as archive:
        brought = {name for name in archive.namelist() if name.startswith("lamella/starter/")}
    assert brought >= {f"lamella/{name}" for name in tracked.stdout.split()}
    assert "lamella/starter/.gitignore" in brought


def test_wheel_brings_the_configs_and_the_plugin(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert (tmp_path / "site" / "lamella" / "conf" / path.relative_to(ROOT / "conf")).is_file()
    (tmp_path / "conf" / "network").mkdir(parents=True)
    (tmp_path / "conf" / "network" / "mine.yaml").write_text("layers: [Flatten, {Linear: '${data.num_classes}'}]\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import lamella; from lamella.__main__ import main\n"
        "print(lamella.__file__)\n"
        "sys.argv = ['lamella', 'train', 'network=mine', 'trainer.max_epochs=1']\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert "best epoch  1 of 1" in done.stdout

"""What is printed fits a real terminal, whose width no environment variable names."""

from pathlib import Path

import programs
import pytest
from conftest import Shared
from rich.cells import cell_len

SWEEP = "outputs/default/a-sweep-with-a-name-that-is-long-enough-to-be-shortened-in-every-table"
COMMANDS = {
    "runs": ["runs"],
    "leaderboard": ["runs", SWEEP],
    "compare": ["compare", f"{SWEEP}/*"],
    "inspect": ["inspect", "network=linear"],
    "why": ["why", "experiment=mnist_cnn", "seed=3"],
}


@pytest.fixture(scope="session")
def outputs(shared: Shared) -> Path:
    """A directory with a sweep of four runs; not to be changed."""
    options = ("optimizer.lr=1e-1,1e-2", "seed=0,1", "network=linear", "visuals=none", "trainer.max_epochs=1")
    name = f"sweep.name={Path(SWEEP).name}"
    return shared("terminal", lambda path: programs.run(path, "train", "-m", *options, name))


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80, 100, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_wider_than_the_terminal(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    given = []
    for text in COMMANDS[command]:
        paths = sorted(outputs.glob(text)) if "*" in text else []
        given += [str(path.relative_to(outputs)) for path in paths if path.is_dir()] or [text]
    printed = programs.on_terminal(outputs, columns, *given)
    assert "\x1b" not in printed
    assert [line for line in printed.splitlines() if cell_len(line) > columns] == []
    if command == "runs":
        assert ("(not shown: " in printed) == (columns < 200)

"""Mirror runs to CSV files: a table of the epochs in the directory of each run."""

from pathlib import Path

from lamella.atomic_files import write_atomically
from lamella.runs.files import TABLE
from lamella.tables import format_csv
from lamella.tracking.ledger import Sent
from lamella.tracking.snapshot import Snapshot


class CsvTracker:
    """Writes `metrics.csv` into the directory of a run: one line an epoch, and the test in the line of the best one."""

    name, package, server = "csv", "csv", "files"

    def send(self, run: Snapshot, sent: Sent) -> Sent:
        """Write the table of a run, and return what it contains."""
        best = run.fields.get("best_epoch")
        test = {name: value for name, value in run.results().items() if name.startswith("test/")}
        rows = [{**line, **(test if line["epoch"] == best else {})} for line in run.epochs]
        heads = list(dict.fromkeys(name for row in rows for name in row))
        text = format_csv([heads, *([row.get(head) for head in heads] for row in rows)])
        write_atomically(run.path / TABLE, text)
        return Sent(server=self.server, place=str(run.path / TABLE), epochs=len(rows), state=run.state, error=None)

    def end_sweep(self, path: Path) -> None:
        """Do nothing: `leaderboard.csv` is the table of a sweep."""

    def close(self) -> None:
        """Do nothing, because no file stays open."""

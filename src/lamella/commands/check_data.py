"""lamella check-data [OVERRIDE…]: look at every sample of the data, and say what may be wrong with it.

lamella check-data
lamella check-data data=image_folder data.root=photos --sheet photos.png
lamella check-data data=csv data.path=cells.csv data.target=diagnosis --json
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.commands.parser import CommandParser
from lamella.config.compose import compose_and_call
from lamella.config.composed import ComposedConfig
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.files import check_output_path
from lamella.tables import Table, format_table, read_csv

if TYPE_CHECKING:
    from lamella.data import RunData
    from lamella.data.survey import Survey

SHEET = Path("check-data.png")


def main(arguments: list[str]) -> int:
    """Print what the data of a config are, and return the exit status, which is 0 also where there are warnings."""
    parser = CommandParser(__doc__)
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as for `lamella train`")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help=f"the contact sheet, a PNG; default: {SHEET}")
    parser.add_argument("--json", action="store_true", help="all of it, for programs; draws no sheet unless asked to")
    if "-m" in arguments or "--multirun" in arguments:
        raise RequestError("check-data looks at one set of data; leave -m out, and give each key one value")
    options = parser.parse_intermixed_args(arguments)
    sheet: Path | None = options.sheet or (None if options.json else SHEET)
    if sheet is not None:
        check_output_path(sheet, "--sheet")
        if sheet.suffix.lower() != ".png":
            raise RequestError(f"--sheet {sheet}: the sheet is a PNG; choose a name that ends in .png")
    texts: list[str] = []

    def check(job: ComposedConfig) -> int:
        texts.append(_check(job, sheet, options.json))
        return 0

    status = compose_and_call(check, options.overrides)
    print(*texts, sep="", end="\n" if texts else "")  # after Hydra has ended, which may print for itself
    return status


def _check(job: ComposedConfig, sheet: Path | None, as_json: bool) -> str:
    """Look at the data of a composed config, draw the sheet, and return the report."""
    from lamella.data import TableEncoder
    from lamella.data.survey import survey
    from lamella.experiment.build import build_data

    data = build_data(job.config, job.references)
    surveys = {name: survey(data, name) for name in ("train", "val", "test")}
    surveys = {name: one for name, one in surveys.items() if one.names or one.unreadable}
    path = job.config["data"].get("source", {}).get("path")
    file = read_csv(path) if isinstance(data.encoder, TableEncoder) and isinstance(path, str) else None
    return _report(data, surveys, file, sheet, as_json)


def _report(
    data: "RunData", surveys: "dict[str, Survey]", file: Table | None, sheet: Path | None, as_json: bool
) -> str:
    """Return the report as text or JSON. file: the CSV file that the samples were read from."""
    from lamella.commands.check_data_findings import find
    from lamella.commands.check_data_sections import tables
    from lamella.commands.check_data_sheet import draw

    findings, report = find(data, surveys), dict(tables(data, surveys, file))
    drawn = sheet is not None and draw(sheet, data, surveys, findings.alike)
    if as_json:
        plain = {name: [dict(zip(rows[0], row, strict=True)) for row in rows[1:]] for name, rows in report.items()}
        return json.dumps({**plain, **findings.plain(), "sheet": str(sheet) if drawn else None})
    blocks = [data.summary(), *(format_table(rows) for rows in report.values()), findings.text()]
    return "\n\n".join(blocks) + (f"\n\ncontact sheet  {sheet}" if drawn else "")

"""What a run logged in the course of training."""

import csv
from pathlib import Path


def history(run: Path, column: str) -> dict[int, float]:
    """What a run logged in the course of training: optimizer steps done to the value.

    The last row, of the test episodes, is left out.
    """
    found = {}
    # Each time a run went on it wrote another version, which repeats nothing but what was lost.
    for path in sorted(run.glob("csv/version_*/metrics.csv"), key=lambda p: int(p.parent.name[8:])):
        with path.open() as file:
            for row in csv.DictReader(file):
                of_test = any(value for name, value in row.items() if name.startswith("test/"))
                if row.get(column) and not of_test:
                    found[int(row["step"])] = float(row[column])
    return found

"""How a number of a run went in the course of training."""

from pathlib import Path

from zoo.training.logged import logged_rows


def history(run: Path, column: str) -> dict[int, float]:
    """What a run logged in the course of training: optimizer steps done to the value.

    The last row, of the test episodes, is left out.
    """
    found = {}
    for row in logged_rows(run):
        of_test = any(value for name, value in row.items() if name.startswith("test/"))
        if row.get(column) and not of_test:
            found[int(row["step"])] = float(row[column])
    return found

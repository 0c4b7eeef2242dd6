"""What a run has left: its numbers at the end, and how one went in the course of training."""

import json
from pathlib import Path
from typing import Any

from zoo.training.directory import METRICS
from zoo.training.logged import logged_rows


def metrics_of(run: Path) -> dict[str, Any]:
    """The numbers at the end of a run.

    Raises:
        ValueError: If the file is damaged.
    """
    path = run / METRICS
    try:
        content: Any = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("no table of numbers")
    except ValueError as error:  # no JSON, no text, or of something else
        raise ValueError(f"{path} is damaged ({error}); delete it to measure again") from error
    return content


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

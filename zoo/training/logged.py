"""What a run logged in the course of training."""

import csv
from pathlib import Path


def logged_rows(run: Path) -> list[dict[str, str]]:
    """The rows of a run's `metrics.csv`, those of the parts it was resumed in in their order.

    Each time a run went on it wrote another version, which repeats nothing but what was lost.

    Raises:
        ValueError: If a file is damaged.
    """
    rows: list[dict[str, str]] = []
    parts = run.glob("csv/version_*/metrics.csv")
    for path in sorted(parts, key=lambda path: int(path.parent.name.removeprefix("version_"))):
        try:
            with path.open(newline="") as file:
                part = [*csv.DictReader(file)]
            for row in part:
                float(row.get("step") or 0)
        except (OSError, ValueError, csv.Error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        rows += part
    return rows

"""What the runs of a multirun reached: those that differ in their seed alone, taken together."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from zoo.evaluation.seeds import FIRST_STEPS
from zoo.metrics.text import is_signed
from zoo.training.directory import CONFIG, read_config

# Of these cosines of trained and constructed weights the smallest is shown.
COSINES = ("cosine_Q", "cosine_D", "cosine_C")
# Settings that say which run it is or what it is called, not what was trained.
NAMES = ("seed", "seeds", "run_dir", "resume", "checkpoint_tag")


class Run(NamedTuple):
    """A finished run: its settings by dotted name, and the numbers that are compared."""

    name: str
    settings: dict[str, Any]
    numbers: dict[str, float]


def read_run(path: Path) -> Run:
    """The run whose `metrics.json` it is.

    Args:
        path: Of `metrics.json`, in the directory of a run or of one of its seeds.
    """
    metrics: dict[str, Any] = json.loads(path.read_text())
    of_several = not (path.parent / CONFIG).exists()  # the directory of a seed in a run
    run_dir = path.parent.parent if of_several else path.parent
    settings = dict(_leaves(OmegaConf.to_container(read_config(run_dir / CONFIG))))
    if of_several:
        settings["seed"] = int(path.parent.name.removeprefix("seed_"))
    at_query = any(name.endswith("_query") for name in metrics["model"])
    endings = ("_query" if at_query else "_all", "cosine")
    numbers = {
        name: metric["value"]
        for name, metric in metrics["model"].items()
        if name.endswith(endings) or "ratio" in name or is_signed(name)
    }
    if all(name in metrics.get("weights", {}) for name in COSINES):
        numbers["least cosine of Q, D, C"] = min(metrics["weights"][name] for name in COSINES)
    for key, label in FIRST_STEPS.items():
        if metrics.get(key) is not None:
            numbers[label] = metrics[key]
    return Run(path.parent.name, settings, numbers)


def _leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, value


def varied(runs: list[Run]) -> list[str]:
    """Names of the settings, other than seed and names, that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [
        name
        for name in names
        if name not in NAMES and len({str(run.settings.get(name)) for run in runs}) > 1
    ]


def groups(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs that differ in their seed alone, by the settings that set them apart."""
    names = varied(runs)
    # What a model is called says enough where its arguments follow from that.
    if "model.name" in names:
        names = [n for n in names if n == "model.name" or not _follows(n, runs)]
    found: dict[str, list[Run]] = {}
    for run in runs:
        key = " ".join(f"{name}={run.settings.get(name)}" for name in names)
        found.setdefault(key or "all", []).append(run)
    return found


def _follows(name: str, runs: list[Run]) -> bool:
    """Whether a setting is the same for all runs of the same architecture."""
    values: dict[Any, set[str]] = {}
    for run in runs:
        values.setdefault(run.settings["model.name"], set()).add(str(run.settings.get(name)))
    return all(len(found) == 1 for found in values.values())


def read_runs(directory: Path) -> list[Run]:
    """The finished runs in a directory, each seed of a run of several seeds by itself.

    Raises:
        ValueError: If there is none.
    """
    found = [*directory.glob("*/metrics.json"), *directory.glob("*/seed_*/metrics.json")]
    paths = sorted(
        (path for path in found if not any(path.parent.glob("seed_*"))),
        key=lambda path: [part.zfill(8) for part in path.relative_to(directory).parts],
    )
    if not paths:
        raise ValueError(f"no finished run in {directory}")
    return [read_run(path) for path in paths]

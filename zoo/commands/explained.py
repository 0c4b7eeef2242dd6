"""Help from the comments in `configs`: what each setting means, beside the value it has.

A setting is explained after it, on the same line and on lines below at the same column, or above
it. The lines before the first setting of a file explain the file. A file that builds on another by
its `defaults` has the other's explanations too.
"""

import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from zoo.files import CONFIGS

# Of a terminal; explanations begin at the column.
WIDTH, COLUMN = 80, 32
# What follows from a choice, and is nothing to be set by itself.
FOLLOWS = {"model.name", "data.inputs.name", "data.function.name", "run_dir", "hydra.output_subdir"}
ENDING = """\
GROUP=NAME chooses settings, NAME=VALUE sets one; --help after these shows the
outcome. -m with several values, as in seed=0,1,2: a run for each. --cfg job
prints all settings as YAML. --hydra-help: what else Hydra takes."""

Choice = str | list[str] | None


class Explained(NamedTuple):
    """The comments of a file.

    Attributes:
        purpose: What the file as a whole is for.
        settings: The explanation of a setting by its dotted name.
        package: Where its settings go, such as `_global_`; None if under the name of its group.
    """

    purpose: str
    settings: dict[str, str]
    package: str | None


def help_of(command: str, config: dict[str, Any]) -> str:
    """What `python COMMAND.py --help` prints: groups, settings, values, explanations.

    Args:
        command: `train`, `evaluate` or `reproduce`.
        config: As composed, with Hydra's own settings.
    """
    groups, texts = choices_of(command, config), explanations(command, config)
    lines = [f"python {command}.py [GROUP=NAME ...] [NAME=VALUE ...]", ""]
    lines += textwrap.wrap(explained(CONFIGS / f"{command}.yaml").purpose, WIDTH)
    of_groups = [group.replace("/", ".") for group in groups]
    rows: dict[str, dict[str, Any]] = {place: {} for place in ("", *of_groups)}
    # Hydra's own come last.
    for name, value in sorted(settings_of(config).items(), key=lambda s: s[0][:6] == "hydra."):
        # Of those of a group that stands in another, the inner one has it.
        place = max((p for p in of_groups if name.startswith(f"{p}.")), key=len, default="")
        if name not in FOLLOWS and (name in texts or place or "." not in name):
            rows[place][name] = value
    lines += ["", "settings", *_table(rows[""], texts)]
    for (group, choice), place in zip(groups.items(), of_groups, strict=True):
        lines += ["", f"{group}={_plain(choice)}", *_indented(texts.get(f"defaults.{group}", ""))]
        if isinstance(choice, str):
            lines += _indented(explained(CONFIGS / group / f"{choice}.yaml").purpose)
        names = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
        others = ", ".join(name for name in names if name != choice)
        lines += _indented(f"others: {others}" if others else "")
        lines += _table(rows[place], texts)
    return "\n".join([*lines, "", ENDING])


@cache
def groups_of(command: str) -> tuple[str, ...]:
    """The groups that a command has by its own defaults."""
    entries = _yaml(CONFIGS / f"{command}.yaml")["defaults"]
    names = [name for entry in entries if isinstance(entry, dict) for name in entry]
    return tuple(name for name in names if not name.startswith("override "))


def choices_of(command: str, config: dict[str, Any]) -> dict[str, Choice]:
    """What is chosen of each group; those that stand in another follow it."""
    chosen: dict[str, Choice] = {}
    composed = config["hydra"]["runtime"]["choices"]
    for group in groups_of(command):
        # Of a group of which several are chosen, Hydra does not say which.
        chosen[group] = composed[group] if group in composed else [*config.get(f"{group}s", {})]
        chosen |= {name: c for name, c in composed.items() if name.startswith(f"{group}/")}
    return chosen


def explanations(command: str, config: dict[str, Any]) -> dict[str, str]:
    """The explanation of every setting that has one, by its dotted name."""
    found = dict(explained(CONFIGS / f"{command}.yaml").settings)
    for group, choice in choices_of(command, config).items():
        if isinstance(choice, str):
            _, settings, package = explained(CONFIGS / group / f"{choice}.yaml")
            place = group.replace("/", ".") if package is None else package
            prefix = "" if place == "_global_" else f"{place}."
            found = {f"{prefix}{name}": text for name, text in settings.items()} | found
    return found


def settings_of(config: dict[str, Any], above: str = "") -> dict[str, Any]:
    """All that can be set, by dotted names: values, and the groups that they stand in as None."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        if key == "_target_":
            continue
        found[name] = value
        if isinstance(value, dict):
            found |= settings_of(value, f"{name}.")
    return found


@cache
def explained(path: Path) -> Explained:
    """The comments of a configuration file, and of those that it builds on."""
    settings: dict[str, str] = {}
    for entry in _yaml(path).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            file, _, place = entry.partition("@")
            prefix = "" if place in ("", "_here_") else f"{place}."
            below = explained(path.parent / f"{file}.yaml").settings
            settings |= {f"{prefix}{name}": text for name, text in below.items()}
    purpose, package = "", None
    above: list[str] = []  # comments that wait for the setting below them
    keys: list[tuple[int, str]] = []  # that the line stands in, with their columns
    name, column = "", -1  # of the last setting, and of the comment after it
    for line in path.read_text().splitlines():
        text = line.strip()
        if text.startswith("# @package "):
            package = text.removeprefix("# @package ")
        elif text.startswith("#"):
            comment = text.lstrip("# ")
            if line.index("#") == column:
                settings[name] += f" {comment}"
            elif not comment.startswith("python "):
                above.append(comment)
        elif found := re.match(r"(\s*(?:- )?)([\w./]+):(\s|$)", line):
            indent = len(found[1])
            keys = [(at, key) for at, key in keys if at < indent]
            if not keys and not purpose:
                purpose, above = " ".join(above), []
            keys.append((indent, found[2]))
            name = ".".join(key for _, key in keys)
            column = line.find(" #") + 1 or -1
            explanation = line[column:].lstrip("# ") if column > 0 else " ".join(above)
            if explanation:
                settings[name] = explanation
            above = []
        elif not text:
            above, column = [], -1
    return Explained(purpose or " ".join(above), settings, package)


def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


def _table(rows: dict[str, Any], texts: dict[str, str]) -> Iterator[str]:
    for name, value in rows.items():
        plain = isinstance(value, dict) or "${" in str(value)  # what follows from others
        if isinstance(value, dict) and name not in texts:
            continue
        left = f"  {name}" if plain else f"  {name}={_plain(value)}"
        text = textwrap.wrap(texts.get(name, ""), WIDTH - COLUMN)
        if len(left) >= COLUMN or not text:
            yield left
            left = ""
        for line in text:
            yield f"{left:{COLUMN}}{line}"
            left = ""


def _plain(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(_plain, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}: {_plain(part)}' for name, part in value.items())}}}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")

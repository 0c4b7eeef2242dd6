"""One line that says what was given and what is allowed."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError


def explain(error: ValidationError, given: Any = None) -> str:
    """What is wrong with the data that a pydantic model refused, on one line.

    Args:
        error: The refusal.
        given: The data. With them a name is the path that a user would type: pydantic puts in the
            kinds of unions as well.
    """
    problems = []
    for detail in error.errors():
        path = detail["loc"] if given is None else _typed(detail["loc"], detail["type"], given)
        where = ".".join(map(str, path))
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "missing":
            problems.append(f"{where!r} is missing")
        elif detail["type"] == "extra_forbidden":
            problems.append(f"{where!r} is unknown")
        elif not where:  # about the whole, which is too much to repeat
            problems.append(message)
        elif detail["type"] == "value_error":  # ours, which say what was given
            problems.append(f"{where}: {message}")
        else:
            problems.append(f"{where}: {message}, got {detail['input']!r}")
    return "; ".join(problems)


def _typed(path: tuple[int | str, ...], kind: str, given: Any) -> list[int | str]:
    """The parts of a path that are in the data, and the name of what is missing there."""
    typed = []
    for place, part in enumerate(path):
        is_there = part in given if isinstance(given, Mapping) else isinstance(part, int)
        if is_there:
            given = given[part]
            typed.append(part)
        elif kind == "missing" and place == len(path) - 1:
            typed.append(part)
    return typed


def unknown(what: str, given: str, allowed: Iterable[str]) -> str:
    """What is said of a name that is not known: the near misses, and what is."""
    near = difflib.get_close_matches(given, list(allowed), n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"unknown {what} {given!r}.{hint} Known: {', '.join(sorted(allowed))}"


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    text = explain(error) if isinstance(error, ValidationError) else str(error)
    return text.splitlines()[0] if text else type(error).__name__

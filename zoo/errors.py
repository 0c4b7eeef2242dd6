"""One line that says what was given and what is allowed."""

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """What is wrong with the data that a pydantic model refused, on one line."""
    problems = []
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "missing":
            problems.append(f"{where!r} is missing")
        elif detail["type"] == "extra_forbidden":
            problems.append(f"{where!r} is unknown")
        elif not where:  # about the whole, which is too much to repeat
            problems.append(detail["msg"].removeprefix("Value error, "))
        else:
            problems.append(f"{where}: {detail['msg']}, got {detail['input']!r}")
    return "; ".join(problems)


def unknown(what: str, given: str, allowed: Iterable[str]) -> str:
    """What is said of a name that is not known: the near misses, and what is."""
    near = difflib.get_close_matches(given, list(allowed), n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"unknown {what} {given!r}.{hint} Known: {', '.join(sorted(allowed))}"


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    text = explain(error) if isinstance(error, ValidationError) else str(error)
    return text.splitlines()[0] if text else type(error).__name__

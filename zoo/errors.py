"""One line that says what was given and what is allowed."""

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails


def explain(error: ValidationError, given: Any = None) -> str:
    """What is wrong with the data that a pydantic model refused, on one line.

    Args:
        error: The refusal.
        given: The data. With them a name is the path that a user would type: pydantic puts in the
            kinds of unions as well.
    """
    return problems(error.errors(), given)


def problems(details: Iterable[ErrorDetails], given: Any = None) -> str:
    """As `explain`, of some of the errors in a refusal.

    Args:
        details: The errors.
        given: The data that were refused.
    """
    found = []
    for detail in details:
        path = detail["loc"] if given is None else _typed(detail["loc"], detail["type"], given)
        where = ".".join(map(str, path))
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "missing":
            found.append(f"{where!r} is missing")
        elif detail["type"] == "extra_forbidden":
            found.append(f"{where!r} is unknown")
        elif detail["type"] == "union_tag_invalid":  # whose tags are names of kinds
            tag, known = (detail["ctx"][key] for key in ("tag", "expected_tags"))
            name = detail["ctx"]["discriminator"].strip("'")
            text = unknown("name", tag, known.strip("'").split("', '"))
            found.append(f"{where}.{name}: {text}")
        elif not where:  # about the whole, which is too much to repeat
            found.append(message)
        elif detail["type"] == "value_error":  # ours, which say what was given
            found.append(f"{where}: {message}")
        else:
            found.append(f"{where}: {message}, got {detail['input']!r}")
    return "; ".join(found)


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


def unknown(what: str, given: str, allowed: Iterable[str], meant: Sequence[str] = ()) -> str:
    """What is said of a name that is not known: the near misses, and what is.

    Args:
        what: What the name is of.
        given: The name.
        allowed: All that there are.
        meant: Near misses that are not among them.
    """
    hint = did_you_mean([*dict.fromkeys([*meant, *nearest(given, allowed)])])
    return f"unknown {what} {given!r}.{hint} Known: {', '.join(sorted(allowed))}"


def nearest(given: str, allowed: Iterable[str]) -> list[str]:
    """The names that one may have been meant for, at most three, the nearest first."""
    return difflib.get_close_matches(given, list(allowed), n=3, cutoff=0.5)


def did_you_mean(names: Sequence[str]) -> str:
    """` Did you mean 'a' or 'b'?`, empty without names."""
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    text = explain(error) if isinstance(error, ValidationError) else str(error)
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Ends the process with one line at what a user got wrong, for a command whose work is inside.

    HYDRA_FULL_ERROR=1 in the environment, as for Hydra's own errors, shows where it comes from.
    """
    try:
        yield
    except kinds as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"error: {first_line(error)}\n(HYDRA_FULL_ERROR=1 shows where)")

"""What was claimed beforehand, beside what was measured."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

from zoo.metrics.errors import interval_over_seeds

Verdict = Literal["reproduced", "not reproduced", "not decided", "not judged", "ours"]
# What more training does to a number, where a seed has not converged: `moves` where it may lower or
# raise it.
MoreTraining = Literal["", "lowers", "raises", "moves"]


class OverSeeds(NamedTuple):
    """A mean over seeds, with half its 95 % interval (Student's t; None for a single seed).

    A study of one seed, which judges nothing, has the interval over test episodes in its place.
    Where a few episodes decide about the means there is no interval: the median over episodes, a
    mean over seeds, says more, and the seeds' own means how little theirs is worth. Beside a wide
    interval the seeds' own means say whether one of them made it so.
    """

    value: float
    ci95: float | None
    num_seeds: int
    median: float | None = None
    by_seed: list[float] | None = None


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """The mean of one number for each seed."""
    return OverSeeds(*interval_over_seeds(values), len(values))


@dataclass(frozen=True)
class Claim:
    """One quantity that was measured, and what was expected of it.

    Attributes:
        quantity: What was measured.
        measured: Over the seeds.
        claimed: What was claimed, in our words; empty where the measurement is our addition.
        source: Where it was; empty with `claimed`.
        reference: The exact algorithm beside which it was measured.
        reference_value: The same quantity of the reference, on the same episodes.
        ratio: Of both, seed by seed.
        difference: Of both, in place of the ratio.
        closed_form: The expected value of the reference, where theory has one.
        claimed_by: Who claimed it, where that is not whom the study names.
        low: The claim holds for nothing below it.
        high: The claim holds for nothing above it. Bounds are those of the ratio or the difference
            where there is one, else of the measured number. A claim without bounds is not judged.
        one_sided: Why there is one bound and not two; empty where there are two or none.
        training: What more of it may do to the judged number, where a seed has not converged; empty
            where all have.
        also: What else stands in its line of the table, by heading.

    Raises:
        ValueError: If there is a claim without its source, bounds without a claim, or one bound
            without a reason.
    """

    quantity: str
    measured: OverSeeds
    claimed: str = ""
    source: str = ""
    claimed_by: str = ""
    reference: str = ""
    reference_value: float | None = None
    ratio: OverSeeds | None = None
    difference: OverSeeds | None = None
    closed_form: float | None = None
    low: float | None = None
    high: float | None = None
    one_sided: str = ""
    training: MoreTraining = ""
    also: Mapping[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        judged = self.low is not None or self.high is not None
        if bool(self.claimed) != bool(self.source) or (judged and not self.claimed):
            raise ValueError(f"{self.quantity}: a claim, its source and bounds belong together")
        if bool(self.one_sided) != ((self.low is None) != (self.high is None)):
            raise ValueError(f"{self.quantity}: give two bounds, or one and why there is one")

    @property
    def verdict(self) -> Verdict:
        """Where the 95 % interval over seeds lies: within the bounds, outside, or across one.

        A single seed has no interval, so it decides nothing; nor does a number that is not finite,
        nor one that more training may bring within the bounds, or out of them.
        """
        if not self.claimed:
            return "ours"
        if self.low is None and self.high is None:
            return "not judged"
        found = self.ratio or self.difference or self.measured
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if found.ci95 is None:
            return "not decided"
        lowest, highest = found.value - found.ci95, found.value + found.ci95
        may_fall = self.training in ("lowers", "moves")
        may_rise = self.training in ("raises", "moves")
        if low <= lowest and highest <= high:
            leaves = (may_fall and self.low is not None) or (may_rise and self.high is not None)
            return "not decided" if leaves else "reproduced"
        if highest < low:
            return "not decided" if may_rise else "not reproduced"
        if high < lowest:
            return "not decided" if may_fall else "not reproduced"
        return "not decided"

    @property
    def criterion(self) -> str:
        """The bounds in words; empty where there are none."""
        bounds = {"at least": self.low, "at most": self.high}
        words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        return ", ".join(words) + (f" ({self.one_sided})" if self.one_sided else "")

    def as_dict(self) -> dict[str, Any]:
        """Plain data; the verdict for whoever reads the file."""
        data = dataclasses.asdict(self)
        for name in ("measured", "ratio", "difference"):
            found = getattr(self, name)
            data[name] = None if found is None else found._asdict()
        return {**data, "verdict": self.verdict}

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Claim":
        """From plain data. The verdict follows from the numbers."""
        fields = {name: value for name, value in data.items() if name != "verdict"}
        for name in ("measured", "ratio", "difference"):
            if fields.get(name) is not None:  # earlier results know no difference
                fields[name] = OverSeeds(**fields[name])
        return cls(**fields)


def compared(
    quantity: str,
    values: Sequence[float],
    reference: str,
    reference_values: Sequence[float],
    *,
    claimed: str = "",
    source: str = "",
    claimed_by: str = "",
    low: float | None = None,
    high: float | None = None,
    one_sided: str = "",
    training: MoreTraining = "",
    closed_form: float | None = None,
    by: Literal["ratio", "difference"] = "ratio",
) -> Claim:
    """A claim about one number for each seed and that of a reference for the same seed."""
    pairs = list(zip(values, reference_values, strict=True))
    return Claim(
        quantity=quantity,
        measured=over_seeds(values),
        claimed=claimed,
        reference=reference,
        reference_value=over_seeds(reference_values).value,
        ratio=over_seeds([a / b for a, b in pairs]) if by == "ratio" else None,
        difference=over_seeds([a - b for a, b in pairs]) if by == "difference" else None,
        closed_form=closed_form,
        source=source,
        claimed_by=claimed_by,
        low=low,
        high=high,
        one_sided=one_sided,
        training=training,
    )


class Found(NamedTuple):
    """What a part of the reproduction ends with.

    Attributes:
        figures: Name to the figure and its caption.
        claims: In the order of the page.
    """

    figures: dict[str, tuple[Figure, str]]
    claims: list[Claim]

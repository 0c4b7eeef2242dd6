"""What a study is: figures, what each trains, measures and claims, and a page about them."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from studies.plan import FULL, QUICK, Effort, Training
from zoo.errors import unknown
from zoo.files import ROOT

if TYPE_CHECKING:  # a name that is unknown is refused without torch and matplotlib
    from studies.claims import Found
    from studies.measure import Runs

# The study that `python reproduce.py` makes.
DEFAULT = "paper"


class StudyFigure(NamedTuple):
    """A part of a study: one heading of its page.

    Attributes:
        title: The heading.
        trainings: Which runs it needs, for an effort.
        make: Measures and draws, from finished runs.
        over: What its numbers are over, in place of all seeds and test episodes; `{seeds}` and
            `{num_episodes}` stand for those.
    """

    title: str
    trainings: Callable[[Effort], list[Training]]
    make: "Callable[[Runs, Effort], Found]"
    over: str = "{seeds}, {num_episodes:,} test episodes"


class Shipped(NamedTuple):
    """How a training becomes checkpoints.

    Attributes:
        name: Of its first seed, `architecture.tag`.
        num_seeds: How many of its seeds; those after the first are `architecture.tag@SEED`.
    """

    name: str
    num_seeds: int = 1


class Places(NamedTuple):
    """Where a study is written.

    Attributes:
        page: The page.
        results: The results file; drawings go beside it.
    """

    page: Path
    results: Path


@dataclass(frozen=True)
class Study:
    """What `python reproduce.py study=NAME` makes.

    Attributes:
        name: On the command line, and in the paths of runs, results and page.
        title: Of the page.
        introduction: Paragraphs below the title. `{command}` and `{results}` stand for the command
            that makes the page and for the path of the results file.
        claimed_by: Who made the claims that are judged, such as "the paper".
        figures: By the name that asks for each, in the order of the page.
        judged: A further sentence of the page on how claims are judged.
        reading: How its numbers are read, in place of what pages say of seeds and verdicts: of a
            study that judges nothing.
        shows_trainings: Whether the page ends with a table of what was trained, with the learning
            rates that were tried and whether the losses had stopped falling.
        ships: By the name of a training, how it is shipped: `python -m studies.ship NAME`.
        needs: Packages that it measures with and that icl-zoo does not install by itself, each with
            the extra that does.
        page: What its page is called, where that is not the name of the study.
        full: How much is trained and measured.
        quick: The same with `quick=true`.
    """

    name: str
    title: str
    introduction: str
    claimed_by: str
    figures: Mapping[str, StudyFigure]
    judged: str = ""
    reading: str = ""
    shows_trainings: bool = False
    ships: Mapping[str, Shipped] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    page: str = ""
    full: Effort = FULL
    quick: Effort = QUICK

    def check(self) -> None:
        """Raises ValueError if what it needs is not installed."""
        for package, extra in self.needs.items():
            if find_spec(package) is None:
                raise ValueError(
                    f"study={self.name} needs {package}: pip install 'icl-zoo[{extra}]'"
                )

    def effort(self, quick: bool) -> Effort:
        """How much is trained and measured."""
        return self.quick if quick else self.full

    def places(self, quick: bool) -> Places:
        """Where page and results are written. The quick version never touches `docs`."""
        page = f"{self.page or self.name}.md"
        if quick:
            directory = ROOT / "runs" / f"{self.name}-quick"
            return Places(directory / page, directory / "results.json")
        docs = ROOT / "docs"
        return Places(docs / page, docs / "figures" / self.name / "results.json")

    def command(self, quick: bool) -> str:
        """What makes all of it, as it is typed."""
        words = ["python", "reproduce.py"]
        if self.name != DEFAULT:
            words.append(f"study={self.name}")
        if quick:
            words.append("quick=true")
        return " ".join(words)

    def chosen(self, given: str | Sequence[str]) -> list[str]:
        """The names of the figures asked for; `all` stands for all of them.

        Raises:
            ValueError: If one is unknown, or there is none.
        """
        names = [given] if isinstance(given, str) else list(given)
        wrong = [name for name in names if name not in (*self.figures, "all")]
        if wrong or not names:
            got = repr(wrong[0]) if wrong else "none"
            raise ValueError(f"figure must be all or some of {', '.join(self.figures)}, got {got}")
        return list(self.figures) if "all" in names else list(dict.fromkeys(names))


def list_studies() -> list[str]:
    """The names that `study=` takes: directories here with a file `study.py`."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/study.py"))


def load_study(name: str) -> Study:
    """The record `STUDY` of `studies/NAME/study.py`.

    Raises:
        ValueError: If there is no such study.
    """
    if name not in list_studies():
        raise ValueError(unknown("study", name, list_studies()))
    study: Study = importlib.import_module(f"studies.{name}.study").STUDY
    return study

"""Accuracy of every layer beside its algorithm: keys told once, keys told anew, sizes of state."""

from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure

from studies.claims import Claim, Found, MoreTraining, compared, over_seeds
from studies.drawing import bars, draw_validations, legend, new_figure
from studies.measure import Runs, of_each, unfinished
from studies.plan import Effort, Training
from studies.recall.learners import (
    DECAYING_MESA,
    DECAYING_SUM,
    DELTA,
    GD_SSM,
    LEARNERS,
    SUM,
    Ceiling,
    Learner,
    Setting,
    ceiling,
    training,
)
from zoo.hub.directory import read_card
from zoo.metrics.drawing import MARKERS, VERMILION, marked, style_of

ONCE, UPDATED = Setting(16, 0), Setting(16, 8)
WIDTHS = (4, 8, 16)
NEAR = 0.03

OWN = (
    "A trained layer of width 16 does what it can be constructed to do: its accuracy is within "
    f"{NEAR:g} of its algorithm's."
)
OWN_SOURCE = "arXiv 2410.11687"
# Of the other rules nobody has claimed it.
OURS = {"claimed_by": "ours", "source": "what they are constructed to do"}
ORDER = (
    "Where values change, forgetting recalls more than adding up, correcting more than forgetting, "
    "and least squares that forgets more than that."
)
ORDER_SOURCE = "arXiv 2406.06484 and 2506.05233"
IN_ORDER = (SUM, DECAYING_SUM, DELTA, DECAYING_MESA)


def learners(effort: Effort) -> tuple[Learner, ...]:
    """Layers that are compared."""
    return (*IN_ORDER, GD_SSM) if effort.fewer_settings else LEARNERS


def widths(effort: Effort) -> tuple[int, ...]:
    """Widths of keys and values that are compared."""
    return WIDTHS[:2] if effort.fewer_settings else WIDTHS


def trainings_once(effort: Effort) -> list[Training]:
    """Every layer on keys that are told once."""
    return [training(learner, ONCE, effort) for learner in learners(effort)]


def trainings_updated(effort: Effort) -> list[Training]:
    """Every layer on keys of which half are told anew."""
    return [training(learner, UPDATED, effort) for learner in learners(effort)]


def trainings_of_sizes(effort: Effort) -> list[Training]:
    """The same at other widths too."""
    settings = [UPDATED._replace(d=d) for d in widths(effort)]
    return [
        training(learner, setting, effort) for learner in learners(effort) for setting in settings
    ]


def once(runs: Runs, effort: Effort) -> Found:
    """Figure a: each key once."""
    found = _Measured(runs, effort, ONCE)
    return Found({"accuracy": found.drawn()}, [*found.claims(), *found.dictionary()])


def updated(runs: Runs, effort: Effort) -> Found:
    """Figure b: half of the keys get another value."""
    found = _Measured(runs, effort, UPDATED)
    order = [
        compared(
            f"accuracy, {better.name}",
            found.accuracy[better.name],
            worse.name,
            found.accuracy[worse.name],
            claimed=ORDER,
            source=ORDER_SOURCE,
            low=NEAR,
            one_sided="an order says nothing of how much more",
            by="difference",
            training=found.of_difference(better.name, worse.name),
        )
        for worse, better in pairwise(IN_ORDER)
    ]
    return Found({"accuracy": found.drawn()}, [*found.claims(), *order, *found.dictionary()])


def sizes(runs: Runs, effort: Effort) -> Found:
    """Figure c: accuracy against the size of the state."""
    by_width = {d: _Measured(runs, effort, UPDATED._replace(d=d)) for d in widths(effort)}
    figure, (ax,) = new_figure()
    figure.set_size_inches(6.4, 4.4)
    for learner, marker in zip(learners(effort), MARKERS, strict=False):
        places = [found.state_size[learner.name] for found in by_width.values()]
        means = [over_seeds(found.accuracy[learner.name]).value for found in by_width.values()]
        style = marked(style_of(learner.drawn_as), marker)
        ax.plot(places, means, label=learner.name, **style)
    exact = [found.ceiling_of("dictionary").accuracy for found in by_width.values()]
    ax.axhline(min(exact), label="dictionary", **style_of("dictionary"))
    ax.set_xscale("log", base=2)
    ax.set_xlabel("numbers in the state")
    ax.set_ylabel("accuracy at the query")
    legend(ax)
    text = ", ".join(map(str, by_width))
    caption = (
        f"Accuracy against the size of the state, with keys and values of {text} numbers: 16 keys, "
        "8 of them told anew; means over seeds. Wider keys are also further apart, so this is not "
        "the effect of the state alone."
    )
    for d, found in by_width.items():
        if d != UPDATED.d and (names := found.apart()):
            caption += (
                f" At d = {d} further than {NEAR:g} from their algorithm, with the whole interval "
                f"over seeds, converged or not: {', '.join(names)}."
            )
    # Not judged: the claim is made at one width.
    claims = [
        claim
        for d, found in by_width.items()
        if d != UPDATED.d
        for claim in found.claims(judged=False)
    ]
    return Found({"state": (figure, caption)}, claims)


def _claimed(name: str, accuracy: float) -> dict[str, Any]:
    """That a layer does what an algorithm of this accuracy does, and the bounds of that."""
    claim: dict[str, Any] = {"claimed": OWN, "source": OWN_SOURCE, "low": -NEAR}
    claim |= {} if name == GD_SSM.name else OURS
    if accuracy + NEAR >= 1:
        return claim | {"one_sided": "an accuracy is at most 1"}
    return claim | {"high": NEAR}


class _Measured:
    """Accuracies of every layer in one setting, and of the algorithms beside them."""

    def __init__(self, runs: Runs, effort: Effort, setting: Setting) -> None:
        self.effort, self.setting = effort, setting
        self.learners = learners(effort)
        self.runs = {x.name: runs[training(x, setting, effort).name] for x in self.learners}
        self.accuracy = {
            name: of_each(found, "model", "test/accuracy_query", "value")
            for name, found in self.runs.items()
        }
        self.state_size = {
            name: read_card(found[0] / "checkpoint").state_size for name, found in self.runs.items()
        }
        self.beside = {x.name: self._ceiling(x) for x in self.learners}

    def _ceiling(self, learner: Learner) -> Ceiling:
        return ceiling(
            learner.solver, learner.told, learner.forgets, self.setting, self.effort.num_episodes
        )

    def ceiling_of(self, solver: str) -> Ceiling:
        return ceiling(solver, (), False, self.setting, self.effort.num_episodes)

    def of_difference(self, more: str, less: str) -> MoreTraining:
        """What more training may do to the accuracy of one layer above that of another."""
        moves = {
            unfinished(self.runs[more], "raises"),
            unfinished(self.runs[less], "lowers"),
        } - {""}
        return "moves" if len(moves) > 1 else next(iter(moves), "")

    def claims(self, judged: bool = True) -> list[Claim]:
        """Each layer beside its algorithm."""
        return [
            compared(
                f"accuracy, {name}, d = {self.setting.d}",
                values,
                self.beside[name].label,
                [self.beside[name].accuracy] * len(values),
                by="difference",
                training=unfinished(self.runs[name], "raises"),
                **(_claimed(name, self.beside[name].accuracy) if judged else {}),
            )
            for name, values in self.accuracy.items()
        ]

    def dictionary(self) -> list[Claim]:
        """What is to be had at all."""
        exact = self.ceiling_of("dictionary").accuracy
        return [Claim("accuracy, dictionary of the keys (exact)", over_seeds([exact]))]

    def drawn(self) -> tuple[Figure, str]:
        """Accuracies beside those of the algorithms, and the losses in validation."""
        figure, (left, right) = new_figure(2)
        figure.set_size_inches(10.0, 4.0)
        bars(left, self.accuracy)
        exact = [self.beside[name].accuracy for name in self.accuracy]
        ticks = marked({"color": VERMILION, "linestyle": "none"}, "|") | {"markersize": 14}
        left.plot(exact, range(len(exact)), **ticks)
        left.set_xlabel("accuracy at the query")
        styles = {learner.name: style_of(learner.drawn_as) for learner in self.learners}
        draw_validations(right, self.runs, "half_mse_query", styles)
        right.legend(
            frameon=False,
            fontsize=7,
            handlelength=4,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
        )
        caption = (
            f"16 keys, {self.setting.num_updates} of them told anew, d = {self.setting.d}. Left: "
            "accuracy of every layer, a dot for each seed; the upright is that of its algorithm. "
            "Right: the loss in validation at the rate that was kept, a mean over the seeds."
            f"{self._better()}"
        )
        return figure, caption

    def apart(self) -> list[str]:
        """Layers whose accuracy is further from that of their algorithm than `NEAR`."""
        names = []
        for name, values in self.accuracy.items():
            found = over_seeds(values)
            distance = abs(found.value - self.beside[name].accuracy)
            if found.ci95 is not None and distance - found.ci95 > NEAR:
                names.append(name)
        return names

    def _better(self) -> str:
        """Which layers recall more than their algorithm, if any."""
        names = []
        for name, values in self.accuracy.items():
            found = over_seeds(values)
            least = self.beside[name].accuracy + NEAR
            if found.ci95 is not None and found.value - found.ci95 > least:
                names.append(name)
        if not names:
            return ""
        return (
            f" Better than its algorithm by more than {NEAR:g}, with the whole interval over "
            f"seeds: {', '.join(names)}."
        )

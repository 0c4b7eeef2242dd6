"""What is measured of the shipped models, as drawings and tables."""

from collections.abc import Iterable, Sequence
from itertools import islice
from statistics import fmean

from studies.claims import Claim, Found, OverSeeds, over_seeds
from studies.drawing import legend, new_figure
from studies.inside.drawn import dots
from studies.inside.lenses import Lenses
from studies.inside.probing import NOISE, TARGETS, noise_scores, scores
from studies.inside.shipped import CONTROLS, TASKS, architectures, seeds_of, shipped, untrained
from studies.inside.states import LEARNERS, beside
from studies.inside.writing import needed, written
from studies.measure import Runs
from studies.plan import Effort, Training
from zoo.analysis.readouts import mean_by_position
from zoo.metrics.drawing import marked, style_of, styles_of
from zoo.metrics.errors import Interval, Summary
from zoo.metrics.text import with_interval

NOISY = "linear_noisy"
# Cosines that are less apart are taken for equal.
TIE = 0.002


def nothing(effort: Effort) -> list[Training]:
    """Only shipped models are measured."""
    return []


def text(values: Sequence[float]) -> str:
    """A mean over seeds, as a table has it."""
    found = over_seeds(values)
    return with_interval(round(found.value, 6), found.ci95)


def rounded(score: Interval) -> float:
    """To three decimals, without a sign at zero: less of an R2 says nothing."""
    return round(score.value, 3) + 0.0


def probes(runs: Runs, effort: Effort) -> Found:
    """Figure a: what layers and states know."""
    claims: list[Claim] = []
    panels: dict[str, dict[str, dict[str, list[float]]]] = {}
    for task in TASKS:
        rows = panels[task] = {}
        for architecture in architectures(effort, "gd_ssm"):
            num, seeds = effort.num_episodes, seeds_of(architecture, task, effort)
            models = [shipped(architecture, task, seed) for seed in seeds]
            found = [scores(model, task, num) for model in models]
            control = [scores(untrained(architecture, task, s), task, num) for s in seeds]
            noise = [noise_scores(model, task, num) for model in models] if task == NOISY else []
            for place in found[0]:
                label = f"{architecture}, {place.label}"
                trained = {t: [rounded(f[place][t].r2) for f in found] for t in TARGETS}
                random = {t: [rounded(f[place][t].r2) for f in control] for t in TARGETS}
                shuffled = [fmean(rounded(f[place][t].shuffled) for t in TARGETS) for f in found]
                rows[label] = {
                    "trained": trained[TARGETS.best],
                    "untrained": random[TARGETS.best],
                    "one step (B), trained": trained[TARGETS.one_step],
                }
                cells = {
                    t: f"{text(trained[t])} ({fmean(random[t]):.2f})"
                    for t in TARGETS
                    if t != TARGETS.best
                }
                if noise:
                    cells[NOISE] = text([rounded(f[place].r2) for f in noise])
                claims.append(
                    Claim(
                        f"{task}, {label}: R2 of {TARGETS.best}",
                        over_seeds(trained[TARGETS.best]),
                        also={"untrained": text(random[TARGETS.best]), **cells}
                        | {"shuffled": text(shuffled)},
                    )
                )
    return Found({"r2": (dots(panels, "R2 on test episodes", -0.05, 1.0), PROBES)}, claims)


PROBES = (
    "R2 of the weights of the best algorithm (least squares without noise, ridge with it) and of "
    "B, by place, a dot for each seed. Blue and upright: trained models; hollow: the same models "
    "with a random start."
)


def lenses(runs: Runs, effort: Effort) -> Found:
    """Figure b: what layers would answer, and which algorithm that is."""
    claims: list[Claim] = []
    figure, axes = new_figure(len(TASKS))
    for task, ax in zip(TASKS, axes, strict=True):
        for architecture in architectures(effort, *CONTROLS):
            found = [
                Lenses(shipped(architecture, task, seed), task, effort.num_episodes)
                for seed in seeds_of(architecture, task, effort)
            ]
            layers, style = list(found[0].own), style_of(architecture)
            means = [fmean(f.tuned[layer] for f in found) for layer in layers]
            ax.plot(layers, means, label=architecture, **marked(style))
            for layer in layers:
                tuned = [f.tuned[layer] for f in found]
                names = _nearest(found, layer) if layer else {}
                told = [f"{name} ({text(cosines)})" for name, cosines in islice(names.items(), 2)]
                claims.append(
                    Claim(
                        f"{task}, {architecture}, layer {layer}: error / that of zero",
                        over_seeds([f.own[layer] for f in found]),
                        also={
                            "tuned readout": text(tuned),
                            "nearest (cosine)": told[0] if told else "",
                            "then": told[1] if told else "",
                            "difference": _differences(found, layer, names),
                        },
                    )
                )
        ax.set_yscale("log")
        ax.set_title(task, fontsize=10)
        ax.set_xlabel("layers")
        ax.set_ylabel("0.5*MSE at the query / that of zero")
    legend(axes[-1])
    return Found({"errors": (figure, LENSES)}, claims)


def _differences(found: Sequence[Lenses], layer: int, names: Iterable[str]) -> str:
    """To the nearest algorithm; empty where no layer answers anything or none is named."""
    first = next(iter(names), "")
    values = [f.nearest[layer][first].difference for f in found] if first else []
    known = [value for value in values if value is not None]
    return text(known) if known else ""


def _nearest(found: Sequence[Lenses], layer: int) -> dict[str, list[float]]:
    """Cosines of each seed by algorithm, the nearest of the mean first.

    Of those that are within `TIE` of the nearest, the simplest one is first: a schedule of several
    steps can do what one step does.
    """
    cosines = {
        name: [f.nearest[layer][name].cosine for f in found] for name in found[0].nearest[layer]
    }
    means = {name: fmean(values) for name, values in cosines.items()}
    highest = max(means.values())
    simplest = next(name for name, mean in means.items() if mean >= highest - TIE)
    others = sorted((name for name in means if name != simplest), key=lambda name: -means[name])
    return {name: cosines[name] for name in (simplest, *others)}


LENSES = (
    "Error at the query after each layer, decoded by a readout that is tuned for it, divided by "
    "that of predicting zero; a mean over seeds. Layer 0 is the embedding."
)


def interventions(runs: Runs, effort: Effort) -> Found:
    """Figure c: what becomes of predictions where other weights are written."""
    claims: list[Claim] = []
    panels: dict[str, dict[str, dict[str, list[float]]]] = {}
    for task in TASKS:
        rows = panels[task] = {}
        for architecture in architectures(effort, "gd_ssm"):
            seeds = seeds_of(architecture, task, effort)
            models = [shipped(architecture, task, seed) for seed in seeds]
            found = [written(model, task, effort.num_episodes) for model in models]
            for place in found[0]:
                label = f"{architecture}, {place.label}"
                other, control = (
                    [getattr(f[place].other, name).value for f in found]
                    for name in ("written", "control")
                )
                rows[label] = {"probe's direction": other, "random direction": control}
                claims.append(
                    Claim(
                        f"{task}, {label}: effect of another episode's weights",
                        over_seeds(other),
                        also={
                            "random direction": text(control),
                            "size of the change": text([f[place].size for f in found]),
                            "effect of one step": text(
                                [f[place].one_step.written.value for f in found]
                            ),
                            "random": text([f[place].one_step.control.value for f in found]),
                        },
                    )
                )
    for task in TASKS:
        for architecture in architectures(effort, CONTROLS[0]):
            claims += _without(architecture, task, effort)
    return Found({"effects": (dots(panels, "effect", -0.25, 1.25), WRITTEN)}, claims)


WRITTEN = (
    "How far predictions at the query move to those of the weights of another episode, which are "
    "written along the directions of a probe (blue) and along random ones of the same size "
    "(hollow), a dot for each seed. 1 is all the way; what is beyond the axis stands at its edge."
)
KINDS = {"head": "largest head", "decay": "decay", "gate": "gate", "place": "largest place"}


def _without(architecture: str, task: str, effort: Effort) -> list[Claim]:
    """A row for each layer of an architecture."""
    found = [
        needed(shipped(architecture, task, seed), task, effort.num_episodes)
        for seed in seeds_of(architecture, task, effort)
    ]
    return [
        Claim(
            f"{task}, {architecture}, layer {layer}: error without it, more",
            over_seeds([f[layer]["layer"] for f in found]),
            also={
                label: text([f[layer][kind] for f in found]) if kind in parts else ""
                for kind, label in KINDS.items()
            },
        )
        for layer, parts in found[0].items()
    ]


def states(runs: Runs, effort: Effort) -> Found:
    """Figure d: the weights of one layer beside those of its algorithm, example by example."""
    names = LEARNERS[:2] if effort.fewer_settings else LEARNERS
    claims: list[Claim] = []
    panels: dict[str, dict[str, list[float]]] = {}
    for name in names:
        found = beside(name, effort.num_episodes)
        for kind, compared in found.found.items():
            cosines, updates, differences = (
                mean_by_position(getattr(compared, part))
                for part in ("cosine", "update_cosine", "difference")
            )
            panels.setdefault(kind, {})[name] = [c.value if c else float("nan") for c in cosines]
            last, update, difference = cosines[-1], updates[-1], differences[-1]
            assert last is not None
            claims.append(
                Claim(
                    f"{name}, {kind}: cosine after all examples",
                    OverSeeds(last.value, last.ci95, 1),
                    also={
                        "of the last update": _episodes(update),
                        "difference": _episodes(difference),
                        "algorithm": found.algorithm,
                        "not linear": f"{found.nonlinear:.2g}",
                    },
                )
            )
    figure, axes = new_figure(len(panels))
    for (kind, curves), ax in zip(panels.items(), axes, strict=True):
        for label, style in styles_of(curves).items():
            ax.plot(range(1, len(curves[label])), curves[label][1:], label=label, **style)
        ax.set_title(kind, fontsize=10)
        ax.set_xlabel("examples")
        ax.set_ylabel("cosine of the weights")
    axes[-1].legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Found({"cosines": (figure, STATES)}, claims)


def _episodes(found: Summary | None) -> str:
    """A mean over episodes, as a table has it."""
    return "" if found is None else with_interval(found.value, found.ci95)


STATES = (
    "Cosine between the weights that a layer answers with and those of its algorithm, by number "
    "of examples: on episodes as in training, where weights drift, and with outliers. One seed of "
    "each layer, means over episodes."
)

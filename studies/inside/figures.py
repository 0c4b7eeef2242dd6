"""What is measured of the shipped models, as drawings and tables."""

from collections.abc import Sequence
from statistics import fmean

import zoo
from studies.claims import Claim, Found, OverSeeds, over_seeds
from studies.drawing import legend, new_figure
from studies.inside.drawn import dots
from studies.inside.lenses import Lenses
from studies.inside.probing import NOISE, TARGETS, noise_scores, scores
from studies.inside.shipped import (
    CONTROLS,
    DRIFT,
    DRIFTING,
    TASKS,
    architectures,
    random_start,
    seeds_of,
    shipped,
    task_of,
    untrained,
)
from studies.inside.states import LEARNERS, beside
from studies.inside.writing import needed, written
from studies.measure import Runs
from studies.plan import Effort, Training
from zoo.analysis.interventions import Effect
from zoo.analysis.readouts import mean_by_position
from zoo.hub.find import find_card
from zoo.metrics.drawing import marked, style_of, styles_of
from zoo.metrics.errors import Interval, Summary
from zoo.metrics.text import half_interval, with_interval
from zoo.predictor import Predictor

NOISY = "linear_noisy"
# Cosines that are less apart read the same.
SAME = 0.0005
# Where a probe has a smaller R2 in any seed there are no directions to write along.
LEAST_KNOWN = 0.1
# An algorithm whose squared difference to a layer is in a seed a larger part of its answers is not
# named.
FAR = 0.5


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


def rounded_mean(values: Sequence[float]) -> float:
    """To two decimals, without a sign at zero."""
    return round(fmean(values), 2) + 0.0


def probes(runs: Runs, effort: Effort) -> Found:
    """Figure a: what layers and states know."""
    claims: list[Claim] = []
    panels: dict[str, dict[str, dict[str, list[float]]]] = {}
    for task in TASKS:
        rows = panels[task] = {}
        for architecture in architectures(effort, "gd_ssm"):
            seeds = seeds_of(architecture, task, effort)
            told = _of_places(
                [shipped(architecture, task, seed) for seed in seeds],
                [untrained(architecture, task, seed) for seed in seeds],
                *(task, effort.num_episodes),
            )
            for place, (trained, random, shuffled) in told.items():
                label = f"{architecture}, {place}"
                rows[label] = {
                    "trained": trained[TARGETS.best],
                    "untrained": random[TARGETS.best],
                    "one step (B), trained": trained[TARGETS.one_step],
                }
                claims.append(_known(f"{task}, {label}", trained, random, shuffled))
    for name in DRIFTING[:1] if effort.fewer_settings else DRIFTING:
        models = [zoo.load(name)], [random_start(find_card(name), 0)]
        for place, found in _of_places(*models, DRIFT, effort.num_episodes).items():
            claims.append(_known(f"{name}, {place}", *found))
    return Found({"r2": (dots(panels, "R2 on test episodes", -0.05, 1.0), PROBES)}, claims)


Scores = dict[str, list[float]]


def _of_places(
    trained: Sequence[Predictor], random: Sequence[Predictor], task: str, num_episodes: int
) -> dict[str, tuple[Scores, Scores, float]]:
    """R2 by target of trained models and of random ones, and of shuffled targets the extreme."""
    found, control = (
        [scores(model, task_of(task), num_episodes) for model in models]
        for models in (trained, random)
    )
    if task == NOISY:
        for models, of_models in ((trained, found), (random, control)):
            for model, of_model in zip(models, of_models, strict=True):
                for place, score in noise_scores(model, task_of(task), num_episodes).items():
                    of_model[place][NOISE] = score
    told = {}
    for place in found[0]:
        of_trained, of_random = (
            {target: [rounded(f[place][target].r2) for f in of] for target in of[0][place]}
            for of in (found, control)
        )
        shuffled = [rounded(score.shuffled) for f in found for score in f[place].values()]
        told[place.label] = of_trained, of_random, max(shuffled, key=abs)
    return told


def _known(label: str, trained: Scores, random: Scores, shuffled: float) -> Claim:
    others = [target for target in trained if target != TARGETS.best]
    return Claim(
        f"{label}: R2 of {TARGETS.best}",
        over_seeds(trained[TARGETS.best]),
        also={
            "untrained": text(random[TARGETS.best]),
            **{t: f"{text(trained[t])} ({rounded_mean(random[t]):.2f})" for t in others},
            "shuffled, extreme": f"{shuffled:g}",
        },
    )


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
                Lenses(shipped(architecture, task, seed), task_of(task), effort.num_episodes)
                for seed in seeds_of(architecture, task, effort)
            ]
            layers, style = list(found[0].own), style_of(architecture)
            means = [fmean(f.tuned[layer].value for f in found) for layer in layers]
            ax.plot(layers, means, label=architecture, **marked(style))
            for layer in layers:
                claims.append(
                    Claim(
                        f"{task}, {architecture}, layer {layer}: error / that of zero",
                        over_seeds([f.own[layer].value for f in found]),
                        also={"tuned readout": text([f.tuned[layer].value for f in found])}
                        | told(found, layer),
                    )
                )
        ax.set_yscale("log")
        ax.set_title(task, fontsize=10)
        ax.set_xlabel("layers")
        ax.set_ylabel("0.5*MSE at the query / that of zero")
    legend(axes[-1])
    return Found({"errors": (figure, LENSES)}, claims)


def told(found: Sequence[Lenses], layer: int) -> dict[str, str]:
    """The cells that name algorithms; empty of the embedding, and where all are far.

    Args:
        found: Of the seeds of a model.
        layer: From 0, the embedding.
    """
    empty = dict.fromkeys(("nearest (cosine)", "as near", "then", "difference"), "")
    if not layer:
        return empty
    near, others = _nearest(found, layer)
    first, *tied = near
    differences = [f.nearest[layer][first].difference for f in found]
    known = [value for value in differences if value is not None]
    if not known:
        return empty
    if max(known) > FAR:
        return empty | {"difference": f"above {FAR}"}
    told = [f"{name} ({text(cosines)})" for name, cosines in {**near, **others}.items()]
    at_end = {argument: None for f in found for argument in f.at_end[layer][first]}
    if at_end:
        told[0] += f", {', '.join(at_end)} at an end of its grid"
    return {
        "nearest (cosine)": told[0],
        "as near": "; ".join(tied),
        "then": told[len(near)] if others else "",
        "difference": text(known),
    }


Cosines = dict[str, list[float]]


def _nearest(found: Sequence[Lenses], layer: int) -> tuple[Cosines, Cosines]:
    """Cosines of each seed by algorithm: of those that are nearest, and of the others.

    First is the first of all whose mean reads the same as the highest: a schedule of several steps
    can do what one step does, and stands behind it. As near are those whose paired difference
    to it has an interval over seeds with zero in it, or whose mean reads the same.
    """
    cosines = {
        name: [f.nearest[layer][name].cosine for f in found] for name in found[0].nearest[layer]
    }
    highest = max(map(fmean, cosines.values()))
    first = next(name for name, values in cosines.items() if fmean(values) > highest - SAME)
    near: Cosines = {first: cosines[first]}
    others: Cosines = {}
    for name, values in cosines.items():
        less = over_seeds([a - b for a, b in zip(cosines[first], values, strict=True)])
        is_near = less.value < SAME or (less.ci95 is not None and less.value <= less.ci95)
        if name != first:
            (near if is_near else others)[name] = values
    return near, dict(sorted(others.items(), key=lambda item: -fmean(item[1])))


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
            found = [written(model, task_of(task), effort.num_episodes) for model in models]
            for place in found[0]:
                of_place = [f[place] for f in found]
                if min(f.r2 for f in of_place) < LEAST_KNOWN:
                    continue
                label = f"{architecture}, {place.label}"
                effects = [f.effect for f in of_place]
                rows[label] = {
                    "this episode's": [e.written.value for e in effects],
                    "a third one's": [e.control.value for e in effects],
                }
                claims.append(_followed(f"{task}, {label}", effects, [f.size for f in of_place]))
                exact = [f.exact for f in of_place if f.exact]
                one_step = [f.one_step for f in of_place if f.one_step]
                for name, of_kind in (("exact", exact), ("W of one step", one_step)):
                    if of_kind:
                        claims.append(_followed(f"{task}, {label}, {name}", of_kind, []))
    for task in TASKS:
        for architecture in architectures(effort, *CONTROLS):
            claims += _without(architecture, task, effort)
    return Found({"effects": (dots(panels, "effect", -0.25, 1.25), WRITTEN)}, claims)


def _followed(label: str, effects: Sequence[Effect], sizes: Sequence[float]) -> Claim:
    return Claim(
        f"{label}: effect of another episode's weights",
        over_seeds([e.written.value for e in effects]),
        also={
            "over episodes": half_interval(fmean(e.written.ci95 for e in effects)),
            "of a third episode's": text([e.control.value for e in effects]),
            "third, over episodes": half_interval(fmean(e.control.ci95 for e in effects)),
            "size of the change": text(sizes) if sizes else "",
        },
    )


WRITTEN = (
    "How predictions at the query follow weights of another episode that are written along the "
    "directions of a probe (blue); hollow: where those of a third episode are written in their "
    "place. A dot for each seed. 1 is all the way; what is beyond the axis stands at its edge."
)
KINDS = {
    "head": "largest head (mean)",
    "decay": "decay",
    "gate": "gate",
    "place": "largest place (mean)",
}


def _without(architecture: str, task: str, effort: Effort) -> list[Claim]:
    """A row for each layer of an architecture."""
    found = [
        needed(shipped(architecture, task, seed), task_of(task), effort.num_episodes)
        for seed in seeds_of(architecture, task, effort)
    ]
    claims = []
    for layer, parts in found[0].items():
        cells = dict.fromkeys(KINDS.values(), "")
        for kind in parts.keys() & KINDS.keys():
            of_seeds = [f[layer][kind] for f in found]
            cells[KINDS[kind]] = text([max(values) for values in of_seeds])
            if kind in ("head", "place"):
                cells[KINDS[kind]] += f" ({fmean(map(fmean, of_seeds)):.2g})"
        claims.append(
            Claim(
                f"{task}, {architecture}, layer {layer}: error without it, more",
                over_seeds([max(f[layer]["layer"]) for f in found]),
                also=cells,
            )
        )
    return claims


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
                        "nearest other": _other(*found.others[kind]),
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


def _other(label: str, cosine: Summary) -> str:
    return f"{label} ({_episodes(cosine)})"


def _episodes(found: Summary | None) -> str:
    """A mean over episodes, as a table has it."""
    return "" if found is None else with_interval(found.value, found.ci95)


STATES = (
    "Cosine between the weights that a layer answers with and those of its algorithm, by number "
    "of examples: on episodes as in training, where the inputs of the first half come again with "
    "other labels, where weights drift, and with outliers. One seed of each layer, means over "
    "episodes."
)

"""Where the loss of a model stands in training, and what its layers know before and after."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from studies.claims import Claim, Found, over_seeds
from studies.drawing import new_figure
from studies.history import history
from studies.measure import Runs
from studies.plan import Effort, Training
from zoo.analysis.places import Place
from zoo.analysis.plateaus import Plateau, leaves_zero, plateaus
from zoo.metrics.drawing import styles_of
from zoo.metrics.text import plain

MAX_STEPS, VALIDATIONS = 1_500, 30
ERROR = "val/half_mse_query"
# The part of the steps, at the end, over which the learning rate decays: a loss falls there anyhow.
DECAYS = 0.2
# As in the study of architectures, at the rates that were best there.
TRAINED = {
    "delta_net": ("recipe=delta_net", "model.tokens=shifted", "optim.lr=0.003"),
    "transformer": ("recipe=transformer", "model.tokens=pairs", "optim.lr=0.003"),
}
STEP_MS = {"delta_net": 40.0, "transformer": 60.0}
PLACES = {
    "delta_net": [Place("state", 1), Place("state", 2)],
    "transformer": [Place("stream", layer) for layer in (1, 2, 3)],
}


def names(effort: Effort) -> list[str]:
    """Architectures that are trained."""
    return list(TRAINED)[:1] if effort.fewer_settings else list(TRAINED)


def trainings(effort: Effort) -> list[Training]:
    """Each seed by itself: what layers know is not logged for several at once."""
    return [
        Training(
            f"plateaus-{name}",
            MAX_STEPS,
            STEP_MS[name],
            (
                *TRAINED[name],
                *("data=linear_noisy", "positions=all", "callbacks=inside"),
                "optim.schedule=constant_then_decay",
            ),
            validations=VALIDATIONS,
            together=False,
        )
        for name in names(effort)
    ]


def stands(runs: Runs, effort: Effort) -> Found:
    """Figure e: plateaus, and the R2 of ridge at every place on them."""
    claims: list[Claim] = []
    figure, axes = new_figure(2 * len(names(effort)))
    for i, name in enumerate(names(effort)):
        found = runs[f"plateaus-{name}"]
        _draw(axes[2 * i], axes[2 * i + 1], name, found)
        for seed, run in zip(effort.seeds, found, strict=True):
            losses, zero = history(run, ERROR), _zero(run)
            left = leaves_zero(losses, zero)
            told = {place.label: _ridge(run, place) for place in PLACES[name]}
            decay = round((1 - DECAYS) * max(losses))
            # Beside each plateau and the leaving of zero the validations around it, and the end.
            shown: list[Plateau] = []
            if left is not None:
                shown += [*_before(losses, left), _at(losses, left)]
            for plateau in plateaus(losses, until=decay):
                behind = min(step for step in losses if step > plateau.last)
                shown += [*_before(losses, plateau.first), plateau, _at(losses, behind)]
            shown.append(_at(losses, max(losses)))
            for stretch in sorted(set(shown)):
                claims.append(
                    _row(f"{name}, seed {seed}", stretch, zero, _left(losses, left), told)
                )
    stood = any(" plateau, " in claim.quantity for claim in claims)
    return Found({"plateaus": (figure, CAPTION if stood else f"{CAPTION} {NONE}")}, claims)


CAPTION = (
    "For each architecture: the error at the query in validation, divided by that of zero, a line "
    "for each seed; and the R2 of the weights of ridge at every place, means over seeds."
)
NONE = (
    "No plateau was found, which says little: where validations scatter by more than a few "
    "percent, a short plateau is not seen."
)


def _row(
    model: str,
    plateau: Plateau,
    zero: float,
    left: str,
    told: Mapping[str, Mapping[int, float]],
) -> Claim:
    first, last = plateau.first, plateau.last
    steps = f"plateau, steps {first:,} to {last:,}" if first < last else f"step {last:,}"
    return Claim(
        f"{model}, {steps}: error / that of zero",
        over_seeds([plateau.level / zero]),
        also={
            "leaves zero": left,
            **{f"R2 of ridge, {place}": _mean(found, plateau) for place, found in told.items()},
        },
    )


def _at(losses: Mapping[int, float], step: int) -> Plateau:
    """A single validation, as a stretch."""
    return Plateau(step, step, losses[step])


def _before(losses: Mapping[int, float], step: int) -> list[Plateau]:
    """The validation before one, as a stretch; the first has none."""
    return [_at(losses, other) for other in sorted(losses) if other < step][-1:]


def _left(losses: Mapping[int, float], step: int | None) -> str:
    """Between which validations zero is left."""
    if step is None:
        return "never"
    before = _before(losses, step)
    return f"between {before[0].last:,} and {step:,}" if before else f"before {step:,}"


def _mean(found: Mapping[int, float], plateau: Plateau) -> str:
    on_it = [value for step, value in found.items() if plateau.first <= step <= plateau.last]
    return plain(round(fmean(on_it), 3) + 0.0, 3)


def _zero(run: Path) -> float:
    found = history(run, f"{ERROR}/zero")
    return found[max(found)]


def _ridge(run: Path, place: Place) -> dict[int, float]:
    return history(run, f"layers/ridge_{place.kind}_{place.layer}")


def _draw(left: Axes, right: Axes, name: str, runs: Sequence[Path]) -> None:
    for seed, run in enumerate(runs):
        losses, zero = history(run, ERROR), _zero(run)
        values = [loss / zero for loss in losses.values()]
        left.plot(list(losses), values, label=f"seed {seed}", alpha=0.8)
    left.set_yscale("log")
    left.set_title(name, fontsize=10)
    left.set_ylabel("0.5*MSE at the query / that of zero")
    styles = styles_of([place.label for place in PLACES[name]])
    for place in PLACES[name]:
        of_seeds = [_ridge(run, place) for run in runs]
        means = [fmean(found[step] for found in of_seeds) for step in of_seeds[0]]
        right.plot(list(of_seeds[0]), means, label=place.label, **styles[place.label])
    right.set_ylabel("R2 of the weights of ridge")
    right.set_ylim(-0.05, 1.02)
    for ax in (left, right):
        ax.set_xlabel("optimizer steps")
        ax.legend(frameon=False, fontsize=7)

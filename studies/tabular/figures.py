"""What models reach on tables beside common methods, and on episodes as in training."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure

from studies.claims import Claim, Found, OverSeeds
from studies.drawing import new_figure
from studies.history import metrics_of
from studies.measure import Runs
from studies.plan import Effort
from studies.study import StudyFigure
from studies.tabular.cells import CELLS, CLASSES, VALUES, trainings
from studies.tabular.scores import FEW_ROWS, WIDTH, Scores
from zoo.metrics.drawing import BLUE, FAINT, GRAY, HOLLOW
from zoo.metrics.text import loss_label

TABLES = {VALUES: ("diabetes",), CLASSES: ("iris", "wine", "breast cancer", "digits")}
SCORES = {VALUES: "R2", CLASSES: "accuracy"}
LOSSES = {VALUES: "half_mse_all", CLASSES: "cross_entropy_all"}
VERDICT = "the model is"
# How much further down what fewer rows reach is drawn.
BELOW = 0.25


def tables(experiment: str, effort: Effort) -> Sequence[str]:
    """Names of the tables that are measured: with fewer settings two at most, small ones."""
    return TABLES[experiment][:2] if effort.fewer_settings else TABLES[experiment]


def num_splits(effort: Effort) -> int:
    """Random splits of each table."""
    return 2 if effort.fewer_settings else 10


def on_tables(experiment: str, runs: Runs, effort: Effort) -> Found:
    """Scores on real tables, and losses on episodes as in training.

    Args:
        experiment: `VALUES` or `CLASSES`.
        runs: Finished ones of both architectures.
        effort: How many tables and splits.
    """
    from studies.tabular.tables import measured  # needs scikit-learn

    score = SCORES[experiment]
    models = {cell.architecture: runs[cell.name][0] / "checkpoint" for cell in CELLS[experiment]}
    found = list(measured(tables(experiment, effort), models, num_splits(effort)))
    claims = [claim for scores in found for claim in _claims(scores, score)]
    claims += _on_episodes(experiment, runs)
    caption = CAPTION.format(
        score=score[0].upper() + score[1:], num=num_splits(effort), behind=behind(found)
    )
    return Found({"scores": (_drawn(found, score), caption)}, claims)


CAPTION = (
    "{score} on the test rows, a mean over {num} random splits with its 95 % interval: filled with "
    "all training rows of a split, hollow with 200 of them, where there are more. Common methods "
    "stand above, models below the line. {behind}"
)
FIGURES = {
    "a": StudyFigure("Values", partial(trainings, VALUES), partial(on_tables, VALUES)),
    "b": StudyFigure("Classes", partial(trainings, CLASSES), partial(on_tables, CLASSES)),
}


def _claims(scores: Scores, score: str) -> list[Claim]:
    """One for each predictor; models stand beside the best of the common methods."""
    best, inputs = scores.best_baseline, str(scores.num_columns)
    of_best = scores.baselines[best]
    quantity = f"{score}, {scores.table}, {scores.num_rows:,} rows"
    claims = [
        Claim(
            f"{quantity}, {name}", scores.over_splits(values), also={"inputs": inputs, VERDICT: ""}
        )
        for name, values in scores.baselines.items()
    ]
    if scores.num_columns > WIDTH:
        inputs = f"{WIDTH} components of {inputs}"
    for name, values in scores.models.items():
        difference = scores.beside_best(name)
        claims.append(
            Claim(
                f"{quantity}, {name}",
                scores.over_splits(values),
                reference=best,
                reference_value=scores.over_splits(of_best).value,
                difference=difference,
                also={"inputs": inputs, VERDICT: _verdict(difference)},
            )
        )
    return claims


def _verdict(difference: OverSeeds) -> str:
    """Where the interval of a difference lies; not apart where it holds zero or there is none."""
    if difference.ci95 is None or abs(difference.value) <= difference.ci95:
        return "not apart"
    return "ahead" if difference.value > 0 else "behind"


def behind(found: Sequence[Scores]) -> str:
    """On how many tables models do worse than the best common method, in words."""
    of_all = {scores.table: scores for scores in found}.values()  # the last has all rows
    of_few = [scores for scores in found if scores.num_rows <= FEW_ROWS]
    sentences = []
    for rows, counted in (("all training rows", of_all), (f"at most {FEW_ROWS}", of_few)):
        parts = []
        for model in found[0].models:
            differences = [scores.beside_best(model) for scores in counted]
            lower = sum(difference.value < 0 for difference in differences)
            apart = sum(_verdict(difference) == "behind" for difference in differences)
            tables = "1 table" if len(counted) == 1 else f"{len(counted)} tables"
            parts.append(
                f"{model} has a lower mean than the best common method on {lower} of {tables}, "
                f"and is behind (the interval of the difference leaves out zero) on {apart}"
            )
        sentences.append(f"With {rows}, {'; '.join(parts)}.")
    return " ".join(sentences)


def _on_episodes(experiment: str, runs: Runs) -> list[Claim]:
    """The loss on test episodes, of each model and of each algorithm beside them."""
    loss = LOSSES[experiment]
    of_runs = {cell.architecture: metrics_of(runs[cell.name][0]) for cell in CELLS[experiment]}
    found = {architecture: numbers["model"] for architecture, numbers in of_runs.items()}
    for numbers in of_runs.values():
        found |= numbers["references"]
    return [
        Claim(
            f"{loss_label(loss, at_place=True)}, episodes as in training, {name}",
            OverSeeds(of_name[f"test/{loss}"]["value"], of_name[f"test/{loss}"]["ci95"], 1),
        )
        for name, of_name in found.items()
        if f"test/{loss}" in of_name  # zero, as logits, has an accuracy alone
    ]


def _drawn(found: Sequence[Scores], score: str) -> Figure:
    """A panel for each table, a row for each predictor."""
    names = list(dict.fromkeys(scores.table for scores in found))
    figure, axes = new_figure(len(names))
    figure.set_size_inches(2.0 + 2.6 * len(names), 2.6)
    for ax, name in zip(axes, names, strict=True):
        of_table = [scores for scores in found if scores.table == name]
        for scores in of_table:
            means = [scores.over_splits(of_one) for of_one in _rows(scores).values()]
            is_full = scores is of_table[-1]
            ax.errorbar(
                [mean.value for mean in means],
                [place + (0 if is_full else BELOW) for place in range(len(means))],
                xerr=[mean.ci95 or 0 for mean in means],
                fmt="o",
                color=BLUE if is_full else GRAY,
                markerfacecolor=BLUE if is_full else HOLLOW,
                capsize=2,
            )
        ax.axhline(len(of_table[0].baselines) - 0.5 + BELOW / 2, color=FAINT, zorder=0)
        labels = list(_rows(of_table[0]))
        ax.set_yticks(range(len(labels)), labels if ax is axes[0] else [""] * len(labels))
        ax.invert_yaxis()
        ax.set_title(name, fontsize=10)
        ax.set_xlabel(score)
    return figure


def _rows(scores: Scores) -> dict[str, list[float]]:
    """All predictors in the order in which they are listed."""
    return {**scores.baselines, **scores.models}

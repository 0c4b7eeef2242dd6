"""The study of arXiv 2410.11687: its figures by their letter, and what stands above them."""

from studies.paper import baselines, more_steps, nonlinear, one_step, ours
from studies.study import Study, StudyFigure

INTRODUCTION = """\
What ["State-space models can learn in-context by gradient descent"](https://arxiv.org/abs/2410.11687)
claims, in our words, beside what `{command}` measured. The third version is called "Learning in the
Recurrent State: Gradient Descent with Linear Recurrent Networks", and the model GRIL there. The
results file is [{results}]({results}); this page is made from it, and not written by hand. Claims
are those of the abstracts and of what figures are there to show; no number of the paper is among
them, and the letters are ours. Not attempted: the third version's results on Long Range Arena and
language modelling.

The setting is linear regression with ten examples in ten dimensions, x from U(-0.5, 0.5), a new
function for every episode, unless another is named. 0.5*MSE is half the squared error, averaged
over the coordinates of the label. `docs/guide.md` explains the mechanism and its weights Q,
Lambda_bar, D and C, `docs/mathematics.md` the construction and the distances.
"""

JUDGED = (
    "Several learned steps are judged beside as many exact ones of the sizes that are best when "
    "they are fixed beforehand."
)

STUDY = Study(
    name="paper",
    title="The paper's figures",
    introduction=INTRODUCTION,
    claimed_by="the paper",
    judged=JUDGED,
    figures={
        "a": StudyFigure(
            "Loss over training", one_step.base_trainings, one_step.loss_over_training
        ),
        "b": StudyFigure(
            "Trained and constructed weights", one_step.base_trainings, one_step.weights
        ),
        "c": StudyFigure(
            "Larger inputs and larger functions", one_step.base_trainings, one_step.other_scales
        ),
        "d": StudyFigure("Input dimension", one_step.dimension_trainings, one_step.dimensions),
        "e": StudyFigure("Two and more steps", more_steps.trainings, more_steps.several_steps),
        "f": StudyFigure(
            "Functions that are not linear", nonlinear.trainings, nonlinear.sine_waves
        ),
        "g": StudyFigure("Other architectures", baselines.trainings, baselines.other_architectures),
        "h": StudyFigure(
            "Step sizes, forgetting, longer contexts, classes", ours.trainings, ours.additions
        ),
    },
)

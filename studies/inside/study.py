"""The study of what is inside the shipped models: probes, layer lens, interventions, states."""

from studies.inside import figures, plateaus
from studies.inside.figures import nothing
from studies.plan import Effort
from studies.study import Study, StudyFigure

INTRODUCTION = """\
What the shipped models know after each layer, which algorithm their layers are nearest to, and what
they use. Made by `{command}`; the results file is [{results}]({results}), and this page is made
from it, not written by hand. Nothing is trained but for the last section. `docs/inside.md` defines
all measures and runs them on models whose algorithm is known; `docs/comparison.md` says how these
models were trained.

Measured are the six deep architectures that are shipped with three seeds, on the task without noise
(`linear`, ten examples in ten dimensions, ten outputs) and with it (`linear_noisy`, 16 examples in
eight dimensions, one output). Beside them stand two models whose algorithm is known from their
form: `gd_ssm`, one step of gradient descent, and `linear_transformer`, several steps.

*Stream 2* is the residual stream after two layers, at the token by which the last example has been
seen whole: its label, or with shifted tokens the query that comes with it. *State 2* is what the
second layer keeps of the past, the matrices or vectors of its recurrence without the windows of
convolutions; of `mesa_net` it is G, of G and H. With shifted tokens, and in `gd_ssm`, a state is
one example behind, and is compared with the algorithm after one example less. The transformer
keeps its examples and has no state.

Probes, tuned readouts and the arguments of algorithms are fitted on episodes of their own. W is
what an algorithm has learned of all examples: the *best* one, which is least squares without noise
and ridge with it; four steps of gradient descent of the best size; the delta rule of the best size.
W of one step is B times a number and has the R2 of B. Recursive least squares with a penalty is
ridge, example by example. A has its upper triangle as target.

A layer is compared with gradient descent of one, two and four steps, the delta rule, ridge, GD++
of two and four steps, and descent with a schedule of two or four sizes, everything that is open
fitted to the layer as its tuned readout has it. The cosine is the mean of that of predictions and
that of Jacobians. Named is the nearest; of those whose cosine is less than 0.002 smaller, the one
with the fewest fitted numbers. *Difference* is the squared difference to it, divided by the square
of the layer's answers.

The last section trains two of the architectures anew, at the rate and with the loss of
`docs/comparison.md` for half of its steps and with `callbacks=inside`, which probes at every
validation. A plateau is a stretch of four or more validations whose losses differ by at most 5 %
and after which the loss falls by more than a tenth, or training ends. Zero is left at the first of
two validations in a row below 0.95 of its error. Beside a plateau stands the mean R2 of ridge over
its validations, and the last row of each seed is the end.
"""

READING = """\
Every number is a mean over the seeds of a model, with half its 95 % interval (Student's t); all
see the same test episodes, whose scatter is in none of the intervals. One seed has none; in the
last section intervals are over test episodes. What stands in brackets behind the R2 of a trained
model is that of the same model with a random start: only what is above it has been learned. A low
R2 says that no linear map tells a quantity after as many episodes as probes are fitted on, not that
it is not there. *Shuffled* is a mean over all targets. The nearest of these algorithms is not the
algorithm that a layer has to be. What a model needs is the growth of its error without a part,
divided by the error of zero; parts are taken one by one. These are measurements of shipped models
of one size each; no architecture is judged.
"""

STUDY = Study(
    name="inside",
    title="Inside the shipped models",
    introduction=INTRODUCTION,
    claimed_by="nobody",
    reading=READING,
    figures={
        "probes": StudyFigure("What layers and states know", nothing, figures.probes),
        "lens": StudyFigure("Which algorithm a layer is", nothing, figures.lenses),
        "use": StudyFigure("What a model uses", nothing, figures.interventions),
        "states": StudyFigure("One layer, example by example", nothing, figures.states),
        "plateaus": StudyFigure(
            "Plateaus in training, and what is known there", plateaus.trainings, plateaus.stands
        ),
    },
    page="inside_tables",
    full=Effort(seeds=(0, 1, 2), num_episodes=300, num_validation=1_000),
    quick=Effort(
        seeds=(0,), share=0.2, num_episodes=100, num_validation=1_000, fewer_settings=True
    ),
)

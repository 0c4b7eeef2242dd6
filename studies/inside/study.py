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

Measured are the first three seeds of the six deep architectures that are shipped with as many, on
the task without noise (`linear`, ten examples in ten dimensions, ten outputs) and with it
(`linear_noisy`, 16 examples in eight dimensions, one output). Beside them stand two models whose
algorithm is known from their form: `gd_ssm`, one step of gradient descent, and
`linear_transformer`, several steps. Where weights drift (`linear_drift`) one seed each of four
layers of one recurrence is shipped. No shipped model is trained on a pool of functions, on groups
or on recall: probes of such latents are in the tests alone.

*Stream 2* is the residual stream after two layers, at the token by which the last example has been
seen whole: its label, or with shifted tokens the query that comes with it. *State 2* is what the
second layer keeps of the past, the matrices or vectors of its recurrence without the windows of
convolutions; of `mesa_net` it is G, of G and H. With shifted tokens, and in `gd_ssm`, a state is
one example behind, and is compared with the algorithm after one example less. The transformer
keeps its examples and has no state.

Section *probes*: probes, tuned readouts and the arguments of algorithms are fitted on episodes of
their own. W is what an algorithm has learned of all examples: the *best* one, which is least
squares without noise, ridge with it and the Kalman filter under drift; four steps of gradient
descent of the best size; the delta rule of the best size. W of one step is B times a number and has
the R2 of B. Recursive least squares with a penalty is ridge, example by example. A has its upper
triangle as target. The noise level is told from episodes of three levels.

Section *lens*: a layer is compared with gradient descent of one, two and four steps, the delta
rule, ridge, GD++ of two and four steps, and descent with a schedule of two or four sizes,
everything that is open fitted to the layer as its tuned readout has it. The cosine is the mean of
that of predictions and that of Jacobians. Named is the first of this list whose cosine is within
0.0005 of the highest. *As near* are those whose cosine differs from it
by a number with zero in its interval over seeds, or by less than 0.0005; *then* comes the nearest
of the others. *Difference* is the squared difference to the one that is named, divided by the
square of the layer's answers. Where it is above 0.5 in a seed none is named. Where an
argument of the one that is named was fitted on a grid and is an end of it in a seed, the row says
so.

Section *use*: the weights of the best algorithm in another episode are written into a place, along
the directions of a probe, and predictions at the query are explained as a times the old ones and b
times those of the written weights; *effect* is b. Beside it stands its control: b, for the same
weights, where those of a third episode are written, a mean over four of them. Both have intervals
over test episodes too, which all seeds share. Rows are places whose probe has an R2 of 0.1 or more
in every seed. Of `gd_ssm` also the exact change is written, which needs no probe. With shifted
tokens, and in `gd_ssm`, the query still brings the last example, which changes a little what is
written. The effect is 1 only where the place answers with exactly the weights that are written, in
size too: of a place that answers with the double of them it is 2, of one that answers with half of
them a half. R2 says nothing of their size, so 1 is no ceiling. `gd_ssm` answers from nothing but
its state, with W of one step. That is written as well, in the best size: how far its effect is from
1 says how far the model's own size is from that one. An effect that is small where the probe has a
high R2 says that the model does not answer from what the probe reads, or not from that alone. Below
stands by how much the error grows without a part, divided by the error of zero, at most 10. Of
heads and of places of a window it is the largest number, with the mean over all of them in
brackets.

Section *states*: each layer stands beside the algorithm that its rule is, and beside the nearest of
other rules, both with everything open fitted to the layer on episodes as in training. *Updates*
are episodes whose second half repeats the inputs of the first with other labels.

Section *plateaus* trains two of the architectures, at the rate and with the loss of
`docs/comparison.md` for half of its steps and with `callbacks=inside`, which probes at every
validation. A plateau is a stretch of four or more validations in which the loss falls clearly
slower than before and behind it (`docs/inside.md`), and after which it falls by more than a tenth
before the learning rate decays. Zero is left at the first of two validations in a row below 0.95 of
its error. Rows stand for the validation before zero is left and the one where it is; for the one
before each plateau, if there is one, the mean over the plateau and the one behind it; and for the
end. Where validations scatter few plateaus are found: of flat stretches of seven validations with a
fall of 0.1 in the log loss each before and behind them, nearly all where the log loss scatters by
0.01, about one of ten at 0.037 and about one of sixty at 0.06.
"""

READING = """\
Every number is a mean over the seeds of a model, with half its 95 % interval (Student's t). One
seed has none. All see the same test episodes, whose scatter is in none of these intervals. There
are three exceptions. In the section *use* two columns have intervals over test episodes, a mean
over the seeds. In *states* there is one seed, and intervals are over test episodes. In *plateaus*
every row is a seed. What stands in brackets behind the R2 of a trained model is that of the same
model with a random start: only what is above it has been learned. A low R2 says that no linear map
tells a quantity after as many episodes as probes are fitted on, not that it is not there.
*Shuffled* is that of exchanged targets, which checks the split and the scoring alone; *extreme* is
the largest of all targets and seeds, by its absolute value. The nearest of these algorithms is not
the algorithm that a layer has to be. Parts are taken from a model one by one. These are
measurements of shipped models of one size each; no architecture is judged.
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
        "states": StudyFigure(
            "One layer, example by example",
            nothing,
            figures.states,
            over="one seed of each layer, {num_episodes:,} test episodes",
        ),
        "plateaus": StudyFigure(
            "Plateaus in training, and what is known there",
            plateaus.trainings,
            plateaus.stands,
            over="{seeds}, errors of 1,000 validation episodes, probes fitted to 500 of them and "
            "scored on 300",
        ),
    },
    page="inside_tables",
    full=Effort(seeds=(0, 1, 2), num_episodes=300, num_validation=1_000),
    quick=Effort(
        seeds=(0,), share=0.2, num_episodes=100, num_validation=1_000, fewer_settings=True
    ),
)

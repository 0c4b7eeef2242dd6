"""The study of task diversity: the pool's predictor or ridge, by the number of functions."""

from studies.plan import Effort
from studies.study import Study, StudyFigure
from studies.task_diversity import figures
from studies.task_diversity.cells import trainings

INTRODUCTION = """\
What models learn from noisy linear regression when its functions come from a pool that is small or
large. Made by `{command}`; the results file is [{results}]({results}), and this page is made from
it, not written by hand.

In every training episode one of 2^2 to 2^13 functions is drawn from a fixed pool: eight
coefficients, each standard normal, as inputs are; 16 examples with label noise of standard
deviation 0.5. Two algorithms are the best there can be. `dmmse` knows the pool and weighs its
functions by how well they explain the examples; no predictor has a smaller expected error on
functions of the pool. `ridge` knows no pool but that coefficients are normal; no predictor has a
smaller one on new functions. A model that has learned the pool is near the first, one that has
learned regression near the second. On new functions these are the nearer to each other the larger
the pool is; on its own functions they are not, since 16 examples tell even 2^13 functions from each
other.

Distances are half the mean squared difference of predictions, the scale of 0.5*MSE. On functions of
the pool the distance to `dmmse` is, in expectation, what a model's error exceeds the least one by;
on new functions that is the distance to `ridge`. Test episodes of both kinds have the same inputs
and noise, and all predictors see the same episodes.

Trained are a transformer of four layers and width 64 on tokens (x_i, y_i), asked with (x, 0),
`delta_net` by its recipe on tokens (x_i, y_(i-1)), and `gd_ssm` of four steps; every one with the
loss at all positions, on the same 288,000 episodes of each pool. They differ much in size: the last
section has parameters, states, and whether the loss had stopped falling.

Raventos et al. (arXiv 2306.15063) trained transformers on such episodes, on tokens x_1, y_1, x_2,
..., for 500,000 steps. Their threshold is the size of pool above which more training moves a model
towards `ridge`, and below which it moves it towards `dmmse`. That of their small model (four
layers, width 64, batches of 512) is between 2^11 and 2^12 functions, that of their base model
(batches of 256) between 2^14 and 2^15. Long before, at about 2^6 functions, the base model is no
longer at `dmmse`.
"""

READING = """\
These are measurements of one seed and one pool of each size. Intervals are 95 %, over test
episodes: they say how well a mean of this model is known, and nothing of another seed or pool; a
mean of which the worst 0.1 % of the episodes carry more than a tenth has none, nor a difference,
and the median stands before it. `gd_ssm` of four steps is a polynomial of high degree in the
examples: single episodes may decide about its mean, so it is measured on ten times as many as the
others, and so are both algorithms beside it. A ratio of distances below 1 is nearer to `dmmse`,
above 1 nearer to `ridge`. The learning rate was chosen once for each architecture, by one seed for
a quarter of the steps at 2^8 functions and its error on functions of that pool, which favours what
learns the pool; it is the same for all pools but those that the first captions name, if any, where
training diverged at it. Nothing here says where the threshold between the two algorithms lies after
long training: these trainings have 111 times fewer steps than those that it was found in, and 889
times fewer episodes than those of the small model there, 444 times fewer than those of the base
model. No architecture is judged. All of it can be trained on two cores in an hour or two.
"""

STUDY = Study(
    name="task_diversity",
    title="Task diversity",
    introduction=INTRODUCTION,
    claimed_by="nobody",
    reading=READING,
    shows_trainings=True,
    figures={
        "a": StudyFigure("Distance to dMMSE and to ridge", trainings, figures.distances),
        "b": StudyFigure("Distance by position", trainings, figures.positions),
        "c": StudyFigure("Errors", trainings, figures.errors),
        "d": StudyFigure("Losses in training", trainings, figures.losses),
    },
    full=Effort(seeds=(0,), num_episodes=10_000, num_validation=1_000),
    quick=Effort(seeds=(0,), share=0.1, num_episodes=500, num_validation=200, fewer_settings=True),
)

"""The study of state tracking: which eigenvalues, and how many steps for a symbol, it takes."""

from studies.plan import Effort
from studies.state_tracking import figures
from studies.study import Study, StudyFigure

INTRODUCTION = """\
Which linear recurrences keep track of a state for longer than they were trained. A sequence is
made of elements of a group, and at every position the product of all so far is asked for:
`docs/tasks.md` has examples. Made by `{command}`; the results file is [{results}]({results}), and
this page is made from it, not written by hand.

All models are one layer that reads the symbols alone, trained at every position of 40 symbols and
tested on 160. A recurrence multiplies its state by a matrix with eigenvalues in [0, 1], as they are
published, or in [-1, 1] (`negative_eigenvalues=true`). Parity needs a state that changes its
sign, so an eigenvalue of -1. The permutations of three, S3, do not commute, and a rotation is two
reflections: a delta step with a rate of 2 is one reflection, and `delta_product` makes n of them
for every symbol. Its convolutions are over one symbol there, so that no symbol sees its neighbours.
In the names of trainings *signed* is [-1, 1] and *unsigned* is [0, 1].

Scaled accuracy is 0 for guessing and 1 for all right. It is that of positions 41 to 160, which
training does not reach; the figure has every position. Where a model has all right, its loss may go
on falling towards zero: it has not converged by the rule below, and there is nothing left to learn.
Where one that is said to fail has not converged, it might have learned later: *not decided*. All of
it can be trained on two cores within half an hour.

Of the two models of parity with eigenvalues in [-1, 1] the result is exploratory: how their rate is
chosen was settled after a first choice had failed. The errors of their trials are next to zero at
many rates, so the least one says little: taken by that alone, a rate was at the edge of the list
and one at which no seed learned. Since then errors under 0.01 are not told apart, and the middle
rate is kept.
"""

JUDGED = """\
Claims are those of the papers named, in our words, and bounds are ours.
"""

STUDY = Study(
    name="state_tracking",
    title="State tracking",
    introduction=INTRODUCTION,
    claimed_by="the literature",
    judged=JUDGED,
    shows_trainings=True,
    figures={
        "a": StudyFigure("Parity", figures.trainings_of_parity, figures.parity),
        "b": StudyFigure("Permutations of three", figures.trainings_of_s3, figures.s3),
    },
    full=Effort(seeds=(0, 1, 2), num_episodes=1_000, num_validation=500),
    quick=Effort(seeds=(0, 1), share=0.3, num_episodes=200, fewer_settings=True),
)

"""The study of architectures: what nine of them reach on linear functions, by one protocol."""

from studies.architectures.figures import FIGURES
from studies.architectures.shipped import ships
from studies.plan import Effort
from studies.study import Study

INTRODUCTION = """\
What architectures reach on linear functions, by one protocol for all. Made by `{command}`; the
results file is [{results}]({results}), and this page is made from it, not written by hand.

The protocol: four learning rates a factor of three apart are tried by a seed of their own for a
quarter of the steps (with a curriculum for half of them, of which the last 150, for scalar targets
400, have all ten dimensions); where the smallest or the largest is the best in validation, two more
beyond it are tried, twice at most. All seeds then train at the best rate, with a constant rate and
a decay over the last fifth of the steps. Where one diverges they train at the next best, and beyond
that more are tried if it is at the edge; and once where most end more than 10 % above what the
trial had, which was luck then. That rate is shown even where it ends no lower. A trial that was
unlucky is not noticed. Rates are those of the matrices; what a recurrence has of its own trains at
`optim.ssm_lr` of its recipe. A seed has converged if its loss fell or rose by less than 2 % over
the last third of the constant rate. One that has not may go on to fall. One that has may stand on a
plateau or on the noise of its rate: beside the number of seeds that have converged stands how many
are *at zero*, within 5 % of the error of the zero predictor, and by how much the loss fell in the
decay, from the median of the last three validations before it, a median over seeds.

Tokens and loss are part of a model, so they stand beside each. *Interleaved* tokens are x_1, y_1,
x_2, y_2, ..., *pairs* are (x_i, y_i) and then (x, 0) for the query, and *shifted* are (x_i,
y_(i-1)). A loss over all scored positions (`docs/episodes.md`) teaches every number of examples at
once.

In the tables the ratio is to the algorithm named, and the difference is the excess, what the error
is above that of the best exact algorithm of the task; where that is exact it is all of the error.
Beside stand the median over episodes, a mean over seeds, and the share of the mean that the worst
thousandth of the episodes carry, of the seed where it is largest. Where it is more than a tenth a
few episodes decide about the mean: no interval is given, the median stands first, and behind it the
mean of each seed, since a mean of these means says nothing. Where half an interval is more than a
tenth of the mean each seed stands in brackets. An exact algorithm has no seeds: its interval is
that over the test episodes, about as wide as what all numbers of the table would move by on others.
`linear_transformer` of several layers is measured on ten times as many episodes for that.

Steps and sizes are such that all of it, some twelve hours of training, can be done on two cores.

A claim is judged where one stands below. All else is a measurement of models of this size, trained
for so many episodes, and nothing is concluded from it about an architecture: not even an order of
two models whose intervals are apart, where one of them has not converged.
"""

JUDGED = """\
Bounds are ours. *Ours, earlier* names what an earlier training of
ours had found, with one seed.
"""

STUDY = Study(
    name="architectures",
    title="Architectures by one protocol",
    introduction=INTRODUCTION,
    claimed_by="earlier work",
    judged=JUDGED,
    shows_trainings=True,
    page="comparison",
    figures=FIGURES,
    ships=ships(),
    full=Effort(seeds=(0, 1, 2, 3, 4), num_episodes=10_000, num_validation=1_000),
    quick=Effort(
        seeds=(0, 1), share=0.05, num_episodes=500, num_validation=200, fewer_settings=True
    ),
)

"""The study of recall: layers of fast weights beside the algorithms that their rules are."""

from studies.plan import Effort
from studies.recall import figures
from studies.study import Study, StudyFigure

INTRODUCTION = """\
What one layer of fast weights recalls, by the rule that writes into them. Every episode tells 16
keys with their values, some of them again with another value, and asks for the value of one key:
`docs/tasks.md` has an example. Made by `{command}`; the results file is [{results}]({results}), and
this page is made from it, not written by hand.

The layers are bare: linear maps to keys, values and queries, one state, no norm, gate or
convolution (`online_learner`, and `gd_ssm` with its own window). Each can be constructed to be an
exact algorithm, which stands beside it with its arguments fitted on episodes of their own. Where a
layer learns a decay, the forgetting of the algorithm is the best of eight from 0.5 to 1, by squared
error. The loss is at the query, the only position that is scored. An answer is right if the nearest
of the 64 values is that of the key.

Sizes and steps are such that all of it can be trained on two cores within an hour or two.

The last section says what is behind every number: the learning rates that were tried, the seeds,
and whether the loss had stopped falling. The conclusions are about bare layers of this size on this
task; deep models have convolutions and several layers, and may do otherwise.
"""

JUDGED = """\
Here layers and algorithms are compared by the difference of their accuracies. Claims are those of
the papers named, in our words; that a rule other than that of the GD-SSM does what it is
constructed to do is ours.
"""

STUDY = Study(
    name="recall",
    title="Recall",
    introduction=INTRODUCTION,
    claimed_by="the literature",
    judged=JUDGED,
    shows_trainings=True,
    figures={
        "a": StudyFigure("Each key once", figures.trainings_once, figures.once),
        "b": StudyFigure("With updates", figures.trainings_updated, figures.updated),
        "c": StudyFigure(
            "Accuracy against the size of the state", figures.trainings_of_sizes, figures.sizes
        ),
    },
    full=Effort(seeds=(0, 1, 2), num_episodes=5_000, num_validation=1_000),
    quick=Effort(seeds=(0, 1), share=0.05, num_episodes=500, fewer_settings=True),
)

"""The study of text: deep models of one size on the same bytes."""

from studies.plan import Effort
from studies.study import Study, StudyFigure
from studies.text import figures

INTRODUCTION = """\
How well small deep models predict the next byte of a text, the reference manual of Python. Made by
`{command}`; the results file is [{results}]({results}), and this page is made from it, not written
by hand.

Every model has about 90 thousand parameters, reads windows of 256 bytes and was trained on 1,200
batches of 16 of them, 4.9 MB, at every position. Training, validation and test read disjoint
stretches (`docs/tasks.md`). Beside them are n-grams with back-off, fitted to the training stretch
or counted in the window alone (`docs/solvers.md`).
"""

READING = """\
These are measurements of one seed. Intervals are over the windows of the test stretch, 95 %, and
say nothing of how much another seed would move. The learning rate of every model is the best of a
grid in trainings of a quarter as many steps, shown in (b). Nothing follows
beyond this size, this text and this many steps, and no architecture is judged.
"""

STUDY = Study(
    name="text",
    title="Text",
    introduction=INTRODUCTION,
    claimed_by="nobody",
    reading=READING,
    shows_trainings=True,
    figures={
        "a": StudyFigure("Bits per byte", figures.trainings, figures.bits_per_byte),
        "b": StudyFigure("Learning rates", figures.trainings_at_rates, figures.learning_rates),
    },
    full=Effort(seeds=(0,), num_episodes=1_000, num_validation=200),
    quick=Effort(seeds=(0,), share=0.1, num_episodes=100, fewer_settings=True),
)

"""The study of text: deep models of one size on the same bytes."""

from studies.plan import Effort
from studies.study import Study, StudyFigure
from studies.text import figures

INTRODUCTION = """\
How well small deep models predict the next byte of a text, the reference manual of Python. Made by
`{command}`; the results file is [{results}]({results}), and this page is made from it, not written
by hand.

Every model has about 90 thousand parameters, reads windows of 256 bytes and was trained on 1,200
batches of 16 of them at every position: about 16 passes over the training stretch of 299 kB.
Training, validation and test read disjoint stretches (`docs/tasks.md`). Beside them are n-grams
with back-off, fitted to the training stretch or counted in the window alone (`docs/solvers.md`).
"""

READING = """\
These are measurements of one seed. Intervals are 95 %, over 1,000 windows that overlap: they read
the test stretch of 37 kB about seven times. So they say how well the mean over this stretch is
known, and nothing of another text or another seed. The learning rate of every model was chosen
among two to five that were tried for a quarter as many steps; of `gd_ssm_deep`, `delta_net`,
`gated_delta_net` and `mesa_net` it was the largest of them, and still larger ones were not tried.
Nothing follows beyond this size, this text and this many steps, and no architecture is judged.
"""

STUDY = Study(
    name="text",
    title="Text",
    introduction=INTRODUCTION,
    claimed_by="nobody",
    reading=READING,
    shows_trainings=True,
    figures={"a": StudyFigure("Bits per byte", figures.trainings, figures.bits_per_byte)},
    full=Effort(seeds=(0,), num_episodes=1_000, num_validation=200),
    quick=Effort(seeds=(0,), share=0.03, num_episodes=100),
)

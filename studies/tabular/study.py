"""The study of tables: models trained on random functions beside common methods on real data."""

from studies.plan import Effort
from studies.study import Study
from studies.tabular.cells import SHIPS
from studies.tabular.figures import FIGURES

INTRODUCTION = """\
How models that have seen nothing but random functions do on five tables that come with
[scikit-learn](https://scikit-learn.org), beside common methods. Made by `{command}`; the results
file is [{results}]({results}), and this page is made from it, not written by hand. It needs
`pip install -e '.[estimators]'`.

Trained are `delta_net` on tokens (x_i, y_(i-1)) and a transformer without positions on the
pairs (x_i, y_i), which is asked with (x, 0). A training episode has up to 200 rows of 1 to 20
columns and a function of its own (`tabular` and `tabular_classification` in
`docs/episodes.md`); its length grows from 51 to 201 positions over the first half of the steps. On
a table nothing is trained: the training rows are the examples of one context, the test rows its
queries (`docs/own_data.md`).

Every table is split at random several times, a fifth of the rows for the test, of classes a fifth
of each. All predictors see the same rows, first at most 200 of them, as many as in training, then
all. Models take whitened inputs. Of more than 20 columns they take the 20 leading principal
components, fitted on the training rows and whitened; the common methods take all columns.

Columns are brought to mean zero and variance one before the components are found. So they are for
the common methods, except gradient boosting, which takes them as they are. This scales up a column
that is nearly constant. The columns of digits are pixels, of one unit, and some are nearly always
dark: there columns are only centred.

The common methods are those of scikit-learn. What is tuned of them is chosen by five folds of the
training rows of each split, by R2 or accuracy: `alpha` of `Ridge` and `C` of
`LogisticRegression` among 13 numbers from 0.001 to 1,000, and the number of neighbours of
`KNeighborsRegressor` and `KNeighborsClassifier` among 1, 3, 5, 10 and 20. Not tuned are
`GradientBoostingRegressor` and `GradientBoostingClassifier`, which have their defaults, and the
models, which see the training rows as their context alone.
"""

READING = """\
These are measurements of one seed of each model. Scores are R2 for values and accuracy for classes.
Intervals are 95 %, over the splits of one table: they say nothing of another table or seed. Splits
share rows, which makes intervals over them too narrow; they are widened for that by the rule of
Nadeau and Bengio (2003), the variance of a mean of J splits being (1/J + n_test / n_train) times
that of the splits; n_train are the rows that were fitted, 200 or all. A model stands beside that
common method which has the best mean on the same splits, chosen after the fact. It is *ahead* or
*behind* where the interval of the difference, split by split, leaves out zero, and *not apart*
elsewhere. No architecture is judged. The last rows of each section are losses on test episodes as
in training, with intervals over these; the algorithms beside them are tuned on such episodes.
"""

STUDY = Study(
    name="tabular",
    title="Tables",
    introduction=INTRODUCTION,
    claimed_by="nobody",
    reading=READING,
    shows_trainings=True,
    figures=FIGURES,
    ships=SHIPS,
    needs={"sklearn": "estimators"},
    full=Effort(seeds=(0,), num_episodes=1_000, num_validation=300),
    quick=Effort(seeds=(0,), share=0.01, num_episodes=100, num_validation=50, fewer_settings=True),
)

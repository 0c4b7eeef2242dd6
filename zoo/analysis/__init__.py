"""Functions of predictors and episodes: comparisons, constructions, figures."""

"""Predictors under suites of episodes: tables, figures, TensorBoard runs."""

"""What is measured of predictors: errors with intervals, and alignment with an algorithm."""

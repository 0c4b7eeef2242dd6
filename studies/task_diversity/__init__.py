"""What models learn from few or many functions: the pool they were drawn from, or regression."""

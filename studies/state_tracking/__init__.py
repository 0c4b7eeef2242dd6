"""Which recurrences keep track of a state for longer than they were trained."""

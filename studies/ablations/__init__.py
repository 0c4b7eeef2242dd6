"""Single tables of the docs: trainings with a part of the model changed, what was learned."""

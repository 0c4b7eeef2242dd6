"""Trainings with a part of the model changed."""

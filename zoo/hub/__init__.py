"""Checkpoints: directories that explain themselves."""

"""Trains and measures the figures of a study, and writes the page about it."""

from zoo.commands.door import enter

if __name__ == "__main__":
    enter("reproduce")

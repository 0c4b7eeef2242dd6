"""Trains a model on episodes drawn on the fly, measures it and exports it as a checkpoint."""

from zoo.commands.door import enter

if __name__ == "__main__":
    enter("train")

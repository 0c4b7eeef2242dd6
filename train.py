"""Trains a model on episodes drawn on the fly, measures it and exports it as a checkpoint."""

from zoo.commands.train import main

if __name__ == "__main__":
    main()

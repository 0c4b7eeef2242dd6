"""Trains and measures the figures of a study, and writes the page about it."""

from zoo.commands.reproduce import main

if __name__ == "__main__":
    main()

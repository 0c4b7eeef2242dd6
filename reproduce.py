"""Trains and measures what the paper's figures show, and writes the page about it."""

from zoo.commands.reproduce import main

if __name__ == "__main__":
    main()

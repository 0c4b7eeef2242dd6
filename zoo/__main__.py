"""The command line of the zoo: `python -m zoo --help`."""

from zoo.commands.door import enter

if __name__ == "__main__":
    enter("zoo")

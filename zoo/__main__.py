"""The command line of the zoo: `python -m zoo --help`."""

from zoo.commands.zoo import main

if __name__ == "__main__":
    main()

"""One checkpoint, looked into by one command.

python -m studies.inside NAME_OR_PATH [DIRECTORY]

NAME_OR_PATH is a checkpoint, as `zoo.load` takes it. DIRECTORY gets `inside.md` and its figures;
`runs/inside/NAME` unless given.
"""

import shlex
import sys
from pathlib import Path

from zoo.errors import first_line
from zoo.terminal import StoppedBySignal, exit_on_signals, outlive_readers, raise_on_signals

USAGE = "usage: python -m studies.inside NAME_OR_PATH [DIRECTORY]"


def main() -> None:
    """Reads the command line, to the exit of the process."""
    given = sys.argv[1:]
    if given in (["--help"], ["-h"]):
        print(f"{USAGE}\n\nMakes a page of what is inside a checkpoint, with four figures.")
        return
    if len(given) not in (1, 2):
        sys.exit(USAGE)
    exit_on_signals()
    outlive_readers()
    from rich.console import Console

    from studies.inside import one  # brings torch, which takes seconds

    raise_on_signals()
    directory = Path(given[1]) if len(given) == 2 else one.directory_of(given[0])
    command = shlex.join(["python", "-m", "studies.inside", *given])
    try:
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"the page is written to a directory, got the file {directory}")
        text, found = one.look(given[0], one.NUM_EPISODES, command, Console(stderr=True))
        place = one.write(text, found, directory)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {first_line(error)}")
    except StoppedBySignal as stopped:
        print(f"{stopped}; the page is written at the end", file=sys.stderr)
        sys.exit(128 + stopped.signum)
    print(place)


if __name__ == "__main__":
    main()

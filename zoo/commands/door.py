"""The way into every command: what needs nothing slow is done before anything slow is imported."""

import gc
import os
import sys
from importlib import import_module

from zoo.memory import keep_freed_memory
from zoo.terminal import exit_on_signals, outlive_readers, refuse_what_is_no_text
from zoo.threads import begin_to_look


def enter(command: str) -> None:
    """Runs a command of `zoo.commands`, from its first line to the exit of the process.

    Help, and what was mistyped, take none of torch, which takes seconds to import. A signal
    meanwhile ends the process at once, since nothing has been done; the command then says itself
    what it does at one.
    """
    gc.disable()  # among a million new objects that all stay it takes a fifth of the imports
    exit_on_signals()
    outlive_readers()
    refuse_what_is_no_text([*sys.argv[1:], os.getcwd()])
    if command != "zoo":  # the others read the settings in `configs`
        keep_freed_memory()
        begin_to_look()
        from zoo.commands.composing import prepare

        prepare(command, sys.argv)
    module = import_module(f"zoo.commands.{command}")
    gc.freeze()
    gc.enable()
    module.main()

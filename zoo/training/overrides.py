"""What is typed after `python train.py`: overrides as Hydra reads them, and paths in commands."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

# Of several runs (-m) alone; Hydra takes them for one run as well and makes nothing of them.
OF_SEVERAL_RUNS = ("hparams_search", "launcher", "hydra.sweep", "hydra.sweeper", "hydra.launcher")
ABSENT = "(nothing)"
PLUGINS = {
    "launcher=joblib": "hydra-joblib-launcher",
    "launcher=submitit": "hydra-submitit-launcher",
    "hparams_search=optuna": "hydra-optuna-sweeper",
}


def parse(override: str) -> Override:
    """An override as Hydra reads it.

    Raises:
        HydraException: If it cannot be read.
    """
    return OverridesParser.create().parse_overrides([override])[0]


def literal(text: str) -> str:
    """What to assign to a setting so that its value is the text, whatever `${...}` is in it."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def as_override(name: str, text: str) -> str:
    """`NAME=TEXT`, quoted such that Hydra reads exactly the text; not quoted for a shell."""
    if re.fullmatch(r"[\w.-]*/[\w./-]*", text, re.ASCII):  # without a slash: a number, null, ...
        return f"{name}={text}"
    # Hydra wants backslashes doubled before a quote, and nowhere else.
    inside = re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + (m[2] and '\\"'), literal(text))
    return f'{name}="{inside}"'


def short_path(path: Path | str) -> str:
    """The path from here, such that no program takes it for an option or a pattern."""
    relative = os.path.relpath(path)
    return relative if relative[0] in "./" or relative[0].isalnum() else f"./{relative}"


def typed_path(path: Path | str) -> str:
    """The path from here, quoted for a shell."""
    return shlex.quote(short_path(path))


def typed_override(name: str, path: Path | str) -> str:
    """`NAME=PATH` for Hydra, quoted for a shell."""
    return shlex.quote(as_override(name, short_path(path)))


def typed_resume(
    script: str, run_dir: Path | str, allow_targets: Sequence[str] = (), text: str | None = None
) -> str:
    """The command that goes on with a run, to be pasted into a shell."""
    words = ["python", short_path(script), as_override("resume", short_path(run_dir))]
    if allow_targets:
        words.append(f"allow_targets=[{','.join(allow_targets)}]")
    if text is not None:
        words.append(as_override("text", short_path(text)))
    return shlex.join(words)


def quote_paths(arguments: Sequence[str], file_of_run: str) -> list[str]:
    """The arguments, with the directories of runs quoted where Hydra would not take them as typed.

    `resume=DIRECTORY` is quoted if there is such a run, and `text=FILE` if there is such a file. A
    new directory, `hydra.run.dir=DIRECTORY`, is quoted if Hydra would not read a text there.

    Args:
        arguments: Of the command line.
        file_of_run: What every run directory holds.
    """
    quoted = []
    for argument in arguments:
        prefix, name, text = _split(argument)
        is_run = name == "resume" and text and (Path(text) / file_of_run).is_file()
        is_file = name == "text" and text and Path(text).is_file()
        is_new = name == "hydra.run.dir" and "${" not in text and not _is_text(argument)
        is_path = is_run or is_file or is_new
        quoted.append(prefix + as_override(name, text) if is_path else argument)
    return quoted


def check_plugins(arguments: Sequence[str]) -> None:
    """Raises ValueError if an argument asks for a launcher or sweeper that is not installed.

    To be called before Hydra, which would only say that it does not find a file.
    """
    for argument in arguments:
        if argument in PLUGINS:
            try:
                version(PLUGINS[argument])
            except PackageNotFoundError:
                raise ValueError(
                    f"{argument} needs {PLUGINS[argument]}: pip install -e '.[sweep]'"
                ) from None


def check_resume(arguments: Sequence[str], file_of_run: str) -> None:
    """Raises ValueError if an argument `resume=DIRECTORY` names no run.

    To be called before Hydra makes the directory.

    Args:
        arguments: Of the command line, after `quote_paths`.
        file_of_run: What every run directory holds.
    """
    for argument in arguments:
        _, name, text = _split(argument)
        if name != "resume":
            continue
        value = _value(argument)
        if value is not None and not (value and (Path(str(value)) / file_of_run).is_file()):
            raise ValueError(f"resume: {text} is not a run directory, it has no {file_of_run}")


def check_mode(overrides: Sequence[str], multirun: bool) -> None:
    """Raises ValueError if what is for one run is given to several (-m), or the other way round."""
    for text in overrides:
        override = parse(text)
        key = override.key_or_group.replace("/", ".")
        of_several = any(key == name or key.startswith(f"{name}.") for name in OF_SEVERAL_RUNS)
        if of_several and not multirun and override.value() is not None:
            raise ValueError(
                f"{text} is for several runs, and this is one: python train.py -m {text}"
            )
        if key == "hydra.run.dir" and multirun:
            raise ValueError(f"{text} is for one run; with -m: hydra.sweep.dir=DIRECTORY")


def check_sweep(arguments: Sequence[str], configs: Path) -> None:
    """Raises ValueError if Hydra would look for a setting before the choice that brings it.

    Hydra composes once without what a multirun goes through, to learn how to start it. A setting
    that only comes with `recipe=ONE,OTHER` is not there yet, and Hydra's message does not say
    what to do.

    Args:
        arguments: Of the command line.
        configs: The directory of `train.yaml`.
    """
    if not {"-m", "--multirun"} & {*arguments}:
        return
    try:
        overrides = [parse(argument) for argument in arguments if argument[:1] != "-"]
        choices = [o for o in overrides if (configs / o.key_or_group).is_dir()]
        swept = [o.input_line for o in choices if o.is_sweep_override()]
        if not swept:
            return
        settled = [o.input_line for o in choices if not o.is_sweep_override()]
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(configs)):
            composed = hydra.compose("train", [s for s in settled if s is not None])
    except HydraException:
        return  # Hydra will say what is wrong
    for override in overrides:
        key, plain = override.key_or_group, override.type == OverrideType.CHANGE
        if not plain or override in choices or override.is_sweep_override() or "hydra." in key:
            continue
        if OmegaConf.select(composed, key, default=ABSENT) == ABSENT:
            raise ValueError(
                f"{override.input_line}: with -m, Hydra looks for {key} before it takes "
                f"{' '.join(map(str, swept))}, and there is none yet; ++{override.input_line} is "
                "taken for every run"
            )


def typed_keys(overrides: Sequence[str]) -> set[str]:
    """Dotted names of what overrides speak for; each stands for all below it."""
    keys: set[str] = set()
    for override in map(parse, overrides):
        name = override.package or override.key_or_group.replace("/", ".")
        value = override.value()
        keys.update(_keys(name, value) if isinstance(value, dict) else [name])
    return keys


def _keys(prefix: str, value: Mapping[Any, Any]) -> Iterator[str]:
    if not value:
        yield prefix
    for name, part in value.items():
        key = f"{prefix}.{name}"
        yield from _keys(key, part) if isinstance(part, dict) else [key]


def _split(argument: str) -> tuple[str, str, str]:
    """The `+` or `++`, the name and the text of an override."""
    name, _, text = argument.partition("=")
    bare = name.lstrip("+")
    return name[: len(name) - len(bare)], bare, text


def _value(argument: str) -> Any:
    """What Hydra makes of an override; for what it cannot read, the text."""
    try:
        return OmegaConf.create([parse(argument).value()])[0]
    except (HydraException, OmegaConfBaseException):
        return argument.partition("=")[2]


def _is_text(argument: str) -> bool:
    try:
        return isinstance(parse(argument).value(), str)
    except HydraException:
        return False

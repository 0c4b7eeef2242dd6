"""What is typed after a command, composed ahead of it: help, and refusals that name what is near.

All names are those of `configs`. Torch is imported last, for what a model is given.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Transformer
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf

from zoo.commands.explained import groups_of, help_of, settings_of
from zoo.commands.settings import check_model, check_values
from zoo.errors import unknown
from zoo.files import CONFIGS
from zoo.registry import list_models
from zoo.threads import settle_arithmetic, take_free_cores
from zoo.training.directory import CONFIG
from zoo.training.overrides import check_plugins, check_resume, check_sweep, quote_paths

HELP = {"-h", "--help"}
SEVERAL = {"-m", "--multirun"}
# With these Hydra composes something that is not ours.
OTHER_CONFIGS = ("-cn", "-cp", "-cd", "--config-name", "--config-path", "--config-dir")


def prepare(command: str, arguments: list[str]) -> None:
    """Prints help and exits, exits with what is wrong in one line, or returns.

    Args:
        command: `train`, `evaluate` or `reproduce`.
        arguments: `sys.argv`; paths of runs in it are quoted as Hydra needs it.
    """
    arguments[1:] = quote_paths(arguments[1:], CONFIG)
    typed = arguments[1:]
    try:
        if command == "train":
            check_plugins(typed)
            check_resume(typed, CONFIG)
            check_sweep(typed, CONFIGS)
        ours = not any(argument.startswith(OTHER_CONFIGS) for argument in typed)
        if ours:
            config = composed(command, typed)
            if HELP & {*typed}:
                print(help_of(command, config))
                sys.exit()
            check_names(command, config)
            check_values(command, config)
        settle_arithmetic()  # before torch is imported
        take_free_cores()
        if ours and command == "train":
            check_model(config)
    except ValueError as error:
        sys.exit(f"error: {error}")


def composed(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration that is asked for, as plain data with Hydra's own; nothing is resolved.

    Of several runs (-m) it is the first; the choices of all of them are looked at.

    Raises:
        ValueError: If a group, a choice or a setting is unknown or cannot be read; one line.
    """
    several = bool(SEVERAL & {*arguments})
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        overrides = [*_overrides(arguments)]
        # What is tried in turn, without what cannot be listed: intervals that a search draws from.
        tried = {id(o): _values(o) if several else [str(o.input_line)] for o in overrides}
        groups = [o for o in overrides if _is_group(o)]
        settings = [o for o in overrides if o not in groups]
        first = {id(o): values[0] for o in overrides if (values := tried[id(o)])}
        config = _compose(command, [first[id(o)] for o in groups])
        for override in groups:
            for other in tried[id(override)][1:]:
                _compose(command, [first[id(o)] if o is not override else other for o in groups])
        for override in settings:
            _check_setting(command, config, override)
        return _compose(command, [*first.values()])


def check_names(command: str, config: dict[str, Any]) -> None:
    """Raises ValueError if a configuration names a model, predictor or study that there is not."""
    if command == "train" and isinstance(config["model"], dict):
        name = config["model"].get("name")
        if isinstance(name, str) and name not in list_models():
            raise ValueError(unknown("model", name, list_models()))
    elif command == "evaluate":
        from zoo.evaluation.names import check_predictors, check_solvers

        check_predictors(_names(config["predictors"]) + _names([config["compare_with"]]))
        check_solvers(_names(config["imitates"]))
    elif command == "reproduce":
        from studies.study import list_studies

        if config["study"] not in list_studies():
            raise ValueError(unknown("study", str(config["study"]), list_studies()))


def _names(given: Any) -> list[str | dict[str, Any]]:
    """What may be names; that other things are none is said where all settings are checked."""
    return [n for n in given if isinstance(n, str | dict)] if isinstance(given, list) else []


def _overrides(arguments: Sequence[str]) -> Iterator[Override]:
    flags = {a for a in arguments if a.startswith("-")} - HELP - SEVERAL
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    for argument in arguments:
        if argument.startswith("-") or (flags and "=" not in argument and argument[0] != "~"):
            continue  # a flag, or what belongs to one of Hydra's, as in --cfg job
        try:
            yield parser.parse_overrides([argument])[0]
        except HydraException as error:
            if "=" not in argument:
                raise ValueError(f"{argument!r} is no setting, which is NAME=VALUE") from None
            reason = [x for x in str(error).splitlines() if not x.startswith(("Error", "See"))]
            raise ValueError(f"{argument!r} cannot be read: {reason[0]}") from None


def _values(override: Override) -> list[str]:
    """An override of several runs as one for each of them; empty if they cannot be listed."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        return []
    values = override.sweep_iterator(Transformer.encode)
    return [f"{override.get_key_element()}={value}" for value in values]


def _is_group(override: Override) -> bool:
    """Whether it chooses a file, as Hydra sees it, and does not set a value."""
    return bool(_options(override.key_or_group)) and not isinstance(override.value(), dict)


def _compose(command: str, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        config = hydra.compose(command, [*overrides], return_hydra_config=True)
    except MissingConfigException as error:
        file = str(error.missing_cfg_file)
        if file.startswith("data/") and "." in file:
            raise ValueError(
                f"data={file.removeprefix('data/')}: data names a kind of episodes, no file; a "
                "table of your own is for zoo.estimators, docs/own_data.md, a text is text=FILE"
            ) from None
        group, _, name = file.rpartition("/")
        raise ValueError(unknown(group, name, _options(group))) from None
    except HydraException as error:
        text = str(error)
        if ambiguous := re.match("Ambiguous value for argument '(.*)'", text):
            name, _, values = ambiguous[1].partition("=")
            if (command, name) == ("reproduce", "figure"):
                raise ValueError(f"several figures are typed 'figure=[{values}]'") from None
            raise ValueError(
                f"{ambiguous[1]}: several values take several runs, python {command}.py -m"
            ) from None
        if absent := re.match("Could not override '(.*)'. No match in the defaults list", text):
            raise ValueError(unknown("group", absent[1], groups_of(command))) from None
        raise ValueError(text.splitlines()[0]) from None
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return plain


def _check_setting(command: str, config: dict[str, Any], override: Override) -> None:
    """Raises ValueError if an override is of a setting that there is not."""
    key, value = override.key_or_group, override.value()
    if "[" in key:  # Hydra knows
        return
    *path, last = key.split(".")
    new = override.type in (OverrideType.ADD, OverrideType.FORCE_ADD)
    inside: Any = config
    for depth, part in enumerate([*path, last]):
        above = ".".join([*path, last][:depth])
        if inside is None and above in groups_of(command):
            options = ", ".join(_options(above))
            raise ValueError(f"{key}: choose {above} first, {above}=NAME of {options}")
        if not isinstance(inside, dict):
            if not new and "${" not in str(inside):
                raise ValueError(f"{key}: {above} has no settings, it is {inside}")
            return
        known = {str(name): value for name, value in inside.items()}
        if not above:
            known = {**dict.fromkeys(groups_of(command)), **known}
        if part not in known:
            if new and depth > 0:  # what takes it says whether it may
                return
            what = f"setting of {above}" if above else "setting"
            names = [name for name in known if name not in ("hydra", "_target_")]
            raise ValueError(unknown(what, part, names, _elsewhere(config, last)))
        inside = known[part]
    group = key.replace(".", "/")
    if isinstance(inside, dict) and isinstance(value, str) and (choices := _options(group)):
        if value in choices:
            raise ValueError(f"{key} is a group of settings, chosen with {group}={value}")
        raise ValueError(unknown(group, value, choices))


def _options(group: str) -> list[str]:
    options: list[str] = GlobalHydra.instance().config_loader().get_group_options(group)
    return options


def _elsewhere(config: dict[str, Any], name: str) -> list[str]:
    """Settings of this name, wherever they stand."""
    return [
        setting
        for setting in settings_of(config)
        if setting.rpartition(".")[2] == name and not setting.startswith("hydra.")
    ]

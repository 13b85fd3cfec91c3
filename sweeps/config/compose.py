"""From what a user typed and the YAML folders to one checked SweepConfig; the only file that imports Hydra.

Hydra chooses and merges the files, one per group. Typed values are then written over the composition, those
of single elements (`model.widths.1=12`) over whole lists wherever they stand, and so are the values of a
searched trial: `load(overrides + space.overrides(values)).trial` is what `SearchSpace.apply(values)` builds,
without composing again.

Folders are searched in this order, the first file of a name wins: every `--config-dir`, `./conf`, ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growcore import keys
from growcore.config import TrialConfig, elements, suggest_name, trial_keys
from sweeps.config.errors import ConfigError, suggest_key
from sweeps.config.own_modules import importable_from
from sweeps.config.settings import (
    GROUPS,
    SCHEDULER_KEYS,
    TRIAL_GROUPS,
    SchedulerName,
    SweepConfig,
    build_trial,
    complete_part,
    get_key,
    is_element,
    set_key,
    sweep_keys,
)

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

# A setting of a method of one's own; that the method has it is checked when its module is known.
_OWN_OPTION = re.compile(r"(growth|pruning)\.options\.\w+")
_TRIAL_PARTS = (*TRIAL_GROUPS, *(key for key in trial_keys() if "." not in key))
# The key that says which option a part stands for, where no group file was chosen.
_KIND = {"growth": "method", "pruning": "method"}


@dataclass(kw_only=True, slots=True)
class _Request:
    """What the words of a command line ask for; a later word wins over an earlier one."""

    options: dict[str, str] = field(default_factory=dict)  # group -> option
    values: dict[str, Any] = field(default_factory=dict)  # dotted key -> value
    best: str | None = None  # name or path of a best file


def load(
    overrides: Sequence[str] = (),
    config_dirs: Sequence[Path] = (),
    *,
    searches: Sequence[str] = (),
    fixes: Sequence[str] = (),
) -> SweepConfig:
    """Compose, and check all but the space, which `SearchSpace.of` checks.

    Args:
        overrides: `GROUP=OPTION`, `KEY=VALUE` and `best=NAME` or `best=PATH`.
        config_dirs: folders of the user, searched before `./conf` and ours.
        searches: `KEY=DISTRIBUTION`, put into the space.
        fixes: `KEY=VALUE` or `GROUP=OPTION`, taken out of the space and set.

    Raises:
        ConfigError: an unknown key, group option or file, or a value out of range.
    """
    dirs = folders(config_dirs)
    request = _read([*overrides, *fixes], dirs)
    composer = _Composer(dirs)
    composed, choices = composer.compose(request.options)
    space = _edit_space(composed.pop("space", None) or {}, searches, fixes, request.values)
    _reject_unknown(composed)
    group_options = {
        group: composer.parts(group, request.options, composed, choices[group])
        for group in space
        if group in TRIAL_GROUPS
    }
    trial = {name: composed.pop(name) for name in _TRIAL_PARTS if name in composed}
    best = read_best(request.best, config_dirs) if request.best is not None else None
    if best is not None:
        trial = best.trial | {name: trial[name] for name in request.options if name in TRIAL_GROUPS}
        choices |= {g: _kind(trial, g) for g in TRIAL_GROUPS if g not in request.options}
    # An element of a list that is searched by its elements may be none of the list that trials share.
    shared = {
        key: value for key, value in request.values.items() if elements.list_of(key) not in {*space} - {key}
    }
    _write_values(shared, composed, trial, _chosen(group_options, space), space)
    config = SweepConfig.from_dict(
        composed
        | {
            "trial": trial,
            "space": space,
            "space_name": choices["space"],
            "choices": {group: choices[group] for group in TRIAL_GROUPS},
            "group_options": group_options,
            "overrides": [*overrides, *fixes],
            "searches": list(searches),
            "config_dirs": [str(Path(folder).resolve()) for folder in config_dirs],
            "recorded": best.recorded if best is not None else None,
        }
    )
    _reject_idle_of_scheduler(request.values, config.scheduler.name)
    _reject_without_effect(request.values, config.trial, config.space)
    return config


def _reject_without_effect(typed: Iterable[str], trial: TrialConfig, space: Mapping[str, Any]) -> None:
    """Refuse typed keys that do nothing; those that depend on searched ones are for `space.idle` to judge."""
    importable_from(Path.cwd())
    try:
        keys.check(trial)
        idle = keys.without_effect(trial, list(typed))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for key, effect in idle.items():
        if not any(name in space or name.partition(".")[0] in space for name in effect.keys):
            now = {name: get_key(trial.to_dict(), name) for name in effect.keys}
            has = " and ".join(f"{name} is {value}" for name, value in now.items())
            raise ConfigError(f"{key} has no effect: it needs {effect}, and {has}. Leave it out.")


def _reject_idle_of_scheduler(typed: Iterable[str], name: SchedulerName) -> None:
    effective = [f"scheduler.{key}" for key in SCHEDULER_KEYS[name]]
    known = ", ".join(effective) or "none"
    for key in typed:
        if key.startswith("scheduler.") and key not in ("scheduler.name", *effective):
            raise ConfigError(
                f"{key} has no effect under scheduler={name}; those that have: {known}. "
                f"Leave {key} out, or choose another scheduler."
            )


def folders(config_dirs: Sequence[Path] = ()) -> list[Path]:
    """Folders of configuration files, the first to be searched first.

    Raises:
        ConfigError: one of `config_dirs` is no folder.
    """
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise ConfigError(f"--config-dir {folder} is no folder (looked in {Path(folder).resolve()}).")
    own = [Path("conf")] if Path("conf").is_dir() else []
    return list(dict.fromkeys(Path(f).resolve() for f in [*config_dirs, *own, _shipped()]))


def user_folder(config_dirs: Sequence[Path] = ()) -> Path:
    """The folder that new files of the user go to: the first `--config-dir`, else `./conf`."""
    return Path(config_dirs[0]) if config_dirs else Path("conf")


def options(group: str, dirs: Sequence[Path]) -> list[str]:
    """Names of a group's files in all folders, sorted."""
    return sorted({file.stem for folder in dirs for file in (folder / group).glob("*.yaml")})


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """A best file: a whole trial, and under the key `recorded` what is known of where it came from."""

    trial: dict[str, Any]
    recorded: dict[str, Any]


def read_best(reference: str, config_dirs: Sequence[Path] = ()) -> Best:
    """Read an exported trial configuration.

    Args:
        reference: the name of a file in the folders' `best/`, or a path that ends in .yaml.
        config_dirs: as in `load`.

    Raises:
        ConfigError: there is no such file, or it is no trial configuration.
    """
    dirs = folders(config_dirs)
    if reference.endswith((".yaml", ".yml")):
        path = Path(reference)
    else:
        found = [folder / "best" / f"{reference}.yaml" for folder in dirs]
        path = next((file for file in found if file.is_file()), found[0])
    if not path.is_file():
        raise ConfigError(
            f"There is no best={reference}: looked for {path}. {_known_best(dirs)} "
            "'sweeps best SWEEP --save NAME' writes one; a path ends in .yaml."
        )
    values = _parse_yaml(path.read_text(), str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold the keys of a trial; got {values!r}.")
    recorded = values.pop("recorded", None) or {}
    try:
        return Best(trial=build_trial(values).to_dict(), recorded=recorded)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _shipped() -> Path:
    package = Path(__file__).parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def _known_best(dirs: Sequence[Path]) -> str:
    names = options("best", dirs)
    return f"Known: {', '.join(names)}." if names else "None is saved yet."


def _kind(trial: Mapping[str, Any], group: str) -> str:
    return str(trial[group].get(_KIND.get(group, "name"), ""))


# Reading the command line


def _read(words: Iterable[str], dirs: Sequence[Path]) -> _Request:
    request = _Request()
    for word in words:
        key, text = _split(word)
        if key == "best":
            request.best = text
        elif key in GROUPS:
            request.options[key] = _option(key, text, dirs)
        else:
            known = _known_key(key)
            request.values[known] = read_value(word)
    return request


def _split(word: str) -> tuple[str, str]:
    key, equals, text = word.partition("=")
    if not equals:
        raise ConfigError(
            f"Cannot read '{word}': write KEY=VALUE or GROUP=OPTION, as in optimizer.lr=0.1 or space=demo."
        )
    _reject_interpolation(key, text)
    return key, text


def _option(group: str, option: str, dirs: Sequence[Path]) -> str:
    known = options(group, dirs)
    if option not in known:
        raise ConfigError(
            f"Unknown option {group}={option}. {suggest_name(option, known)} "
            f"One of your own is FOLDER/{group}/{option}.yaml with --config-dir FOLDER."
        )
    return option


def _known_key(key: str) -> str:
    if key == "space" or key.startswith("space."):
        raise ConfigError(f"'{key}' is part of the space: edit it with --search KEY=... or --fix KEY=VALUE.")
    known = trial_keys() + sweep_keys()
    if key not in known and not is_element(key) and not _OWN_OPTION.fullmatch(key):
        hint = suggest_key(key, [*known, *GROUPS, "best"])
        raise ConfigError(f"Unknown key '{key}'. {hint}")
    return key


def read_value(word: str) -> Any:
    """The value in KEY=VALUE by Hydra's grammar, as in `[8,8]` or `null`; the inverse of `quoting.quote`.

    Raises:
        ConfigError: it cannot be read, or gives several values.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, text = word.partition("=")
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ConfigError(
            f"Cannot read the value of {key}={text}. Quote a text that is not one word, "
            f"for example {key}=\"'a, b'\"."
        ) from error
    if parsed.is_sweep_override():
        raise ConfigError(
            f"{key}={text} gives several values. To search over them: --search {key}='{{choice: [...]}}'."
        )
    return _unquoted(parsed.value())


def _unquoted(value: Any) -> Any:
    """Hydra keeps quotes in a nested value as an object with the text inside."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    if isinstance(value, dict):
        return {str(_unquoted(key)): _unquoted(item) for key, item in value.items()}
    return value.text if isinstance(value, QuotedString) else value


def _edit_space(
    space: dict[str, Any], searches: Sequence[str], fixes: Sequence[str], values: Mapping[str, Any]
) -> dict[str, Any]:
    """The space with what is searched, without what is fixed; of a whole list that goes with its elements."""
    fixed = [_split(word)[0] for word in fixes]
    searched = {key: _parse_yaml(text, f"--search {key}") for key, text in map(_split, searches)}
    if both := sorted(set(fixed) & set(searched)):
        raise ConfigError(f"{both[0]} is both searched and fixed: keep one of --search and --fix.")
    replaced = {*fixed, *searched}
    kept = {
        key: value
        for key, value in (space | searched).items()
        if key in searched or (key not in fixed and elements.list_of(key) not in replaced - {key})
    }
    # Where a list is searched by its elements, the others still are.
    return kept | {
        key: {"value": values[key]} for key in fixed if is_element(key) and elements.list_of(key) in kept
    }


def _parse_yaml(text: str, where: str) -> Any:
    """YAML as Hydra reads it: 1e-3 is a number, unlike in PyYAML."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    _reject_interpolation(where, text)
    indented = "\n".join(f"  {line}" for line in text.splitlines())
    try:
        return OmegaConf.to_container(OmegaConf.create(f"value:\n{indented}\n"))["value"]  # type: ignore[index,call-overload]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{where} is no valid YAML: {str(error).splitlines()[0]}.") from error


def _reject_interpolation(where: str, text: str) -> None:
    if "${" in text:
        raise ConfigError(
            f"{where} holds '${{...}}', which would be replaced when it is read: got {text!r}. "
            "Write the value itself."
        )


# Composing


class _Composer:
    """The configuration files of some folders, as Hydra sees them."""

    def __init__(self, dirs: Sequence[Path]) -> None:
        self._dirs = dirs
        self._loader = _loader(dirs)

    def compose(self, chosen: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
        """Plain values, and the option taken of every group."""
        import yaml
        from hydra.errors import HydraException
        from hydra.types import RunMode
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        words = [f"{group}={option}" for group, option in chosen.items()]
        try:
            found = self._loader.load_configuration("config", words, RunMode.RUN, from_shell=False)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"The configuration files do not compose: {error}") from error
        choices = dict(found.hydra.runtime.choices)
        values: dict[str, Any] = {str(key): found._get_node(key) for key in found if key != "hydra"}
        plain = OmegaConf.to_container(OmegaConf.create(values))
        assert isinstance(plain, dict)
        _reject_interpolations(plain, "")
        return {str(key): value for key, value in plain.items()}, choices

    def parts(
        self, group: str, chosen: Mapping[str, str], base: Mapping[str, Any], taken: str
    ) -> dict[str, dict[str, Any]]:
        """The part of a trial that each option of a group stands for; `base` is composed with `taken`."""
        found = {}
        for option in options(group, self._dirs):
            composed = base if option == taken else self.compose({**chosen, group: option})[0]
            for name in _TRIAL_PARTS:
                if name != group and composed.get(name) != base.get(name):
                    raise ConfigError(
                        f"{group}={option} also sets '{name}', so the group cannot be searched: "
                        f"let {group}/{option}.yaml set keys of '{group}' only."
                    )
            found[option] = complete_part(group, composed[group] or {})
        return found


def _loader(dirs: Sequence[Path]) -> ConfigLoaderImpl:
    """A loader of its own, since Hydra's `initialize` is global to the process and knows one folder first."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra.core.plugins import Plugins

    Plugins.instance()  # registers the file:// and pkg:// sources
    version.setbase("1.3")
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    for index, folder in enumerate(dirs):
        path.append("main" if index == len(dirs) - 1 else f"user{index}", f"file://{folder}")
    path.append("schema", "structured://")
    return ConfigLoaderImpl(config_search_path=path)


def _reject_unknown(composed: Mapping[str, Any]) -> None:
    known = [*_TRIAL_PARTS, *dict.fromkeys(key.split(".")[0] for key in sweep_keys())]
    for key in composed:
        if key not in known:
            raise ConfigError(f"Unknown key '{key}' in the configuration files. {suggest_name(key, known)}")


def _reject_interpolations(value: Any, key: str) -> None:
    if isinstance(value, str):
        _reject_interpolation(key, value)
    elif isinstance(value, dict):
        for name, item in value.items():
            _reject_interpolations(item, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for item in value:
            _reject_interpolations(item, key)


def _write_values(
    values: Mapping[str, Any],
    composed: dict[str, Any],
    trial: dict[str, Any],
    group_options: Mapping[str, Mapping[str, dict[str, Any]]],
    space: Mapping[str, Any],
) -> None:
    known = trial_keys()
    # An element goes over its list, which may be typed too.
    for key, value in sorted(values.items(), key=lambda item: is_element(item[0])):
        of_trial = key in known or is_element(key) or _OWN_OPTION.fullmatch(key)
        target = trial if of_trial else composed
        part, _, name = key.partition(".")
        if name:
            target[part] = target.get(part) or {}
        try:
            _write(target, key, value)
        except ConfigError:  # no such element; where none would do anything, that is said first
            _reject_without_effect([key], build_trial(trial), space)
            raise
        for option in group_options.get(part, {}).values():
            _write({part: option}, key, value)


def _write(values: dict[str, Any], key: str, value: Any) -> None:
    """As `set_key`, where a short file may leave a list to its default."""
    part, _, listed = elements.list_of(key).partition(".")
    if is_element(key) and listed not in values[part]:
        values[part][listed] = complete_part(part, values[part])[listed]
    set_key(values, key, value)


def _chosen(
    group_options: Mapping[str, dict[str, dict[str, Any]]], space: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, Any]]]:
    """The options of searched groups that some trial has."""
    found = {}
    for group, options in group_options.items():
        raw = space[group]
        named = [*raw.values()] if isinstance(raw, Mapping) else [raw]
        texts = {str(each) for value in named for each in (value if isinstance(value, list) else [value])}
        found[group] = {name: part for name, part in options.items() if name in texts}
    return found

"""Commands over the life of a sweep, each an iterator of the lines it prints: stop, logs, rm, gc."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from sweeps.cli.commands import root_option
from sweeps.config.schema import ConfigError
from sweeps.kept import events, replicates
from sweeps.records import disk, retention, tracking_store
from sweeps.run import lease
from sweeps.search import delete_study, list_studies, study_url
from sweeps.views import logs

_POLL_SECONDS = 0.5
_REMIND_SECONDS = 10.0


def stop(root: Path, name: str) -> Iterator[str]:
    """Ask a sweep's driver, wherever it runs, to stop as one Ctrl-C does, and wait until it has."""
    disk.read_plan(root, name)
    url = study_url(root)
    resume = f"sweeps resume {name}{root_option(root.absolute())}"
    asked = _live(root, name)
    if asked is None or not lease.ask_to_stop(url, name, asked):
        yield f"{name} is not running. To continue it: {resume}"
        return
    yield f"asked {asked} to stop: running trials write a checkpoint first"
    reminded = time.monotonic()
    while (found := lease.holder(url, name)) is not None and found.owner == asked.owner:
        if not found.is_live:
            yield f"{asked.host} does not answer any more: its driver is dead."
            break
        if time.monotonic() - reminded > _REMIND_SECONDS:
            reminded = time.monotonic()
            yield f"still stopping; its last sign of life is {found.age:.0f} s old"
        time.sleep(_POLL_SECONDS)
    yield f"{name} has stopped. To continue it: {resume}"


def show_logs(root: Path, identity: str, follow: bool, as_json: bool) -> Iterator[str]:
    """What the drivers of SWEEP said, or what happened in SWEEP/NUMBER or SWEEP/NUMBER/REPLICATE."""
    name, _, number = identity.partition("/")
    metric = disk.read_config(root, name).search.metric
    folder = _trial_folder(root / name, number) if number else None
    trial = root / name / number.split("/")[0]

    def read() -> Iterator[str]:
        if as_json:
            return logs.raw(root / name, folder)
        if folder is None:
            return logs.of_sweep(root, name)
        return chain(_where_replicates_log(root, folder), logs.of_trial(folder, trial, metric))

    def is_over() -> bool:
        if folder is not None and (trial / events.OUTCOME).exists():
            return True
        return _live(root, name) is None

    return logs.follow(read, is_over) if follow else read()


def _trial_folder(sweep: Path, number: str) -> Path:
    folder = sweep / number
    words = number.split("/")
    if len(words) > 2 or not all(word.isdigit() for word in words) or not (sweep / words[0]).is_dir():
        numbers = sorted(int(path.name) for path in sweep.iterdir() if path.name.isdigit())
        raise ConfigError(f"{sweep.name} has no trial {number}. Its trials: {_span(numbers) or 'none yet'}.")
    if not folder.is_dir():
        indices = [int(path.name) for path in replicates.found(folder.parent)]
        known = _span(indices) or "none, as it is trained once"
        raise ConfigError(f"{sweep.name}/{words[0]} has no replicate {words[1]}. Its replicates: {known}.")
    return folder


def _span(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if numbers else ""


def _where_replicates_log(root: Path, folder: Path) -> list[str]:
    """What stands above the log of a trial whose events are means."""
    found = [path.relative_to(root).as_posix() for path in replicates.found(folder)]
    if not found:
        return []
    command = f"sweeps logs {found[0]}{root_option(root.absolute())}"
    return [
        f"{logs.UNDATED}means over {len(found)} seeds, ± standard error; each has a log of its own, "
        f"{found[0]} to {found[-1]}: {command}"
    ]


def remove(root: Path, name: str, keep_records: bool, confirm: Callable[[str], bool]) -> Iterator[str]:
    """Remove a sweep for good; done again where it was interrupted, it removes the rest.

    Args:
        root: storage root.
        name: of the sweep.
        keep_records: leave what MLflow has of it.
        confirm: asked with what goes; False: nothing goes.

    Raises:
        ConfigError: there is no such sweep, or it is running.
    """
    config = disk.read_config(root, name)
    folder, url = root / name, study_url(root)
    uri = None if keep_records else config.tracking.uri or tracking_store.default_uri(root)
    with lease.held(url, name):
        pass  # refused here where it runs: nobody is asked in vain
    num = sum(path.name.isdigit() for path in folder.iterdir())
    also = "" if uri is None else ", and its records in MLflow are marked as deleted"
    what = f"{name}: {num} trials, {retention.size(folder) / 1e6:,.1f} MB in {folder}"
    if not confirm(f"{what}{also}"):
        yield "nothing was removed"
        return
    with lease.held(url, name):  # nobody resumes it meanwhile
        if uri is not None:
            num_runs = tracking_store.delete_runs(uri, config.tracking.experiment, name)
            yield f"{num_runs} records in MLflow deleted"
        delete_study(url, name)
        _remove_folder(folder)
    yield f"removed {what}"


def _remove_folder(folder: Path) -> None:
    # What has a plan is a sweep, so it goes last: until then this can be done again.
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != disk.PLAN:
            path.unlink()
    shutil.rmtree(folder)


def collect(root: Path, names: Sequence[str], keep: int, dry_run: bool) -> Iterator[str]:
    """Remove checkpoints that nobody needs, of these sweeps or of all."""
    total = 0
    for name in names or _names(root):
        study = disk.open_study(root, name)
        freed = retention.collect(study, root / name, keep, dry_run)
        total += freed
        yield f"{name}: {freed / 1e6:,.1f} MB"
    verb = "would be freed" if dry_run else "freed"
    yield f"{total / 1e6:,.1f} MB {verb}; kept: checkpoints of the best {keep}, of the Pareto front, and of "
    yield "trials that have not ended"


def _names(root: Path) -> list[str]:
    if not (root / "optuna.db").is_file():
        return []
    return [row.name for row in list_studies(study_url(root))]


def _live(root: Path, name: str) -> lease.Holder | None:
    if not (root / "optuna.db").is_file():
        return None
    found = lease.holder(study_url(root), name)
    return found if found is not None and found.is_live else None

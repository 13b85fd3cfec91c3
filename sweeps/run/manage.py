"""What is done to sweeps that are there: listed, stopped, removed, freed of checkpoints."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sweeps.kept import events
from sweeps.kept.trials import StudyRow
from sweeps.records import disk, retention, tracking_store
from sweeps.run import lease
from sweeps.search import delete_study, list_studies, study_url
from sweeps.views import command_line

_POLL_SECONDS = 0.5
_REMIND_SECONDS = 10.0


def stop(root: Path, name: str) -> Iterator[str]:
    """Ask a sweep's driver, wherever it runs, to stop as one Ctrl-C does, and wait until it has."""
    disk.read_plan(root, name)
    url = study_url(root)
    resume = command_line.resume(root.absolute(), name)
    asked = live_driver(root, name)
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
    for name in names or [row.name for row, _ in every_sweep(root)]:
        study = disk.open_study(root, name)
        freed = retention.collect(study, root / name, keep, dry_run)
        total += freed
        yield f"{name}: {freed / 1e6:,.1f} MB"
    verb = "would be freed" if dry_run else "freed"
    yield f"{total / 1e6:,.1f} MB {verb}; kept: checkpoints of the best {keep}, of the Pareto front, and of "
    yield "trials that have not ended"


def every_sweep(root: Path) -> list[tuple[StudyRow, str]]:
    """Every sweep under a storage root, oldest first, and its status: running on HOST, complete, interrupted
    or failed.
    """
    if not (root / "optuna.db").is_file():
        return []
    url = study_url(root)
    rows, holders = list_studies(url), lease.holders(url)
    return [(row, _status(root / row.name, row, holders.get(row.name))) for row in rows]


def _status(folder: Path, row: StudyRow, holder: lease.Holder | None) -> str:
    if holder is not None and holder.is_live:
        return f"running on {holder.host}"
    noted = events.read_json(folder / events.OUTCOME) or {}
    if noted.get("status") == "failed" or (row.is_over and row.best is None):
        return "failed"
    return "complete" if row.is_over else "interrupted"


def live_driver(root: Path, name: str) -> lease.Holder | None:
    """Who runs a sweep; None where nobody does."""
    if not (root / "optuna.db").is_file():
        return None
    found = lease.holder(study_url(root), name)
    return found if found is not None and found.is_live else None

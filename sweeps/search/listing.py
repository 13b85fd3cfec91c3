"""The sweeps of a database as a whole: list them, remove one."""

from __future__ import annotations

from contextlib import suppress

import optuna

from sweeps.kept.trials import StudyRow
from sweeps.search.storage import open_storage
from sweeps.search.study import Study


def delete_study(url: str, name: str) -> None:
    """Remove a sweep's trials for good; nothing where there is no such sweep."""
    with suppress(KeyError):
        optuna.delete_study(study_name=name, storage=open_storage(url))


def list_studies(url: str) -> list[StudyRow]:
    """Every sweep in a database, oldest first."""
    storage = open_storage(url)
    names = [study.study_name for study in storage.get_all_studies()]
    return [Study(optuna.load_study(study_name=name, storage=storage)).summary() for name in names]

"""The search: a durable study of trials and what chooses the next one; the only home of Optuna.

rows       what a study hands out and gives back, as plain values
goals      objectives and constraints
ranking    which trials are best
samplers   what chooses the next trial, with its options and its limits
storage    the database
frozen     from Optuna's trials to rows
study      ask and tell, over Optuna's storage
listing    all sweeps of a database
"""

from sweeps.search.goals import Constraint, Goals
from sweeps.search.listing import delete_study, list_studies
from sweeps.search.rows import (
    Assignment,
    Change,
    Exhausted,
    Outcome,
    SamplerSettings,
    Space,
    StudyRow,
    TrialRow,
    TrialState,
)
from sweeps.search.samplers import Key, limits
from sweeps.search.storage import open_storage, study_url
from sweeps.search.study import Study

__all__ = [
    "Assignment",
    "Change",
    "Constraint",
    "Exhausted",
    "Goals",
    "Key",
    "Outcome",
    "SamplerSettings",
    "Space",
    "Study",
    "StudyRow",
    "TrialRow",
    "TrialState",
    "delete_study",
    "limits",
    "list_studies",
    "open_storage",
    "study_url",
]

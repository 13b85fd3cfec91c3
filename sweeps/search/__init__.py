"""The search: a durable study of trials and what chooses the next one; the only home of Optuna.

asking      what a study asks of a space
goals       objectives and constraints
ranking     which trials are best
samplers    what chooses the next trial, with its options and its limits
storage     the database
attributes  what a study keeps beside its trials
duplicates  configurations it has had
frozen      from Optuna's trials to rows
study       ask and tell, over Optuna's storage
listing     all sweeps of a database
"""

from sweeps.search.asking import Exhausted, Space
from sweeps.search.goals import Constraint, Goals
from sweeps.search.listing import delete_study, list_studies
from sweeps.search.samplers import Key, SamplerSettings, limits
from sweeps.search.storage import open_storage, study_url
from sweeps.search.study import Study

__all__ = [
    "Constraint",
    "Exhausted",
    "Goals",
    "Key",
    "SamplerSettings",
    "Space",
    "Study",
    "delete_study",
    "limits",
    "list_studies",
    "open_storage",
    "study_url",
]

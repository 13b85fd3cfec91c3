"""The whole loop: train, edit, evaluate, report."""

from .loop import Training as Training
from .report import EditRecord as EditRecord
from .report import Report as Report
from .report import TrialFailed as TrialFailed
from .report import TrialInfeasible as TrialInfeasible

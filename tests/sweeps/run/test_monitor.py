"""When a run is stopped because its trials fail."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import pytest
from stand_in import RANDOM, LearningRates

from sweeps.kept.trials import Outcome
from sweeps.run.monitor import FailureWatch, Stop, stop_on_signal
from sweeps.search import Study


def end(study: Study, watch: FailureWatch, kinds: str) -> None:
    """Trials that end one after the other: c complete, s stopped, i infeasible, f failed."""
    for kind in kinds:
        number = study.ask(LearningRates()).number
        if kind == "c":
            study.complete(number, 0.5, Outcome())
        elif kind == "s":
            study.stop(number, 0.5, 1, Outcome(), "behind")
        elif kind == "i":
            study.reject(number, "infeasible: dead", Outcome())
        else:
            study.fail(number, "the loss became nan", Outcome())
        watch.ended(study.row(number))


@pytest.mark.parametrize(
    ("kinds", "failed"), [("fffffff", 0), ("ffffcccc", 0), ("fffffccc", 5), ("sssssiiiiifff", 0)]
)
def test_failed_trials_stop_a_run_and_stopped_or_infeasible_ones_never_do(kinds, failed):
    study, stop, said = Study.create("sqlite://", "s", RANDOM), Stop(), []
    end(study, FailureWatch(0.5, stop, said.append), kinds)
    assert stop.asked == (failed > 0)
    if failed:
        assert stop.failure.startswith("5 of 8 trials failed, more than sweep.max_failed=0.5 allows")
        assert stop.failure.endswith("5 of them: the loss became nan")
        assert len(said) == 1


def test_a_run_that_resumes_counts_its_own_failures():
    study, stop, said = Study.create("sqlite://", "s", RANDOM), Stop(), []
    end(study, FailureWatch(0.5, Stop(), said.append), "ffffffff")
    end(study, FailureWatch(0.5, stop, said.append), "ccccccff")
    assert not stop.asked


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_way_of_asking_to_stop_is_one_stop(number):
    stop, said = Stop(), []
    before = signal.getsignal(number)
    with stop_on_signal(stop, SimpleNamespace(say=said.append)):
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        assert stop.asked
    assert len(said) == 1
    assert signal.getsignal(number) is before

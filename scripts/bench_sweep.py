"""What the service costs beside training, against plain Ray Tune with OptunaSearch and MLflowLoggerCallback.

    python scripts/bench_sweep.py [--trials 20] [--seconds 1] [--most 5000]

Both stacks run trials that import torch, sleep and report, on two slots of a local Ray and with MLflow in
SQLite; the plain one with its defaults. Each part is a process of its own, so that no part inherits another's
imports, settings or memory. Prints one table; keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeps.config import compose
from sweeps.kept import events
from sweeps.space.search_space import SearchSpace
from sweeps.trial.worker import SweepTrial
from sweeps.views.tables import columns

NUM_SLOTS = 2
NUM_REPORTS = 5  # of a trial
NUM_METRICS = 15  # of a report
TRAINING_SECONDS = 10.0  # of the trial whose share of slot time is told
NUM_ASKS = 10  # timed at every number of trials
MILESTONES = (10, 100, 1_000, 5_000)
RECORDED = (10, 20)  # trials, reports of each

Values = dict[str, Any]


def metrics(epoch: int, **more: float) -> dict[str, float]:
    """What a trial reports: as many numbers as a real one."""
    named = {"val/accuracy": 0.5 + 0.01 * epoch, "cost/train_flops": 1e9 * epoch, "model/parameters": 1e4}
    filled = {f"model/width/conv{i}": 8.0 for i in range(NUM_METRICS - len(named) - len(more))}
    return named | filled | more


# Whole sweeps


@dataclass(frozen=True)
class StubReport:
    """Shaped like growcore's."""

    step: int
    epoch: int
    metrics: dict[str, float]
    edits: list[Values]
    finished: bool

    def to_dict(self) -> Values:
        return asdict(self)


class StubTraining:
    """Sleeps and reports when it began and ended."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __iter__(self) -> Iterator[StubReport]:
        import torch  # noqa: F401

        began = time.time()
        for epoch in range(1, NUM_REPORTS + 1):
            time.sleep(self._seconds / NUM_REPORTS)
            values = metrics(epoch, began=began, ended=time.time())
            yield StubReport(epoch, epoch, values, [], epoch == NUM_REPORTS)


class StubEngine:
    """An engine of StubTraining; its checkpoint is an empty folder."""

    seconds = 1.0

    def build(self, config: Any, device: str) -> StubTraining:
        return StubTraining(self.seconds)

    def full_train_flops(self, base: Any, device: str) -> float:
        return 1e9 * NUM_REPORTS

    def pause(self, training: StubTraining) -> None:
        """Nobody is preempted here."""

    def save(self, folder: Path, training: StubTraining) -> Path:
        path = folder / "step-000000001"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def newest(self, folder: Path) -> Path | None:
        return None

    def load(self, path: Path, training: StubTraining, device: str) -> int:
        raise NotImplementedError("stubs are not resumed")


class StubTrial(SweepTrial):
    """The service's own trial around a stub."""

    engine = StubEngine()


def run_service(num_trials: int, seconds: float) -> Values:
    """A whole sweep of ours: study in SQLite, run folder, records."""
    from sweeps.run import sweep

    StubTrial.engine.seconds = seconds
    with tempfile.TemporaryDirectory() as root, redirect_stdout(sys.stderr):
        words = ["space=demo", "scheduler=none", f"sweep.num_trials={num_trials}", f"storage.root={root}"]
        config = compose.load([*words, f"cluster.num_concurrent={NUM_SLOTS}"])
        began = time.perf_counter()
        result = sweep.launch(config, "bench", ["sweeps"], StubTrial)
        wall = time.perf_counter() - began
        last = [events.reports(result.folder / str(n))[-1]["metrics"] for n in range(num_trials)]
    return beyond_training(last) | {"wall": wall}


def run_plain(num_trials: int, seconds: float) -> Values:
    """The same trials through Tune, OptunaSearch and MLflowLoggerCallback."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    def train(config: Values) -> None:
        for report in StubTraining(seconds):
            tune.report(report.metrics)

    with tempfile.TemporaryDirectory() as root, redirect_stdout(sys.stderr):
        began = time.perf_counter()
        ray.init("local", _temp_dir=f"{root}/ray")
        tuner = tune.Tuner(
            train,
            param_space=plain_space(),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(),
                metric="val/accuracy",
                mode="max",
                num_samples=num_trials,
                max_concurrent_trials=NUM_SLOTS,
            ),
            run_config=tune.RunConfig(
                storage_path=root,
                callbacks=[MLflowLoggerCallback(f"sqlite:///{root}/mlflow.db", experiment_name="bench")],
            ),
        )
        results = tuner.fit()
        wall = time.perf_counter() - began
        ray.shutdown()
    return beyond_training([r.metrics for r in results if r.metrics]) | {"wall": wall}


def plain_space() -> Values:
    """The keys of the demo space as Tune writes them."""
    from ray import tune

    return {
        "optimizer.lr": tune.loguniform(1e-2, 0.5),
        "pruning.k1": tune.uniform(0.3, 0.8),
        "pruning.k2": tune.uniform(0.8, 0.95),
        "pruning.activity_threshold": tune.uniform(0.5, 0.8),
        "growth.every_epochs": tune.randint(1, 5),
        "growth.num_neurons": tune.randint(1, 9),
    }


def beyond_training(last: list[dict[str, float]]) -> Values:
    """Slot seconds of a warm trial beside its training, from the ends of trials on slots never idle."""
    ends = sorted(each["ended"] for each in last)[NUM_SLOTS - 1 :]
    slot_seconds = NUM_SLOTS * (ends[-1] - ends[0]) / (len(ends) - 1)
    return {"beyond": slot_seconds - statistics.mean(each["ended"] - each["began"] for each in last)}


# The searcher alone


def resident_mb() -> float:
    """Memory of this process."""
    import psutil

    return float(psutil.Process().memory_info().rss / 1e6)


def milestones(most: int, play: Callable[[int], None], ask: Callable[[], float]) -> Values:
    """Ask time and memory at each number of trials: `play(n)` runs n trials at random, `ask` times one."""
    rows, done = {}, 0
    for milestone in (m for m in MILESTONES if m <= most):
        play(milestone - done)
        rows[str(milestone)] = {"ask": statistics.median(ask() for _ in range(NUM_ASKS)), "mb": resident_mb()}
        done = milestone + NUM_ASKS
    return rows


class Unheard:
    """What a searcher says, to nobody."""

    def paused(self, number: int) -> None:
        """Nothing."""

    def ended(self, row: Any) -> None:
        """Nothing."""

    def give_up(self, reason: str) -> None:
        """Fails the benchmark."""
        raise RuntimeError(reason)

    def say(self, text: str) -> None:
        """Nothing."""


def search_service(most: int) -> Values:
    """Our searcher, its study in SQLite."""
    from sweeps.run.attempts import Attempts
    from sweeps.run.searcher import Goal, StudySearcher
    from sweeps.search import SamplerSettings, Study, study_url
    from sweeps.stopping.fidelity import METRICS

    space = SearchSpace.of(compose.load(["space=demo"]))
    result = {f"{METRICS}/{key}": value for key, value in metrics(1).items()}

    def searcher(study: Study) -> StudySearcher:
        return StudySearcher(
            study,
            space,
            Goal(fidelity="epoch"),
            job=asdict,
            capacity=lambda: 10**6,
            attempts=Attempts(folder, 0, print),
            listener=Unheard(),
        )

    def trial(searcher: StudySearcher) -> float:
        name = uuid.uuid4().hex[:8]
        began = time.perf_counter()
        assert isinstance(searcher.suggest(name), dict)
        seconds = time.perf_counter() - began
        final = {**result, "epoch": 1.0, "ending": "finished"}
        final[f"{METRICS}/val/accuracy"] = searcher._study.num_asked() % 97 / 97
        searcher.on_trial_result(name, final)
        searcher.on_trial_complete(name, final)
        return seconds

    with tempfile.TemporaryDirectory() as root:
        folder, url = Path(root), study_url(Path(root))
        drawn = searcher(Study.create(url, "bench", SamplerSettings(name="random"), budget=10**6))
        modelled = searcher(Study.load(url, "bench", SamplerSettings(name="tpe")))
        return milestones(most, lambda n: repeat(n, lambda: trial(drawn)), lambda: trial(modelled))


def search_plain(most: int) -> Values:
    """OptunaSearch, which keeps its study in memory."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = OptunaSearch(metric="val/accuracy", mode="max")
    search.set_search_properties(None, None, plain_space())
    study = search._ot_study
    drawn, modelled = optuna.samplers.RandomSampler(seed=0), study.sampler

    def trial(sampler: Any) -> float:
        study.sampler = sampler
        name = uuid.uuid4().hex[:8]
        began = time.perf_counter()
        assert search.suggest(name) is not None
        seconds = time.perf_counter() - began
        value = len(study.get_trials(deepcopy=False)) % 97 / 97
        final = {**metrics(1), "val/accuracy": value, "training_iteration": 1}
        search.on_trial_result(name, final)
        search.on_trial_complete(name, final)
        return seconds

    return milestones(most, lambda n: repeat(n, lambda: trial(drawn)), lambda: trial(modelled))


def repeat(num: int, action: Callable[[], object]) -> None:
    """Do it `num` times."""
    for _ in range(num):
        action()


# Records


@contextmanager
def mlflow_server(root: str) -> Iterator[str]:
    """An MLflow server on 127.0.0.1 with one worker and SQLite."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--backend-store-uri", f"sqlite:///{root}/server.db", "--host", "127.0.0.1", "--workers", "1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *words, "--port", str(port)],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.3)
        yield url
    finally:
        server.terminate()
        server.wait()


def record_service() -> Values:
    """Reports a second from a run folder to the server, creating and closing runs included."""
    from sweeps.records import projection, tracking_store

    num_trials, num_reports = RECORDED
    with tempfile.TemporaryDirectory() as root, mlflow_server(root) as url:
        config = compose.load(["space=demo"])
        plan = {"command": "sweeps", "commit": None, "config": config.to_dict()}
        folder = Path(root) / "bench"
        folder.mkdir()
        (folder / "plan.yaml").write_text("bench\n")
        for number in range(num_trials):
            write_trial(folder / str(number), number, config.trial.to_dict(), num_reports)
        projector = projection.Projector(tracking_store.open_tracking(url, "bench", Path(root)), folder, plan)
        began = time.perf_counter()
        projector.project()
        return {"reports": num_trials * num_reports / (time.perf_counter() - began)}


def write_trial(folder: Path, number: int, config: Values, num_reports: int) -> None:
    """A finished trial's folder."""
    given = {"number": number, "params": {"optimizer.lr": 0.1}, "command": "sweeps train", "config": config}
    events.write_json(folder / events.GIVEN, given)
    writer = events.EventWriter(folder)
    for step in range(1, num_reports + 1):
        writer.write("report", StubReport(step, step, metrics(step), [], step == num_reports).to_dict())
    outcome = {"state": "complete", "reason": None, "value": 0.5, "checkpoint": None}
    events.write_json(folder / events.OUTCOME, outcome)


def record_plain() -> Values:
    """Reports a second through MLflowLoggerCallback."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class Trial:
        def __init__(self) -> None:
            self.config = {"optimizer.lr": 0.1}

    num_trials, num_reports = RECORDED
    with tempfile.TemporaryDirectory() as root, mlflow_server(root) as url:
        callback = MLflowLoggerCallback(url, experiment_name="bench")
        callback.setup()
        began = time.perf_counter()
        for _ in range(num_trials):
            trial: Any = Trial()
            callback.log_trial_start(trial)
            for step in range(1, num_reports + 1):
                callback.log_trial_result(step, trial, {**metrics(step), "training_iteration": step})
            callback.log_trial_end(trial)
        return {"reports": num_trials * num_reports / (time.perf_counter() - began)}


# The table

PARTS: dict[str, Callable[[argparse.Namespace], Values]] = {
    "run-service": lambda a: run_service(a.trials, a.seconds),
    "run-plain": lambda a: run_plain(a.trials, a.seconds),
    "search-service": lambda a: search_service(a.most),
    "search-plain": lambda a: search_plain(a.most),
    "record-service": lambda a: record_service(),
    "record-plain": lambda a: record_plain(),
}


def measure(part: str, arguments: list[str]) -> Values:
    """Run one part in a process of its own; its last line is its result."""
    words = [sys.executable, __file__, "--part", part, *arguments]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{part} failed:\n{run.stderr[-2000:]}")
    return dict(json.loads(run.stdout.splitlines()[-1]))


def table(found: dict[str, Values], trials: int, seconds: float) -> list[str]:
    """All parts, ours beside the plain stack."""
    rows = [["", "growsweep", "plain Tune stack"]]

    def add(what: str, part: str, cell: Callable[[Values], str]) -> None:
        rows.append([what, cell(found[f"{part}-service"]), cell(found[f"{part}-plain"])])

    add("slot seconds a trial beyond training, warm", "run", lambda v: f"{v['beyond']:.2f}")
    add(
        f"share of slot time training, {TRAINING_SECONDS:g} s trials",
        "run",
        lambda v: f"{TRAINING_SECONDS / (TRAINING_SECONDS + v['beyond']):.1%}",
    )
    add(
        f"seconds for {trials} trials of {seconds:g} s, start and end included",
        "run",
        lambda v: f"{v['wall']:.0f}",
    )
    for milestone in found["search-service"]:
        add(
            f"ms an ask at {int(milestone):,} trials",
            "search",
            lambda v, m=milestone: f"{1e3 * v[m]['ask']:.0f}",
        )
    for milestone in found["search-service"]:
        add(
            f"searcher process at {int(milestone):,} trials, MB",
            "search",
            lambda v, m=milestone: f"{v[m]['mb']:.0f}",
        )
    add(
        f"reports of {NUM_METRICS} metrics a second to an MLflow server",
        "record",
        lambda v: f"{v['reports']:.0f}",
    )
    return columns(rows, left={0})


def main() -> None:
    """Measure every part and print the table, or measure one part and print its JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20, help="trials of a whole sweep")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="training of each; 10 s shares are scaled from it"
    )
    parser.add_argument("--most", type=int, default=MILESTONES[-1], help="trials the searcher is driven to")
    parser.add_argument("--part", choices=PARTS, help="one part alone, as JSON")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.part:
        print(json.dumps(PARTS[given.part](given)))
        return
    arguments = [f"--trials={given.trials}", f"--seconds={given.seconds}", f"--most={given.most}"]
    found = {part: measure(part, arguments) for part in PARTS}
    print("\n".join(table(found, given.trials, given.seconds)))


if __name__ == "__main__":
    main()

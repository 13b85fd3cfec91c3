"""What people see in MLflow: a projection of the run folder; `sweeps.records.tracking_store` reaches it.

One parent run a sweep, one child run a trial; of a trial with several seeds, whose own run holds the means,
one child run a replicate. A run is looked up by its tag `growsweep.id` (SWEEP, SWEEP/NUMBER or
SWEEP/NUMBER/REPLICATE) before it is created, and a report that was sent once is not sent again, so projecting
a folder twice changes nothing. A thread of the driver sends what is new every second or so: while MLflow does
not answer records are late, training never waits, and nothing is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sweeps.config.settings import is_element
from sweeps.kept import events, replicates
from sweeps.records import tracking_store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ID = "growsweep.id"
_POLL_SECONDS = 1.0
_FLUSH_SECONDS = 60.0  # how long the end of a sweep waits for an MLflow that does not answer
_STATUS = {"complete": "FINISHED", "stopped": "KILLED", "infeasible": "KILLED", "failed": "FAILED"}
_ENDED = {"complete": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}  # a sweep
_MAX_PARAM = 6000  # characters MLflow keeps of a parameter
_MAX_BATCH = 1000  # metrics MLflow takes at once


@dataclass(slots=True)
class _Run:
    """How far the run of one trial or replicate has come."""

    run_id: str
    last_step: int
    seen: set[str] = field(default_factory=set)  # segment files


class Projector:
    """Sends a sweep's folder to MLflow, from a thread of its own.

    Example:
        >>> with Projector(tracking, folder, plan) as projector:
        ...     train()
        >>> projector.complaint  # None, or why records are missing
    """

    def __init__(
        self,
        tracking: tracking_store.Tracking | tracking_store.Awaited,
        folder: Path,
        plan: Mapping[str, Any],
    ) -> None:
        self._tracking = tracking
        self._folder = folder
        self._plan = plan
        self._sweep = folder.name
        self._client: MlflowClient | None = None
        self._parent: str | None = None
        self._runs: dict[Path, _Run] = {}  # by folder, of trials and of replicates
        self._done: set[Path] = set()  # folders of trials
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="records", daemon=True)
        self.complaint: str | None = None

    def __enter__(self) -> Projector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=_FLUSH_SECONDS + 30)

    @property
    def experiment_id(self) -> str:
        """Of the MLflow experiment that holds the runs."""
        return self._tracking.experiment_id

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._try()
            self._stopping.wait(_POLL_SECONDS)
        deadline = time.monotonic() + _FLUSH_SECONDS
        while not self._try() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _try(self) -> bool:
        try:
            self.project()
        except Exception as error:  # whatever MLflow or the network raises: the next pass tries again
            self.complaint = f"{type(error).__name__}: {error}".splitlines()[0]
            return False
        self.complaint = None
        return True

    def project(self) -> None:
        """Send everything that is new, once."""
        parent = self._open_parent()
        for folder in sorted(self._folder.iterdir()):
            if folder.name.isdigit() and folder not in self._done:
                self._project_trial(folder, parent)
        self._close_parent(parent)

    def _open_parent(self) -> str:
        if self._client is None:
            self._client = tracking_store.client(self._tracking.uri)
        if self._parent is None:
            tags = {"growsweep.kind": "sweep", "growsweep.sweep": self._sweep} | _tags(self._plan)
            self._parent, _ = self._find_or_create(self._sweep, self._sweep, tags)
            self._client.update_run(self._parent, status="RUNNING")
            self._log_params(self._parent, _flat({k: self._plan["config"][k] for k in _PLANNED}))
            self._client.log_artifact(self._parent, str(self._folder / "plan.yaml"))
        return self._parent

    def _close_parent(self, parent: str) -> None:
        summary = events.read_json(self._folder / events.OUTCOME)
        if summary is None or not self._stopping.is_set():
            return
        client = self._live()
        client.set_tag(parent, "growsweep.status", summary["status"])
        self._log_metrics(parent, summary["metrics"], 0, summary["time"])
        best = self._folder / "best.yaml"
        if best.exists():
            client.log_artifact(parent, str(best))
        client.update_run(parent, status=_ENDED[summary["status"]])

    def _project_trial(self, folder: Path, parent: str) -> None:
        # Read first: what was reported until then is sent below.
        outcome = events.read_json(folder / events.OUTCOME)
        trial = self._follow(folder, parent)
        if trial is None:
            return
        found = [each for each in replicates.found(folder) if self._follow(each, trial.run_id) is not None]
        if outcome is None:
            return
        for training in found or [folder]:
            self._log_training(training, outcome)
        for replicate in found:
            self._close(replicate, [replicate], outcome)
        self._close(folder, found or [folder], outcome)
        self._done.add(folder)

    def _follow(self, folder: Path, parent: str) -> _Run | None:
        """The run of a trial or replicate, with all it reported; None before it is known what it is."""
        run = self._runs.get(folder)
        if run is None:
            given = events.read_json(folder / events.GIVEN)
            if given is None:
                return None
            run = self._runs[folder] = self._open(folder, given, parent)
        for segment in events.segments(folder):
            if segment.name not in run.seen:
                self._ship(run, segment)
        return run

    def _open(self, folder: Path, given: Mapping[str, Any], parent: str) -> _Run:
        identity = folder.relative_to(self._folder.parent).as_posix()
        number, *replicate = folder.relative_to(self._folder).parts
        tags = {
            "growsweep.kind": "replicate" if replicate else "trial",
            "growsweep.sweep": self._sweep,
            "growsweep.trial": number,
            **({"growsweep.replicate": replicate[0]} if replicate else {}),
            "growsweep.status": "running",
            "mlflow.parentRunId": parent,
        } | _tags({**self._plan, "command": given["command"]})
        what = (
            f"/{replicate[0]} seed {given['config']['seed']}" if replicate else f" {_short(given['params'])}"
        )
        run_id, is_new = self._find_or_create(identity, f"{number}{what}"[:200], tags)
        # Once more where the run exists: a driver may have died between creating and describing it.
        searched = {key: value for key, value in given["params"].items() if is_element(key)}
        self._log_params(run_id, _flat(given["config"]) | searched)
        self._live().log_text(run_id, yaml.safe_dump(given["config"], sort_keys=False), "config.yaml")
        return _Run(run_id=run_id, last_step=-1 if is_new else self._last_step(run_id))

    def _ship(self, run: _Run, segment: Path) -> None:
        for event in events.read_segment(segment):
            if event["kind"] == "report" and event["step"] > run.last_step:
                metrics = {**event["metrics"], **self._errors(event), "epoch": event["epoch"]}
                self._log_metrics(run.run_id, metrics, event["step"], event["time"])
                run.last_step = event["step"]
        run.seen.add(segment.name)

    def _errors(self, report: Mapping[str, Any]) -> dict[str, float]:
        """Standard errors of the means people judge by, each under a name that sorts beside its mean."""
        if not report.get("errors"):
            return {}
        search = self._plan["config"]["search"]
        judged = {search["metric"], *search["further_objectives"]}
        return {
            f"{key} standard error": error
            for key, error in report["errors"].items()
            if key in judged or key.startswith(("val/", "test/"))
        }

    def _log_training(self, folder: Path, outcome: Mapping[str, Any]) -> None:
        """What is kept of a training once it is over."""
        client, run_id = self._live(), self._runs[folder].run_id
        edits = events.edits(folder)
        client.log_dict(run_id, {"edits": edits}, "edits.json")
        client.log_text(run_id, readable(edits), "edits.txt")
        if (path := _checkpoint(folder, outcome)) is not None:
            self._log_checkpoint(run_id, path)
        if findings := events.findings(folder):
            client.log_text(run_id, readable_findings(findings), "preflight.txt")

    def _close(self, folder: Path, trainings: list[Path], outcome: Mapping[str, Any]) -> None:
        """End the run of a trial, or of a replicate, as the trial ended."""
        client, run_id = self._live(), self._runs[folder].run_id
        given = events.read_json(folder / events.GIVEN)
        assert given is not None, "a run that was opened was given something"
        verdict = preflight_verdict(given["config"], outcome["state"], _findings(trainings))
        tags = {
            "preflight": verdict,
            "growsweep.reason": outcome["reason"],
            "growsweep.continued": outcome.get("continued"),
            "growsweep.status": outcome["state"],
        }
        for key, value in tags.items():
            if value:
                client.set_tag(run_id, key, value)
        client.update_run(run_id, status=_STATUS[outcome["state"]])

    def _log_checkpoint(self, run_id: str, path: Path) -> None:
        client = self._live()
        if path.is_dir():
            client.log_artifacts(run_id, str(path), "checkpoint")
        elif path.exists():
            client.log_artifact(run_id, str(path), "checkpoint")

    def _find_or_create(self, identity: str, name: str, tags: dict[str, str]) -> tuple[str, bool]:
        client = self._live()
        found = client.search_runs(
            [self._tracking.experiment_id], f"tags.`{ID}` = '{identity}'", max_results=1
        )
        if found:
            return str(found[0].info.run_id), False
        run = client.create_run(self._tracking.experiment_id, tags=tags | {ID: identity}, run_name=name)
        return str(run.info.run_id), True

    def _last_step(self, run_id: str) -> int:
        history = self._live().get_metric_history(run_id, "epoch")
        return max((point.step for point in history), default=-1)

    def _log_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:_MAX_PARAM]) for key, value in values.items()]
        for start in range(0, len(params), 100):
            self._live().log_batch(run_id, params=params[start : start + 100])

    def _log_metrics(self, run_id: str, values: Mapping[str, float], step: int, seconds: float) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_key(k), float(v), int(seconds * 1000), step) for k, v in values.items()]
        for start in range(0, len(metrics), _MAX_BATCH):
            self._live().log_batch(run_id, metrics=metrics[start : start + _MAX_BATCH])

    def _live(self) -> MlflowClient:
        assert self._client is not None
        return self._client


_PLANNED = ("space", "sweep", "search", "scheduler", "cluster")


def readable(edits: list[dict[str, Any]]) -> str:
    """The edit log for people: a line per edit."""
    lines = [
        f"epoch {e['epoch']:g}, step {e['step']}: {e['kind']} {e['layer']} by {e['number']}: {e['reason']}"
        f"{_signal(e['layer'], e.get('signal'))}"
        for e in edits
    ]
    return "\n".join(lines or ["no edits"]) + "\n"


def _signal(layer: str, signal: Mapping[str, float] | None) -> str:
    """What an edit did to the signal at its layer; nothing of an edit that was left."""
    if not signal or f"output_factor/{layer}" not in signal:  # a layer without neurons had no signal before
        return ""
    return (
        f" [second moment of {layer} x {signal[f'output_factor/{layer}']:.3g}, "
        f"of its gradient x {signal[f'gradient_factor/{layer}']:.3g}, "
        f"blocked units {signal[f'blocked_change/{layer}']:+.0%}, "
        f"effective rank {signal[f'rank_change/{layer}']:+.2g}]"
    )


def readable_findings(findings: list[dict[str, Any]]) -> str:
    """What the preflight found, for people: a line per finding."""
    lines = [f"{f['severity']}: {f['layer']}: {f['reason']} {f['fix']}" for f in findings]
    return "\n".join(lines) + "\n"


def preflight_verdict(
    config: Mapping[str, Any], state: str, findings: list[dict[str, Any]] | None
) -> str | None:
    """The tag `preflight`: ok, warn or fail; None where nothing was measured."""
    if findings is None:
        return "fail" if state == "infeasible" else None
    if config.get("preflight") == "off":
        return None
    severities = {finding["severity"] for finding in findings}
    return next((severity for severity in ("fail", "warn") if severity in severities), "ok")


def _findings(trainings: list[Path]) -> list[dict[str, Any]] | None:
    """What preflights found in all of these; None where one of them measured nothing."""
    told = [events.findings(each) for each in trainings]
    return None if None in told else [finding for each in told for finding in each or ()]


def _checkpoint(folder: Path, outcome: Mapping[str, Any]) -> Path | None:
    """The last checkpoint of a training that is complete; the outcome names that of the first replicate."""
    if outcome["state"] != "complete" or not outcome["checkpoint"]:
        return None
    named = Path(outcome["checkpoint"])
    if named.is_relative_to(folder):
        return named
    return max((folder / "checkpoints").glob("step-*"), default=None)


def _tags(plan: Mapping[str, Any]) -> dict[str, str]:
    tags = {"growsweep.command": str(plan["command"])}
    if plan.get("commit"):
        tags["mlflow.source.git.commit"] = tags["growsweep.git_commit"] = str(plan["commit"])
    return tags


def _short(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{k.rsplit('.', 1)[-1]} {v:.3g}" for k, v in params.items() if isinstance(v, float))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _key(name: str) -> str:
    """MLflow takes letters, digits, '_', '-', '.', ' ', ':' and '/' in a metric's name."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)

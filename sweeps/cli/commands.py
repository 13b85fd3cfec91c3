"""What each subcommand prints: one function per subcommand, for people or as JSON."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sweeps.config.schema import ConfigError
from sweeps.config.settings import SweepConfig
from sweeps.kept import events
from sweeps.kept.budget import described, limits
from sweeps.records import best
from sweeps.records.disk import read_config
from sweeps.run import lease
from sweeps.run.sweep import Result, open_study, read_plan
from sweeps.run.sweep import enqueue as enqueue_trial
from sweeps.run.sweep import extend as extend_budget
from sweeps.search import StudyRow, TrialState, list_studies, study_url
from sweeps.stopping.reached import reached
from sweeps.views import leaderboard

_MAX_ROWS = 20  # of the leaderboard that ends a sweep
_UI_SECONDS = 60  # MLflow's server has to answer within


def closing(result: Result) -> list[str]:
    """The last lines of a sweep: what came out, and the commands that lead on."""
    name = result.study.name
    took = f"{leaderboard.duration(result.seconds)}, {result.num_slots} slots {result.busy:.0%} busy training"
    counts = leaderboard.counts(result.study, read_config(result.folder.parent, name).sweep.replicates)
    lines = ["", f"{name}  {counts}{_ended(result)}    {took}"]
    lines += leaderboard.table(result.study, _MAX_ROWS, _width(), _reached(result.folder))
    if result.best is not None:
        path = relative(result.best)
        lines.append(f"best: {path}     rerun: sweeps train best={path}")
    root = root_option(result.folder.parent)
    if result.failure is not None:
        lines.append(f"failed: {result.failure}")
    if result.interrupted:
        verb = "interrupted: continue" if result.failure is None else "correct that, and continue"
        lines.append(f"{verb} with  sweeps resume {name}{root}")
    lines.append(f"look: sweeps show {name}{root}     sweeps ui {name}{root}")
    if result.complaint is not None:
        lines.append(
            f"MLflow did not answer ({result.complaint}): the records there are incomplete. All of them lie "
            f"in {relative(result.folder)}; sweeps resume {name}{root} sends what is missing."
        )
    return lines


def _ended(result: Result) -> str:
    """Which budget ended the sweep, where its trials do not say so themselves."""
    others = replace(result.study.budget, num_trials=None)
    if result.interrupted or result.ended_by is None or not limits(others):
        return ""
    return f", ended by {result.ended_by}"


def list_sweeps(root: Path, as_json: bool) -> str:
    """Every sweep under a storage root, oldest first."""
    url = study_url(root)
    there = (root / "optuna.db").is_file()
    rows, holders = (list_studies(url), lease.holders(url)) if there else ([], {})
    status = {row.name: _status(root / row.name, row, holders.get(row.name)) for row in rows}
    if as_json:
        told = [{**asdict(row), "num_trials": dict(row.num_trials)} for row in rows]
        return _json([{**values, "status": status[values["name"]]} for values in told])
    if not rows:
        return f"No sweeps under {root}. Start one with `sweeps launch`."
    states = [state.value for state in _LISTED]
    heads = ["sweep", "status", "started", "trials", *states, "best"]
    cells = [[*heads, "by"], *(_cells(row, status[row.name]) for row in rows)]
    return "\n".join(leaderboard.columns(cells, left={0, 1, len(heads)}))


_LISTED = (
    TrialState.complete,
    TrialState.stopped,
    TrialState.infeasible,
    TrialState.failed,
    TrialState.running,
)


def _cells(row: StudyRow, status: str) -> list[str]:
    return [
        row.name,
        status,
        f"{row.started:%Y-%m-%d %H:%M}" if row.started else "-",
        f"{sum(row.num_trials.values())}" + ("" if row.budget is None else f"/{row.budget}"),
        *(str(row.num_trials[state]) for state in _LISTED),
        "-" if row.best is None else f"{row.best:.4f}",
        row.metric,
    ]


def _status(folder: Path, row: StudyRow, holder: lease.Holder | None) -> str:
    """Running on HOST, complete, interrupted or failed."""
    if holder is not None and holder.is_live:
        return f"running on {holder.host}"
    noted = events.read_json(folder / events.OUTCOME) or {}
    if noted.get("status") == "failed" or (row.is_over and row.best is None):
        return "failed"
    return "complete" if row.is_over else "interrupted"


def show(root: Path, name: str, as_json: bool) -> str:
    """One sweep: every trial."""
    plan = read_plan(root, name)
    study = open_study(root, name)
    if as_json:
        values = {
            "name": name,
            "metric": study.metric,
            "command": plan["command"],
            "commit": plan["commit"],
            "budget": study.budget.to_dict(),
            "spent": study.spent.to_dict(),
            "trials": [asdict(e) for e in leaderboard.entries(study, _reached(root / name))],
        }
        return _json(values)
    num_replicates = SweepConfig.from_dict(plan["config"]).sweep.replicates
    lines = [
        f"{name}  {leaderboard.counts(study, num_replicates)}",
        *leaderboard.table(study, width=_width(), reached=_reached(root / name)),
    ]
    lines.append(f"spent: {described(study.budget, study.spent)}")
    return "\n".join([*lines, f"launched {plan['created']} by: {plan['command']}"])


def extend(root: Path, name: str, more: Mapping[str, str | None]) -> str:
    """Change what a sweep may spend."""
    given = {field: words for field, words in more.items() if words is not None}
    if not given:
        raise ConfigError("Say what there is to be more of, as in --trials +20, --hours +2 or both.")
    return _more(root, name, f"{name} may run {' or '.join(extend_budget(root, name, given))} now")


def enqueue(root: Path, name: str, words: Sequence[str]) -> str:
    """Add a trial to a sweep."""
    num_trials = enqueue_trial(root, name, words)
    room = "" if num_trials is None else f", which may run {num_trials} now"
    return _more(root, name, f"{' '.join(words)} is the next trial of {name}{room}")


def _more(root: Path, name: str, said: str) -> str:
    resume = f"sweeps resume {name}{root_option(root.absolute())}"
    return f"{said}. If it is not running: {resume}"


def export(root: Path, name: str, number: int | None, save: str | None, folder: Path, as_json: bool) -> str:
    """The best trial of a sweep, written as a best file.

    Args:
        root: storage root.
        name: of the sweep.
        number: a trial to take instead of the best.
        save: name of the file in the user's configuration folder; None: SWEEP/best.yaml.
        folder: that configuration folder.
        as_json: print the file's contents.
    """
    study = open_study(root, name)
    row = best.pick(study, number)
    path = folder / "best" / f"{save}.yaml" if save else root / name / "best.yaml"
    best.export(study, row, path)
    if as_json:
        return _json({"path": str(path), **best.document(study, row)})
    rerun = f"sweeps train best={save or path}"
    if save and folder != Path("conf"):
        rerun += f" --config-dir {folder}"
    e = leaderboard.entry(row, list(study.goals.objectives))
    others = [r.number for r in study.front() if r.number != row.number]
    if len(study.goals.objectives) > 1 and number is None and others:
        rule = f"It has the best {study.metric} of the Pareto front; others of it: --trial "
        rerun += f"\n{rule}{', '.join(map(str, others))}"
    return "\n".join(
        [
            f"trial {row.number} of {name}: {leaderboard.label(study.metric)} "
            f"{leaderboard.measured(e.value, e.error)}, {e.chosen}",
            f"saved: {path}     rerun: {rerun}",
            *(line for line in (best.seeds(row), best.caution(row)) if line is not None),
        ]
    )


def compare(root: Path, a: str, b: str, output: Path | None, as_json: bool) -> str:
    """Two sweeps or two trials at the same train FLOPs; writes a figure to `output`.

    Args:
        root: storage root of both.
        a: `SWEEP`, or `SWEEP/NUMBER`.
        b: of the same kind.
        output: the PNG file; None: compare-A-B.png under `root`.
        as_json: every number, for scripts.
    """
    from sweeps.views import compare as comparing

    first, second = comparing.read(root, a, b)
    found = comparing.compare(first, second)
    path = output or root / f"compare-{a}-{b}.png".replace("/", "-")
    comparing.figure(first, second, found, path)
    if as_json:
        return _json({**asdict(found), "ahead": found.ahead, "figure": str(path)})
    return "\n".join([*comparing.table(found), f"figure: {path}"])


def train(config: SweepConfig) -> list[str]:
    """Train one configuration here, and compare it with what its best file recorded.

    Raises:
        ConfigError: its data set is missing.
        growcore.training.TrialFailed: the loss is no longer finite.
    """
    folder = Path(config.storage.root) / f"train-{secrets.token_hex(2)}"

    def tell(report: Any) -> None:
        metrics = report.metrics
        sizes = (
            f"{metrics['model/parameters']:,.0f} params, {metrics['model/nonzero_parameters']:,.0f} non-zero"
        )
        print(f"  epoch {report.epoch}: val acc {metrics['val/accuracy']:.4f}, {sizes}", flush=True)

    compared = best.retrain(
        config.trial,
        config.recorded,
        device="cuda" if config.cluster.gpus_per_trial else "cpu",
        checkpoints=folder / "checkpoints",
        on_report=tell,
    )
    lines = best.comparison_lines(compared)
    if (means := best.means_line(config.recorded)) is not None:
        lines.append(means)
    if config.recorded is not None:
        lines.insert(0, f"beside trial {config.recorded.get('trial')} of {config.recorded.get('sweep')}:")
    return [*lines, f"checkpoint: {folder / 'checkpoints'}"]


def ui(root: Path, name: str, port: int) -> None:
    """Serve a sweep's MLflow records on 127.0.0.1 until Ctrl-C; where a server has them, say where."""
    from sweeps.records import tracking_store

    config = SweepConfig.from_dict(read_plan(root, name)["config"])
    uri = config.tracking.uri or tracking_store.default_uri(root)
    tracking = tracking_store.open_tracking(uri, config.tracking.experiment, root)
    if uri.startswith("http"):
        print(tracking_store.experiment_url(uri.rstrip("/"), tracking, name))
        return
    if not _is_free(port):
        raise ConfigError(f"--port {port} is taken on this machine. Choose another: --port {port + 1}.")
    server = _serve(uri, port)
    try:
        base = f"http://127.0.0.1:{port}"
        _await(f"{base}/health", server)
        print(f"{tracking_store.experiment_url(base, tracking, name)}\nCtrl-C ends it.", flush=True)
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        server.wait()


def _serve(uri: str, port: int) -> subprocess.Popen[bytes]:
    # One worker and no job runner: a quarter of the memory, and faster on one machine.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    where = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *where],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _await(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _UI_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"MLflow's server ended with code {server.returncode}")
        try:
            urllib.request.urlopen(url, timeout=1).close()  # noqa: S310
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"MLflow's server did not answer at {url} within {_UI_SECONDS} s")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _reached(folder: Path) -> leaderboard.Reached:
    return lambda number: reached(folder / str(number))


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def relative(path: Path) -> Path:
    """As seen from where the command was typed, where that is above it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def root_option(root: Path) -> str:
    """The option --root that a command to be pasted needs."""
    return "" if root == Path("runs").absolute() else f" --root {relative(root)}"


def _json(value: Sequence[Any] | dict[str, Any]) -> str:
    return json.dumps(value, indent=2, default=str)

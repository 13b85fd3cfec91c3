"""For a change that should change no behaviour: record the reports of many trainings, compare to a bit.

    git checkout BEFORE; python scripts/compare_reports.py --record /tmp/before.json
    git checkout AFTER;  python scripts/compare_reports.py --against /tmp/before.json

Recorded are metrics, edits, reasons and findings of every report (all but seconds) and a hash of the final
weights and optimizer state. Some trainings are paused within an epoch and go on from their checkpoint. With
--checkpoints FOLDER the recording also keeps half-way checkpoints, which the comparison goes on from. The
same machine and versions are taken for granted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from growcore.config import TrialConfig
from growcore.training import Training, checkpoint

SECONDS = ("cost/wall_seconds",)
Recorded = dict[str, Any]


def configurations() -> dict[str, dict[str, Any]]:
    """Each growth and pruning method, each network, merges, removal and every choice of where to grow."""
    growth = {"every_epochs": 1, "num_neurons": 2, "statistics_batches": 2, "end_fraction": 1.0}
    cases = {
        f"growth-{method}": _case(growth={**growth, "method": method})
        for method in ("tiny", "gradmax", "random", "zeros", "variance_transfer")
    }
    for where in ("round_robin", "largest_improvement", "largest_improvement_per_flop"):
        cases[f"where-{where}"] = _case(growth={**growth, "method": "tiny", "where": where, "max_width": 8})
    pruning = {
        "every_epochs": 1,
        "update_interval": 2,
        "k1": 0.4,
        "k2": 0.6,
        "density": 0.5,
        "end_fraction": 1.0,
    }
    for method in ("hebbian", "hebbian_exchange", "set", "rigl", "gradual", "random", "static"):
        cases[f"pruning-{method}"] = _case(
            pruning={**pruning, "method": method, "schedule": "cubic" if method != "random" else "constant"}
        )
    for strength in (
        "correlation",
        "pooled_correlation",
        "magnitude",
        "gradient",
        "magnitude_x_coactivation",
    ):
        cases[f"strength-{strength}"] = _case(pruning={**pruning, "method": "hebbian", "strength": strength})
    for scope in ("filter", "channel", "global"):
        cases[f"scope-{scope}"] = _case(pruning={**pruning, "method": "hebbian", "scope": scope})
    both = {
        "growth": {**growth, "method": "tiny"},
        "pruning": {**pruning, "method": "hebbian", "remove_dead": True},
    }
    mlp = {"name": "mlp", "widths": [6, 6], "normalization": "batch"}
    cases["mlp-both"] = _case(model=mlp, **both)
    cases["mlp-relative"] = _case(
        model={**mlp, "normalization": "none", "activation": "tanh"},
        growth={**growth, "method": "tiny", "relative_ridge": 1e-3, "normalization": "equalize_second_layer"},
    )
    cases["conv-both"] = _case(**both)
    resnet = {
        "name": "resnet",
        "widths": [4, 8],
        "blocks": [1, 1],
        "hidden_fraction": 0.5,
        "normalization": "batch",
    }
    cases["resnet-both"] = _case(model=resnet, **both)
    cases["resnet-from-nothing"] = _case(
        model={**resnet, "hidden_fraction": 0.0}, growth={**growth, "method": "gradmax"}
    )
    cases["vgg-both"] = _case(model={"name": "vgg", "widths": [4, 6], "blocks": [2, 2]}, **both)
    cases["adamw-crop"] = _case(
        optimizer={"name": "adamw", "lr": 0.01}, data={"crop_padding": 1, "flip": True}, **both
    )
    cases["dead"] = _case(
        model={"name": "mlp", "widths": [12, 12], "init_gain": 0.02},
        pruning={"method": "none", "remove_dead": True, "every_epochs": 1},
    )
    return cases


def _case(**parts: Any) -> dict[str, Any]:
    """A trial on 300 of the digits, three epochs."""
    values: dict[str, Any] = {
        "data": {"name": "digits", "num_train": 300},
        "model": {"name": "conv", "widths": [4, 4, 4], "normalization": "batch"},
        "training": {"num_epochs": 3, "batch_size": 32},
        "seed": 3,
    }
    for name, part in parts.items():
        values[name] = {**values.get(name, {}), **part} if name != "model" else part
    return values


def reports_of(values: Mapping[str, Any], pause_after: int | None = None) -> list[Recorded]:
    """Every report of a training, and the hash of what it ends with."""
    training = Training(TrialConfig.from_dict(values))
    found: list[Recorded] = []
    if pause_after is not None:
        training = _paused_and_resumed(training, pause_after, found)
    found += [_plain(report.to_dict()) for report in training]
    return [*found, {"state": _hash(training.state_dict())}]


def _paused_and_resumed(training: Training, steps: int, found: list[Recorded]) -> Training:
    """The training that goes on from the checkpoint of one paused after so many steps."""
    original = training.optimizer.step

    def step_and_pause(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if training.step + 1 >= steps:
            training.pause()
        return result

    training.optimizer.step = step_and_pause  # type: ignore[method-assign]
    found += [_plain(report.to_dict()) for report in training]
    assert training.paused
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.save(Path(folder), training)
        resumed = Training(training.config)
        checkpoint.load(path, resumed)
    return resumed


def record(checkpoints: Path | None) -> dict[str, list[Recorded]]:
    """The reports of every configuration, of some once more with a pause in the middle of an epoch."""
    found = {}
    for name, values in configurations().items():
        print(f"  {name}", file=sys.stderr, flush=True)
        found[name] = reports_of(values)
        if name.endswith(("-both", "tiny", "rigl", "hebbian")):
            found[f"{name}-paused"] = reports_of(values, pause_after=12)
        if checkpoints is not None:
            _keep_half_way(values, checkpoints / name)
    return found


def _keep_half_way(values: Mapping[str, Any], folder: Path) -> None:
    training = Training(TrialConfig.from_dict(values))
    next(iter(training))
    checkpoint.save(folder, training)


def from_checkpoints(checkpoints: Path) -> dict[str, list[Recorded]]:
    """What trainings report that go on from the checkpoints an earlier version kept after one report."""
    found = {}
    for name, values in configurations().items():
        path = checkpoint.newest(checkpoints / name)
        assert path is not None, f"no checkpoint of {name}"
        training = Training(TrialConfig.from_dict(values))
        checkpoint.load(path, training)
        found[name] = [
            *(_plain(report.to_dict()) for report in training),
            {"state": _hash(training.state_dict())},
        ]
    return found


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Where two recordings differ, a line each."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if key not in before or key not in after:
                yield f"{path}/{key}: only {'after' if key in after else 'before'}"
            else:
                yield from differences(before[key], after[key], f"{path}/{key}")
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{path}: {len(before)} before, {len(after)} after"
        for index, (left, right) in enumerate(zip(before, after, strict=False)):
            yield from differences(left, right, f"{path}/{index}")
    elif before != after:
        yield f"{path}: {before!r} before, {after!r} after"


def _plain(value: Any) -> Any:
    """Values that JSON gives back as they are; floats to the last bit, seconds left out."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if key not in SECONDS}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, float) else value


def _hash(state: Mapping[str, Any]) -> dict[str, str]:
    return {part: _digest(state[part]) for part in ("model", "optimizer", "generator")}


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    _feed(value, digest)
    return digest.hexdigest()[:16]


def _feed(value: Any, digest: Any) -> None:
    if torch.is_tensor(value):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in value:
            digest.update(str(key).encode())
            _feed(value[key], digest)
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(item, digest)
    else:
        digest.update(repr(value).encode())


def main() -> None:
    """Record, or compare with what was recorded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, help="where to write the reports, as JSON")
    parser.add_argument("--against", type=Path, help="a recording to compare with")
    parser.add_argument("--checkpoints", type=Path, help="folder of half-way checkpoints")
    wanted = parser.parse_args()
    if wanted.record:
        wanted.record.write_text(json.dumps(record(wanted.checkpoints)))
        return
    before = json.loads(wanted.against.read_text())
    found = list(differences(before, json.loads(json.dumps(record(None)))))
    if wanted.checkpoints:
        resumed = json.loads(json.dumps(from_checkpoints(wanted.checkpoints)))
        expected = {name: before[name][1:] for name in resumed}  # all but the report the checkpoint follows
        found += list(differences(expected, resumed, "from checkpoint"))
    print("\n".join(found[:40]) or f"{len(before)} trainings: every report is the same to the last bit")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

"""Checkpoints: folders that are whole or absent, loaded without pickle.

A checkpoint is a folder `step-000000123` with `state.pt` (tensors and plain values) and `manifest.json`
(format version, step, architecture, train FLOPs, hash). It is written under a temporary name and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

FORMAT_VERSION = 2  # 1: without the epoch under way
_STATE = "state.pt"
_MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why."""


class Resumable(Protocol):
    """What has a state to keep: `growcore.training.Training`."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings, lists and dictionaries only."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state as if there had been no break."""

    def manifest(self) -> dict[str, Any]:
        """Plain JSON values about the state, `step` among them."""


def save(folder: Path, training: Resumable, keep: int = 2) -> Path:
    """Write one checkpoint and remove the oldest beyond `keep`.

    Args:
        folder: where the checkpoints of one trial lie; made if missing.
        training: whose state is kept.
        keep: checkpoints that stay, the newest ones; at least 1.

    Returns:
        The new checkpoint's folder. A checkpoint of the same step is replaced.

    Raises:
        OSError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = training.manifest()
    target = folder / f"step-{manifest['step']:09d}"
    temporary = folder / f".writing-{uuid.uuid4().hex}"  # a name of its own: another attempt may still write
    temporary.mkdir()
    try:
        torch.save(training.state_dict(), temporary / _STATE)
        written = dict(manifest, format_version=FORMAT_VERSION, sha256=_hash(temporary / _STATE))
        (temporary / _MANIFEST).write_text(json.dumps(written, indent=2) + "\n")
        for name in (_STATE, _MANIFEST):
            _flush(temporary / name)
        if target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in _steps(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; None where there is none. Damaged ones are said in a warning."""
    for candidate in reversed(_steps(folder)):
        try:
            read_manifest(candidate, verify=True)
        except CheckpointError as error:
            warnings.warn(f"{error} The one before it is used.", stacklevel=2)
            continue
        return candidate
    return None


def read_manifest(path: Path, verify: bool = False) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Args:
        path: the checkpoint's folder.
        verify: also compare the state file with its hash.

    Raises:
        CheckpointError: no manifest, another format version, or a state file that differs from its hash.
    """
    try:
        manifest: dict[str, Any] = json.loads((path / _MANIFEST).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"Checkpoint {path} has no readable manifest ({error}).") from error
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"Checkpoint {path} has format version {version}; this growcore reads {FORMAT_VERSION}."
        )
    if verify and (not (path / _STATE).is_file() or _hash(path / _STATE) != manifest.get("sha256")):
        raise CheckpointError(f"Checkpoint {path} is damaged: {_STATE} does not match its hash.")
    return manifest


def load(path: Path, training: Resumable, device: str | torch.device = "cpu") -> None:
    """Make a training go on from a checkpoint.

    Raises:
        CheckpointError: as `read_state`.
        ValueError: the checkpoint belongs to another configuration.
    """
    training.load_state_dict(read_state(path, device))


def read_state(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The state of a checkpoint, its tensors on a device.

    Raises:
        CheckpointError: the checkpoint is damaged, of another version, or holds more than plain values.
    """
    read_manifest(path, verify=True)
    try:
        state: dict[str, Any] = torch.load(path / _STATE, map_location=device, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"Checkpoint {path} cannot be read: {error}") from error
    return state


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Ask the system to put a file on the disk before it gets its name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())

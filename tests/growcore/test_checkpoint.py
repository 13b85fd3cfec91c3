import json
from pathlib import Path

import pytest
import torch

from growcore.training import checkpoint


class Counter:
    """The smallest thing that has a state."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.values = torch.arange(4.0) * step

    def manifest(self) -> dict:
        return {"step": self.step}

    def state_dict(self) -> dict:
        return {"step": self.step, "values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.values = state["step"], state["values"]


def saved(folder: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(folder, Counter(step), keep=9) for step in steps]


def test_what_was_saved_is_what_is_loaded(tmp_path):
    (path,) = saved(tmp_path, 7)
    loaded = Counter(0)
    checkpoint.load(path, loaded)
    assert loaded.step == 7
    assert torch.equal(loaded.values, torch.arange(4.0) * 7)
    assert checkpoint.read_manifest(path)["step"] == 7


def test_the_newest_is_the_one_of_the_latest_step(tmp_path):
    saved(tmp_path, 5, 100, 20)
    assert checkpoint.newest(tmp_path).name == "step-000000100"
    assert checkpoint.newest(tmp_path / "empty") is None


def test_only_so_many_are_kept(tmp_path):
    for step in range(5):
        checkpoint.save(tmp_path, Counter(step), keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000000003", "step-000000004"]


@pytest.mark.parametrize("damage", ["cut", "flip", "no state", "no manifest", "torn manifest"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_and_it_is_said(tmp_path, damage):
    before, newest = saved(tmp_path, 1, 2)
    state, manifest = newest / "state.pt", newest / "manifest.json"
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-10])
    elif damage == "flip":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    elif damage == "no state":
        state.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:20])
    with pytest.warns(UserWarning, match=r"step-000000002 .* The one before it is used"):
        assert checkpoint.newest(tmp_path) == before


def test_a_checkpoint_of_another_format_is_refused_with_both_versions(tmp_path):
    (path,) = saved(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(checkpoint.CheckpointError, match=r"format version 99; this growcore reads 2"):
        checkpoint.load(path, Counter(0))


def test_a_write_that_fails_leaves_the_earlier_checkpoints_and_no_rest(tmp_path, monkeypatch):
    (before,) = saved(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, Counter(2))
    assert list(tmp_path.iterdir()) == [before]
    assert checkpoint.newest(tmp_path) == before


def test_a_state_that_would_run_code_is_not_loaded(tmp_path):
    class Code:
        def __reduce__(self) -> tuple:
            return (print, ("this must never be printed",))

    class Bad(Counter):
        def state_dict(self) -> dict:
            return {"step": 1, "code": Code()}

    path = checkpoint.save(tmp_path, Bad(1))
    with pytest.raises(checkpoint.CheckpointError, match=r"cannot be read"):
        checkpoint.load(path, Counter(0))

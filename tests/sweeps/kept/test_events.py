"""The run folder: what is written is read back, in order, and never half."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sweeps.kept import events
from sweeps.kept.events import EventWriter


def _report(step: int, by: str = "a") -> dict:
    return {
        "step": step,
        "epoch": step,
        "metrics": {},
        "edits": [{"step": step, "by": by}],
        "finished": False,
    }


@given(num_events=st.integers(1, 30), num_attempts=st.integers(1, 4))
def test_events_come_back_in_the_order_they_happened(tmp_path_factory, num_events, num_attempts):
    folder = tmp_path_factory.mktemp("events")
    for _ in range(num_attempts):
        writer = EventWriter(folder)
        for number in range(num_events):
            writer.write("report", {"number": number})
    read = [(event["attempt"], event["number"]) for event in events.read_events(folder)]
    assert read == [(a + 1, n) for a in range(num_attempts) for n in range(num_events)]


def test_a_step_repeated_by_a_later_attempt_counts_once_and_is_the_later(tmp_path):
    first, second = EventWriter(tmp_path), None
    for step in (10, 20, 30):
        first.write("report", _report(step))
    second = EventWriter(tmp_path)
    for step in (30, 40):
        second.write("report", _report(step, by="b"))
    assert [r["step"] for r in events.reports(tmp_path)] == [10, 20, 30, 40]
    assert [e["by"] for e in events.edits(tmp_path)] == ["a", "a", "b", "b"]
    assert [e["step"] for e in events.edits(tmp_path, until_step=20)] == [10, 20]


def test_failures_are_counted_whoever_said_them_and_endings_are_none(tmp_path):
    for kind in ("started", "failed", "lost", "preempted", "expired", "failed"):
        EventWriter(tmp_path).write(kind, {"reason": "why"})
    assert events.num_failures(tmp_path) == 3


def test_half_written_files_are_not_read(tmp_path):
    EventWriter(tmp_path).write("started", {})
    (tmp_path / "events" / "001-000002.tmp").write_text('{"kind": "rep')
    assert [e["kind"] for e in events.read_events(tmp_path)] == ["started"]


def test_json_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a" / "b.json"
    assert events.read_json(path) is None
    events.write_json(path, {"x": 1})
    events.write_json(path, {"x": [2, 3]})
    assert events.read_json(path) == {"x": [2, 3]}
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]

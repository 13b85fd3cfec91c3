"""One writer per sweep: who gets the lease, who is refused, and when it is free again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.run import lease
from sweeps.run.lease import LeaseHeld
from sweeps.search import open_storage, study_url

_TAKE = """
import sys
from sweeps.run import lease
print("ready", flush=True)
sys.stdin.readline()
try:
    lease.acquire(sys.argv[1], "s")
    print("mine", flush=True)
except lease.LeaseHeld:
    print("refused", flush=True)
sys.stdin.read()  # whoever has it lives on
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return study_url(tmp_path)


def driver(url: str) -> subprocess.Popen[str]:
    """A process that has loaded what it needs and waits for a line to take the lease."""
    words = [sys.executable, "-c", _TAKE, url]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def change(url: str, **values: object) -> None:
    with open_storage(url).engine.begin() as connection:
        connection.execute(lease._LEASES.update().values(**values))


@pytest.mark.slow
def test_of_processes_that_race_exactly_one_gets_the_lease(url):
    racers = [driver(url) for _ in range(3)]
    open_storage(url)
    for racer in racers:
        go(racer)
    said = sorted(racer.stdout.readline().strip() for racer in racers)
    for racer in racers:
        end(racer)
    assert said == ["mine", "refused", "refused"]


def test_a_live_lease_is_refused_and_that_of_a_killed_process_is_taken_at_once(url):
    owner = driver(url)
    try:
        go(owner)
        assert owner.stdout.readline().strip() == "mine"
        with pytest.raises(LeaseHeld, match=rf"s runs already: process {owner.pid} on .* [0-9]+ s old.*"):
            lease.acquire(url, "s")
        os.kill(owner.pid, signal.SIGKILL)
    finally:
        end(owner)
    assert not lease.holder(url, "s").is_live
    with lease.held(url, "s") as mine:
        assert lease.holder(url, "s").pid == os.getpid()
        assert mine.beat()
    assert lease.holder(url, "s") is None


def test_the_refusal_names_the_command_that_ends_the_other(url):
    lease.acquire(url, "s")
    with pytest.raises(LeaseHeld, match=r"sweeps stop s"):
        lease.acquire(url, "s")


def test_each_sweep_has_its_own_lease(url):
    lease.acquire(url, "a")
    lease.acquire(url, "b")
    assert set(lease.holders(url)) == {"a", "b"}


def test_a_lease_of_another_machine_is_free_once_it_has_not_beaten_for_long(url):
    first = lease.acquire(url, "s")
    change(url, machine="elsewhere", pid=1, beat=time.time() - lease.EXPIRY_SECONDS + 5)
    with pytest.raises(LeaseHeld):
        lease.acquire(url, "s")
    change(url, beat=time.time() - lease.EXPIRY_SECONDS - 1)
    second = lease.acquire(url, "s")
    assert second.beat()
    assert not first.beat()  # it slept: it finds out
    first.release()  # what is another's stays
    assert second.beat()


def test_a_process_id_that_was_given_away_again_owns_nothing(url):
    lease.acquire(url, "s")
    change(url, process_started=1.0)
    assert lease.holder(url, "s").is_live  # a beat this fresh outweighs a clock that was set
    change(url, beat=time.time() - 15)
    assert not lease.holder(url, "s").is_live


def test_who_saw_an_older_state_takes_nothing(url):
    lease.acquire(url, "s")
    change(url, machine="elsewhere", beat=time.time() - 100)
    engine = lease._open(url)
    seen = lease._read(engine, "s")
    assert lease._take(engine, "s", "winner", seen)
    assert not lease._take(engine, "s", "loser", seen)
    assert not lease._take(engine, "s", "late", None)
    assert lease.holder(url, "s").owner == "winner"


def test_an_owner_that_has_beaten_since_it_was_looked_at_keeps_its_lease(url):
    first = lease.acquire(url, "s")
    change(url, machine="elsewhere", beat=time.time() - 100)
    engine = lease._open(url)
    seen = lease._read(engine, "s")
    assert not seen.is_live
    assert first.beat()  # it only slept
    assert not lease._take(engine, "s", "late", seen)
    assert first.beat()


def test_a_request_to_stop_reaches_its_driver_and_never_the_next(url):
    first = lease.acquire(url, "s")
    assert not first.stop_asked
    asked = lease.holder(url, "s")
    assert lease.ask_to_stop(url, "s", asked)
    assert first.stop_asked
    change(url, machine="elsewhere", beat=time.time() - 100)
    second = lease.acquire(url, "s")
    assert not second.stop_asked
    assert not lease.ask_to_stop(url, "s", asked)


def test_a_database_without_leases_has_no_holder(url):
    open_storage(url)
    assert lease.holders(url) == {}

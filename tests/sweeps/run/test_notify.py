"""Who is told what, and that telling never hurts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from stand_in import RANDOM, LearningRates

from sweeps.config.settings import NotifyConfig, NotifyEvent
from sweeps.kept.trials import Outcome
from sweeps.run.notify import WEBHOOK, BestTeller, Notifier
from sweeps.search import Study

SECRET = "T0/B0/very-secret"


class Hook(HTTPServer):
    """A webhook that keeps what it is sent."""

    def __init__(self, status: int = 200) -> None:
        self.posted: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posted.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def environment(self) -> dict[str, str]:
        return {WEBHOOK: f"http://127.0.0.1:{self.server_port}/{SECRET}"}


def serve(status: int) -> Iterator[Hook]:
    with Hook(status) as hook:
        thread = threading.Thread(target=hook.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield hook
        hook.shutdown()
        thread.join()


@pytest.fixture
def hook() -> Iterator[Hook]:
    yield from serve(200)


@pytest.fixture
def broken_hook() -> Iterator[Hook]:
    yield from serve(500)


def test_the_webhook_gets_json_with_a_text_that_chats_show(hook):
    with Notifier(NotifyConfig(), "demo", print, hook.environment) as notifier:
        notifier.tell(NotifyEvent.best, "trial 7 is the best so far", trial=7, value=0.93)
    assert hook.posted == [
        {
            "event": "best",
            "sweep": "demo",
            "message": "trial 7 is the best so far",
            "text": "growsweep demo: trial 7 is the best so far",
            "trial": 7,
            "value": 0.93,
        }
    ]


def test_the_command_gets_words_in_its_environment_and_json_on_its_input(tmp_path: Path):
    told, given = tmp_path / "told", tmp_path / "given"
    command = f'echo "$GROWSWEEP_EVENT|$GROWSWEEP_SWEEP|$GROWSWEEP_MESSAGE" > {told}; cat > {given}'
    with Notifier(NotifyConfig(command=command), "demo", print, {}) as notifier:
        notifier.tell(NotifyEvent.failed, "it's over; really")
    assert told.read_text() == "failed|demo|it's over; really\n"
    assert json.loads(given.read_text())["message"] == "it's over; really"


def test_only_the_events_asked_for_are_told(hook):
    with Notifier(NotifyConfig(events=[NotifyEvent.finished]), "s", print, hook.environment) as notifier:
        notifier.tell(NotifyEvent.best, "no")
        notifier.tell(NotifyEvent.finished, "yes")
    assert [each["message"] for each in hook.posted] == ["yes"]


def test_a_failing_notification_is_said_once_without_the_address(broken_hook):
    said: list[str] = []
    with Notifier(NotifyConfig(), "s", said.append, broken_hook.environment) as notifier:
        notifier.tell(NotifyEvent.best, "a")
        notifier.tell(NotifyEvent.best, "b")
    assert said == ["a notification failed (GROWSWEEP_WEBHOOK: HTTP 500); further failures are not said"]
    assert len(broken_hook.posted) == 2  # the next one is tried all the same


@pytest.mark.parametrize("address", [f"http://127.0.0.1:9/{SECRET}", f"not an address {SECRET}"])
def test_an_address_that_does_not_answer_is_never_said(address):
    said: list[str] = []
    with Notifier(NotifyConfig(), "s", said.append, {WEBHOOK: address}) as notifier:
        notifier.tell(NotifyEvent.finished, "a")
    assert len(said) == 1
    assert SECRET not in said[0]


def test_a_command_that_fails_is_said_with_its_exit_code():
    said: list[str] = []
    with Notifier(NotifyConfig(command="exit 4"), "s", said.append, {}) as notifier:
        notifier.tell(NotifyEvent.finished, "a")
    assert said == ["a notification failed (notify.command: exit code 4); further failures are not said"]


def test_a_trial_is_told_of_where_it_is_complete_and_better_than_all_before_it(hook):
    study = Study.create("sqlite://", "s", RANDOM)
    with Notifier(NotifyConfig(), "s", print, hook.environment) as notifier:
        for value in (0.5, 0.4, 0.7):
            teller = BestTeller(study, notifier)  # a driver that resumes knows of the best before
            number = study.ask(LearningRates()).number
            study.complete(number, value, Outcome())
            teller.ended(study.row(number))
        number = study.ask(LearningRates()).number
        study.stop(number, 0.9, 1, Outcome(), "behind")
        teller.ended(study.row(number))
    assert [each["trial"] for each in hook.posted] == [0, 2]
    assert hook.posted[1]["message"] == "trial 2 is the best so far: val/accuracy 0.7000"

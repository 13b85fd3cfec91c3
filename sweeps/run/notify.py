"""Tell people what happens to a sweep: a command of theirs, and a webhook.

The webhook's address is a credential: it is read from the environment variable GROWSWEEP_WEBHOOK, and is
neither recorded nor said, not even in an error. A notification that fails is said once and hurts nothing.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from sweeps.config.settings import WEBHOOK, NotifyConfig, NotifyEvent
from sweeps.kept.trials import TrialRow, TrialState
from sweeps.search import Study

_SECONDS = 10.0  # that a command or the webhook may take
_FLUSH_SECONDS = 15.0  # that the end of a sweep waits for what is still to be told


class Notifier:
    """Sends what it is told, one after the other, from a thread of its own.

    Example:
        >>> with Notifier(config.notify, "demo-1a2b", print) as notifier:
        ...     notifier.tell(NotifyEvent.best, "trial 7 is the best so far", trial=7, value=0.93)

    Args:
        config: what is told, and the command.
        sweep: its name.
        say: told, once, that a notification failed.
        environment: where the webhook's address is looked up; None: of this process.
    """

    def __init__(
        self,
        config: NotifyConfig,
        sweep: str,
        say: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config
        self._sweep = sweep
        self._say = say
        self._webhook = (os.environ if environment is None else environment).get(WEBHOOK)
        self._told: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._has_failed = False
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._loop, name="notify", daemon=True)

    def __enter__(self) -> Notifier:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._deadline = time.monotonic() + _FLUSH_SECONDS
        self._told.put(None)
        self._thread.join(timeout=_FLUSH_SECONDS)

    def tell(self, event: NotifyEvent, message: str, **details: Any) -> None:
        """Queue a notification; nothing where this event is not asked for.

        Args:
            event: what happened.
            message: the same in a sentence.
            details: more values for the JSON: trial, value.
        """
        if event not in self._config.events:
            return
        text = f"growsweep {self._sweep}: {message}"  # the key that chat services show
        values = {"event": event.value, "sweep": self._sweep, "message": message, "text": text}
        self._told.put({**values, **details})

    def _loop(self) -> None:
        while (values := self._told.get()) is not None:
            if time.monotonic() > self._deadline:
                return
            if self._config.command is not None:
                self._try("notify.command", self._run, values)
            if self._webhook:
                self._try(WEBHOOK, self._post, values)

    def _try(self, where: str, send: Callable[[dict[str, Any]], str | None], values: dict[str, Any]) -> None:
        try:
            problem = send(values)
        except subprocess.TimeoutExpired:
            problem = f"it took longer than {_SECONDS:.0f} s"
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}"
            error.close()
        except Exception as error:  # its text may hold the address, which is a credential
            problem = type(error).__name__
        if problem is not None and not self._has_failed:
            self._has_failed = True
            self._say(f"a notification failed ({where}: {problem}); further failures are not said")

    def _run(self, values: dict[str, Any]) -> str | None:
        assert self._config.command is not None
        told = {"EVENT": values["event"], "SWEEP": self._sweep, "MESSAGE": values["message"]}
        done = subprocess.run(  # noqa: S602  # the user's own command, in the user's own shell
            self._config.command,
            shell=True,
            input=json.dumps(values),
            text=True,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, **{f"GROWSWEEP_{key}": value for key, value in told.items()}},
        )
        return None if done.returncode == 0 else f"exit code {done.returncode}"

    def _post(self, values: dict[str, Any]) -> None:
        assert self._webhook is not None
        request = urllib.request.Request(  # noqa: S310
            self._webhook, json.dumps(values).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=_SECONDS).close()  # noqa: S310


class BestTeller:
    """Tells of every complete trial that is better than all before it."""

    def __init__(self, study: Study, notifier: Notifier) -> None:
        self._study = study
        self._notifier = notifier
        best = study.best()
        self._value = None if best is None else best.value

    def started(self, number: int) -> None:
        """Nothing."""

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """Nothing: a trial counts when it is complete."""

    def paused(self, number: int) -> None:
        """Nothing."""

    def ended(self, row: TrialRow) -> None:
        """Tell of it where it is the best."""
        if row.state is not TrialState.complete or row.value is None or row.violations:
            return
        if self._value is not None and (row.value > self._value) != self._study.maximize:
            return
        self._value = row.value
        message = f"trial {row.number} is the best so far: {self._study.metric} {row.value:.4f}"
        self._notifier.tell(NotifyEvent.best, message, trial=row.number, value=row.value)

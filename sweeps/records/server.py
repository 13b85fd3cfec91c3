"""MLflow's own server over the store of a storage root, on this machine alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SECONDS = 60  # the server has to answer within


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers."""

    address: str
    process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Until it ends, or Ctrl-C."""
        self.process.wait()


@contextmanager
def serving(uri: str, port: int) -> Iterator[Served]:
    """The records of the store at `uri` on 127.0.0.1, while the block runs.

    Raises:
        RuntimeError: the server ended, or does not answer within a minute.
    """
    # One worker and no job runner: a quarter of the memory, and faster on one machine.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    where = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server ends with us
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *where],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        served = Served(f"http://127.0.0.1:{port}", process)
        _await(f"{served.address}/health", process)
        yield served
    finally:
        process.terminate()
        process.wait()
        signal.signal(signal.SIGTERM, before)


def is_free(port: int) -> bool:
    """Whether nothing of this machine listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _await(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"MLflow's server ended with code {server.returncode}")
        try:
            urllib.request.urlopen(url, timeout=1).close()  # noqa: S310
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"MLflow's server did not answer at {url} within {_SECONDS} s")

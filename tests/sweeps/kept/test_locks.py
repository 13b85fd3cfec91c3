"""Any number of processes may open a fresh storage root together."""

import subprocess
import sys

import pytest

from sweeps.kept.locks import alone_at

_OPEN_STUDIES = """
import sys
from pathlib import Path
from sweeps.search import SamplerSettings, Study, study_url
print("ready", flush=True)
sys.stdin.readline()
url = study_url(Path(sys.argv[1]))
Study.create(url, sys.argv[2], SamplerSettings(name="random"))
"""
_OPEN_RECORDS = """
import sys
from pathlib import Path
from sweeps.records import tracking_store
import mlflow.tracking, mlflow.store.tracking.dbmodels.models
root = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(tracking_store.open_tracking(tracking_store.default_uri(root), "growsweep", root).experiment_id)
"""


def together(code: str, root, num: int) -> list[subprocess.Popen]:
    """Processes that have loaded what they need and begin at the same moment."""
    words = [[sys.executable, "-W", "ignore", "-c", code, str(root), f"s{n}"] for n in range(num)]
    pipe = subprocess.PIPE
    found = [subprocess.Popen(w, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for w in words]
    for process in found:
        assert process.stdout.readline() == "ready\n"
    for process in found:
        process.stdin.write("\n")
        process.stdin.flush()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("code", [_OPEN_STUDIES, _OPEN_RECORDS], ids=["studies", "records"])
def test_processes_that_open_a_fresh_root_together_all_succeed(tmp_path, code):
    processes = together(code, tmp_path, 5)
    ended = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, ended
    assert len({out for out, _ in ended}) == 1


def test_what_is_no_file_needs_no_lock(tmp_path):
    for url in ("sqlite://", "postgresql://h/db", f"sqlite:///{tmp_path}/not/there.db"):
        with alone_at(url):
            pass
    assert list(tmp_path.iterdir()) == []

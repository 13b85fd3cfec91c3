"""The README's commands run as written, in a folder of their own, on a smaller sweep."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LIFE = (ROOT / "docs" / "life_of_a_sweep.md").read_text()
SMALL = ["sweep.num_trials=2", "training.num_epochs=2", "data.num_train=200"]


def commands(heading: str, page: str = README) -> list[list[str]]:
    """Words of the indented `sweeps` and `./scripts` lines below a heading, without their comments."""
    section = page.split(f"# {heading}\n")[1].split("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if re.match(r"    (sweeps|\./scripts/)", line)]
    return [shlex.split(line, comments=True) for line in lines]


def run(words: list[str], folder: Path) -> str:
    program = [sys.executable, "-m", "sweeps"] if words[0] == "sweeps" else [words[0]]
    done = subprocess.run([*program, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_first_ten_minutes_run_as_written(tmp_path):
    demo = (ROOT / "scripts" / "demo").read_text()
    launch = shlex.split(next(line for line in demo.splitlines() if line.startswith("sweeps launch")))
    told = run([*launch[: launch.index("$@")], *SMALL], tmp_path)
    sweep = re.search(r"^(demo-\w{4})  2 trials", told, re.MULTILINE).group(1)
    assert f"best: runs/{sweep}/best.yaml" in told
    for words in commands("The first ten minutes"):
        if words[0] != "sweeps" or words[1] == "ui":
            continue  # the scripts set up a machine; the page is tested where a server may run
        words = [sweep if word == "SWEEP" else word for word in words]
        if words[1] == "launch":
            words += ["--dry-run"]
        told = run(words, tmp_path)
        if words[1] in ("list", "show", "best"):
            assert sweep in told
        if words[1] == "train":
            assert re.search(r"test/accuracy .*\+0$", told, re.MULTILINE)
    assert (tmp_path / "conf" / "best" / "mine.yaml").is_file()
    for words in commands("The life of a sweep", LIFE):
        if words[1] != "resume":  # of twenty trials more
            run([word.replace("SWEEP", sweep) for word in words], tmp_path)
    assert not (tmp_path / "runs" / sweep).exists()


@pytest.mark.slow
def test_the_readme_s_plan_of_a_larger_sweep_is_valid(tmp_path):
    words = next(w for w in commands("A sweep of your own") if "space=grow_prune" in w)
    told = run([*words, "--dry-run"], tmp_path)
    assert "64 trials" in told


@pytest.mark.slow
def test_the_readme_s_library_example_trains():
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    short = example.replace('"pruning":', '"training": {"num_epochs": 1},\n    "pruning":')
    assert short != example
    done = subprocess.run([sys.executable, "-c", short], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 0.")

"""Do tests see it? Small mistakes, one at a time, in a copy of the tree; the tests of the law must fail.

    python scripts/mutation_check.py             all of them
    python scripts/mutation_check.py removal     those whose name holds a word

A mutation is a replacement of text that stands in a file exactly once; where the file has moved on, the
check says so and fails. Exit status: 0 where no mutation survives.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("growcore", "sweeps", "tests", "conf", "pyproject.toml", "README.md")
RECORDING = "tests/growcore/test_recording.py"
_SLOW_TO_IMPORT = (
    "torch",
    "torch.utils.flop_counter",
    "hypothesis",
    "optuna",
    "ray.tune",
    "scipy.stats",
    "sklearn",
)
# The libraries are there before pytest, which it warns of.
_QUIET = ("-qx", "--no-header", "-pno:cacheprovider", "-Wignore::pytest.PytestAssertRewriteWarning")
STATISTICS = "tests/growcore/test_running_statistics.py"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One mistake, and the tests that have to see it."""

    name: str
    file: str
    before: str  # stands there exactly once
    after: str
    tests: str  # words of a pytest command


MUTATIONS = (
    Mutation(
        "val measured on training images",
        "growcore/training/loop.py",
        'self.data.val, "val"',
        'self.data.train, "val"',
        f"{RECORDING} -k plain_loop",
    ),
    Mutation(
        "test measured on validation images",
        "growcore/training/loop.py",
        'self.data.test, "test"',
        'self.data.val, "test"',
        f"{RECORDING} -k plain_loop",
    ),
    Mutation(
        "class accuracy from wrong predictions",
        "growcore/training/evaluation.py",
        "y_N[correct_N]",
        "y_N[~correct_N]",
        f"{RECORDING} -k plain_loop",
    ),
    Mutation(
        "nothing ever dead",
        "growcore/networks/neurons.py",
        "return 1 - float(self.alive(min_frequency).float().mean())",
        "return 0.0",
        f"{RECORDING} -k dead_fractions",
    ),
    Mutation(
        "training loss a mean over batches",
        "growcore/training/loop.py",
        "self._train_step(x_NCHW, y_N) * len(y_N)",
        "self._train_step(x_NCHW, y_N) * epoch.num_images if epoch.num_images else 0",
        f"{RECORDING} -k training_loss",
    ),
    Mutation(
        "line search on the batches that gave the statistics",
        "growcore/edits/editor.py",
        "return batches[:num_statistics], batches[num_statistics:]",
        "return batches[:num_statistics], batches[:num_statistics]",
        f"{RECORDING} -k line_search_looks",
    ),
    Mutation(
        "predicted decrease with gamma for gamma^2",
        "growcore/edits/editor.py",
        "improvement * gamma**2",
        "improvement * gamma",
        f"{RECORDING} -k predicted",
    ),
    Mutation(
        "mean for summed loss in the statistics",
        "growcore/edits/observe.py",
        'functional.cross_entropy(model(x_NCHW), y_N, reduction="sum").backward()',
        "functional.cross_entropy(model(x_NCHW), y_N).backward()",
        f"{RECORDING} -k predicted",
    ),
    Mutation(
        "loss of a search summed over means of batches",
        "growcore/edits/line_search.py",
        'functional.cross_entropy(model(x), y, reduction="sum")',
        "functional.cross_entropy(model(x), y) * len(batches[0][1])",
        f"{RECORDING} -k loss_of_a_search",
    ),
    Mutation(
        "FLOPs of a removal lost",
        "growcore/edits/editor.py",
        "            flops += self._account(event, model, step, records)\n        shapes_before",
        "            self._account(event, model, step, records)\n        shapes_before",
        f"{RECORDING} -k sum_of_its_parts",
    ),
    Mutation(
        "FLOPs of edits lost in the training",
        "growcore/training/loop.py",
        "self.config.preflight)\n        self._add_flops(flops, flops)\n",
        "self.config.preflight)\n",
        f"{RECORDING} -k costs_its_images",
    ),
    Mutation(
        "a report after an edit with stale statistics",
        "growcore/training/loop.py",
        "flops = self.editor.upkeep.refresh(self.model, self.step)",
        "flops = 0",
        f"{STATISTICS} -k every_report",
    ),
    Mutation(
        "statistics estimated once after each edit",
        "growcore/edits/upkeep.py",
        "or self.estimated_at == step",
        "or self.estimated_at is not None",
        f"{STATISTICS} -k every_report",
    ),
    Mutation(
        "evaluation left out of the seconds",
        "growcore/training/loop.py",
        "        with self._counting_seconds():\n            metrics = self._measure()\n",
        "        metrics = self._measure()\n",
        f"{RECORDING} -k seconds",
    ),
    Mutation(
        "an edit begins no new count of the plateau",
        "growcore/training/plateau.py",
        "if edited or self.best is None",
        "if self.best is None",
        "tests/growcore/test_pausing.py -k what_a_pause_could_lose",
    ),
    Mutation(
        "sampler not reseeded after a resume",
        "sweeps/search/study.py",
        "study.sampler = build(sampler, 1 + len(study.get_trials(deepcopy=False)))",
        "study.sampler = build(sampler, 0)",
        "tests/sweeps/search/test_search.py -k resumed_sampler",
    ),
    Mutation(
        "a stopped trial's last result counted twice",
        "sweeps/stopping/schedulers.py",
        'if result.get("ending") == Ending.finished:\n            self._complete(_known',
        "if True:\n            self._complete(_known",
        "tests/sweeps/stopping/test_schedulers.py -k counts_once",
    ),
    Mutation(
        "a lease taken though its owner has beaten since",
        "sweeps/run/lease.py",
        " & (_LEASES.c.beat == seen.beat)",
        "",
        "tests/sweeps/run/test_lease.py -k has_beaten_since",
    ),
    Mutation(
        "infeasible trials not ordered by how much they break",
        "sweeps/search/ranking.py",
        "sorted(broken, key=lambda row: sum(row.violations.values()))",
        "broken",
        "tests/sweeps/search/test_search.py -k by_how_much",
    ),
    Mutation(
        "equal differences that are not zero give p = 1",
        "sweeps/views/compare.py",
        "float(np.all(differences == 0)) if error == 0",
        "1.0 if error == 0",
        "tests/sweeps/views/test_compare.py -k leave_no_doubt",
    ),
    Mutation(
        "a donor's FLOPs counted as the taker's own",
        "sweeps/kept/trials.py",
        "change.own.get(key, 0.0) - change.taken.get(key, 0.0)",
        "0.0",
        "tests/sweeps/stopping/test_population.py -k counts_once",
    ),
)


def main() -> None:
    """Try those that are asked for, print a line each, and exit with 1 where one survives."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", nargs="?", default="", help="only mutations whose name holds it")
    word = parser.parse_args().word
    sys.dont_write_bytecode = True  # a mutation may leave a file as long as it was, within a second
    for library in _SLOW_TO_IMPORT:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        tree = _copied(Path(folder))
        told = [_try(tree, mutation) for mutation in MUTATIONS if word in mutation.name]
    survivors = sum(verdict != "seen" for verdict in told)
    print(f"{len(told)} mutations, {survivors or 'none'} not seen")
    sys.exit(bool(survivors))


def _copied(tree: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    return tree


def _try(tree: Path, mutation: Mutation) -> str:
    """Whether tests see a mutation; the tree is as it was afterwards."""
    path, started = tree / mutation.file, time.monotonic()
    text = path.read_text()
    if text.count(mutation.before) != 1:
        verdict, by = "TEXT GONE", mutation.file
    else:
        path.write_text(text.replace(mutation.before, mutation.after))
        verdict, by = _verdict(tree, mutation.tests)
        path.write_text(text)
    print(f"{verdict:9s}  {mutation.name:55s} {time.monotonic() - started:5.1f} s  {by}", flush=True)
    return verdict


def _run(tree: Path, tests: str, said: int) -> None:
    """Run tests of the tree and end this process; nothing of the caller's is cleaned up."""
    status = 3
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(tree)
        sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() != ROOT)]
        os.environ["PYTHONPATH"] = str(tree)
        status = int(pytest.main([*_QUIET, *tests.split()]))
        sys.stdout.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _verdict(tree: Path, tests: str) -> tuple[str, str]:
    """What pytest says in a process that has its libraries from here and our code from the tree."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            _run(tree, tests, said.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        lines = said.read().splitlines()
    failed = [line.split(" ")[1] for line in lines if line.startswith("FAILED")]
    if status == 1 and failed:
        return "seen", failed[0].split("::")[-1]
    return ("SURVIVES", tests) if status == 0 else ("NOT RUN", " ".join(lines[-3:]))


if __name__ == "__main__":
    main()

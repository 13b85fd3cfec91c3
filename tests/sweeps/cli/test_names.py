"""What people type becomes a checked name in one place, for every command and option."""

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sweeps.cli import main
from sweeps.config import names
from sweeps.config.errors import ConfigError

# Each command that takes SWEEP, with what else it needs.
TAKES_A_SWEEP = [
    ["resume"],
    ["extend", "--trials", "+1"],
    ["enqueue"],
    ["stop"],
    ["logs"],
    ["rm", "--yes"],
    ["gc"],
    ["show"],
    ["best"],
    ["compare"],
    ["ui"],
]
PATHS = [
    "../victim",
    ".",
    "..",
    "/absolute",
    "a/../../victim",
    "base/../../victim",
    "runs/base",
    "~",
    "-x",
    "a b",
    "",
]


@pytest.fixture
def victim(tmp_path):
    """A folder beside the root that looks like a sweep."""
    (tmp_path / "runs").mkdir()
    for name in ("victim", "runs/base"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "plan.yaml").write_text("format: 2\n")
        (folder / "precious").write_text("mine")
    return tmp_path


@pytest.mark.parametrize("command", TAKES_A_SWEEP, ids=lambda words: words[0])
@pytest.mark.parametrize("typed", PATHS)
def test_a_path_is_no_sweep_and_nothing_outside_the_root_is_touched(victim, command, typed):
    name, *options = command
    words = [name, *options, "--root", str(victim / "runs"), "--", typed]
    if name == "enqueue":
        words.append("optimizer.lr=0.1")
    if name == "compare":
        words.append("base")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert (victim / "victim" / "precious").read_text() == "mine"
    assert (victim / "runs" / "base" / "precious").read_text() == "mine"


def test_a_path_to_a_sweep_is_answered_with_what_to_type(victim):
    done = CliRunner().invoke(main, ["rm", "--yes", "runs/base"])
    assert "base --root runs" in done.output


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True), st.integers(0, 3))
def test_a_slash_at_the_end_changes_nothing(name, slashes):
    assert names.sweep_name(name + "/" * slashes) == name
    assert names.identity(f"{name}/3" + "/" * slashes) == f"{name}/3"


@given(st.text(max_size=12))
def test_whatever_is_typed_becomes_one_part_of_a_path_or_is_refused(typed):
    try:
        name = names.sweep_name(typed)
    except ConfigError:
        return
    assert "/" not in name
    assert name not in ("", ".", "..")


@pytest.mark.parametrize("saved", ["../space/mine", "/tmp/x", "a/b", ".hidden", ""])
def test_a_saved_configuration_stays_in_its_folder(saved):
    with pytest.raises(ConfigError, match=r"--save is a name"):
        names.file_name("--save", saved)

"""What CONTRIBUTING and the README say of the tree is so."""

import ast
import re
from pathlib import Path

import pytest

from growcore.config import registry

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
README = (ROOT / "README.md").read_text()


def rows(text: str, head: str) -> dict[str, str]:
    """First cell to second of the table below a head."""
    lines = text.split(head)[1].splitlines()[2:]
    table = [line.strip("|").split("|") for line in lines[: lines.index("")]]
    return {first.strip(): second.strip() for first, second in table}


TOUCH = rows(CONTRIBUTING, "| to add | touch |")
# Of each kind one that is there, by whose name the table can be followed.
EXEMPLARS = {
    "a pruning method": "gradual",
    "a growth method": "gradmax",
    "a model": "vgg",
    "a data set": "fashion_mnist",
    "a cluster kind": "local",
}


def files(what: str) -> list[str]:
    named = re.findall(r"`([\w/]+\.(?:py|yaml))`", TOUCH[what])
    folder = next((name.rpartition("/")[0] for name in named if "/" in name), "")
    placed = [name if "/" in name else f"{folder}/{name}" for name in named]
    return [name.replace("NAME", EXEMPLARS.get(what, "NAME")) for name in placed]


def naming(word: str) -> set[str]:
    """Files of the packages that name something by exactly this text."""
    found = set()
    for path in [*(ROOT / "growcore").rglob("*.py"), *(ROOT / "sweeps").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.Constant) and node.value == word for node in ast.walk(tree)):
            found.add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize("what", TOUCH)
def test_the_files_to_touch_are_there(what):
    assert files(what) or what == "a setting of a sweep"
    assert [name for name in files(what) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("a pruning method", ["hebbian", "hebbian_exchange", "set", "rigl", "gradual", "static"]),
        ("a growth method", ["tiny", "gradmax"]),
        ("a model", ["mlp", "conv", "vgg", "resnet"]),
    ],
)
def test_a_method_or_a_model_is_named_in_no_other_file_than_those_to_touch(what, names):
    for name in names:
        allowed = {file.replace(EXEMPLARS[what], name) for file in files(what)}
        # A network named by its own class may speak of its kind to people.
        assert naming(name) <= allowed, name


@pytest.mark.parametrize(
    "key", ["train/loss", "cost/sparse_flops", "model/forward_flops", "growth/realised_decrease"]
)
def test_a_metric_is_named_where_it_stands_and_where_it_is_measured(key):
    assert naming(key) <= set(files("a metric"))
    assert "growcore/metrics.py" in naming(key)


def test_every_command_stands_in_the_files_to_touch():
    app = (ROOT / "sweeps" / "cli" / "app.py").read_text()
    for module, _ in re.findall(r"^    (\w+)\.(\w+),$", app, re.MULTILINE):
        assert f"sweeps/cli/{module}.py" in files("a command")


CHOICES = rows(README, "| group | options |")


@pytest.mark.parametrize("group", CHOICES)
def test_the_readme_s_options_are_those_there_are(group):
    told = set(re.findall(r"`(\w+)`", CHOICES[group]))
    assert told == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("growth", registry.GROWTH_METHODS),
        ("pruning", registry.PRUNING_METHODS),
        ("data", registry.DATA_SETS),
    ],
)
def test_every_built_in_object_has_a_file_of_its_name(group, kind):
    assert {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} == set(registry.built_in(kind))


def test_every_room_says_what_it_promises():
    for package in ("growcore", "sweeps"):
        for path in (ROOT / package).rglob("__init__.py"):
            assert ast.get_docstring(ast.parse(path.read_text())), path


def test_links_lead_to_files():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

"""Population-based training: the decisions, and a whole sweep of them without Ray."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from learner import Learner, LearnerEngine, read_state, worth
from stand_in import RANDOM, Heard, trial_config

from growcore.config import TrialConfig, trial_keys
from sweeps.config.errors import ConfigError
from sweeps.config.settings import (
    Direction,
    Fidelity,
    SchedulerConfig,
    SchedulerName,
    SearchConfig,
    SweepConfig,
    SweepSettings,
    get_key,
)
from sweeps.kept import events
from sweeps.kept.trials import TrialState
from sweeps.records import best
from sweeps.run.attempts import Attempts
from sweeps.run.searcher import Goal, StudySearcher
from sweeps.run.spending import Spending
from sweeps.search import Study
from sweeps.space import encoding
from sweeps.space.search_space import SearchSpace
from sweeps.stopping import exploitation
from sweeps.stopping.exploitation import Member, changeable, choose_donor, vary
from sweeps.stopping.fidelity import full_trial
from sweeps.stopping.population import Population
from sweeps.trial.attempt import Attempt
from sweeps.trial.engine import Engine, Growcore
from sweeps.trial.job import Job
from sweeps.views import curves, leaderboard

NUM_EPOCHS = 10
SETTINGS = SchedulerConfig(name=SchedulerName.pbt, edit_grace=0.0, interval=0.2)
RATES = {"optimizer.lr": {"float": [1e-3, 1.0], "log": True}}


def make_config(space: dict[str, Any] | None = None, **options: Any) -> SweepConfig:
    return SweepConfig(
        trial=trial_config(num_epochs=NUM_EPOCHS),
        space=space or RATES,
        space_name="rates",
        choices={},
        sweep=SweepSettings(num_trials=options.pop("num_trials", 8), replicates=options.pop("replicates", 1)),
        search=SearchConfig(**options.pop("search", {"sampler": "random"})),
        scheduler=SchedulerConfig(name=SchedulerName.pbt, **{"edit_grace": 0.0, "interval": 0.2, **options}),
    )


# Who goes on from whom


def members(*values: float, fraction: float = 0.5) -> list[Member]:
    return [Member(number=n, curve=[(fraction, v)], can_give=True) for n, v in enumerate(values)]


def donor_of(number: int, population: list[Member], **options: Any) -> int | None:
    settings = SchedulerConfig(name=SchedulerName.pbt, **options)
    direction = Direction.maximize
    return choose_donor(population[number], population, settings, direction, random.Random(0))


def test_the_worst_part_goes_on_from_the_best_part_and_nobody_else_does():
    found = [donor_of(n, members(0.1, 0.9, 0.5, 0.6, 0.2, 0.8, 0.4, 0.7)) for n in range(8)]
    assert found[0] in (1, 5)
    assert found[4] in (1, 5)
    assert [found[n] for n in (1, 2, 3, 5, 6, 7)] == [None] * 6


def test_a_smaller_value_is_better_where_the_metric_is_minimized():
    looked = members(0.1, 0.5, 0.5, 0.9)
    draw = random.Random(0)
    assert choose_donor(looked[3], looked, SETTINGS, Direction.minimize, draw) == 0
    assert choose_donor(looked[0], looked, SETTINGS, Direction.minimize, draw) is None


def test_a_population_smaller_than_one_worst_member_goes_on_as_it_is():
    assert donor_of(0, members(0.1, 0.5, 0.9), quantile=0.25) is None
    assert donor_of(0, members(0.1, 0.9), quantile=0.5) == 1


def test_members_are_compared_at_the_fraction_of_the_asker():
    late = Member(number=3, curve=[(0.2, 0.1), (0.8, 0.99)], can_give=True)
    looked = [*members(0.3, 0.6, 0.5, fraction=0.2), late]
    assert donor_of(3, looked) is not None or donor_of(0, looked) is None
    assert donor_of(0, looked) is None  # the late one was worse at 0.2
    early = Member(number=0, curve=[(0.2, 0.0)], can_give=True)
    assert donor_of(0, [early, *looked[1:3], late]) == 1


def test_who_has_nothing_left_to_train_is_compared_but_gives_nothing():
    looked = members(0.1, 0.5, 0.6, 0.9)
    looked[3] = Member(number=3, curve=looked[3].curve, can_give=False)
    assert donor_of(0, looked) is None


def test_a_value_that_is_no_number_is_the_worst():
    assert donor_of(2, members(0.1, 0.5, math.nan, 0.9)) == 3
    assert donor_of(0, members(0.1, 0.5, math.nan, 0.9)) is None


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.floats(0.01, 0.5),
    st.integers(0, 29),
)
def test_a_donor_is_better_and_of_the_best_part(values, quantile, asker):
    looked = members(*values)
    asker %= len(looked)
    donor = donor_of(asker, looked, quantile=quantile)
    if donor is not None:
        assert values[donor] > values[asker]
        assert sum(value > values[donor] for value in values) < math.ceil(len(values) * quantile + 1e-6)


# Under which values


SPACE = {
    "optimizer.lr": {"float": [1e-3, 1.0], "log": True},
    "optimizer.momentum": {"float": [0.0, 0.95], "step": 0.05},
    "training.batch_size": [32, 64, 128, 256],
    "model.widths": [[4], [8]],
    "growth.method": ["tiny", "none"],
    "growth.num_neurons": {"int": [1, 8]},
    "growth.every_epochs": {"int": [1, 5]},
    "pruning.k1": {"float": [0.1, 0.9]},
    "pruning.k2": {"float": ["pruning.k1", 1.0]},
    "pruning.method": ["hebbian"],
}


def make_space(raw: dict[str, Any]) -> SearchSpace:
    return SearchSpace(raw, trial_config().to_dict())


@given(seed=st.integers(0, 10_000), resample=st.sampled_from([0.0, 0.25, 1.0]))
def test_changed_values_are_a_valid_trial_in_the_space_and_structure_stays(seed, resample):
    space = make_space(SPACE)
    settings = SchedulerConfig(name=SchedulerName.pbt, resample=resample)
    (values,) = space.sample(1, seed=seed)
    changed = vary(space, values, settings, random.Random(seed))
    space.apply(changed)
    space.encode(changed)  # every value lies in its distribution
    for key in set(values) - changeable():
        assert changed[key] == values[key]


@given(seed=st.integers(0, 10_000))
def test_a_number_is_multiplied_or_divided_within_its_bounds(seed):
    space = make_space(SPACE)
    settings = SchedulerConfig(name=SchedulerName.pbt, resample=0.0, perturbation=1.25)
    (values,) = space.sample(1, seed=seed)
    changed = vary(space, values, settings, random.Random(seed))
    lr = values["optimizer.lr"]
    assert changed["optimizer.lr"] in (min(lr * 1.25, 1.0), max(lr / 1.25, 1e-3))
    batch_sizes = SPACE["training.batch_size"]
    steps = abs(
        batch_sizes.index(changed["training.batch_size"]) - batch_sizes.index(values["training.batch_size"])
    )
    assert steps == 1
    if "growth.num_neurons" in values:
        num = values["growth.num_neurons"]
        assert changed["growth.num_neurons"] != num or num in (1, 8)
        assert isinstance(changed["growth.num_neurons"], int)


def test_the_same_seed_gives_the_same_values():
    space = make_space(SPACE)
    (values,) = space.sample(1)
    found = [vary(space, values, SETTINGS, random.Random("a")) for _ in range(2)]
    assert found[0] == found[1]


def test_every_mutable_key_is_a_key_of_a_trial():
    assert set(trial_keys()) >= changeable()


# What a population cannot do


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"space": {"model.widths": [[4], [8]]}},
            r"a searched key that can change .* searched are model.widths",
        ),
        ({"num_trials": 3}, r"scheduler.quantile=0.25 .* sweep.num_trials=3. Set sweep.num_trials=4 or more"),
        ({"replicates": 2}, r"cannot train replicates.* sweep.replicates=2. Set sweep.replicates=1"),
        ({"search": {"sampler": "grid"}}, r"leaves the grid .* Choose search=random"),
        (
            {"search": {"further_objectives": {"model/parameters": Direction.minimize}}},
            r"compares members by one metric",
        ),
        ({"search": {"constraints": {"model/parameters": "<= 10"}}}, r"compares members by one metric"),
    ],
)
def test_what_a_population_cannot_do_is_refused_with_the_fix(options, message):
    config = make_config(**options)
    space = SearchSpace(config.space, config.trial.to_dict())
    with pytest.raises(ConfigError, match=rf"scheduler=pbt .*{message}"):
        exploitation.check(config, space)
    config.scheduler.name = SchedulerName.asha
    exploitation.check(config, space)


def test_a_population_needs_a_number_of_trials():
    config = make_config()
    config.sweep = SweepSettings(num_trials=None, max_hours=1.0)
    with pytest.raises(ConfigError, match=r"sweep.num_trials, the size of its population; got null"):
        exploitation.check(config, SearchSpace(config.space, config.trial.to_dict()))


# A whole sweep without Ray: slots train one report after another


class Sweep:
    def __init__(
        self,
        folder: Path,
        config: SweepConfig,
        study: Study,
        num_slots: int = 2,
        engine: Engine | None = None,
    ) -> None:
        self.folder, self.config, self.num_slots = folder, config, num_slots
        self.engine = engine or LearnerEngine()
        self.study = study
        self.said: list[str] = []
        self.order: list[int] = []  # numbers, turn by turn
        self.spreads: list[float] = []  # of the fractions reached, at every turn
        space = SearchSpace(config.space, config.trial.to_dict())
        self.population = Population(config, folder, space, self.study, self.said.append)
        self.searcher = StudySearcher(
            self.study,
            space,
            Goal(fidelity="epoch"),
            job=self.job,
            capacity=lambda: num_slots,
            attempts=Attempts(folder, 0, self.said.append),
            listener=Heard(),
            population=self.population,
        )
        self.running: dict[str, Attempt] = {}
        self.count = 0

    def job(self, assignment: Any) -> dict[str, Any]:
        self.order.append(assignment.number)
        reached = [member.reached for member in self.population._members.values() if not member.has_ended]
        if len(self.order) > len(self.study.rows()):
            self.spreads.append(max(reached) - min(reached))
        return asdict(
            Job(
                sweep="s",
                number=assignment.number,
                folder=str(self.folder / str(assignment.number)),
                workdir=".",
                config=assignment.config,
                base=full_trial(self.config),
                device="cpu",
                turn=asdict(self.population.turn(assignment.number)),
            )
        )

    def run(self, until: Callable[[Sweep], bool] = lambda sweep: False) -> None:
        while not until(self):
            self.count += 1
            given = self.searcher.suggest(str(self.count))
            if isinstance(given, dict):
                self.running[str(self.count)] = Attempt(Job(**given["job"]), self.engine)
            elif given is not None:
                return
            for trial_id, run in list(self.running.items()):
                result = run.advance()
                flat = {f"metrics/{k}": v for k, v in result.pop("metrics", {}).items()} | result
                if flat["done"]:
                    del self.running[trial_id]
                    self.searcher.on_trial_complete(trial_id, flat)
                else:
                    self.searcher.on_trial_result(trial_id, flat)


def new_study(num_trials: int = 8) -> Study:
    return Study.create("sqlite://", "s", RANDOM, budget=num_trials)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Sweep:
    sweep = Sweep(tmp_path_factory.mktemp("whole"), make_config(), new_study())
    sweep.run()
    return sweep


def test_a_population_larger_than_the_slots_takes_turns_and_moves_together(whole):
    assert [row.state for row in whole.study.rows()] == [TrialState.complete] * 8
    assert sorted(whole.order[:8]) == list(range(8))  # everyone's first turn comes before a second
    assert max(whole.spreads) <= 2 * 0.2 + 1e-6  # intervals between the first and the last
    assert len(whole.order) > 3 * 8


@pytest.mark.parametrize("fidelity", [Fidelity.train_flops, Fidelity.seconds])
def test_turns_end_at_every_fidelity(tmp_path, fidelity):
    sweep = Sweep(tmp_path, make_config(fidelity=fidelity, num_trials=4), new_study(4))
    sweep.run()
    assert [row.state for row in sweep.study.rows()] == [TrialState.complete] * 4
    assert max(sweep.spreads) <= 2 * 0.2 + 1e-6


@pytest.mark.slow
def test_members_of_different_lengths_take_turns_and_who_takes_over_trains_as_long_as_its_donor(tmp_path):
    space = {**RATES, "training.num_epochs": {"int": [4, NUM_EPOCHS]}}
    sweep = Sweep(tmp_path, make_config(space), new_study())
    sweep.run()
    rows = sweep.study.rows()
    assert [row.state for row in rows] == [TrialState.complete] * 8
    changed = [row for row in rows if row.changes]
    assert changed
    given = {row.number: row.changes[-1].params for row in changed}
    for row in rows:
        asked = row.config["training"]["num_epochs"]
        assert row.outcome.epoch == asked
        assert given.get(row.number, row.params)["training.num_epochs"] == asked
        assert 4 <= asked <= NUM_EPOCHS


def test_limits_of_single_layers_change_as_the_list_does():
    base = {**trial_config().to_dict(), "growth": {"method": "tiny", "max_width": [8]}}
    space = SearchSpace({"growth.max_width.0": {"int": [4, 64]}}, TrialConfig.from_dict(base).to_dict())
    settings = SchedulerConfig(name=SchedulerName.pbt, resample=0.0, perturbation=2.0)
    found = {
        vary(space, {"growth.max_width.0": 16}, settings, random.Random(n))["growth.max_width.0"]
        for n in range(9)
    }
    assert found == {8, 32}


def test_who_took_over_has_the_weights_of_the_donor_and_changed_values(whole):
    changed = [row for row in whole.study.rows() if row.changes]
    assert changed
    for row in changed:
        last = row.changes[-1]
        assert (row.config, row.params) == (last.config, last.params)
        assert get_key(row.config, "optimizer.lr") == row.params["optimizer.lr"]
        rates = read_state(whole.folder / str(row.number))["rates"]
        assert len(rates) == NUM_EPOCHS
        num_taken = last.step // 10
        assert set(rates[num_taken:]) == {row.params["optimizer.lr"]}
        if not whole.study.row(last.donor).changes:  # the donor's own training, under its own learning rate
            assert rates[:num_taken] == read_state(whole.folder / str(last.donor))["rates"][:num_taken]
        kinds = [event["kind"] for event in events.read_events(whole.folder / str(row.number))]
        assert kinds.count("exploit") == len(row.changes)
    assert any("continued #" in line and "optimizer.lr" in line for line in whole.said)


def test_who_took_over_ends_better_than_it_would_have(whole):
    for row in whole.study.rows():
        if row.changes:
            first = float(whole.study._frozen(row.number).params["optimizer.lr"])
            assert row.value > NUM_EPOCHS * worth(first)


def test_the_reports_of_a_trial_are_of_one_line_of_weights_only(whole):
    for row in whole.study.rows():
        told = events.reports(whole.folder / str(row.number))
        steps = [report["step"] for report in told]
        assert steps == sorted(set(steps))
        assert told[-1]["finished"]


def test_a_new_driver_goes_on_with_the_newest_configurations(tmp_path):
    study = new_study()
    first = Sweep(tmp_path, make_config(), study)
    first.run(until=lambda sweep: any("continued #" in line for line in sweep.said))
    before = {row.number: row for row in study.rows()}
    assert any(row.changes for row in before.values())
    # The driver and its workers are gone; checkpoints and the study stay.
    second = Sweep(tmp_path, make_config(), study)
    assert set(second.searcher.adopted) == {n for n, row in before.items() if not row.state.has_ended}
    for number, row in before.items():
        assert second.population._members[number].reached == pytest.approx(
            first.population._members[number].reached
        )
        if number in second.population._waiting:
            assert second.population._waiting[number].config == row.config
    second.run()
    rows = study.rows()
    assert [row.state for row in rows] == [TrialState.complete] * 8
    for number, row in before.items():
        assert rows[number].changes[: len(row.changes)] == row.changes


def test_what_is_taken_over_counts_once_in_budget_table_curve_and_seconds(tmp_path, monkeypatch):
    trained: list[float] = []
    report = Learner.report
    monkeypatch.setattr(Learner, "report", lambda learner: trained.append(1e6) or report(learner))
    study = new_study()
    sweep = Sweep(tmp_path, make_config(), study)
    spending = Spending(study, 0.0, 1, Shown())
    reported = sweep.population.reported

    def and_spent(number: int, result: dict[str, Any]) -> None:
        reported(number, result)
        spending.started(number)
        metrics = {k.removeprefix("metrics/"): v for k, v in result.items() if k.startswith("metrics/")}
        spending.reported(number, {"metrics": metrics})
        assert spending.spent.train_flops == pytest.approx(sum(trained))

    sweep.population.reported = and_spent  # type: ignore[method-assign]
    sweep.run()
    rows = study.rows()
    of_networks = sum(row.outcome.metrics["cost/train_flops"] for row in rows)
    assert of_networks != sum(trained)  # else this would prove nothing
    assert sum(row.executed("cost/train_flops") for row in rows) == pytest.approx(sum(trained))
    assert sum(row.executed("cost/wall_seconds") for row in rows) == pytest.approx(2e-6 * sum(trained))
    assert sum(e.train_flops for e in leaderboard.entries(study)) == pytest.approx(sum(trained))
    resumed = Spending(study, 0.0, 1, Shown())
    assert resumed.spent.train_flops == pytest.approx(sum(trained))
    curve, _ = curves._sweep_curve(tmp_path, "val/accuracy", True, 1)
    assert curve.flops_N[-1] == pytest.approx(sum(trained))


class Shown:
    """Displays nothing."""

    def accounted(self, *args: Any) -> None:
        """Nobody looks."""


def test_a_take_over_that_was_cut_short_is_finished_or_forgotten(tmp_path):
    study = new_study()
    first = Sweep(tmp_path, make_config(), study)
    taken = []
    finish = first.population._take

    def die(number: int, folder: Path, change: Any) -> None:
        taken.append(number)
        raise KeyboardInterrupt  # after the study knows, before the checkpoint is in place

    first.population._take = die  # type: ignore[method-assign]
    assert finish is not None
    with pytest.raises(KeyboardInterrupt):
        first.run()
    (number,) = taken
    (change,) = study.row(number).changes
    other = next(n for n in range(8) if n != number)
    (tmp_path / str(other) / "taken-1").mkdir()  # of this the study knows nothing
    second = Sweep(tmp_path, make_config(), study)
    assert not list(tmp_path.glob("*/taken-*"))
    assert len(read_state(tmp_path / str(number))["rates"]) == change.step // 10
    assert second.population._members[number].curve == [
        (change.donor_fraction, pytest.approx(read_state(tmp_path / str(number))["level"]))
    ]
    second.run()
    assert [row.state for row in study.rows()] == [TrialState.complete] * 8


def test_people_are_told_that_a_trial_went_on_from_another(whole, tmp_path):
    row = next(row for row in whole.study.rows() if row.changes)
    told = row.changes[0].told
    assert told == f"continued #{row.changes[0].donor} at {row.changes[0].fraction:.0%}"
    assert leaderboard.entry(row, ["val/accuracy"]).continued.startswith(told)
    assert any(told in line for line in leaderboard.table(whole.study))
    text = best.export(whole.study, row, tmp_path / "best.yaml").read_text()
    assert f"# Trial {row.number} went on from checkpoints of other trials" in text
    (first, *_) = best.document(whole.study, row)["recorded"]["population"]
    assert first["continued"] == row.changes[0].donor
    alone = next(row for row in whole.study.rows() if not row.changes)
    assert best.caution(alone) is None
    assert "population" not in best.document(whole.study, alone)["recorded"]


# With real networks


def growing_config(**changes: Any) -> TrialConfig:
    values: dict[str, Any] = {
        "data": {"name": "synthetic", "num_train": 300},
        "model": {"name": "conv", "widths": [2, 2]},
        "growth": {
            "method": "random",
            "num_neurons": 1,
            "start_epoch": 1,
            "end_fraction": 0.3,
            "statistics_batches": 1,
            "line_search_batches": 1,
        },
        "optimizer": {"lr": 0.1},
        "training": {"num_epochs": 4, "batch_size": 64},
    }
    for key, value in changes.items():
        group, name = key.split("__")
        values.setdefault(group, {})[name] = value
    return TrialConfig.from_dict(values)


@pytest.mark.parametrize(("bad", "good"), [([2, 2], [6, 7]), ([6, 7], [2, 2])])
def test_a_member_takes_over_a_larger_or_smaller_network_and_trains_it(tmp_path, bad, good):
    config = make_config(
        {"model.widths": [bad, good], "optimizer.lr": {"float": [1e-6, 0.2], "log": True}},
        interval=0.5,
        quantile=0.5,
        fidelity=Fidelity.epoch,
        num_trials=2,
    )
    config.trial = growing_config()
    study = new_study(2)
    space = SearchSpace(config.space, config.trial.to_dict())
    for widths, lr in ((bad, 1e-6), (good, 0.1)):
        study.enqueue(encoding.given(space, {"model.widths": widths, "optimizer.lr": lr}))
    Sweep(tmp_path, config, study, num_slots=1, engine=Growcore()).run()
    taker, donor = study.rows()
    assert [row.state for row in (taker, donor)] == [TrialState.complete] * 2, (taker.reason, donor.reason)
    (change,) = taker.changes
    assert change.donor == 1
    assert taker.config["model"]["widths"] == good
    assert taker.config["optimizer"]["lr"] != 0.1
    final = taker.outcome.metrics
    grown = donor.outcome.metrics
    keys = [key for key in grown if key.startswith("model/width/")]
    assert [final[key] for key in keys] == [grown[key] for key in keys] == [width + 1 for width in good]
    assert final["val/accuracy"] > 0.15  # at a learning rate of 1e-6 it is a guess


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(changeable()))
def test_every_mutable_key_can_change_in_the_middle_of_a_training(tmp_path, key):
    from growcore.training import Training, checkpoint

    other = {
        "optimizer.lr": 0.02,
        "optimizer.momentum": 0.5,
        "optimizer.weight_decay": 0.01,
        "training.batch_size": 32,
        "growth.where": "round_robin",
        "growth.every_epochs": 3,
        "growth.end_fraction": 0.6,
        "growth.num_neurons": 2,
        "growth.max_width": 5,
        "growth.statistics_batches": 2,
        "growth.numerical_threshold": 1e-4,
        "growth.statistical_threshold": 1e-2,
        "growth.relative_ridge": 0.1,
        "growth.line_search_batches": 2,
        "growth.max_scaling_factor": 0.5,
        "pruning.scope": "global",
        "pruning.k1": 0.3,
        "pruning.k2": 0.9,
        "pruning.fraction": 0.1,
        "pruning.activity_threshold": 0.7,
        "pruning.update_interval": 3,
        "pruning.every_epochs": 2,
        "pruning.end_fraction": 0.9,
    }
    options = {"growth__method": "tiny", "growth__end_fraction": 1.0, "pruning__method": "hebbian"}
    first = Training(growing_config(**options))
    next(iter(first))
    path = checkpoint.save(tmp_path, first)
    second = Training(growing_config(**{**options, key.replace(".", "__"): other[key]}))
    assert get_key(second.config.to_dict(), key) != get_key(first.config.to_dict(), key)
    checkpoint.load(path, second)
    reports = list(second)
    assert [report.epoch for report in reports] == [2, 3, 4]

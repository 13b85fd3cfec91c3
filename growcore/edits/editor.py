"""Edit events of a training: observe, decide, act, and write down what was done."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from growcore.config import TrialConfig, registry
from growcore.config.timing import Progress
from growcore.data import Batch, DataSet, training_batches
from growcore.diagnostics import LayerSignal, checks
from growcore.edits import decide, surgery
from growcore.edits.line_search import LineSearch, line_search, scaling_factors
from growcore.edits.observe import observe_activity, observe_growth, observe_pruning
from growcore.edits.reports import EditRecord, LayerState
from growcore.edits.upkeep import Upkeep
from growcore.growth import GrowthProposal, MergeProposal
from growcore.growth.methods import GrowthMethod
from growcore.networks import cost, models
from growcore.networks.running_statistics import reestimate
from growcore.sparse.methods import PruningMethod


class Editor:
    """Applies the growth and pruning that a configuration asks for, when they are due."""

    def __init__(self, config: TrialConfig, data: DataSet, generator: torch.Generator) -> None:
        self.config = config
        self.data = data
        self.generator = generator
        self.num_growths = 0  # growth events so far
        self.upkeep = Upkeep(data)  # of what evaluation reads

    def edit(
        self, model: nn.Module, optimizer: Optimizer, epoch: int, step: int
    ) -> tuple[list[EditRecord], int]:
        """Grow and prune before epoch `epoch` is trained, if the configuration says so.

        Returns:
            What was done, and the FLOPs that statistics, line search and upkeep executed.
        """
        records: list[EditRecord] = []
        flops = 0
        moment = _Moment(model, self.data.image_shape, epoch, step)
        progress = Progress(epoch, self.config.training.num_epochs, self.num_growths)
        if decide.pruning_is_due(self.config.pruning, progress):
            before = self._signal(model)
            records += self._noted(self._prune(model, optimizer, progress, moment), model, before)
        if decide.removal_is_due(self.config.pruning, progress):
            event = partial(self._remove, model, optimizer, progress, moment)
            flops += self._account(event, model, step, records)
        shapes_before_growth = models.sparse_shapes(model)
        if decide.growth_is_due(self.config.growth, progress):
            event = partial(self._grow, model, optimizer, progress, moment)
            flops += self._account(event, model, step, records)
        has_resized = any(record.kind in ("grow", "remove") for record in records)
        if has_resized and self._pruning_method().allot is not None:
            before = self._signal(model)
            allotted = self._allot(model, optimizer, progress, moment, shapes_before_growth)
            records += self._noted(allotted, model, before)
        return records, flops

    def _account(
        self,
        event: Callable[[], list[EditRecord]],
        model: nn.Module,
        step: int,
        records: list[EditRecord],
    ) -> int:
        """Do what looks at the network as evaluation does; add its records, return the FLOPs it executed."""
        flops = self.upkeep.refresh(model, step)
        before = self._signal(model)
        done, event_flops = cost.executed_flops(event)
        records += self._noted(done, model, before)
        return flops + event_flops

    def state_dict(self) -> dict[str, Any]:
        """Plain values; the generator belongs to the training."""
        return {"num_growths": self.num_growths, "upkeep": self.upkeep.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.num_growths = state["num_growths"]
        # A checkpoint of before there was any says nothing of edits: it is taken as edited.
        self.upkeep.load_state_dict(state.get("upkeep", {"edited": True, "estimated_at": None}))

    def _signal(self, model: nn.Module) -> list[LayerSignal]:
        """Signal at each layer as evaluation will see it, whatever mode the model is in."""
        measured = copy.deepcopy(model).eval()
        reestimate(measured, self.data.normalise(self.data.train.x_NCHW[: checks.NUM_IMAGES]))
        return checks.measure(measured, self.data)

    def _noted(
        self, records: list[EditRecord], model: nn.Module, before: list[LayerSignal]
    ) -> list[EditRecord]:
        """The records of one event with what it did to the signal, and whether it leaves a path through."""
        if all(record.kind == "skip" for record in records):
            return records
        self.upkeep.note_edit()
        after = self._signal(model)
        cut = checks.path_finding(model, self.data)
        said = "" if cut is None else f"; {cut.reason}"
        return [
            replace(r, signal=checks.edit_signal(r.layer, before, after), reason=f"{r.reason}{said}")
            for r in records
        ]

    def _prune(
        self, model: nn.Module, optimizer: Optimizer, progress: Progress, moment: _Moment
    ) -> list[EditRecord]:
        observations = observe_pruning(model, self.generator)
        edits = decide.decide_pruning(
            observations, self.config.pruning, progress, self.generator, self.config.imports
        )
        return moment.apply(edits, optimizer, self.generator)

    def _allot(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        progress: Progress,
        moment: _Moment,
        before: Mapping[str, torch.Size],
    ) -> list[EditRecord]:
        """Bring connections back to the density asked for, where the method keeps one."""
        observations = observe_pruning(model, self.generator, before)
        edits = decide.decide_allotment(
            observations, self.config.pruning, progress, self.generator, self.config.imports
        )
        return moment.apply(edits, optimizer, self.generator)

    def _remove(
        self, model: nn.Module, optimizer: Optimizer, progress: Progress, moment: _Moment
    ) -> list[EditRecord]:
        batches = self._training_batches(self.config.growth.statistics_batches)
        observations = observe_activity(model, models.grow_pairs(model), batches)
        return moment.apply(decide.decide_removal(observations, progress), optimizer, self.generator)

    def _grow(
        self, model: nn.Module, optimizer: Optimizer, progress: Progress, moment: _Moment
    ) -> list[EditRecord]:
        self.num_growths += 1
        statistics, search = self._batches()
        growth, imports = self.config.growth, self.config.imports
        pairs = models.grow_pairs(model)
        observations = observe_growth(model, pairs, statistics, growth, self.generator, imports)
        edits = decide.decide_growth(observations, growth, progress, imports)
        if not edits:
            return []
        found = self._choose_scale(model, edits, search)
        if not found.edits:
            return [moment.skipped(edit, found) for edit in edits]
        return moment.apply(found.edits, optimizer, self.generator, found)

    def _choose_scale(
        self, model: nn.Module, edits: Sequence[surgery.Edit], batches: Sequence[Batch]
    ) -> LineSearch:
        growth = self.config.growth
        method = self._growth_method()
        factors = scaling_factors(growth.max_scaling_factor, method.num_scaling_factors)
        return line_search(model, edits, batches, factors, may_refuse=method.num_scaling_factors > 1)

    def _batches(self) -> tuple[list[Batch], list[Batch]]:
        """Training batches for the statistics, and others for the line search.

        A method that needs no statistics looks at the batches of the search alone.
        """
        config = self.config
        if not self._growth_method().needs_statistics:
            batches = self._training_batches(config.growth.line_search_batches)
            return batches, batches
        num_statistics = config.growth.statistics_batches
        batches = self._training_batches(num_statistics + config.growth.line_search_batches)
        if len(batches) < 2:
            raise ValueError(
                f"growth needs at least two training batches, one for statistics and one for the line "
                f"search; training.batch_size={config.training.batch_size} leaves {len(batches)} of "
                f"{len(self.data.train)} images. Choose a smaller training.batch_size."
            )
        num_statistics = min(num_statistics, len(batches) - 1)
        return batches[:num_statistics], batches[num_statistics:]

    def _growth_method(self) -> GrowthMethod:
        method: GrowthMethod = registry.find(
            registry.GROWTH_METHODS, self.config.growth.method, self.config.imports
        )
        return method

    def _pruning_method(self) -> PruningMethod:
        method: PruningMethod = registry.find(
            registry.PRUNING_METHODS, self.config.pruning.method, self.config.imports
        )
        return method

    def _training_batches(self, number: int) -> list[Batch]:
        """The next training batches, so many or as many as there are."""
        batches = training_batches(
            self.data, self.config.data, self.config.training.batch_size, self.generator
        )
        return list(itertools.islice(batches, number))


class _Moment:
    """Applies edits at one moment of a training and records them."""

    def __init__(self, model: nn.Module, image_shape: tuple[int, int, int], epoch: int, step: int) -> None:
        self.model = model
        self.image_shape = image_shape
        self.epoch = epoch
        self.step = step

    def apply(
        self,
        edits: Sequence[surgery.Edit],
        optimizer: Optimizer,
        generator: torch.Generator,
        found: LineSearch | None = None,
    ) -> list[EditRecord]:
        before = {edit.layer: self._state(edit.layer) for edit in edits}
        applied = surgery.apply(edits, self.model, optimizer, generator)
        return [self._record(done, before[done.edit.layer], found) for done in applied]

    def skipped(self, edit: surgery.Edit, found: LineSearch) -> EditRecord:
        was_proposed = edit.kind is not surgery.EditKind.skip
        left = (
            f": left, as no scaling factor lowered the loss {found.loss_before:.4g}" if was_proposed else ""
        )
        return EditRecord(
            step=self.step,
            epoch=self.epoch,
            layer=edit.layer,
            kind="skip",
            number=0,
            reason=f"{edit.reason}{left}",
            realised_decrease=0.0,
            scaling_factor=0.0,
        )

    def _record(self, done: surgery.Applied, before: LayerState, found: LineSearch | None) -> EditRecord:
        edit = done.edit
        gamma = edit.proposal.gamma if isinstance(edit.proposal, GrowthProposal | MergeProposal) else None
        improvement = edit.measured.get("first_order_improvement")
        return EditRecord(
            step=self.step,
            epoch=self.epoch,
            layer=edit.layer,
            kind=edit.kind.value,
            number=done.number,
            reason=edit.reason,
            # Weights move by the squared factor, and so does what is predicted of them.
            predicted_decrease=improvement * gamma**2 if improvement and gamma else None,
            realised_decrease=found.decrease if found is not None else None,
            scaling_factor=gamma,
            counts=done.counts,
            before=before,
            after=self._state(edit.layer),
        )

    def _state(self, layer: str) -> LayerState:
        size = cost.measure(self.model, self.image_shape)
        return LayerState(
            width=models.layer_width(self.model, layer),
            parameters=size.parameters,
            nonzero_parameters=size.nonzero_parameters,
            forward_flops=size.forward_flops,
        )

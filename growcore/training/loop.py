"""The whole loop: train, edit, evaluate, report. Stopping a trial is ceasing to iterate.

    for report in Training(config, device):
        ...

The loop knows no logger and no service. It can be paused between any two steps; `state_dict` holds all that
resuming needs: on one device a resumed training equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from growcore import data, keys
from growcore.config import Preflight, TrialConfig
from growcore.config.schema import build, plain
from growcore.diagnostics import Finding, checks
from growcore.edits.editor import Editor
from growcore.edits.reports import EditRecord
from growcore.metrics import own as own_metrics
from growcore.networks import cost, models
from growcore.training.epoch import Epoch
from growcore.training.evaluation import evaluate
from growcore.training.optimizer import change_optimizer, check_same_optimizer, make_optimizer, make_schedule
from growcore.training.plateau import Plateau
from growcore.training.preflight import after_edits, before_training
from growcore.training.report import Report, TrialFailed

CHECK_EVERY_STEPS = 100  # steps between two looks at the loss; a look waits for the device


class Training:
    """One trial: iterate over it for its reports.

    Raises:
        ValueError: the configuration names data, a model or a method that does not exist, or an option that
            its method does not have.
        FileNotFoundError: the data set is not where the configuration says.
        TrialFailed: while iterating, when the loss is no longer finite.
        TrialInfeasible: where `preflight=fail` and the network carries no signal, at the first iteration, or
            an edit leaves no path through it.
    """

    def __init__(self, config: TrialConfig, device: str | torch.device = "cpu") -> None:
        keys.check(config)
        torch.set_num_threads(config.training.num_threads)
        self.config = config
        self.device = torch.device(device)
        self.data = data.load(config.data, self.device, config.imports)
        self.model = models.build(config, self.data.image_shape, self.data.num_classes).to(self.device)
        self.optimizer = make_optimizer(self.model, config.optimizer)
        self.schedule = make_schedule(self.optimizer, config)
        self.plateau = Plateau(config.training)
        self.own_metrics = own_metrics(config.imports)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.editor = Editor(config, self.data, self.generator)
        self.epoch = 0
        self.step = 0
        self.train_flops = 0
        self.sparse_flops = 0
        self.wall_seconds = 0.0
        self.paused = False  # whether iterating ended because of `pause`, before the last report
        self._pause_asked = False
        self._under_way: Epoch | None = None
        self._reported = 0  # epochs at the last report
        self._train_loss = 0.0
        self._edits: list[EditRecord] = []
        self._findings: list[Finding] = []
        self._signal: dict[str, float] = {}  # metrics of the preflight: all at first, then the counts

    @property
    def finished(self) -> bool:
        """Whether all epochs are trained; a pause may still keep the last report back."""
        return self.epoch >= self.config.training.num_epochs or self.plateau.reached

    def pause(self) -> None:
        """End the iteration after the step that runs, without a report; `paused` is then True.

        Signal handlers and other threads may call it: it sets a flag. Edits and a report that are being made
        are made to their end first, and the report is given. A paused training does not go on: load its
        `state_dict` into a new one.
        """
        self._pause_asked = True

    def __iter__(self) -> Iterator[Report]:
        while self._report_is_due or not self.finished:
            if self._pause_asked:
                self.paused = True
                return
            if self._report_is_due:
                yield self._report()
            else:
                self._train_epoch()

    @property
    def _report_is_due(self) -> bool:
        is_time = self.finished or self.epoch % self.config.training.report_every_epochs == 0
        return is_time and self.epoch > self._reported

    def _train_epoch(self) -> None:
        """Train the epoch under way, or the next one, to its end or to a pause."""
        with self._counting_seconds():
            if self._under_way is None:
                self._preflight()
            self._under_way = self._under_way or self._begin_epoch()
            if self._train_batches(self._under_way):
                self._end_epoch(self._under_way)

    @contextmanager
    def _counting_seconds(self) -> Iterator[None]:
        """Add the seconds of the block to those of the trial."""
        started = time.perf_counter()
        yield
        self.wall_seconds += time.perf_counter() - started

    def _preflight(self) -> None:
        if self.step == 0 and self.config.preflight != Preflight.off:
            check = before_training(self.model, self.data, self.config.preflight)
            self._findings, self._signal = check.findings, check.metrics

    def _begin_epoch(self) -> Epoch:
        records, flops = self.editor.edit(self.model, self.optimizer, self.epoch, self.step)
        self._edits += records
        after_edits(self.model, self.data, records, self.config.preflight)
        self._add_flops(flops, flops)
        size = cost.measure(self.model, self.data.image_shape)
        return Epoch.begin(size, self.generator, self.config.seed * 1_000_003 + self.epoch, self.device)

    def _train_batches(self, epoch: Epoch) -> bool:
        """Train what remains of an epoch; False where a pause leaves some of it."""
        self.model.train()
        self.generator.set_state(epoch.order)
        batches = data.training_batches(
            self.data, self.config.data, self.config.training.batch_size, self.generator
        )
        with self._counting_flops(epoch), epoch.own_noise():
            for x_NCHW, y_N in epoch.remaining(batches):
                if self._pause_asked:
                    return False
                epoch.total_loss += self._train_step(x_NCHW, y_N) * len(y_N)
                epoch.num_images += len(y_N)
                if self.step % CHECK_EVERY_STEPS == 0:
                    self._check_finite(epoch.total_loss)
        return True

    def _end_epoch(self, epoch: Epoch) -> None:
        self._check_finite(epoch.total_loss)
        self._train_loss = float(epoch.total_loss) / epoch.num_images
        self._under_way = None
        self.epoch += 1
        self.schedule.step()

    @contextmanager
    def _counting_flops(self, epoch: Epoch) -> Iterator[None]:
        """Add the FLOPs of the images trained on meanwhile, and of measuring strengths on them."""
        num_images, strength_flops = epoch.num_images, self._strength_flops()
        yield
        num_images = epoch.num_images - num_images
        strength_flops = self._strength_flops() - strength_flops
        self._add_flops(
            epoch.training_flops * num_images + strength_flops,
            epoch.sparse_training_flops * num_images + strength_flops,
        )

    def _add_flops(self, dense: int, sparse: int) -> None:
        self.train_flops += dense
        self.sparse_flops += sparse

    def _strength_flops(self) -> int:
        """FLOPs of measuring strengths so far, were the layers always of their present size."""
        layers = models.sparse_layers(self.model).values()
        if not layers:
            return 0
        flops = cost.forward_flops_by_weight(self.model, self.data.image_shape)
        per_image = sum(flops.get(id(layer.weight), 0) * layer.num_measurements for layer in layers)
        return per_image * self.config.training.batch_size

    def _train_step(self, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
        loss = functional.cross_entropy(self.model(x_NCHW), y_N)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def _check_finite(self, total_loss: Tensor) -> None:
        if not torch.isfinite(total_loss):
            raise TrialFailed(
                f"the training loss became {float(total_loss)} in epoch {self.epoch + 1} "
                f"(step {self.step}); {self._suspicion()}"
            )

    def _suspicion(self) -> str:
        if self._findings:  # not told yet, and now never reported
            return f"before training, {self._findings[0]}"
        return f"optimizer.lr={self.config.optimizer.lr:g} may be too high"

    def _report(self) -> Report:
        with self._counting_seconds():
            metrics = self._measure()
        metrics["cost/wall_seconds"] = self.wall_seconds
        edits, self._edits = self._edits, []
        findings, self._findings = self._findings, []
        metrics |= _growth_metrics(edits) | self._signal
        self._signal = {key: self._signal[key] for key in checks.COUNTS if key in self._signal}
        self._reported = self.epoch
        return Report(self.step, self.epoch, metrics, edits, self.finished, findings)

    def _measure(self) -> dict[str, float]:
        """What the network can: on validation images and, at the end, on test images."""
        flops = self.editor.upkeep.refresh(self.model, self.step)
        self._add_flops(flops, flops)
        metrics = {"train/loss": self._train_loss}
        metrics |= evaluate(self.model, self.data, self.data.val, "val", self.own_metrics)
        self.plateau.add(metrics["val/accuracy"], any(edit.kind != "skip" for edit in self._edits))
        metrics |= self._size_metrics()
        if self.finished:
            metrics |= evaluate(self.model, self.data, self.data.test, "test", self.own_metrics)
        if not torch.isfinite(torch.tensor(metrics["val/loss"])):
            raise TrialFailed(f"the validation loss became {metrics['val/loss']} in epoch {self.epoch}")
        return metrics

    def _size_metrics(self) -> dict[str, float]:
        size = cost.measure(self.model, self.data.image_shape)
        metrics: dict[str, float] = {
            "model/parameters": size.parameters,
            "model/nonzero_parameters": size.nonzero_parameters,
            "model/forward_flops": size.forward_flops,
            "cost/train_flops": self.train_flops,
            "cost/sparse_flops": self.sparse_flops,
        }
        metrics |= {f"model/width/{name}": width for name, width in models.widths(self.model).items()}
        for name, layer in models.sparse_layers(self.model).items():
            if layer.weight.numel() == 0:
                continue  # it has no neurons yet
            metrics[f"sparse/density/{name}"] = cost.nonzero_weights(layer) / layer.weight.numel()
        metrics |= checks.path_metrics(self.model, self.data)
        return {key: float(value) for key, value in metrics.items()}

    def manifest(self) -> dict[str, Any]:
        """Plain facts about the state, for the checkpoint's manifest."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "train_flops": self.train_flops,
            "widths": models.widths(self.model),
            "config": self.config.to_dict(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Architecture, weights, optimizer, schedule, random state and counters: tensors and plain values."""
        return {
            "config": self.config.to_dict(),
            "widths": models.widths(self.model),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "editor": self.editor.state_dict(),
            "plateau": self.plateau.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "train_flops": self.train_flops,
            "sparse_flops": self.sparse_flops,
            "wall_seconds": self.wall_seconds,
            "train_loss": self._train_loss,
            "preflight": dict(self._signal),
            "under_way": None if self._under_way is None else self._under_way.state_dict(),
            "reported": self._reported,
            "edits": [plain(edit) for edit in self._edits],
            "findings": [plain(finding) for finding in self._findings],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state as if there had been no break; state is taken at a report or after a pause.

        The configuration may differ from that of the state in what does not shape the network or its
        optimizer: training goes on with the new values. A new learning rate is where its schedule would be.
        Under a new batch size, an epoch goes on at the first batch that holds only images not trained on.

        Raises:
            ValueError: the state belongs to another model or another optimizer.
        """
        check_same_optimizer(state["config"]["optimizer"], self.config.optimizer)
        model = models.build(self.config, self.data.image_shape, self.data.num_classes)
        models.resize(model, state["widths"])
        model.load_state_dict(state["model"])
        self.model = model.to(self.device)
        self.optimizer = make_optimizer(self.model, self.config.optimizer)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule = make_schedule(self.optimizer, self.config)
        self.schedule.load_state_dict(state["schedule"])
        change_optimizer(self.optimizer, self.schedule, state["config"]["optimizer"], self.config.optimizer)
        self.generator.set_state(state["generator"].cpu())
        self.editor.load_state_dict(state["editor"])
        self.plateau.load_state_dict(state["plateau"])
        for name in ("epoch", "step", "train_flops", "sparse_flops", "wall_seconds"):
            setattr(self, name, state[name])
        self._train_loss = state["train_loss"]
        self._signal = dict(state["preflight"])
        under_way = state["under_way"]
        self._under_way = None if under_way is None else Epoch.load(under_way, self.device)
        self._reported = state["reported"]
        self._edits = [EditRecord.from_dict(edit) for edit in state["edits"]]
        self._findings = [build(Finding, finding) for finding in state["findings"]]


def _growth_metrics(edits: list[EditRecord]) -> dict[str, float]:
    """What the growths since the last report promised, and what they brought on the line search's batches."""
    metrics = {}
    for edit in edits:
        if edit.kind == "grow" and edit.predicted_decrease is not None:
            metrics[f"growth/first_order_improvement/{edit.layer}"] = edit.predicted_decrease
        if edit.kind == "grow" and edit.realised_decrease is not None:
            metrics["growth/realised_decrease"] = edit.realised_decrease
    return metrics

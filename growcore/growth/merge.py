"""Merges: where the outputs of several growing modules are added and several modules read the sum.

A new neuron of the merge is a new output of every module before it and a new input of every module behind
it: z = sigma(sum_i alpha_i b_i), read by omega_j. With the inputs b_i stacked and the gradients g_j side by
side this is the problem of a single pair, and it is solved as such, by the same functions.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from growcore.growth import applying, extending, gains, solving, target
from growcore.growth.extension import Extension, copied, part_of
from growcore.growth.geometry.merge import ConvMergeGeometry, LinearMergeGeometry, MergeGeometry
from growcore.growth.module import GrowingModule
from growcore.growth.normalization import apply_to_extension, check_growable, derivative_at_zero
from growcore.growth.proposal import MergeProposal
from growcore.growth.statistics import gathering
from growcore.growth.statistics.merge import MergeStatistics
from growcore.growth.statistics.statistic import TensorStatistic


class MergeGrowingModule(nn.Module):
    """A sum of modules' outputs and the function after it, able to grow.

    The caller adds: `merge(first(x) + second(x))`.

    Args:
        post_merge_function: what follows the sum.
        previous_modules: growing modules whose outputs are added, functions of equal slope at 0 behind them.
        next_modules: growing modules that read the result.
        name: what messages call it.
        target_in_neurons: neurons of the sum when growth is complete.
    """

    geometry: ClassVar[MergeGeometry] = MergeGeometry()

    previous_modules: list[GrowingModule]
    next_modules: list[GrowingModule]

    def __init__(
        self,
        post_merge_function: nn.Module | None = None,
        previous_modules: list[GrowingModule] | None = None,
        next_modules: list[GrowingModule] | None = None,
        name: str | None = None,
        target_in_neurons: int | None = None,
    ) -> None:
        super().__init__()
        self.name = name if name is not None else type(self).__name__
        self.post_merge_function = nn.Identity() if post_merge_function is None else post_merge_function
        self.previous_modules, self.next_modules = [], []
        self.gathered = MergeStatistics(self)
        self.eigenvalues_extension: Tensor | None = None
        self.gains_extension: Tensor | None = None  # what each new neuron brings, see `gains`
        # Mean and variance of the sum of the new outputs at gamma = 1; None: not known.
        self.sum_moments: tuple[Tensor | None, Tensor | None] = (None, None)
        self.target_in_neurons = target_in_neurons
        self.initial_in_neurons = 0
        self.set_previous_modules(previous_modules or [])
        self.set_next_modules(next_modules or [])

    def set_previous_modules(self, previous_modules: list[GrowingModule]) -> None:
        """Set the modules whose outputs are added.

        Raises:
            ValueError: a module of a kind, width or function that a merge cannot add.
        """
        for module in previous_modules:
            self.geometry.check_previous(self.name, module)
            if module.out_neurons != previous_modules[0].out_neurons:
                raise ValueError(
                    f"{self.name} adds outputs of one width; got {[m.out_neurons for m in previous_modules]}."
                )
        slopes = [_slope_at_zero(module) for module in previous_modules]
        if len(set(slopes)) > 1:
            raise ValueError(
                f"{self.name} solves for all modules before it at once, so that their functions need one "
                f"slope at 0; got [{', '.join(f'{slope:.3g}' for slope in slopes)}]. Give them one "
                f"function, or put it behind the sum."
            )
        self.previous_modules = list(previous_modules)
        self.initial_in_neurons = self.in_neurons
        for module in previous_modules:
            module.next_module = self

    def set_next_modules(self, next_modules: list[GrowingModule]) -> None:
        """Set the modules that read the sum.

        Raises:
            ValueError: a module of a kind that cannot read this merge.
        """
        for module in next_modules:
            self.geometry.check_next(self.name, module)
        self.next_modules = list(next_modules)
        for module in next_modules:
            module.previous_module = self
        self.gathered.read_by(len(next_modules))

    def add_previous_module(self, module: GrowingModule) -> None:
        """Add one more module whose output is added."""
        self.set_previous_modules([*self.previous_modules, module])

    def add_next_module(self, module: GrowingModule) -> None:
        """Add one more module that reads the sum."""
        self.set_next_modules([*self.next_modules, module])

    @property
    def in_neurons(self) -> int:
        """Number of neurons (features or channels) of the sum."""
        return self.previous_modules[0].out_neurons if self.previous_modules else 0

    @property
    def producers(self) -> list[GrowingModule]:
        """The modules that gain new neurons for the readers: the previous ones."""
        return self.previous_modules

    @property
    def readers(self) -> list[GrowingModule]:
        """The modules that read those neurons: the next ones."""
        return self.next_modules

    def columns_per_neuron(self, reader: GrowingModule) -> int:
        """Indices of the second dimension of a reader's weight that belong to one neuron of the sum."""
        return self.geometry.columns_per_neuron(self, reader)

    @property
    def function_behind(self) -> nn.Module:
        """What stands between the producers' functions and the readers: that of the sum."""
        return self.post_merge_function

    def check_neighbours(self) -> None:
        """Raise a ValueError where there are no modules around to share new neurons."""
        if not self.previous_modules or not self.next_modules:
            raise ValueError(f"{self.name} grows between modules; set previous and next modules first.")

    def forward(self, x: Tensor) -> Tensor:
        """The function of the sum x."""
        if self.gathered.collecting:
            self.gathered.store(x)
        return cast(Tensor, self.post_merge_function(x))

    def extended_forward(self, x: Tensor, x_ext: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The function of the sum, and of the sum of what the new neurons of the previous modules give."""
        supplement = None if x_ext is None else apply_to_extension(self.post_merge_function, x_ext)
        return self.post_merge_function(x), supplement

    @property
    def tensor_s_growth(self) -> TensorStatistic:
        """Second moment of the stacked inputs of the previous modules at every point of the sum."""
        return self.gathered.s_growth

    @property
    def growth_mean(self) -> TensorStatistic:
        """Mean of those inputs, 1 appended."""
        return self.gathered.mean

    @property
    def extension(self) -> Extension:
        """The current record of new neurons and of the next modules' steps, without copies."""
        outputs = tuple(producer.new_outputs for producer in self.producers)
        inputs = tuple(reader.new_inputs for reader in self.readers)
        return Extension(outputs, inputs, self.eigenvalues_extension, *self.sum_moments, self.gains_extension)

    @extension.setter
    def extension(self, extension: Extension) -> None:
        new = copied(extension)
        for producer, gained in zip(self.producers, new.outputs, strict=True):
            producer.new_outputs = gained
        for reader, read in zip(self.readers, new.inputs, strict=True):
            reader.new_inputs = read
        self.eigenvalues_extension, self.gains_extension = new.eigenvalues, new.gains
        self.sum_moments = new.sum_mean, new.sum_variance

    @property
    def first_order_improvement(self) -> Tensor:
        """The page's d + sigma'(0+) sum lambda^2, per unit gamma^2; see `predicted_decrease`."""
        return solving.first_order_improvement(self)

    @property
    def predicted_decrease(self) -> float:
        """First-order decrease of the loss per unit gamma^2, exact or measured; see `solving`."""
        return solving.predicted_decrease(self)

    def omega_weight(self, reader: GrowingModule, omega: Tensor) -> Tensor:
        """The solved omega of a reader as its weight for the new inputs."""
        return self.geometry.omega_kernel(reader, omega)

    def compute_optimal_updates(
        self,
        numerical_threshold: float = 1e-10,
        statistical_threshold: float = 1e-5,
        maximum_added_neurons: int | None = None,
        dtype: torch.dtype = torch.float32,
        use_projected_gradient: bool = True,
        relative_thresholds: bool = False,
        relative_ridge: float = 0.0,
    ) -> None:
        """The optimal steps of the next modules and the optimal new neurons of the merge.

        Sets the extensions of all modules around; the arguments are those of GrowingModule's method.
        """
        for reader in self.readers:
            reader.compute_optimal_delta(dtype=dtype, relative_ridge=relative_ridge)
        self.extension = solving.solved_extension(
            self,
            numerical_threshold,
            statistical_threshold,
            maximum_added_neurons,
            dtype,
            use_projected_gradient,
            relative_thresholds,
            relative_ridge,
        )

    def create_layer_extensions(
        self,
        extension_size: int,
        output_extension_init: str = "copy_uniform",
        input_extension_init: str = "copy_uniform",
        variance_transfer: bool = False,
    ) -> None:
        """Create new neurons of the merge with drawn weights; see GrowingModule.create_layer_extensions.

        Raises:
            ValueError: an unknown name or a size below 1, before anything is set.
        """
        extending.check_draw((extension_size,), (output_extension_init, input_extension_init))
        self.extension = extending.drawn(
            self,
            extension_size,
            [extension_size * self.columns_per_neuron(reader) for reader in self.readers],
            output_extension_init,
            input_extension_init,
            variance_transfer,
        )

    def normalize_optimal_updates(
        self, std_target: float | None = None, normalization_type: str = "legacy_normalization"
    ) -> None:
        """As GrowingModule's method; each deviation is over all modules on its side.

        Raises:
            ValueError: there is no extension, an unknown type or a target that is not positive.
        """
        extending.require_extension(self, "normalize")
        extending.normalize_optimal_updates(self, std_target, normalization_type)

    def apply_change(self, scaling_factor: float | None = None, apply_delta: bool = True) -> None:
        """Make all modules around compute what their extended_forward computes.

        Args:
            scaling_factor: gamma; None: the current one.
            apply_delta: whether the next modules take their steps.

        Raises:
            ValueError: there is no extension, or what follows the sum cannot grow; nothing has changed then.
        """
        extension = part_of(extending.require_extension(self, "apply"), with_step=apply_delta)
        check_growable(self.post_merge_function, self.name)
        gamma = applying.apply(self, extension, scaling_factor, None)
        self.post_merge_function = applying.grown_function(
            self.post_merge_function, extension.num_neurons, *self.sum_moments, gamma
        )

    def delete_update(self) -> None:
        """Forget the new neurons and the steps of the next modules."""
        self.eigenvalues_extension = self.gains_extension = None
        self.sum_moments = None, None
        for producer in self.producers:
            producer.new_outputs = None
        for reader in self.readers:
            reader.delete_update()
        self.set_scaling_factor(0.0)

    def proposal(self) -> MergeProposal:
        """The current new neurons and steps as a value.

        Raises:
            ValueError: there are no new neurons.
        """
        return applying.proposed(self, MergeProposal)

    def load_proposal(self, proposal: MergeProposal) -> None:
        """Set a proposal's extensions, steps and gamma; see `applying.load`.

        Raises:
            ValueError: the proposal does not fit the modules; nothing has changed then.
        """
        if not isinstance(proposal, MergeProposal):
            raise ValueError(
                f"{self.name} is a merge and takes a MergeProposal; got {type(proposal).__name__}. Load a "
                f"proposal into the layers it was made for."
            )
        applying.load(self, proposal)

    init_computation = gathering.init_computation
    update_computation = gathering.update_computation
    reduce_computation = gathering.reduce_computation
    reset_computation = gathering.reset_computation
    compute_gradmax_updates = solving.compute_gradmax_updates
    look_again = gains.look_again
    choose_signs = gains.choose_signs
    scale_layer_extension = extending.scale_layer_extension
    set_scaling_factor = extending.set_scaling_factor
    missing_neurons = target.missing_neurons
    number_of_neurons_to_add = target.number_of_neurons_to_add
    complete_growth = target.complete_growth


class LinearMergeGrowingModule(MergeGrowingModule):
    """A sum of linear layers' outputs that linear layers read."""

    geometry = LinearMergeGeometry()


class Conv2dMergeGrowingModule(MergeGrowingModule):
    """A sum of convolutions' outputs that convolutions read, or linear layers after it is flattened.

    The post_merge_function may pool by averages and flatten for linear readers; a new channel is then read
    by one weight per remaining position. S_growth is summed over the whole map of the sum.
    """

    geometry = ConvMergeGeometry()


def _slope_at_zero(module: GrowingModule) -> float:
    """That of a function that can grow; one that cannot is refused when growth is asked for."""
    try:
        check_growable(module.post_layer_function)
    except ValueError:
        return 1.0
    return derivative_at_zero(module.function_on_extension)


# What gains neurons: a layer before which they stand, or a merge.
Consumer = GrowingModule | MergeGrowingModule

"""GrowingModule: a layer that gains input neurons where the loss asks for them.

A pair of modules grows: the previous one gains output neurons (alpha), this one the inputs they feed
(omega), and this one takes its optimal step (delta). Verbockhaven et al., arXiv:2405.19816.

The module calls its parts: `gathered` keeps passes and statistics, `geometry` says how this kind of layer
reads its input. What is to be gained is a frozen record, `extension`, that functions take and return; each
module holds the part of it that concerns its own layer, as `new_outputs` and `new_inputs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from growcore.growth import extending, gains, layers, pair, passes, resizing, solving, target
from growcore.growth.checking import check_layer
from growcore.growth.extension import Extension, NewInputs, NewOutputs, copied, decrease_tensor, mapped
from growcore.growth.geometry.base import Geometry
from growcore.growth.initialization import copy_uniform, known_inits
from growcore.growth.layers import Layer, apply_layer, check_statistics_shapes, fan_in
from growcore.growth.statistics import gathering
from growcore.growth.statistics.layer import LayerStatistics
from growcore.growth.statistics.statistic import TensorStatistic
from growcore.growth.views import LayerViews

if TYPE_CHECKING:
    from growcore.growth.merge import Consumer

# Modules that a growing module refers to or holds for a while: none is a part of it, so none may appear in
# its state_dict or among the parameters of an optimizer.
_UNREGISTERED = frozenset(
    ("previous_module", "next_module", "optimal_delta_layer", "extended_input_layer", "extended_output_layer")
)


class GrowingModule(nn.Module):
    """A layer and the function after it, able to grow.

    Args:
        layer: the linear or convolutional layer.
        tensor_s_shape: shape S must have for this layer, checked; None: not checked.
        tensor_m_shape: shape M must have for this layer, checked; None: not checked.
        post_layer_function: what follows the layer.
        extended_post_layer_function: what follows the new neurons before they are applied; None: the
            post_layer_function without its normalisation.
        allow_growing: whether this layer gains inputs; it then needs a growing previous_module.
        previous_module: where the input comes from.
        next_module: where the output goes.
        device: where the layer is put; None: where it is.
        name: what messages call it.
        target_in_neurons: input neurons when growth is complete.
        initial_in_neurons: input neurons before growth; None: those of the layer now.
    """

    geometry: ClassVar[Geometry] = Geometry()
    known_inits = known_inits

    layer: Layer
    post_layer_function: nn.Module
    extended_post_layer_function: nn.Module | None
    previous_module: nn.Module | None
    next_module: nn.Module | None

    def __init__(
        self,
        layer: Layer,
        tensor_s_shape: tuple[int, int] | None = None,
        tensor_m_shape: tuple[int, int] | None = None,
        post_layer_function: nn.Module | None = None,
        extended_post_layer_function: nn.Module | None = None,
        allow_growing: bool = True,
        previous_module: nn.Module | None = None,
        next_module: nn.Module | None = None,
        device: torch.device | None = None,
        name: str | None = None,
        target_in_neurons: int | None = None,
        initial_in_neurons: int | None = None,
    ) -> None:
        if allow_growing and not isinstance(previous_module, GrowingModule | pair.GrowsForReaders):
            raise ValueError(
                f"A layer that gains inputs needs a growing module before it; got allow_growing=True, "
                f"previous_module={type(previous_module).__name__}. Pass previous_module or "
                f"allow_growing=False."
            )
        super().__init__()
        check_layer(layer, name if name is not None else type(self).__name__)
        function = nn.Identity() if post_layer_function is None else post_layer_function
        special = extended_post_layer_function
        self.name = name if name is not None else type(self).__name__
        self.layer = layer.to(device) if device is not None else layer
        self.post_layer_function = function.to(device)
        self.extended_post_layer_function = None if special is None else special.to(device)
        self.previous_module, self.next_module = previous_module, next_module
        if isinstance(previous_module, GrowingModule) and previous_module.next_module is None:
            previous_module.next_module = self
        self.allow_growing = allow_growing
        self.target_in_neurons = target_in_neurons
        self.initial_in_neurons = self.in_neurons if initial_in_neurons is None else initial_in_neurons
        check_statistics_shapes(self.layer, tensor_s_shape, tensor_m_shape)
        self.store_input = self.store_pre_activity = False  # whether forward passes keep them
        self.gathered = LayerStatistics(self)
        self.new_outputs: NewOutputs | None = None
        self.new_inputs = NewInputs()
        self.eigenvalues_extension: Tensor | None = None
        self.gains_extension: Tensor | None = None  # what each new neuron brings, see `gains`
        self.delta_raw: Tensor | None = None  # the optimal step before its bias is split off
        self._views = LayerViews()
        # One tensor for both ends of a pair: a derivative by gamma passes through alpha and omega.
        self.input_scaling_factor = self.output_scaling_factor = extending.scalar(0.0)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _UNREGISTERED:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> GrowingModule:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.new_outputs = self.new_outputs and mapped(self.new_outputs, fn)
        self.new_inputs = mapped(self.new_inputs, fn)
        return self

    @property
    def weight(self) -> Tensor:
        """Weight of the layer."""
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        """Bias of the layer, None where it has none."""
        return self.layer.bias

    @property
    def use_bias(self) -> bool:
        """Whether the layer has a bias."""
        return self.layer.bias is not None

    @property
    def device(self) -> torch.device:
        """Where the layer's weight lives."""
        return self.layer.weight.device

    @property
    def in_neurons(self) -> int:
        """Number of input neurons (features or channels)."""
        return self.weight.shape[1]

    @property
    def out_neurons(self) -> int:
        """Number of output neurons (features or channels)."""
        return self.weight.shape[0]

    @property
    def in_fan(self) -> int:
        """Number of inputs of one neuron of this layer."""
        return fan_in(self.weight)

    @property
    def producers(self) -> list[GrowingModule]:
        """The module that gains new neurons for this one; empty where no growing module stands before it."""
        return [self.previous_module] if isinstance(self.previous_module, GrowingModule) else []

    @property
    def readers(self) -> list[GrowingModule]:
        """The modules that read those neurons: this one."""
        return [self]

    @property
    def grows_with(self) -> Consumer:
        """The consumer by which this module gains inputs: itself, or the merge it reads."""
        previous = self.previous_module
        return cast("Consumer", previous if isinstance(previous, pair.GrowsForReaders) else self)

    def columns_per_neuron(self, reader: GrowingModule) -> int:
        """Indices of the second dimension of a reader's weight that belong to one neuron.

        One, or one for each position of a map that is flattened before a linear layer.
        """
        first = self.producers[0] if self.producers else None
        if first is None or not first.out_neurons or not isinstance(self.layer, nn.Linear):
            return 1
        return max(self.in_neurons // first.out_neurons, 1) if isinstance(first.layer, nn.Conv2d) else 1

    @property
    def function_on_extension(self) -> nn.Module:
        """What follows the layer for new neurons."""
        special = self.extended_post_layer_function
        return self.post_layer_function if special is None else special

    @property
    def function_behind(self) -> nn.Module:
        """What stands between the producers' functions and the readers: nothing, in a pair."""
        return nn.Identity()

    def require_previous(self) -> GrowingModule:
        """The previous module.

        Raises:
            ValueError: there is none that can gain neurons for this one alone.
        """
        if not isinstance(self.previous_module, GrowingModule):
            raise ValueError(
                f"{self.name} gains input neurons from a growing module before it; got "
                f"previous_module={type(self.previous_module).__name__}. Pass previous_module=... ."
            )
        return self.previous_module

    def check_neighbours(self) -> None:
        """Raise a ValueError where the previous module and this one cannot share new neurons."""
        self.geometry.check_pair(self.require_previous(), self)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters of the layer; those of the function after it belong to the whole network."""
        return self.layer.parameters(recurse)

    def number_of_parameters(self) -> int:
        """Number of parameters of the layer."""
        return sum(parameter.numel() for parameter in self.parameters())

    def update_input_size(
        self,
        input_size: tuple[int, ...] | None = None,
        compute_from_previous: bool = False,
        force_update: bool = True,
    ) -> tuple[int, ...] | None:
        """The size of the layer's input without samples and channels, where it is known."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """sigma(W x); keeps x and the pre-activation while statistics are gathered."""
        if not self.gathered.wanted:
            return passes.after_layer(self, apply_layer(self.layer, x))
        self.gathered.store(x)
        y = passes.after_layer(self, self.gathered.store_result(apply_layer(self.layer, x)))
        return self.gathered.store_output(y)

    @property
    def input(self) -> Tensor:
        """Input of the last forward pass, detached; a ValueError where none was stored."""
        return self.gathered.input

    @property
    def input_extended(self) -> Tensor:
        """The stored input, extended by ones where the layer has a bias."""
        return self.geometry.input_extended(self.gathered.reading)

    @property
    def pre_activity(self) -> Tensor:
        """Pre-activation of the last pass, its `.grad` filled by backward; a ValueError where none is."""
        return self.gathered.pre_activity

    @property
    def pre_activity_gradient(self) -> Tensor:
        """The gradient dL/da of the last pass; a ValueError without a backward pass or under no_grad."""
        return self.gathered.gradient

    @property
    def tensor_s(self) -> TensorStatistic:
        """S of this layer."""
        return self.gathered.s

    @property
    def tensor_m(self) -> TensorStatistic:
        """M of this layer."""
        return self.gathered.m

    @property
    def tensor_m_prev(self) -> TensorStatistic:
        """M_prev of the pair."""
        return self.gathered.m_prev

    @property
    def cross_covariance(self) -> TensorStatistic:
        """C of the pair."""
        return self.gathered.c

    @property
    def tensor_s_growth(self) -> TensorStatistic:
        """S of the previous module's input as often as new neurons are read."""
        return self.gathered.s_growth

    @property
    def growth_mean(self) -> TensorStatistic:
        """Mean of the previous module's input, 1 appended, as often as new neurons are read."""
        return self.gathered.mean

    @property
    def tensor_n(self) -> Tensor:
        """N = -M_prev + C delta^T; a ValueError where the optimal delta is not known yet."""
        return self.gathered.goals(use_projected_gradient=True)[0]

    def statistics(self) -> Iterator[TensorStatistic]:
        """The statistics that a forward pass of this module opens for one more update."""
        return self.gathered.own()

    @property
    def extension(self) -> Extension:
        """The current record of new neurons and of this layer's step, without copies."""
        outputs = tuple(producer.new_outputs for producer in self.producers)
        return Extension(outputs, (self.new_inputs,), self.eigenvalues_extension, gains=self.gains_extension)

    @extension.setter
    def extension(self, extension: Extension) -> None:
        new = copied(extension)
        for producer, gained in zip(self.producers, new.outputs, strict=True):
            producer.new_outputs = gained
        (self.new_inputs,) = new.inputs
        self.eigenvalues_extension, self.gains_extension = new.eigenvalues, new.gains

    @property
    def extended_output_layer(self) -> Layer | None:
        """The weights into this module's new neurons, as a layer that shares memory with the record."""
        new = self.new_outputs
        return None if new is None else self._views.of("alpha", self.layer, new.weight, new.bias)

    @extended_output_layer.setter
    def extended_output_layer(self, layer: Layer | None) -> None:
        weight, bias = self._views.adopt("alpha", layer)
        self.new_outputs = None if weight is None else NewOutputs(weight, bias)

    @property
    def extended_input_layer(self) -> Layer | None:
        """The weights out of the previous module's new neurons, as a layer that shares memory with it."""
        return self._views.of("omega", self.layer, self.new_inputs.omega, None)

    @extended_input_layer.setter
    def extended_input_layer(self, layer: Layer | None) -> None:
        omega, _ = self._views.adopt("omega", layer)
        self.gains_extension = None
        self.new_inputs = replace(self.new_inputs, omega=omega)

    @property
    def optimal_delta_layer(self) -> Layer | None:
        """The optimal step, as a layer that shares memory with the record."""
        return self._views.of("delta", self.layer, self.new_inputs.delta_weight, self.new_inputs.delta_bias)

    @optimal_delta_layer.setter
    def optimal_delta_layer(self, layer: Layer | None) -> None:
        weight, bias = self._views.adopt("delta", layer)
        self.new_inputs = replace(self.new_inputs, delta_weight=weight, delta_bias=bias)

    @property
    def parameter_update_decrease(self) -> Tensor | None:
        """First-order decrease of the loss by the step, per unit gamma^2; None where it is not known."""
        decrease = self.new_inputs.parameter_update_decrease
        return None if decrease is None else decrease_tensor(decrease, self.weight)

    @property
    def scaling_factor(self) -> Tensor:
        """gamma, a scalar leaf tensor, so that the loss can be differentiated by it."""
        return self.input_scaling_factor

    @scaling_factor.setter
    def scaling_factor(self, factor: float | Tensor) -> None:
        self.set_scaling_factor(float(factor))

    @property
    def activation_gradient(self) -> Tensor:
        """sigma'(0+) of the function between the previous layer and this one."""
        self.require_previous()
        return torch.tensor(solving.slope(self), dtype=self.weight.dtype, device=self.device)

    @property
    def first_order_improvement(self) -> Tensor:
        """The page's d + sigma'(0+) sum lambda^2, per unit gamma^2; `predicted_decrease` is what comes true.

        Raises:
            ValueError: the optimal delta has not been computed.
        """
        return solving.first_order_improvement(self)

    @property
    def predicted_decrease(self) -> float:
        """First-order decrease of the loss per unit gamma^2, exact or measured; see `solving`."""
        return solving.predicted_decrease(self)

    def omega_kernel(self, omega: Tensor) -> Tensor:
        """The solved omega as a weight of this layer for the new inputs."""
        return self.geometry.omega_kernel(self.layer, omega)

    def omega_weight(self, reader: GrowingModule, omega: Tensor) -> Tensor:
        """The solved omega of a reader, which is this module, as its weight for the new inputs."""
        return self.omega_kernel(omega)

    def copy_uniform_initialization(self, tensor: Tensor, reference_tensor: Tensor, fan_in: int) -> None:
        """Fill `tensor` uniformly on +-sqrt(3) std(reference), or std fan_in^(-1/2) without a spread."""
        copy_uniform(tensor, reference_tensor, fan_in)

    def extra_repr(self) -> str:
        return f"{self.name}, {self.number_of_parameters()} parameters"

    # The page's longer methods; those that merges share have one definition for both.
    extended_forward = passes.extended_forward

    # Gathering what the layer reads and the gradients it gets.
    init_computation = gathering.init_computation
    update_computation = gathering.update_computation
    reduce_computation = gathering.reduce_computation
    reset_computation = gathering.reset_computation
    compute_s_update = gathering.compute_s_update
    compute_m_update = gathering.compute_m_update
    compute_m_prev_update = gathering.compute_m_prev_update
    compute_cross_covariance_update = gathering.compute_cross_covariance_update
    compute_n_update = gathering.compute_n_update
    projected_v_goal = gathering.projected_v_goal

    # Layers like this one.
    get_fan_in_from_layer = staticmethod(layers.get_fan_in_from_layer)
    scale_layer = staticmethod(layers.scale_layer)
    layer_of_tensor = layers.layer_of_tensor

    # Solving for, drawing and changing what is to be gained.
    compute_optimal_delta = pair.compute_optimal_delta
    compute_optimal_added_parameters = pair.compute_optimal_added_parameters
    compute_optimal_updates = pair.compute_optimal_updates
    compute_gradmax_updates = solving.compute_gradmax_updates
    look_again = gains.look_again
    choose_signs = gains.choose_signs
    create_layer_in_extension = extending.create_layer_in_extension
    create_layer_out_extension = extending.create_layer_out_extension
    create_layer_extensions = pair.create_layer_extensions
    sub_select_optimal_added_parameters = pair.sub_select_optimal_added_parameters
    normalize_optimal_updates = extending.normalize_optimal_updates
    scale_layer_extension = extending.scale_layer_extension
    scale_parameter_update = pair.scale_parameter_update
    set_scaling_factor = extending.set_scaling_factor

    # Proposing and growing.
    proposal = pair.proposal
    load_proposal = pair.load_proposal
    apply_change = pair.apply_change
    delete_update = pair.delete_update
    add_parameters = resizing.add_parameters
    parameter_step = resizing.parameter_step
    layer_in_extension = resizing.layer_in_extension
    layer_out_extension = resizing.layer_out_extension
    missing_neurons = target.missing_neurons
    number_of_neurons_to_add = target.number_of_neurons_to_add
    complete_growth = target.complete_growth

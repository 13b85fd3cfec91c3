"""The forward pass of a growing layer, as it is and as it will be.

Letters: b input of the layer, a = W b pre-activation, sigma what follows it, gamma scaling factor, delta
the optimal step, alpha and omega the weights into and out of new neurons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from growcore.growth.layers import apply_layer
from growcore.growth.normalization import apply_to_extension
from growcore.growth.resting import offset

if TYPE_CHECKING:
    from growcore.growth.module import GrowingModule


def after_layer(module: GrowingModule, pre_activity: Tensor) -> Tensor:
    """What follows the layer, sigma, of the pre-activation."""
    if module.layer.weight.shape[0] == 0:  # torch normalises no empty batch
        return apply_to_extension(module.post_layer_function, pre_activity)
    return cast(Tensor, module.post_layer_function(pre_activity))


def extended_forward(
    module: GrowingModule,
    x: Tensor,
    x_ext: Tensor | None = None,
    use_optimal_delta: bool = True,
    use_extended_input: bool = True,
    use_extended_output: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """The forward pass as it will be after apply_change: a = W x - gamma^2 delta x + gamma omega x_ext.

    Where new neurons give a sigma(0) other than 0 at rest, gamma omega sigma(0) is taken off. Nothing is
    stored.

    Args:
        module: whose pass it is.
        x: input of the layer as it is.
        x_ext: what the previous module's new neurons give; needed where the input is extended.
        use_optimal_delta: whether the step delta is taken.
        use_extended_input: whether the new neurons of the previous module are read.
        use_extended_output: whether this layer's own new neurons, sigma(gamma alpha x), are computed.

    Returns:
        the output, and the output of the new neurons or None.

    Raises:
        ValueError: exactly one of input extension and x_ext is there, or no bias could take sigma(0) off.
    """
    pre_activity = _stepped(module, x, use_optimal_delta)
    if use_extended_input:
        pre_activity = pre_activity + _from_extension(module, x_ext)
    supplement = _of_extension(module, x) if use_extended_output else None
    return after_layer(module, pre_activity), supplement


def _stepped(module: GrowingModule, x: Tensor, use_optimal_delta: bool) -> Tensor:
    """W x - gamma^2 delta x, without the step where there is none or it is not asked for."""
    pre_activity = apply_layer(module.layer, x)
    if not use_optimal_delta or module.optimal_delta_layer is None:
        return pre_activity
    return pre_activity - module.scaling_factor**2 * apply_layer(module.optimal_delta_layer, x)


def _from_extension(module: GrowingModule, x_ext: Tensor | None) -> Tensor | float:
    """What the layer reads of the previous module's new neurons, gamma omega x_ext."""
    if (x_ext is None) != (module.extended_input_layer is None):
        raise ValueError(
            f"x_ext and the input extension of {module.name} go together; got "
            f"x_ext={None if x_ext is None else tuple(x_ext.shape)}, "
            f"extended_input_layer={module.extended_input_layer}. Pass on the second output of the "
            f"previous module's extended_forward, or set use_extended_input=False."
        )
    if x_ext is None or module.extended_input_layer is None:
        return 0.0
    read: Tensor = module.extended_input_layer(x_ext)
    shift = offset(module, module.extended_input_layer.weight)
    if shift is not None:  # what the new neurons give at rest, taken off the bias
        read = read - (shift[:, None, None] if isinstance(module.layer, nn.Conv2d) else shift)
    return module.scaling_factor * read


def _of_extension(module: GrowingModule, x: Tensor) -> Tensor | None:
    """sigma(gamma alpha x): what the module's own new neurons give, None where there are none."""
    layer = module.extended_output_layer
    if layer is None:
        return None
    supplement = module.output_scaling_factor * layer(x)
    if module.extended_post_layer_function is not None:
        return cast(Tensor, module.extended_post_layer_function(supplement))
    return apply_to_extension(module.post_layer_function, supplement)

"""Which layer of a network reads which, found by tracing its forward pass without data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

Layer = nn.Linear | nn.Conv2d


class LayerPair(NamedTuple):
    """A layer, the modules its output passes through, and the only layer that reads it."""

    producer: Layer
    between: list[nn.Module]
    consumer: Layer


class TracedNetwork:
    """The order in which a network calls its modules; see `trace`."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.model = model
        self.nodes = list(graph.nodes)

    def pairs(self) -> list[LayerPair]:
        """Neighbouring layers of which nobody else reads the first, from input to output."""
        targets = [node.target for node in self.nodes if node.op == "call_module"]
        pairs = []
        for node in self.nodes:
            passed = list(self._passed_from(node))
            if not passed or not isinstance(passed[0][1], Layer) or not isinstance(passed[-1][1], Layer):
                continue
            if len(passed) > 1 and all(targets.count(n.target) == 1 for n, m in passed if _has_state(m)):
                modules = [module for _, module in passed]
                pairs.append(LayerPair(passed[0][1], modules[1:-1], passed[-1][1]))
        return pairs

    def chain(self) -> list[nn.Module] | None:
        """The modules that compute what the network does one after another; None where it branches."""
        modules: list[nn.Module] = []
        for previous, node in zip(self.nodes, self.nodes[1:-1], strict=False):
            module = self._module(node)
            if module is None or list(node.all_input_nodes) != [previous]:
                return None
            modules.append(module)
        return modules

    def _passed_from(self, node: fx.Node) -> Iterator[tuple[fx.Node, nn.Module]]:
        """What is called with a node's value and nothing else, up to and including the next layer."""
        module = self._module(node)
        while module is not None:
            yield node, module
            if len(node.users) != 1:
                return
            (node,) = node.users
            module = self._module(node)
            if isinstance(module, Layer):
                yield node, module
                return

    def _module(self, node: fx.Node) -> nn.Module | None:
        if len(node.all_input_nodes) != 1:
            return None
        if node.op == "call_module":
            return self.model.get_submodule(str(node.target))
        if (node.op, node.target) in (("call_method", "flatten"), ("call_function", torch.flatten)):
            dims: dict[str, Any] = {
                "start_dim": 0,
                **dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)),
            }
            return nn.Flatten(**dims | node.kwargs)
        return None


def trace(model: nn.Module) -> TracedNetwork | None:
    """A network's calls; None where they depend on what the network is given."""
    try:
        return TracedNetwork(model, fx.Tracer().trace(model))
    except (fx.proxy.TraceError, TypeError, RuntimeError):
        # What stands for the input is neither a number nor a truth value: python refuses it in many ways.
        return None


def _has_state(module: nn.Module) -> bool:
    return isinstance(module, Layer | _BatchNorm)

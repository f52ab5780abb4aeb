"""Where the steps of a traced or exported network belong, and which of them are a gate: there SE is often no module any
more, but a map times a function of its pooled self."""

from __future__ import annotations

import operator
from collections.abc import Set
from itertools import takewhile

import torch
from torch import fx

from senet_lab.models.gates import SEBlock
from senet_lab.models.tracing import ancestors

aten = torch.ops.aten
MULTIPLICATIONS = (operator.mul, operator.imul, torch.mul, aten.mul.Tensor, aten.mul_.Tensor, "mul", "mul_")
POOLING = ("mean", "sum", "amax", "max", "pool")  # in the names of what pools
OURS = (SEBlock, f"{SEBlock.__module__}.{SEBlock.__qualname__}")  # exported networks know classes by their names


def places_in(module: fx.GraphModule) -> tuple[dict[fx.Node, list[str]], dict[str, set[str]]]:
    """Step → paths of what it belongs to, within the network; and path of a gate, as it stands there → its weights.

    A step belongs where the tracer noted; without a note, to the module that it calls, or to where the step before it
    ran.
    """
    places: dict[fx.Node, list[str]] = {}
    gates: dict[str, set[str]] = {}
    last = ""
    for node in module.graph.nodes:
        noted = [*node.meta.get("nn_module_stack", {}).values()]
        if noted:
            last, kind = noted[-1]
            if kind in OURS:
                gates[last] = {name for name, _ in module.named_parameters() if name.startswith(f"{last}.")}
        elif node.op == "call_module":
            last = str(node.target)
        places[node] = [last]
    for steps in gates_in(module):
        weights = weights_of(module, steps)
        if not any(place in gates for node in steps for place in places[node]):
            levels = zip(*(name.split(".")[:-1] for name in weights), strict=False)
            shared = [level[0] for level in takewhile(lambda level: len({*level}) == 1, levels)]
            gate = ".".join([*shared, f"gate {len(gates)}"])
            gates[gate] = weights
            for node in steps:
                places[node] = [gate] if shared else [*places[node], gate]
    return places, gates


def gates_in(module: fx.GraphModule) -> list[set[fx.Node]]:
    """The steps of each gate: those that compute it from the map that it multiplies, and the multiplication. It has a
    layer, or two where nothing is pooled (section 7.1), and looks at single pixels only."""
    found = []
    for node in module.graph.nodes:
        if node.target not in MULTIPLICATIONS or len(node.all_input_nodes) != 2:
            continue
        one, two = node.all_input_nodes
        for map_, gate in ((one, two), (two, one)):
            steps = ancestors(gate) - ancestors(map_)
            if map_ not in ancestors(gate):
                continue
            shapes = [module.get_parameter(name).shape for name in weights_of(module, steps)]
            layers = [shape for shape in shapes if len(shape) > 1]
            pooled = any(is_pooling(module, step) for step in steps)
            if len(layers) > (0 if pooled else 1) and all(len(shape) < 4 or max(shape[2:]) == 1 for shape in layers):
                found.append({*steps, node})
    return found


def is_pooling(module: fx.GraphModule, step: fx.Node) -> bool:
    target = step.target
    name = type(module.get_submodule(str(target))).__name__ if step.op == "call_module" else target
    return any(word in str(getattr(name, "__name__", name)).lower() for word in POOLING)


def weights_of(module: fx.GraphModule, steps: Set[fx.Node]) -> set[str]:
    """Names of the parameters that steps take."""
    names = {name for name, _ in module.named_parameters()}
    called = {str(step.target) for step in steps if step.op == "call_module"}
    inside = {name for name in names if any(name.startswith(f"{path}.") for path in called)}
    return inside | (names & {str(step.target) for step in steps if step.op == "get_attr"})

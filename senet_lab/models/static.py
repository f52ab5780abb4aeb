"""Networks whose gates are the same for every image, with the gates folded into the layers beside them.

A gate of one number a channel is a scale, which the norm or convolution that its map comes from, or the convolution
that its map goes into, can take over: the network that is left is the plain one, with other weights. What a gate that
looks at the image is replaced by is its mean over images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from senet_lab.models.gate_factors import all_gates, gate_factor, replaceable_gates
from senet_lab.models.gated import Gated
from senet_lab.models.kinds import Constant, Static
from senet_lab.models.shake import Branches


def static(net: nn.Module, images: Iterable[Tensor] | None = None) -> nn.Module:
    """A copy of a network in evaluation mode in which each gate is a fixed scale, folded into a layer beside it.

    Args:
        net: a network with gates; it is left as it is.
        images: batches (B, C, H, W), such as the training images; gates that look at the image are replaced by their
            mean over them. None where all gates are of the kinds `constant` and `static`.

    Returns:
        The plain network, whose outputs are those with the mean gates but for rounding.

    Raises:
        ValueError: for a network without gates, gates that look at the image without images, a gate that differs by
            pixel, and one that no layer can take over, as at the positions `identity` and `post`.
    """
    if not any(isinstance(part, Gated) for part in net.modules()):
        raise ValueError("static: the network has no gates that were put into it")
    made = copy.deepcopy(net).eval()
    scales = mean_scales(made, images)
    for path, gate in [(path, part) for path, part in made.named_modules() if isinstance(part, Gated)]:
        scale = scales[f"{path}.se"]
        if scale.shape[2:] != (1, 1):
            raise ValueError(f"static: the gate of {path} differs by pixel, which no layer can take over")
        layer = gate.body
        if not (scaled_output if gate.side == "after" else scaled_input)(layer, scale.flatten()):
            where = "after" if gate.side == "after" else "before"
            raise ValueError(
                f"static: no layer can take over the gate {where} {path}, a {type(layer).__name__}, as there is none "
                "at the positions identity and post; those at standard, pre, conv3x3 and depthwise mostly can"
            )
        parent, _, child = path.rpartition(".")
        setattr(made.get_submodule(parent), child, layer)
    return made


@torch.no_grad()
def mean_scales(net: nn.Module, images: Iterable[Tensor] | None) -> Mapping[str, Tensor]:
    """Path of a gate → its factor, 1 × C × 1 × 1, or the mean of its factors over images."""
    gates = all_gates(net)
    if all(isinstance(gate, (Constant, Static)) for gate in gates.values()):
        weight = next(net.parameters())
        return {
            path: gate_factor(gate, weight.new_ones(1, len(gate.weight) if isinstance(gate, Static) else 1, 1, 1))
            for path, gate in gates.items()
        }
    if images is None:
        raise ValueError("static: the gates look at the image; give images to take their means over")
    sums: dict[str, Tensor] = {}
    count = 0
    with replaceable_gates(net) as replaced:
        for x_BCHW in images:
            net(x_BCHW)
            count += len(x_BCHW)
            for path, gate in replaced.items():
                assert gate.own is not None, path
                total = gate.own.double().sum(0, keepdim=True)
                sums[path] = sums[path] + total if path in sums else total
    return {path: total / count for path, total in sums.items()}


def scaled_output(layer: nn.Module, scale_C: Tensor) -> bool:
    """Scale what a layer gives, channel by channel; False where it cannot be done by its weights."""
    if isinstance(layer, Branches):
        return all(scaled_output(branch, scale_C) for branch in (layer.branch1, layer.branch2))
    if isinstance(layer, nn.Sequential) and len(layer):
        return scaled_output(layer[-1], scale_C)
    affine = type(layer) in (nn.BatchNorm2d, nn.GroupNorm) and layer.weight is not None
    if not affine and type(layer) is not nn.Conv2d:
        return False
    for weight in layer.parameters(recurse=False):
        weight.data.mul_(scale_C.to(weight).view(-1, *[1] * (weight.dim() - 1)))
    return True


def scaled_input(layer: nn.Module, scale_C: Tensor) -> bool:
    """Scale what a layer takes, channel by channel; False where it cannot be done by its weights."""
    if isinstance(layer, (Branches, nn.Sequential)):
        chains = [list(layer)] if isinstance(layer, nn.Sequential) else branches_of(layer)
        return all(scaled_first(chain, scale_C) for chain in chains)
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
        of_groups = layer.weight.data.view(layer.groups, -1, *layer.weight.shape[1:])  # groups, outputs, inputs, window
        of_groups.mul_(scale_C.to(of_groups).expand(layer.in_channels).reshape(layer.groups, 1, -1, 1, 1))
        return True
    if type(layer) is nn.BatchNorm2d and layer.running_mean is not None and layer.running_var is not None:
        # γ (s x − μ) / σ + β = γ s (x − μ) / σ + β + γ μ (s − 1) / σ
        scale = scale_C.to(layer.weight)
        slope = layer.weight.data * (layer.running_var + layer.eps).rsqrt()
        layer.bias.data += slope * layer.running_mean * (scale - 1)
        layer.weight.data *= scale
        return True
    return False


def branches_of(layer: Branches) -> list[list[nn.Module]]:
    """The layers of both branches, behind what they begin with."""
    assert isinstance(layer.branch1, nn.Sequential)
    assert isinstance(layer.branch2, nn.Sequential)
    return [[layer.first, *branch] for branch in (layer.branch1, layer.branch2)]


def scaled_first(layers: list[nn.Module], scale_C: Tensor) -> bool:
    """Scale what a chain of layers takes: a ReLU passes on a scale that is not negative."""
    positive = bool((scale_C >= 0).all())
    while layers and (isinstance(layers[0], nn.Identity) or (positive and type(layers[0]) is nn.ReLU)):
        layers = layers[1:]
    return bool(layers) and scaled_input(layers[0], scale_C)

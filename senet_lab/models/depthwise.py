"""Finds the places behind depthwise and grouped convolutions, where MobileNetV3 and EfficientNet have their SE.

The gate goes before the convolution that follows, and so behind the norm and the non-linearity between them. What
follows what is read off the operators of one run, so that neither classes nor names matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from senet_lab.models.gate_proof import GateProof
from senet_lab.models.operators import OperatorCall


def after_grouped(model: nn.Module) -> list[str]:
    """The paths of the convolutions that a depthwise or grouped one larger than 1×1 is followed by, and nothing else
    comes to, in the order in which they run.

    Raises:
        ValueError: if the model does not run on an image, or has no such convolution.
    """
    proof, fault = GateProof(model, []), ""
    for device, image in proof.images(""):
        fault = proof.image_fault(device, False, "", image)
        if not fault:
            steps = proof.watch(device, False).steps
            break
    else:
        raise ValueError(f"se.position: what depthwise convolutions are followed by is not known: {fault}")
    convs = {
        number: step.place
        for number, step in enumerate(steps)
        if step.kind is torch.ops.aten.convolution and isinstance(model.get_submodule(step.place), nn.Conv2d)
    }
    found = [path for number, path in convs.items() if follows_grouped(model, steps, convs, number)]
    if not found:
        raise ValueError(
            "se.position: the network has no place for depthwise: no convolution follows a depthwise or grouped one"
        )
    return found


def follows_grouped(model: nn.Module, steps: Sequence[OperatorCall], convs: dict[int, str], number: int) -> bool:
    """Whether the one convolution before that of a step is a grouped one larger than 1×1."""
    nearest, waiting = set(), set(steps[number].takes)
    while waiting:
        each = waiting.pop()
        if each in convs or each < 0:
            nearest.add(each)
        else:
            waiting |= steps[each].takes
    if len(nearest) != 1 or -1 in nearest:
        return False
    conv = model.get_submodule(convs[nearest.pop()])
    assert isinstance(conv, nn.Conv2d)
    return conv.groups > 1 and max(conv.kernel_size) > 1

"""Switches the fused end of residual blocks (`fused.py`) on in a finished network.

Only the class of a block changes: its modules, the keys of its state dict and its name in the network stay, and so does
what it computes. A fused block looks at every call whether the operator can do it, and otherwise calls its modules one
by one: on a CPU, for a norm that is no plain batch norm (any more), and where somebody listens to one of the modules
whose output is never made, or has replaced its forward.
"""

from __future__ import annotations

import importlib.util

from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # it is public
from torchvision.models.resnet import BasicBlock, Bottleneck

from senet_lab.models.folding import gates_by_mean
from senet_lab.models.fused import PASSES, block_end
from senet_lab.models.gated import Gated
from senet_lab.models.se import SEBlock, check_known, is_plain, is_symbolic, listened_everywhere

CHOICES = ("auto", *PASSES)
HAS_TRITON = (
    importlib.util.find_spec("triton") is not None
)  # it comes with PyTorch for NVIDIA's and AMD's GPUs on Linux


class FusedBasic(BasicBlock):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's basic block, its end fused."""

    fused = "auto"

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branch_BCHW = self.conv2(self.relu(self.bn1(self.conv1(x_BCHW))))
        shortcut_BCHW = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        if is_scripting():
            y_BCHW: Tensor = self.relu(self.bn2(branch_BCHW) + shortcut_BCHW)
        else:
            y_BCHW = ended(self, self.bn2, branch_BCHW, shortcut_BCHW)
        return y_BCHW


class FusedBottleneck(Bottleneck):  # type: ignore[misc]
    """torchvision's bottleneck, its end fused."""

    fused = "auto"

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branch_BCHW = self.conv2(self.relu(self.bn1(self.conv1(x_BCHW))))
        branch_BCHW = self.conv3(self.relu(self.bn2(branch_BCHW)))
        shortcut_BCHW = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        if is_scripting():
            y_BCHW: Tensor = self.relu(self.bn3(branch_BCHW) + shortcut_BCHW)
        else:
            y_BCHW = ended(self, self.bn3, branch_BCHW, shortcut_BCHW)
        return y_BCHW


# Exactly these classes, as a subclass may compute something else. Class → what it becomes, and the end of its branch.
FUSED: dict[type[nn.Module], tuple[type[nn.Module], str]] = {
    BasicBlock: (FusedBasic, "bn2"),
    Bottleneck: (FusedBottleneck, "bn3"),
}


def fuse(model: nn.Module, passes: str = "auto", *, ungated: bool = False) -> list[str]:
    """Fuse the end of every residual block of torchvision's kinds whose branch ends with a batch norm and its SE.

    That is SE in the `standard` position with an average squeeze and any excitation. Other blocks stay as they are.

    Args:
        model: changed in place.
        passes: `auto` runs Triton kernels for tensors on a GPU and the modules for others; `triton` runs the kernels on
            any device (on a CPU they need TRITON_INTERPRET=1), `reference` the same formulas in plain PyTorch.
        ungated: whether to fuse blocks whose branch ends with a batch norm without SE as well.

    Returns:
        The paths of the blocks that are fused.

    Raises:
        ValueError: for other passes, and for `triton` where it is not installed.
    """
    check_known("passes", passes, CHOICES)
    if passes == "triton" and not HAS_TRITON:
        raise ValueError("passes: Triton is not installed")
    for block in model.modules():
        if type(block) in FUSED and can_end(block, FUSED[type(block)][1], ungated):
            block.__class__ = FUSED[type(block)][0]
        if is_fused(block):
            vars(block)["fused"] = passes
    return [path for path, block in model.named_modules() if is_fused(block)]


def fused_blocks(model: nn.Module) -> int:
    """How many blocks of a network are fused."""
    return sum(is_fused(block) for block in model.modules())


def is_fused(block: nn.Module) -> bool:
    return isinstance(block, (FusedBasic, FusedBottleneck))


def can_end(block: nn.Module, last: str, ungated: bool) -> bool:
    """Whether the operator computes what the block's last modules do."""
    end = getattr(block, last)
    return type(block.relu) is nn.ReLU and (ungated or isinstance(end, Gated)) and parts_of(end) is not None


def parts_of(end: nn.Module) -> tuple[nn.BatchNorm2d, SEBlock | None] | None:
    """The norm and the SE block that a branch ends with; None where these are not what the operator computes."""
    norm, se = (end.body, end.se) if is_plain(end, Gated) and end.side == "after" else (end, None)
    if not is_plain(norm, nn.BatchNorm2d) or norm.weight is None or norm.bias is None:
        return None
    return (norm, se) if se is None or gates_by_mean(se) else None


def ended(block: FusedBasic | FusedBottleneck, end: nn.Module, branch_BCHW: Tensor, shortcut_BCHW: Tensor) -> Tensor:
    """What a block gives for the last convolution's output and the shortcut's, by the operator or by the modules."""
    passes = passes_for(block.fused, branch_BCHW)
    parts = parts_of(end) if passes and is_plain(block.relu, nn.ReLU) and not listened_everywhere() else None
    alike = shortcut_BCHW.dtype == branch_BCHW.dtype  # autocast may have left a shortcut alone
    y_BCHW: Tensor
    if passes and parts and alike and branch_BCHW.numel():
        y_BCHW = block_end(branch_BCHW, shortcut_BCHW, *parts, passes)
    else:
        branch_BCHW = end(branch_BCHW)
        branch_BCHW += shortcut_BCHW
        y_BCHW = block.relu(branch_BCHW)
    return y_BCHW


def passes_for(choice: str, x_BCHW: Tensor) -> str | None:
    """The name of the passes for a map; None for the modules, as for the proxies that `torch.fx` traces with."""
    if is_symbolic(x_BCHW):
        return None
    if choice == "auto":
        return "triton" if HAS_TRITON and x_BCHW.is_cuda else None
    return choice

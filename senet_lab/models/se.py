"""The squeeze-and-excitation block (paper, section 3) and its variants (sections 6.1 to 6.3 and 7.1).

Tensors carry their shape in their names: B batch, C channels, K hidden width, H W space; 1 is a pooled axis.

A variant is one entry of `SQUEEZES` or `EXCITATIONS`, the dictionaries that the tests run over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from senet_lab.config import reduction_number


def average(x_BCHW: Tensor) -> Tensor:
    """Mean over H × W, to the last bit what PyTorch's own gives on a CPU.

    Its own hands a gradient back that is as large as x, written once and read once more; a sum hands back a view. In
    half precision a sum might overflow, or be rounded once more; that of a proxy, with which `torch.fx` traces, is not
    known.
    """
    if is_symbolic(x_BCHW) or x_BCHW.dtype in (torch.float16, torch.bfloat16):
        return x_BCHW.mean((2, 3), keepdim=True)
    return x_BCHW.sum((2, 3), keepdim=True) / (x_BCHW.shape[2] * x_BCHW.shape[3])


# x_BCHW → z_BC11; "none" keeps H × W, so the gate becomes one number a channel and pixel (NoSqueeze, section 7.1).
SQUEEZES: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": average,
    # amax shares the gradient among equal maxima (after a ReLU: zeros), and unlike max pooling repeats itself on GPUs.
    "max": lambda x_BCHW: x_BCHW.amax((2, 3), keepdim=True),
    "none": lambda x_BCHW: x_BCHW,
}

# The gate's non-linearity. Softmax gates sum to 1 over the channels; they are not multiplied by C.
EXCITATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda y_BC: y_BC.softmax(1),
    "tanh": torch.tanh,
    "relu": torch.relu,
}

# The same non-linearities where a gate is to start at 1, whatever the image: y, what the second layer gives, is 0 then.
# All are exactly 1 at y = 0 in floating point, and none is flat there, so that the gate can learn to leave 1. Sigmoid
# and softmax are f(y) / f(0): a sigmoid of twice the height (0 to 2), and C times the softmax (the gates sum to C).
# Tanh and ReLU are 0 at 0, which nothing can scale to 1: they are moved, to 1 + tanh(y) (0 to 2) and ReLU(1 + y).
FROM_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda y_BC: torch.sigmoid(y_BC) / 0.5,
    "softmax": lambda y_BC: y_BC.softmax(1) / torch.zeros_like(y_BC).softmax(1),
    "tanh": lambda y_BC: 1 + torch.tanh(y_BC),
    "relu": lambda y_BC: torch.relu(1 + y_BC),
}


class SEBlock(nn.Module):
    """Squeeze, excite, scale: each channel of x times its gate (paper, equations 2 to 4).

    The hidden width is max(1, C // r), exactly: never rounded to a multiple of 8, so that ratios stay distinct networks
    at CIFAR widths; the floor of 1 (where r > C) is ours, the paper names none.

    The two fully connected layers are kept as 1×1 convolutions, which lets `none` apply the same weights at every
    pixel; on a pooled map they are computed as the matrix products that they are. The ReLU between them stays, whatever
    `excitation` is.

    Args:
        channels: C, of the input and of the output.
        reduction: r.
        squeeze: a key of `SQUEEZES`.
        excitation: a key of `EXCITATIONS`.
        bias: whether the two layers have biases; the paper's section 6 leaves them out.
        identity_start: whether the gates start at exactly 1 and so leave x as it is: the second layer begins with
            zeros, and the non-linearity is that of `FROM_ONE`. The block's state dict then has an entry
            `identity_start`, so that its weights do not fit a block of another gate.
        generator: what the weights are drawn from; the global one if none is given.

    Raises:
        ValueError: for a reduction below 1, a name that is not in its dictionary (the message lists those that are), or
            an excitation that has no form which starts at 1.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        squeeze: str = "avg",
        excitation: str = "sigmoid",
        bias: bool = False,
        identity_start: bool = False,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_known("se.squeeze", squeeze, SQUEEZES)
        check_known("se.excitation", excitation, EXCITATIONS)
        if identity_start:
            check_known("se.excitation with se.identity_start", excitation, FROM_ONE)
        self.channels = channels
        self.hidden = max(1, channels // reduction_number(reduction))
        self.squeeze = squeeze
        self.excitation = excitation
        self.from_one = identity_start
        if identity_start:
            self.register_buffer("identity_start", torch.ones(()))
        self.fc1 = nn.Conv2d(channels, self.hidden, kernel_size=1, bias=bias)
        self.fc2 = nn.Conv2d(self.hidden, channels, kernel_size=1, bias=bias)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw both layers after He et al. 2015 (section 5.1), by fan-in; biases are 0.

        Fan-in (as in Caffe's "msra", which the released networks use) keeps the hidden layer on the descriptor's scale
        whatever r is; by fan-out it would grow with √r, and rows of a ratio study would start from different points.
        """
        for fc in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(fc.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if fc.bias is not None:
                nn.init.zeros_(fc.bias)
        if self.from_one:
            nn.init.zeros_(self.fc2.weight)

    def gate(self, x_BCHW: Tensor) -> Tensor:
        """What each channel of x is multiplied by: B × C × 1 × 1, or B × C × H × W if nothing is squeezed."""
        z_BC11 = SQUEEZES[self.squeeze](x_BCHW)  # equation 2
        if self.squeeze == "none" or is_symbolic(x_BCHW):
            h_BK11 = torch.relu(self.fc1(z_BC11))
            return self.sigma()(self.fc2(h_BK11))
        return self.excite(z_BC11.flatten(1)).view(z_BC11.shape)

    def excite(self, z_BC: Tensor) -> Tensor:
        """The gates of descriptors, B × C (equation 3)."""
        h_BK = torch.relu(connected(self.fc1, z_BC))  # δ(W₁ z)
        return self.sigma()(connected(self.fc2, h_BK))  # σ(W₂ h)

    def sigma(self) -> Callable[[Tensor], Tensor]:
        """The excitation as a function."""
        return (FROM_ONE if self.from_one else EXCITATIONS)[self.excitation]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.gate(x_BCHW)  # equation 4

    def extra_repr(self) -> str:
        start = ", identity_start=True" if self.from_one else ""
        return f"{self.channels}, hidden={self.hidden}, squeeze={self.squeeze}, excitation={self.excitation}{start}"


def connected(fc: nn.Module, z_BC: Tensor) -> Tensor:
    """A layer of the gate as a matrix product, which takes a CPU less time than the convolution. What somebody put in
    the place of the layer, or listens to, is called."""
    if type(fc) is nn.Conv2d and not is_heard(fc):
        return F.linear(z_BC, fc.weight.view(fc.out_channels, fc.in_channels), fc.bias)
    y_BK11: Tensor = fc(z_BC[:, :, None, None])
    return y_BK11.flatten(1)


def is_symbolic(x: object) -> bool:
    """Whether a value stands for a tensor while `torch.fx` traces, and nothing is known of it but what it is called."""
    return isinstance(x, Proxy)


def is_heard(module: nn.Module) -> bool:
    """Whether a module has hooks, which see what goes into it and what comes out."""
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def check_known(field: str, word: object, choices: Iterable[str]) -> None:
    """A ValueError that names the field, the word and the choices, unless the word is one of them."""
    choices = list(choices)
    if word not in choices:
        raise ValueError(f"{field}: {word!r} is not one of {', '.join(choices)}")

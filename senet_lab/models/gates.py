"""The squeeze-and-excitation block (paper, section 3) and its variants (sections 6.1 to 6.3 and 7.1).

Tensors carry their shape in their names: B batch, C channels, K hidden width, H W space; 1 is a pooled axis.

A variant is one entry of `SQUEEZES` or `EXCITATIONS`, the dictionaries that the tests run over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from senet_lab.config import near, reduction_number


def average(x_BCHW: Tensor) -> Tensor:
    """Mean over H × W, to the last bit what PyTorch's own gives on a CPU.

    The gradient of a mean is as large as x, written once and read once more; that of a sum is a view, which a training
    step is measurably shorter by. In half precision a sum might overflow, or be rounded once more.
    """
    return sum_shared(x_BCHW)


def sum_shared(x_BCHW: Tensor) -> Tensor:
    if x_BCHW.dtype == torch.float16 or x_BCHW.dtype == torch.bfloat16:
        return x_BCHW.mean((2, 3), keepdim=True)
    return x_BCHW.sum((2, 3), keepdim=True) / (x_BCHW.shape[2] * x_BCHW.shape[3])


fx.wrap("sum_shared")  # one step of a traced network: what stands for x there has no type


def maximum(x_BCHW: Tensor) -> Tensor:
    """Shares the gradient among equal maxima (after a ReLU: zeros), and unlike max pooling repeats itself on GPUs."""
    return x_BCHW.amax((2, 3), keepdim=True)


def unsqueezed(x_BCHW: Tensor) -> Tensor:
    return x_BCHW


def softmax(y_BC: Tensor) -> Tensor:
    return y_BC.softmax(1)


def sigmoid_from_one(y_BC: Tensor) -> Tensor:
    return torch.sigmoid(y_BC) / 0.5


def softmax_from_one(y_BC: Tensor) -> Tensor:
    return y_BC.softmax(1) / torch.zeros_like(y_BC).softmax(1)


def tanh_from_one(y_BC: Tensor) -> Tensor:
    return 1 + torch.tanh(y_BC)


def relu_from_one(y_BC: Tensor) -> Tensor:
    return torch.relu(1 + y_BC)


# All are functions with a name, which pickle and torch.jit.script want.
# x_BCHW → z_BC11; "none" keeps H × W, so the gate becomes one number a channel and pixel (NoSqueeze, section 7.1).
SQUEEZES: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": average,
    "max": maximum,
    "none": unsqueezed,
}

# The gate's non-linearity. Softmax gates sum to 1 over the channels; they are not multiplied by C.
EXCITATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": softmax,
    "tanh": torch.tanh,
    "relu": torch.relu,
}

# The same non-linearities where a gate is to start at 1, whatever the image: y, what the second layer gives, is 0 then.
# All are exactly 1 at y = 0 in floating point, and none is flat there, so that the gate can learn to leave 1. Sigmoid
# and softmax are f(y) / f(0): a sigmoid of twice the height (0 to 2), and C times the softmax (the gates sum to C).
# Tanh and ReLU are 0 at 0, which nothing can scale to 1: they are moved, to 1 + tanh(y) (0 to 2) and ReLU(1 + y).
FROM_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": sigmoid_from_one,
    "softmax": softmax_from_one,
    "tanh": tanh_from_one,
    "relu": relu_from_one,
}


class SEBlock(nn.Module):
    """Squeeze, excite, scale: each channel of x times its gate (paper, equations 2 to 4).

    The hidden width is max(1, C // r), exactly: never rounded to a multiple of 8, so that ratios stay distinct networks
    at CIFAR widths; the floor of 1 (where r > C) is ours, the paper names none.

    The two fully connected layers are 1×1 convolutions, so that `none` applies the same weights at every pixel. The
    ReLU between them stays, whatever `excitation` is.

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
        self.pool = SQUEEZES[squeeze]
        self.sigma = (FROM_ONE if identity_start else EXCITATIONS)[excitation]
        if identity_start:
            self.register_buffer("identity_start", torch.ones(()))
        layer = nn.Conv2d if squeeze == "none" else Descriptors
        self.fc1 = layer(channels, self.hidden, kernel_size=1, bias=bias)
        self.fc2 = layer(self.hidden, channels, kernel_size=1, bias=bias)
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
        return self.excite(self.pool(x_BCHW))

    def excite(self, z_BC11: Tensor) -> Tensor:
        """The gates of descriptors (equation 3), or of pixels if nothing is squeezed."""
        y_BC11: Tensor = self.fc2(torch.relu(self.fc1(z_BC11)))  # W₂ δ(W₁ z)
        if self.squeeze == "none":
            return self.sigma(y_BC11)
        return self.sigma(y_BC11.flatten(1))[:, :, None, None]  # softmax's last digits depend on the layout

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.gate(x_BCHW)  # equation 4

    def extra_repr(self) -> str:
        start = ", identity_start=True" if self.from_one else ""
        return f"{self.channels}, hidden={self.hidden}, squeeze={self.squeeze}, excitation={self.excitation}{start}"


class Descriptors(nn.Conv2d):
    """A 1×1 convolution of single pixels, as the matrix product that it is, which takes a CPU less time."""

    def forward(self, z_BC11: Tensor) -> Tensor:
        return F.linear(z_BC11.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


def check_known(field: str, word: object, choices: Iterable[str]) -> None:
    """A ValueError that names the field, the word and the choices, unless the word is one of them."""
    choices = list(choices)
    if word not in choices:
        raise ValueError(f"{field}: {word!r} is not one of {', '.join(choices)}{near(word, choices)}")

"""The squeeze-and-excitation block (paper, section 3) and its variants (sections 6.1 to 6.3 and 7.1).

Tensors carry their shape in their names: B batch, C channels, K hidden width, H W space; 1 is a pooled axis.

A variant is one entry of `SQUEEZES` or `EXCITATIONS`, the dictionaries that the tests run over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.fx import Proxy
from torch.jit import is_scripting  # type: ignore[attr-defined]  # it is public

from senet_lab.config import reduction_number


def average(x_BCHW: Tensor) -> Tensor:
    """Mean over H × W, to the last bit what PyTorch's own gives on a CPU.

    Its own hands a gradient back that is as large as x, written once and read once more; a sum hands back a view. In
    half precision a sum might overflow, or be rounded once more; that of a proxy, with which `torch.fx` traces, is not
    known.
    """
    by_mean = True
    if not is_scripting():
        by_mean = is_symbolic(x_BCHW) or x_BCHW.dtype in (torch.float16, torch.bfloat16)
    if by_mean:
        return x_BCHW.mean((2, 3), keepdim=True)
    return x_BCHW.sum((2, 3), keepdim=True) / (x_BCHW.shape[2] * x_BCHW.shape[3])


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
        self.pool = SQUEEZES[squeeze]
        self.sigma = (FROM_ONE if identity_start else EXCITATIONS)[excitation]
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
        z_BC11 = self.pool(x_BCHW)  # equation 2
        if not is_scripting():  # noqa: SIM102  # a condition of its own, which TorchScript does not look behind
            if self.squeeze != "none" and not is_symbolic(x_BCHW):
                return self.excite(z_BC11.flatten(1)).view(z_BC11.shape)
        return self.sigma(self.fc2(torch.relu(self.fc1(z_BC11))))

    def excite(self, z_BC: Tensor) -> Tensor:
        """The gates of descriptors, B × C (equation 3)."""
        h_BK = torch.relu(connected(self.fc1, z_BC))  # δ(W₁ z)
        return self.sigma(connected(self.fc2, h_BK))  # σ(W₂ h)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.gate(x_BCHW)  # equation 4

    def extra_repr(self) -> str:
        start = ", identity_start=True" if self.from_one else ""
        return f"{self.channels}, hidden={self.hidden}, squeeze={self.squeeze}, excitation={self.excitation}{start}"


def connected(fc: nn.Module, z_BC: Tensor) -> Tensor:
    """A layer of the gate as a matrix product, which takes a CPU less time than the convolution; anything else than a
    plain 1×1 convolution in its place is called."""
    if is_matrix(fc) and not listened_everywhere():
        return F.linear(z_BC, fc.weight.view(fc.out_channels, fc.in_channels), fc.bias)
    y_BK11: Tensor = fc(z_BC[:, :, None, None])
    return y_BK11.flatten(1)


def is_matrix(fc: object) -> TypeGuard[nn.Conv2d]:
    """Whether calling a layer of the gate multiplies a descriptor by a matrix, and does nothing else."""
    return is_plain(fc, nn.Conv2d) and fc.kernel_size == (1, 1) and fc.groups == 1 and fc.padding == (0, 0)


def is_symbolic(x: object) -> bool:
    """Whether a value stands for a tensor while `torch.fx` traces, and nothing is known of it but what it is called."""
    return isinstance(x, Proxy)


Kind = TypeVar("Kind", bound=nn.Module)
# Kind → the methods that run when a module of it is called, and what they were when it was declared.
METHODS: dict[type[nn.Module], list[tuple[str, object]]] = {}
CALL = nn.Module.__call__


def declare(kind: type[nn.Module], *more: str) -> None:
    """Tell `is_plain` a kind that there are short cuts for, and its methods beside `forward`."""
    METHODS[kind] = [(name, getattr(kind, name)) for name in ("forward", *more)]


declare(SEBlock, "gate", "excite")
declare(nn.Conv2d, "_conv_forward")
REPLACEABLE = frozenset(["_call_impl", "forward", "gate", "excite", "_conv_forward"])


def is_plain(module: object, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether calling a module runs the code of its kind and nothing else, so that a short cut computes the same.

    Not so where somebody listens (hooks), or has replaced a method: of this module, as accelerate does to fetch the
    weights only then, or of the whole class, as profilers do. Hooks for all modules: `listened_everywhere`.
    """
    if type(module) is not kind or not REPLACEABLE.isdisjoint(module.__dict__):
        return False
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    for name, method in METHODS[kind]:  # noqa: SIM110  # in half the time of `all`, as this is asked before every gate
        if getattr(kind, name) is not method:
            return False
    return True


def listened_everywhere() -> bool:
    """Whether there are hooks for all modules, or another way to call them, which a short cut would pass by. Exporters
    have such a way, and want the short cut of a matrix product."""
    replaced = nn.Module.__call__ is not CALL and not is_compiling()
    return replaced or bool(nn.modules.module._has_any_global_hook())  # type: ignore[no-untyped-call]


def check_known(field: str, word: object, choices: Iterable[str]) -> None:
    """A ValueError that names the field, the word and the choices, unless the word is one of them."""
    choices = list(choices)
    if word not in choices:
        raise ValueError(f"{field}: {word!r} is not one of {', '.join(choices)}")

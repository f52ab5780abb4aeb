"""The kinds of gate: what stands where SE stands (`se.kind`), so that SE is compared with them under the same rules.

A kind is one entry of `KINDS`: called with the channels of a map, it makes a module whose output is shaped like that
map. What else it is made from its signature says: of the fields of a design those that are in `FIELDS` and that it has
a parameter of that name for, and from `se.args` all its other parameters. `constant` and `static` are controls: the
first has nothing but the gate's start, the second what can be learned of it without looking at the image.

Kinds that other papers compare with SE are timm's, by its own factory: `timm:eca`. A class of the user's is
`package.module:Class`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from senet_lab.config import SE, first_line
from senet_lab.models.gates import EXCITATIONS, FROM_ONE, SEBlock, check_known
from senet_lab.models.importing import imported


class Constant(nn.Module):
    """Every channel times one number, which stays as it is; 0.5 is what a sigmoid gate starts near.

    Args:
        channels: of the map.
        value: the number.

    Raises:
        ValueError: for a value that is no finite number.
    """

    def __init__(self, channels: int, value: float = 0.5) -> None:
        super().__init__()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"se.args: the value of a constant gate is a number, not {value!r}")
        self.value = float(value)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.value

    def extra_repr(self) -> str:
        return f"value={self.value:g}"


class Static(nn.Module):
    """Each channel times σ(w), one learned w a channel, whatever the image is: what SE is if its gates only scale.

    w starts at 0, and so a sigmoid gate at 0.5, as SE's do on average.

    Args:
        channels: of the map.
        excitation: σ, a key of `EXCITATIONS`.
        identity_start: whether σ is the form of `FROM_ONE`, so that the gates start at 1.

    Raises:
        ValueError: for an unknown excitation.
    """

    def __init__(self, channels: int, excitation: str = "sigmoid", identity_start: bool = False) -> None:
        super().__init__()
        forms = FROM_ONE if identity_start else EXCITATIONS
        check_known("se.excitation", excitation, forms)
        self.excitation = excitation
        self.from_one = identity_start
        self.sigma = forms[excitation]
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        gate_1C: Tensor = self.sigma(self.weight[None])
        return x_BCHW * gate_1C[:, :, None, None]

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, excitation={self.excitation}" + ", identity_start=True" * self.from_one


class SimAM(nn.Module):
    """A gate a channel and pixel, without weights (Yang et al. 2021, arXiv "SimAM", equation 5 and its listing).

    σ(1 / e*) with 1 / e* = (x − μ)² / (4 (v + λ)) + 1/2, where μ is the mean of the pixels of a channel and v their
    variance, divided by their number less one (in a map of one pixel, which has none, by 1).

    Args:
        channels: of the map; it works on any.
        e_lambda: λ.
    """

    def __init__(self, channels: int, e_lambda: float = 1e-4) -> None:
        super().__init__()
        self.e_lambda = e_lambda

    def forward(self, x_BCHW: Tensor) -> Tensor:
        off_BCHW = x_BCHW - x_BCHW.mean((2, 3), keepdim=True)
        squares_BCHW = off_BCHW * off_BCHW
        others = max(1, x_BCHW.shape[2] * x_BCHW.shape[3] - 1)
        variance_BC11 = squares_BCHW.sum((2, 3), keepdim=True) / others
        return x_BCHW * torch.sigmoid(squares_BCHW / (4 * (variance_BC11 + self.e_lambda)) + 0.5)

    def extra_repr(self) -> str:
        return f"e_lambda={self.e_lambda:g}"


# Kind → what makes such a gate, called with the channels.
KINDS: dict[str, Callable[..., nn.Module]] = {
    "se": SEBlock,
    "constant": Constant,
    "static": Static,
    "simam": SimAM,
}

# What timm's factory (`timm.layers.get_attn`) makes, by its name there → arguments that are not for the user: the lab
# has them otherwise, or timm does not look at them (ECA's kernel follows from the channels by gamma and beta).
# The hidden width is the lab's max(1, C // r) wherever it is used: timm's own is rounded to multiples of 8 in some.
TIMM: dict[str, dict[str, Any]] = {
    "se": {},
    "ese": {},
    "eca": {"rd_channels": None, "kernel_size": 3},  # has the width as a parameter, and no hidden layer
    "ecam": {"kernel_size": 3},
    "ceca": {"kernel_size": 3},
    "ge": {"use_mlp": False, "rd_channels": None},  # GE-θ⁻ of its paper; its others timm 1.0.31 cannot make
    "gc": {},
    "gca": {},
    "cbam": {},
    "lcbam": {},
    "coord": {},
    "scoord": {},
    "ela": {},
    "strip": {},
    "nl": {},
}
OF_TIMM = "timm:"

FIELDS = ("reduction", "squeeze", "excitation", "bias", "identity_start")  # of a design, that a kind may be made from
HIDDEN = "rd_channels"  # what timm calls the hidden width
WIDTH = ("rd_ratio", "rd_divisor", "se_factor")  # what timm computes it from, where it is not given
IDLE = ("generator", "device", "dtype")  # parameters that are not for the user


def names() -> list[str]:
    """Every kind that has a name here."""
    return [*KINDS, *(OF_TIMM + name for name in TIMM)]


@dataclass(frozen=True)
class Kind:
    """How gates of a kind are made.

    Attributes:
        make: called with the channels, and by name with what follows.
        fields: those of `FIELDS` that it takes.
        hidden: whether it takes a hidden width as timm's do.
        args: what it takes from `se.args`.
        generator: whether it takes what its weights are drawn from; else it draws from the global generators.
    """

    make: Callable[..., nn.Module]
    fields: tuple[str, ...]
    hidden: bool
    args: tuple[str, ...]
    generator: bool

    @property
    def reduces(self) -> bool:
        """Whether the reduction makes a difference."""
        return self.hidden or "reduction" in self.fields


def kind_of(name: str) -> Kind:
    """The kind of that name.

    Raises:
        ValueError: for an unknown kind (the message lists the known ones), and one that cannot be imported.
    """
    if not isinstance(name, str) or (name not in names() and (":" not in name or name.startswith(OF_TIMM))):
        check_known("se.kind", name, [*names(), "package.module:Class"])
    of_timm = name.startswith(OF_TIMM)
    make = from_timm(name) if of_timm else KINDS[name] if name in KINDS else imported("se.kind", name, "Class")
    fixed = TIMM[name.removeprefix(OF_TIMM)] if of_timm else {}
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    takes = [each.name for each in inspect.signature(make).parameters.values() if each.kind not in several][1:]
    fields = () if of_timm else tuple(field for field in FIELDS if field in takes)
    hidden = HIDDEN in takes and HIDDEN not in fixed
    idle = (*fields, *fixed, HIDDEN, *IDLE, *(WIDTH if hidden else ()))
    return Kind(make, fields, hidden, tuple(each for each in takes if each not in idle), "generator" in takes)


def from_timm(kind: str) -> Callable[..., nn.Module]:
    """What makes timm's gates of a kind; a ValueError where there is no timm, or one without this kind."""
    name = kind.removeprefix(OF_TIMM)
    try:
        from timm.layers.create_attn import get_attn
    except ImportError as error:
        raise ValueError(f"se.kind: {kind} needs timm: pip install timm ({first_line(error)})") from error
    try:
        return functools.partial(get_attn(name), **TIMM[name])  # type: ignore[no-untyped-call]
    except AssertionError as error:
        raise ValueError(f"se.kind: the timm that is installed has no {name}: pip install --upgrade timm") from error


def check(design: SE) -> Kind:
    """The kind of a design; a ValueError for a kind that there is not, and for a field or an argument that its kind
    does not take. The reduction, which also says which stages have gates, may be there without being used."""
    kind = kind_of(design.kind)
    for field in FIELDS[1:]:
        if field not in kind.fields and getattr(design, field) != getattr(SE(), field):
            has = ", ".join(kind.fields) or "none of the fields"
            raise ValueError(f"se.{field}: a gate of the kind {design.kind} has no {field}; it has {has}")
    if not isinstance(design.args, Mapping | None):
        raise ValueError(f"se.args: {design.args!r} is not a mapping such as {{value: 0.5}}")
    for name in design.args or {}:
        check_known(f"se.args of {design.kind}", name, kind.args or ["none"])
    return kind


def hidden_width(kind: str, channels: int, reduction: int) -> int:
    """The hidden width of a gate of a kind, max(1, C // r); 0 where the reduction makes no difference."""
    return max(1, channels // reduction) if kind_of(kind).reduces else 0


def made(design: SE, channels: int, reduction: int, generator: torch.Generator | None = None) -> nn.Module:
    """A gate of a design, for a map of so many channels.

    Raises:
        ValueError: as `check`, and for a gate that cannot be made so.
    """
    kind = check(design)
    given: dict[str, Any] = {field: getattr(design, field) for field in kind.fields}
    given |= {"reduction": reduction} if "reduction" in kind.fields else {}
    given |= {HIDDEN: hidden_width(design.kind, channels, reduction)} if kind.hidden else {}
    given |= {"generator": generator} if kind.generator else {}
    try:
        gate = kind.make(channels, **given, **(design.args or {}))
    except Exception as error:  # whatever another's class makes of channels and arguments
        if design.kind in KINDS and isinstance(error, ValueError):
            raise
        raise ValueError(f"se.kind: {design.kind} makes no gate of {channels} channels: {first_line(error)}") from error
    if not isinstance(gate, nn.Module):
        raise ValueError(f"se.kind: {design.kind} gives a {type(gate).__name__}, not a torch.nn.Module")
    return gate

"""The wrapper that takes the place of a gated module in a network."""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # it is public

from senet_lab.models.speed import folded


class Gated(nn.Module):
    """`body` with its output gated by `se`, or with its input (`side` = before); in the mode that `body` is in.

    Attributes that it lacks are read from `body`, and attributes that `body` has are set there: initialisations and
    forwards that read or change a layer's weights or settings work as before.

    `hidden` and `kind` are those of `Inserted`; they say of a gate that is no SE block what it does not say itself.
    """

    def __init__(self, body: nn.Module, se: nn.Module, side: str, hidden: int = 0, kind: str = "se") -> None:
        super().__init__()
        self.hidden = hidden
        self.kind = kind
        self.body = body
        self.se = se.train(body.training)
        self.side = side
        self.training = body.training

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.side == "before":
            gated: Tensor = self.body(self.se(x_BCHW))
        elif is_scripting():
            gated = self.se(self.body(x_BCHW))
        else:
            both = folded(self.body, self.se, x_BCHW)
            gated = self.se(self.body(x_BCHW)) if both is None else both
        return gated

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            body = vars(self).get("_modules", {}).get("body")
            if body is None or name.startswith("__"):  # copies and pickles ask for methods of the object itself
                raise
        return getattr(body, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = vars(self)
        body = own.get("_modules", {}).get("body")
        if name not in own and name not in ("body", "se") and not hasattr(type(self), name) and hasattr(body, name):
            setattr(body, name, value)
        else:
            super().__setattr__(name, value)

    def __getitem__(self, index: Any) -> Any:
        return self.body[index]  # type: ignore[index]

    def __len__(self) -> int:
        return len(self.body)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return bool(self.body)

    def extra_repr(self) -> str:
        return f"side={self.side}" + f", {self.kind}" * (self.kind != "se")


class GatedCall(Gated):
    """The same for a `body` that is called by keywords or takes more than its input, which TorchScript cannot read."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.side == "after":
            return self.se(self.body(*args, **kwargs))
        if args:
            return self.body(self.se(args[0]), *args[1:], **kwargs)
        first = next(name for name in inspect.signature(self.body.forward).parameters if name in kwargs)
        return self.body(**kwargs | {first: self.se(kwargs[first])})


@dataclass(frozen=True)
class Inserted:
    """One gate that was put into a network.

    Attributes:
        name: path of the module that was wrapped, e.g. `layer1.0.bn3`.
        side: whether the gate is `before` or `after` it.
        stage: in the paper's numbering; None where nothing tells.
        channels: how many are gated.
        hidden: width between the two fully connected layers; 0 for a kind that has none.
        kind: of the gate, with its arguments.
    """

    name: str
    side: str
    stage: int | None
    channels: int
    hidden: int
    kind: str = "se"


Planned = tuple[Inserted, nn.Module]


def put(model: nn.Module, plan: Iterable[Planned], alone: Container[str]) -> list[Inserted]:
    """Put gates in place; `alone` are the paths of the modules that are called with their input alone."""
    for gate, se in plan:
        parent, _, child = gate.name.rpartition(".")
        holder = model.get_submodule(parent)
        body = getattr(holder, child)
        if body is None:  # torchvision's shortcut without projection
            body = nn.Identity().train(holder.training)
        wrapper = Gated if gate.name in alone else GatedCall
        setattr(holder, child, wrapper(body, se, gate.side, gate.hidden, gate.kind))
    return [gate for gate, _ in plan]


def gates_in(net: nn.Module) -> dict[str, nn.Module]:
    """Path → gate, of all gates that were put into a network, in its order."""
    return {f"{path}.se".lstrip("."): module.se for path, module in net.named_modules() if isinstance(module, Gated)}

"""What stands in a network in the place of a module that is gated."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # it is public

from senet_lab.models.gates import SEBlock
from senet_lab.models.speed import folded


class Gated(nn.Module):
    """`body` with its output gated by `se`, or with its input (`side` = before); in the mode that `body` is in.

    Whoever asks it for an attribute that it has not, or sets one that `body` has, means `body`: initialisations and
    forwards that read or change a layer's weights or settings go on as before.
    """

    def __init__(self, body: nn.Module, se: SEBlock, side: str) -> None:
        super().__init__()
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
        return f"side={self.side}"


class GatedCall(Gated):
    """The same for a `body` that is called by keywords or takes more than its input, which TorchScript cannot read."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.side == "after":
            return self.se(self.body(*args, **kwargs))
        if args:
            return self.body(self.se(args[0]), *args[1:], **kwargs)
        first = next(name for name in inspect.signature(self.body.forward).parameters if name in kwargs)
        return self.body(**kwargs | {first: self.se(kwargs[first])})


def takes_one(body: nn.Module) -> bool:
    """Whether a module can be called with its input alone, and with nothing else."""
    kinds = [each.kind for each in inspect.signature(body.forward).parameters.values()]
    return kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD]

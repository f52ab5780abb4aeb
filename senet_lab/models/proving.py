"""Runs a network once with its gates in it, before they are put into the network itself.

Every gate must be asked once, for maps of the width that it was made for: a gate that is never asked would be weights
that nothing trains, and one that is asked twice would be one gate for two places. The run is one of two images without
weights, on the meta device, or on the CPU where the network needs values to go on. It also shows SE that is no module
of its own but written into a block's forward.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from senet_lab.config import first_line
from senet_lab.models.gated import Gated, GatedCall
from senet_lab.models.gates import SEBlock
from senet_lab.models.present import Gates
from senet_lab.models.structure import is_inside
from senet_lab.models.trying import copied, has_forward

# Sides of the images that are tried until one goes through, by device.
PIXELS = {"meta": (224, 32, 64, 28, 96, 128, 256, 299), "cpu": (64, 224, 32)}


def called_with_input_alone(model: nn.Module, gates: Mapping[str, Gated]) -> set[str]:
    """The paths of the modules that the network calls with their input alone, once it is proven that it works gated.

    Args:
        model: without the gates; it is left as it is.
        gates: path → what is to stand there.

    Raises:
        ValueError: for a gate that is not asked once, for a network that runs without gates only, or has SE already.

    Warns:
        UserWarning: for a network that does not take one image; its parts are run instead, as far as they do.
    """
    trial = Trial(model, gates)
    with torch.inference_mode(False):  # autograd is to tell what comes from what
        trial.fault = trial.fault_of_copy()
        if not trial.fault:
            trial.run("")
            trial.check_fusing()
    if trial.fault:
        warnings.warn(
            f"the network does not run on an image ({trial.fault}), so that nothing shows that it reaches all gates",
            stacklevel=4,
        )
    return {path for path, alone in trial.alone.items() if alone}


def check_not_written_out(model: nn.Module) -> None:
    """A ValueError for a network that has SE which is no module of its own, as far as it runs on an image."""
    trial = Trial(model, {})
    with torch.inference_mode(False):
        if has_forward(model) and not trial.fault_of_copy():
            trial.fault_of("", ())


class Trial:
    """Copies of a network, with and without gates, and what the gates were asked.

    Attributes:
        fault: why the whole network does not run; empty if it does, or has no forward.
        alone: path of a gated module → whether it was called with its input alone, every time.
        asked: path of a gated module → the shapes of the maps that its gate was asked for, in one run.
    """

    def __init__(self, model: nn.Module, gates: Mapping[str, Gated]) -> None:
        self.model = model
        self.gates = gates
        self.fault = ""
        self.alone = dict.fromkeys(gates, True)
        self.asked: dict[str, list[tuple[int, ...]]] = {path: [] for path in gates}
        self.copies: dict[tuple[str, bool], nn.Module] = {}
        on_meta = any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
        self.devices = ("meta",) if on_meta else ("meta", "cpu")

    def copy(self, device: str, gated: bool) -> nn.Module:
        """The network on a device, in evaluation mode; its weights are not the network's own."""
        if (device, gated) not in self.copies:
            self.copies[device, gated] = self.made(device, self.gates if gated else {})
        return self.copies[device, gated]

    def fault_of_copy(self) -> str:
        """Why the network cannot be copied, as where it waits for its first input; empty if it can."""
        try:
            self.copy("meta", True)
        except Exception as error:  # whatever its attributes make of it
            return first_line(error)
        return ""

    def made(self, device: str, gates: Mapping[str, Gated]) -> nn.Module:
        def tensor(each: Tensor) -> Tensor:
            return each.to(device, copy=True)

        net = copied(self.model, tensor).eval()
        for path, gate in gates.items():
            parent, _, child = path.rpartition(".")
            body, se = getattr(net.get_submodule(parent), child), copied(gate.se, tensor)
            assert isinstance(se, SEBlock)
            gated = GatedCall(nn.Identity() if body is None else body, se, gate.side).eval()
            setattr(net.get_submodule(parent), child, gated)

            def called(module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                self.alone[path] = self.alone[path] and len(args) == 1 and not kwargs

            def asks(module: nn.Module, args: Any, path: str = path) -> None:
                self.asked[path].append(tuple(args[0].shape))

            gated.register_forward_pre_hook(called, with_kwargs=True)
            se.register_forward_pre_hook(asks)
        return net

    def run(self, root: str) -> None:
        """Prove the gates in a part of the network, or else in the parts of that."""
        mine = [path for path in self.gates if path == root or is_inside(path, root)]
        part = self.model.get_submodule(root)
        if not mine and root:
            return
        if has_forward(part):
            fault = self.fault_of(root, mine)
            if not fault:
                return
            self.fault = self.fault or fault
        for child, _ in part.named_children():
            self.run(f"{root}.{child}".lstrip("."))

    def fault_of(self, root: str, mine: Sequence[str]) -> str:
        """Why no image goes through a part, gated or not; empty if one does, and its gates are as they should be."""
        faults = []
        for device in self.devices:
            part = self.copy(device, True).get_submodule(root)
            for image in images(self.model.get_submodule(root), device):
                fault = self.passed(part, image, mine)
                if not fault:
                    self.check(self.also_training(part, image, mine))
                if not fault or (mine and not any(self.odd(path) for path in mine)):
                    return ""
                faults.append(fault)
        if not mine:
            return faults[0]
        for device in self.devices:
            for image in images(self.model.get_submodule(root), device):
                if not self.passed(self.copy(device, False).get_submodule(root), image, ()):
                    fault = self.passed(self.copy(device, True).get_submodule(root), image, mine)
                    self.check([path for path in mine if self.asked[path]])
                    raise ValueError(f"with gates in it the network does not run: {fault}")
        return faults[0]

    def passed(self, part: nn.Module, image: Tensor, mine: Sequence[str]) -> str:
        """Why a part does not take an image; empty if it does.

        Raises:
            ValueError: for SE in it that is not of `gates`.
        """
        for path in mine:
            self.asked[path].clear()
        fault = ""
        with (
            warnings.catch_warnings(action="ignore"),
            torch.random.fork_rng(devices=[]),
            torch.enable_grad(),
            Gates() as gates,
        ):
            try:
                part(image.clone())
            except Exception as error:  # whatever a network makes of an image of this size
                fault = first_line(error)
        for _, module in gates.maps:
            if not isinstance(module, SEBlock):
                path = next((path for path, each in part.named_modules() if each is module), "").replace(".body", "")
                raise ValueError(
                    f"the model has SE already: {path or 'the model'} ({type(module).__name__}) multiplies a map by a "
                    "function of its pooled self"
                )
        return fault

    def also_training(self, part: nn.Module, image: Tensor, mine: Sequence[str]) -> Sequence[str]:
        """Run a part as in training for those of its gates that nothing asks in evaluation, as in auxiliary heads."""
        there = {path: list(self.asked[path]) for path in mine if self.asked[path]}
        if len(there) < len(mine):
            self.passed(part.train(), image, mine)
            part.eval()
            self.asked |= there
        return mine

    def odd(self, path: str) -> str:
        """What is wrong with how a gate was asked; empty if nothing is."""
        shapes, width = self.asked[path], self.gates[path].se.channels
        if not shapes:
            return f"the network's forward never reaches {path}: a gate there would do nothing"
        if len(shapes) > 1:
            return f"{path} is called {len(shapes)} times in one pass, and all of them would share one gate"
        if len(shapes[0]) != 4:
            return f"{path}: the gate is given {' × '.join(map(str, shapes[0]))}, not 2-D maps (B × C × H × W)"
        return "" if shapes[0][1] == width else f"{path}: the gate is given {shapes[0][1]} channels instead of {width}"

    def check(self, paths: Sequence[str]) -> None:
        """A ValueError that says what is wrong with the first of these gates that are not asked as they should be."""
        for path in paths:
            if odd := self.odd(path):
                raise ValueError(odd)

    def check_fusing(self) -> None:
        """A ValueError if the network can join its norms with its convolutions, as for quantisation, but not gated."""
        if not callable(getattr(self.model, "fuse_model", None)):
            return
        try:
            self.made("meta", {}).fuse_model()  # type: ignore[operator]
        except Exception:  # not even without gates; it is fused already, for example
            return
        try:
            self.made("meta", self.gates).fuse_model()  # type: ignore[operator]
        except Exception as error:  # whatever a network makes of gates between its layers
            raise ValueError(
                "fuse_model of the network cannot join layers with gates between: call it first"
            ) from error


def images(part: nn.Module, device: str) -> Iterator[Tensor]:
    """Two images a time of several sizes, of the channels that a first convolution may take."""
    widths = [each.in_channels for each in part.modules() if isinstance(each, nn.Conv2d)]
    dtype = next((weight.dtype for weight in part.parameters() if weight.is_floating_point()), None)
    for channels in dict.fromkeys([*widths[:1], 3, min(widths, default=3)]):
        for side in PIXELS[device]:
            shape = (2, channels, side, side)
            yield (torch.zeros if device == "cpu" else torch.empty)(
                shape, dtype=dtype, device=device, requires_grad=True
            )

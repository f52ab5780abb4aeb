"""Runs a copy of a network once with its gates, before they are put into the network itself.

Every gate must run once, on maps of the width that it was made for, and return maps of their shape: a gate that never
runs would have weights that are not trained, and one that runs twice would be one gate for two places. The run takes
two images without weights on the meta device, or on the CPU if the network needs values. It also finds SE that is
written into a block's forward.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from senet_lab.config import first_line
from senet_lab.models.copies import copy_tensors, dtype_of, has_forward, is_on_meta
from senet_lab.models.gated import Planned, gates_in, put
from senet_lab.models.gates import SEBlock
from senet_lab.models.module_paths import output_text
from senet_lab.models.operators import OperatorLog, is_in

# Sides of the images that are tried until one goes through, by device.
PIXELS = {"meta": (224, 32, 64, 28, 96, 128, 256, 299), "cpu": (64, 224, 32)}


def called_with_input_alone(model: nn.Module, plan: Sequence[Planned]) -> set[str]:
    """Prove that the network works with the gates; returns the paths of the modules that it calls with their input
    alone.

    Args:
        model: without the gates; it is left as it is.
        plan: what is to be put where.

    Raises:
        ValueError: for a gate that is not asked once, for a network that runs without gates only, or has SE already.

    Warns:
        UserWarning: for a network that does not take one image; its parts are run instead, as far as they do.
    """
    trial = GateProof(model, plan)
    fault = trial.fault_of_copy() or trial.run("")
    if fault:
        warnings.warn(
            f"the network does not run on an image ({fault}), so that nothing shows that it reaches all gates",
            stacklevel=3,
        )
    elif callable(getattr(model, "fuse_model", None)):
        trial.check_fusing()
    return {path for path, alone in trial.alone.items() if alone}


def check_not_written_out(model: nn.Module) -> None:
    """A ValueError for a network with SE that is written out in a forward instead of being a module, as far as the
    network runs on an image."""
    trial = GateProof(model, [])
    if has_forward(model) and not trial.fault_of_copy():
        trial.fault_of("")


def takes_one(body: nn.Module | None) -> bool:
    """Whether a module can be called with its input alone, and with nothing else."""
    kinds = [each.kind for each in inspect.signature(body.forward).parameters.values()] if body else []
    return body is None or kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD]


class GateProof:
    """Copies of a network, with and without gates, and what was passed through the gates.

    Attributes:
        alone: path of a gated module → whether it was called with its input alone, every time; of one that was not
            called, whether it takes nothing else.
        asked: path of a gated module → the shapes of the maps that its gate was asked for, in one run.
        gave: path of a gated module → what its gate gave, in words, where that is not shaped as it was asked.
    """

    def __init__(self, model: nn.Module, plan: Sequence[Planned]) -> None:
        self.model = model
        self.plan = plan
        self.widths = {gate.name: gate.channels for gate, _ in plan}
        self.alone = {path: takes_one(attribute(model, path)) for path in self.widths}
        self.asked: dict[str, list[tuple[int, ...]]] = {path: [] for path in self.widths}
        self.gave: dict[str, str] = {}
        self.watches: dict[tuple[str, bool], OperatorLog] = {}
        self.devices = ("meta",) if is_on_meta(model) else ("meta", "cpu")

    def copy(self, device: str, gated: bool) -> nn.Module:
        """The network on a device, in evaluation mode; its weights are not the network's own."""
        net = copy_tensors(self.model, lambda tensor: tensor.to(device, copy=True)).eval()
        for gate, se in self.plan if gated else ():
            twin = copy_tensors(se, lambda tensor: tensor.to(device, copy=True))
            put(net, [(gate, twin)], alone=())

            def called(module: nn.Module, args: Any, kwargs: Any, path: str = gate.name) -> None:
                self.alone[path] = (self.alone[path] or not self.asked[path]) and len(args) == 1 and not kwargs

            def asks(module: nn.Module, args: Any, path: str = gate.name) -> None:
                self.asked[path].append(tuple(args[0].shape))

            def gives(module: nn.Module, args: Any, output: Any, path: str = gate.name) -> None:
                if not isinstance(output, Tensor) or output.shape != args[0].shape:
                    self.gave[path] = output_text(output)

            net.get_submodule(gate.name).register_forward_pre_hook(called, with_kwargs=True)
            twin.register_forward_pre_hook(asks)
            twin.register_forward_hook(gives)
        return net

    def watch(self, device: str, gated: bool) -> OperatorLog:
        if (device, gated) not in self.watches:
            self.watches[device, gated] = OperatorLog(self.copy(device, gated))
        return self.watches[device, gated]

    def fault_of_copy(self) -> str:
        """Why the network cannot be copied (a lazy module has not seen an input, say); empty if it can."""
        try:
            self.watch("meta", True)
        except Exception as error:  # whatever its attributes make of it
            return first_line(error)
        return ""

    def run(self, root: str) -> str:
        """Prove the gates in a part of the network or, if it does not run, in its children; returns why it does not
        run."""
        part, fault = self.model.get_submodule(root), ""
        if root and not self.in_part(root):
            return ""
        if has_forward(part):
            fault = self.fault_of(root)
            if not fault:
                return ""
        faults = [self.run(f"{root}.{child}".lstrip(".")) for child, _ in part.named_children()]
        return fault or next(filter(None, faults), "")

    def in_part(self, root: str) -> list[str]:
        """The gated modules in a part of the network."""
        return [path for path in self.asked if is_in(path, [root])]

    def fault_of(self, root: str) -> str:
        """Why a part runs on no image, gated or not; empty if it runs on one and its gates pass."""
        mine, faults = self.in_part(root), []
        for device, image in self.images(root):
            fault = self.image_fault(device, True, root, image)
            if not fault:
                self.run_training_mode(device, root, image)
                self.check(mine)
            if not fault or (mine and not any(map(self.gate_fault, mine))):
                return ""
            faults.append(fault)
        for device, image in self.images(root) if mine else ():
            if not self.image_fault(device, False, root, image):
                fault = self.image_fault(device, True, root, image)
                self.check([path for path in mine if self.asked[path]])
                raise ValueError(f"with gates in it the network does not run: {fault}")
        return faults[0]

    def images(self, root: str) -> Iterator[tuple[str, Tensor]]:
        """Batches of two images, of several sizes and on each device, with the channels that a first convolution
        takes."""
        part = self.model.get_submodule(root)
        widths = [each.in_channels for each in part.modules() if isinstance(each, nn.Conv2d)]
        for device in self.devices:
            for channels in dict.fromkeys([*widths[:1], 3, min(widths, default=3)]):
                for side in PIXELS[device]:
                    yield device, torch.zeros(2, channels, side, side, dtype=dtype_of(part), device=device)

    def image_fault(self, device: str, gated: bool, root: str, image: Tensor) -> str:
        """Why a part does not take an image; empty if it does.

        Raises:
            ValueError: for SE in it that is not of the plan.
        """
        for path in self.in_part(root):
            self.asked[path].clear()
        watch, fault = self.watch(device, gated), ""
        with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]), torch.no_grad():
            try:
                watch.run(image.clone(), watch.net.get_submodule(root))
            except Exception as error:  # whatever a network makes of an image of this size
                fault = first_line(error)
        planned = list(gates_in(watch.net))
        for gate in watch.gates:
            module = watch.net.get_submodule(gate.place)
            if gate.pooled and not isinstance(module, SEBlock) and not is_in(gate.place, planned):
                path = gate.place.replace(".body", "") or "the model"
                raise ValueError(
                    f"the model has SE already: {path} ({type(module).__name__}) multiplies a map by a function of its "
                    "pooled self"
                )
        return fault

    def run_training_mode(self, device: str, root: str, image: Tensor) -> None:
        """Run a part in training mode, for gates that do not run in evaluation, as in auxiliary heads."""
        shapes = {path: list(self.asked[path]) for path in self.in_part(root) if self.asked[path]}
        if len(shapes) < len(self.in_part(root)):
            part = self.watch(device, True).net.get_submodule(root)
            part.train()
            self.image_fault(device, True, root, image)
            part.eval()
            self.asked |= shapes

    def gate_fault(self, path: str) -> str:
        """What is wrong with the maps that a gate was given; empty if nothing is."""
        shapes, width = self.asked[path], self.widths[path]
        if not shapes:
            return f"the network's forward never reaches {path}: a gate there would do nothing"
        if len(shapes) > 1:
            return f"{path} is called {len(shapes)} times in one pass, and all of them would share one gate"
        if len(shapes[0]) != 4:
            return f"{path}: the gate is given {' × '.join(map(str, shapes[0]))}, not 2-D maps (B × C × H × W)"
        if shapes[0][1] != width:
            return f"{path}: the gate is given {shapes[0][1]} channels instead of {width}"
        size = " × ".join(map(str, shapes[0]))
        return f"{path}: of {size} the gate makes {self.gave[path]}, and not that shape" if path in self.gave else ""

    def check(self, paths: Sequence[str]) -> None:
        """A ValueError about the first of these gates that was not run once on a map of its width."""
        for odd in filter(None, map(self.gate_fault, paths)):
            raise ValueError(odd)

    def check_fusing(self) -> None:
        """A ValueError if the network can join its norms with its convolutions, as for quantisation, but not gated."""
        try:
            self.copy("meta", False).fuse_model()  # type: ignore[operator]
        except Exception:  # not even without gates; it is fused already, for example
            return
        try:
            self.copy("meta", True).fuse_model()  # type: ignore[operator]
        except Exception as error:  # whatever a network makes of gates between its layers
            raise ValueError(
                "fuse_model of the network cannot join layers with gates between: call it first"
            ) from error


def attribute(model: nn.Module, path: str) -> nn.Module | None:
    """What is at a path: a module, or None."""
    parent, _, child = path.rpartition(".")
    child_module: nn.Module | None = getattr(model.get_submodule(parent), child)
    return child_module

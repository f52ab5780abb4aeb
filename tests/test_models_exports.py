"""Networks that got SE can be copied, saved, compiled and exported, wherever it went."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_models_structure import Functional, Nested, conv, small_v2
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from senet_lab import SE, add_se
from senet_lab.models import create
from senet_lab.models.gates import SQUEEZES, SEBlock


def own(**fields: object) -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)]
    net = nn.Sequential(conv(3, 8), Functional(), Nested(), Functional(8, 16, 2), *head)
    add_se(net, reduction=2, **fields)
    return net


def named() -> nn.Module:
    net = nn.Sequential(OrderedDict(convs=nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU())))
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)])
    add_se(net, where="convs.[13]", reduction=2, squeeze="max")
    return net


def bit() -> nn.Module:
    net = small_v2()
    add_se(net, reduction=4, position="pre", excitation="softmax", identity_start=True)
    for module in net.modules():
        if isinstance(module, SEBlock):
            nn.init.normal_(module.fc2.weight)
    return net


GATED: dict[str, Callable[[], nn.Module]] = {
    "own blocks": own,
    "own blocks, identity": lambda: own(position="identity", excitation="tanh", identity_start=True),
    "named": named,
    "timm's BiT": bit,
}


@pytest.fixture(scope="module", params=GATED)
def net(request: pytest.FixtureRequest) -> nn.Module:
    return GATED[request.param]().eval()


X_BCHW = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_copies_pickles_and_state_dicts(net: nn.Module) -> None:
    expected = net(X_BCHW)
    blank = copy.deepcopy(net)
    for weight in blank.parameters():
        weight.data.zero_()
    assert not torch.allclose(blank(X_BCHW), expected)
    blank.load_state_dict(net.state_dict(), strict=True)
    for again in (blank, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(again(X_BCHW), expected)


def test_torch_export(net: nn.Module) -> None:
    exported = torch.export.export(net, (X_BCHW,)).module()
    torch.testing.assert_close(exported(X_BCHW), net(X_BCHW))


def test_torch_fx(net: nn.Module) -> None:
    traced = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(traced(X_BCHW), net(X_BCHW))


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_torchvision_extracts_the_maps_of_a_network(squeeze: str) -> None:
    net = create("resnet18", SE(squeeze=squeeze), 5).eval()
    seen: list[Tensor] = []
    extractor = create_feature_extractor(net, {"layer2": "maps", "layer2.0.bn2.se.fc1": "hidden"})
    net.layer2.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x_BCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = extractor(x_BCHW)
    net(x_BCHW)
    torch.testing.assert_close(found["maps"], seen[-1])
    assert found["hidden"].shape[1] == 128 // 16


def test_torch_compile(net: nn.Module) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X_BCHW), net(X_BCHW))


def in_onnxruntime(net: nn.Module, path: Path) -> np.ndarray:
    """What onnxruntime makes of the images."""
    onnxruntime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        torch.onnx.export(net, (X_BCHW,), path, dynamo=True, input_names=["x"], verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X_BCHW.numpy()})[0]


@pytest.mark.parametrize("net", ["own blocks", "named"], indirect=True)
def test_onnx(net: nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():
        expected = net(X_BCHW).numpy()
    np.testing.assert_allclose(in_onnxruntime(net, tmp_path / "net.onnx"), expected, rtol=1e-4, atol=1e-4)

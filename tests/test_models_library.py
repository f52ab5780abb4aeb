"""Networks of timm and torchvision by name."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn

from senet_lab.config import SE
from senet_lab.models import cost, create, stages_of
from senet_lab.models.existing_se import se_modules
from senet_lab.models.gated import gates_in

TIMM = """
convnext_atto convnext_tiny convnextv2_atto cs3darknet_s cspresnet50 cspresnext50 darknet53 densenet121 dla34
dla46_c ecaresnet26t efficientnet_b0 efficientnet_es efficientnet_lite0 efficientnetv2_rw_t ese_vovnet19b_dw
fasternet_t0 fbnetc_100 fbnetv3_b gcresnext26ts ghostnet_050 hrnet_w18_small inception_v3 inception_v4 lcnet_050
legacy_seresnet18 legacy_xception mixnet_s mnasnet_050 mobilenetv1_100 mobilenetv2_050 mobilenetv3_small_050
mobilenetv4_conv_small mobileone_s0 nf_regnet_b0 nf_resnet50 regnetv_040 regnetx_002 regnety_002 repvgg_a0
resnest14d res2net50_14w_8s res2next50 resnet10t resnet18 resnet26d resnet50 resnetv2_18 resnetv2_50 resnext50_32x4d
rexnet_100 semnasnet_050 seresnet18 seresnext26d_32x4d spnasnet_100 starnet_s1 tf_efficientnetv2_b0 tinynet_e
vgg11_bn xception41
"""
TORCHVISION = """
alexnet densenet121 efficientnet_b0 googlenet inception_v3 mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf
regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 vgg11_bn
"""
NAMES = [f"timm:{name}" for name in TIMM.split()] + [f"torchvision:{name}" for name in TORCHVISION.split()]


@pytest.mark.slow
def test_every_name_is_built_gated_costed_and_trained_one_step() -> None:
    """The names of docs/networks.md. A gate gets a gradient, and nothing that the library built in is left."""
    faults = {}
    for name in NAMES:
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings(action="ignore"):
                net = create(name, SE(), 10, seed=0)
                side = 128 if "inception_v" in name or "legacy_xception" in name else 64
                counted = cost(net, (3, side, side))
            assert counted.se_params == sum(w.numel() for g in gates_in(net).values() for w in g.parameters()) > 0
            assert counted.stages
            logits_BK = net.train()(torch.rand(2, 3, side, side))
            logits_BK.sum().backward()
            gradients = [weight.grad for gate in gates_in(net).values() for weight in gate.parameters()]
            assert all(grad is not None and grad.isfinite().all() for grad in gradients)
            torch.optim.SGD(net.parameters(), 0.01).step()
        except Exception as error:
            faults[name] = f"{type(error).__name__}: {error}"[:200]
    assert not faults, "\n".join(f"{name}: {fault}" for name, fault in faults.items())
    assert len(TIMM.split()) >= 60


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("timm:resnet18", lambda: timm.create_model("resnet18", num_classes=7)),
        ("torchvision:mobilenet_v2", lambda: torchvision.models.mobilenet_v2(num_classes=7)),
    ],
)
def test_without_se_it_is_what_the_library_builds(name: str, reference: type[nn.Module]) -> None:
    net, other = create(name, None, 7, seed=0).eval(), reference().eval()
    other.load_state_dict(net.state_dict())
    x_BCHW = torch.rand(2, 3, 64, 64)
    assert torch.equal(net(x_BCHW), other(x_BCHW))


def test_se_of_the_library_is_taken_out() -> None:
    """What is left of SE-ResNet-18 is ResNet-18, with its weights' names; gates at 1 change nothing."""
    with torch.device("meta"):
        net, plain = create("timm:seresnet18", None, 5), timm.create_model("resnet18", num_classes=5)
    assert not se_modules(net)
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    gated, bare = (create("timm:mobilenetv3_small_050", se, 5, seed=0).eval() for se in (SE(identity_start=True), None))
    x_BCHW = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(gated(x_BCHW), bare(x_BCHW))


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("timm:mobilenetv2_050", "InvertedResidual"),
        ("timm:efficientnet_es", "EdgeResidual"),
        ("timm:mobilenetv4_conv_small", "UniversalInvertedResidual"),
        ("timm:nf_resnet26", "NormFreeBlock"),
        ("timm:xception41", "XceptionModule"),
        ("timm:convnext_atto", "ConvNeXtBlock"),
        ("torchvision:mobilenet_v3_small", "InvertedResidual"),
        ("torchvision:efficientnet_b0", "MBConv"),
        ("torchvision:mnasnet0_5", "_InvertedResidual"),
    ],
)
def test_a_gate_multiplies_what_a_block_adds(name: str, block: str) -> None:
    """With gates of 0 a block gives its shortcut, or nothing where it has none; with gates of 0.5 what is half-way to
    what it gives without."""
    none, half, whole = (
        create(name, se, 5, seed=0).eval()
        for se in (SE(kind="constant", args={"value": 0.0}), SE(kind="constant", args={"value": 0.5}), None)
    )
    for weight in (weight for net in (none, half, whole) for weight in net.parameters()):
        weight.data += 0.5 * (weight.abs().max() < 1e-5)  # scales of branches that begin at, or next to, 0
    plain = {path: each for path, each in whole.named_modules() if type(each).__name__ == block}
    assert plain
    for path, each in plain.items():
        width = next(part.in_channels for part in each.modules() if isinstance(part, nn.Conv2d))
        x_BCHW = torch.rand(1, width, 8, 8)
        zero, middle, one = (net.get_submodule(path)(x_BCHW.clone()) for net in (none, half, whole))
        torch.testing.assert_close(middle, (zero + one) / 2)
        adds = zero.shape == x_BCHW.shape and torch.equal(zero, x_BCHW)
        assert adds or not zero.any() or hasattr(each, "downsample") or getattr(each, "shortcut", None) is not None, (
            path
        )
        assert not torch.allclose(zero, one)


def test_stages_are_numbered_by_resolution() -> None:
    """RegNet's modules are called s1 to s4 in timm, trunk_output.block1 to 4 in torchvision; MobileNetV2's blocks have
    five resolutions, of which the first is stride 2."""
    with torch.device("meta"):
        assert stages_of(create("timm:regnetx_002", None)) == (2, 3, 4, 5)
        assert stages_of(create("torchvision:regnet_x_400mf", None)) == (2, 3, 4, 5)
        assert stages_of(create("timm:mobilenetv2_050", None)) == (1, 2, 3, 4, 5)
        net = create("timm:mobilenetv2_050", SE(stages=[5], reduction=4))
    assert [path.split(".body")[0].removesuffix(".se") for path in gates_in(net)] == [
        *(f"blocks.5.{number}.bn3" for number in range(3)),
        "blocks.6.0.bn3",
    ]


@pytest.mark.parametrize(
    ("name", "se", "words"),
    [
        ("timm:mobilenetv2_05", SE(), ["backbone: timm has no network 'mobilenetv2_05'", "mobilenetv2_050"]),
        ("torchvision:regnet_y_400m", None, ["torchvision has no network 'regnet_y_400m'", "regnet_y_400mf"]),
        ("timm:vit_tiny_patch16_224", SE(), ["found nowhere to put SE"]),
        ("timm:densenet121", SE(position="identity"), ["se.position", "DenseLayer has no place for identity"]),
        ("timm:densenet121", SE(position="depthwise"), ["se.position", "no place for depthwise"]),
    ],
)
def test_what_cannot_be_is_said_in_one_line(name: str, se: SE | None, words: list[str]) -> None:
    with torch.device("meta"), pytest.raises(ValueError) as error:  # noqa: PT011 - the words are compared below
        create(name, se)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)

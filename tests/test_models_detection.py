"""Faster R-CNN on our backbones: its features, what is frozen, and a training step on a data set in COCO's format."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FrozenBatchNorm2d, box_iou
from torchvision.transforms import v2

from senet_lab import SE
from senet_lab.models import create, faster_rcnn
from senet_lab.models.gates import SEBlock

SIZE = 96
COLOURS = {1: (255, 40, 40), 3: (40, 40, 255)}  # category of COCO's → what its boxes are painted with


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Dataset[Any]:
    """Four images with a coloured rectangle or two each, as COCO keeps them: x, y, width, height."""
    folder = tmp_path_factory.mktemp("coco")
    boxes = [
        [(1, 10, 20, 40, 30)],
        [(3, 30, 8, 32, 56)],
        [(1, 4, 4, 40, 40), (3, 52, 50, 40, 36)],
        [(3, 20, 40, 60, 24)],
    ]
    images, annotations = [], []
    for number, inside in enumerate(boxes, start=1):
        picture = Image.new("RGB", (SIZE, SIZE), (90, 120, 90))
        for category, x, y, width, height in inside:
            picture.paste(COLOURS[category], (x, y, x + width, y + height))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
                }
            )
        picture.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIZE, "height": SIZE})
    categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
    listing = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(listing))
    to_tensors = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on its reading
        data = CocoDetection(str(folder), str(folder / "instances.json"), transforms=to_tensors)
    return wrap_dataset_for_transforms_v2(data, target_keys=["boxes", "labels"])


def batch_of(coco: Dataset[Any]) -> tuple[list[Any], list[Any]]:
    images, targets = zip(*(coco[i] for i in range(len(coco))), strict=True)
    return list(images), list(targets)


def detector(net: nn.Module, **options: Any) -> FasterRCNN:
    """For small images and few boxes, with weights of its own drawn from a seed."""
    small = {"min_size": SIZE, "max_size": SIZE, "box_batch_size_per_image": 32}
    small |= {"rpn_post_nms_top_n_train": 100, "rpn_post_nms_top_n_test": 100}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return faster_rcnn(net, **small, **options)


@pytest.mark.parametrize(("name", "se"), [("resnet18", SE(position="pre")), ("resnet18", SE(position="post"))])
def test_a_training_step_on_coco_reaches_the_gates(coco: Dataset[Any], name: str, se: SE) -> None:
    images, targets = batch_of(coco)
    assert targets[2]["boxes"].tolist() == [[4, 4, 44, 44], [52, 50, 92, 86]]
    assert targets[2]["labels"].tolist() == [1, 3]
    model = detector(create(name, se, seed=0), frozen_norms=False, box_score_thresh=0.0)
    before = {path: weight.clone() for path, weight in model.named_parameters()}
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.01)
    with torch.random.fork_rng(devices=[]):  # which proposals are trained on is drawn
        torch.manual_seed(0)
        losses = model(images, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    optimizer.step()

    gates = {path for path, module in model.named_modules() if isinstance(module, SEBlock)}
    assert len(gates) == {"resnet50": 16, "resnet18": 8}[name]
    for path, weight in model.named_parameters():
        frozen = path.startswith(("backbone.body.conv1", "backbone.body.bn1", "backbone.body.layer1"))
        assert (weight.grad is None) == frozen, path
        if path.rpartition(".fc")[0] in gates and not frozen:
            assert weight.grad.any(), path
            assert weight.grad.isfinite().all(), path
            assert not torch.equal(weight, before[path]), path
        elif frozen:
            assert torch.equal(weight, before[path]), path

    model.eval()
    with torch.no_grad():
        found = model(images)
    assert len(found) == len(images)
    assert sum(len(one["boxes"]) for one in found) > 0
    for one in found:
        assert one["boxes"].shape == (len(one["scores"]), 4) == (len(one["labels"]), 4)
        assert ((one["boxes"] >= 0) & (one["boxes"] <= SIZE)).all()
        assert (one["boxes"][:, 2:] >= one["boxes"][:, :2]).all()
        assert ((one["scores"] >= 0) & (one["scores"] <= 1)).all()
        assert ((one["labels"] >= 1) & (one["labels"] < 91)).all()


@pytest.mark.slow
def test_a_detector_learns_a_few_images_by_heart(coco: Dataset[Any]) -> None:
    images, targets = batch_of(coco)
    model = detector(create("resnet18", SE(), seed=0), num_classes=4, trainable_layers=5, frozen_norms=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(100):
            optimizer.zero_grad()
            sum(model(images, targets).values()).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model(images)
    for one, target in zip(found, targets, strict=True):
        sure = one["scores"] > 0.5
        assert sorted(one["labels"][sure].tolist()) == target["labels"].tolist()
        order = one["labels"][sure].argsort()
        assert (box_iou(one["boxes"][sure][order], target["boxes"]).diagonal() > 0.5).all()


@pytest.mark.parametrize(("name", "widths"), [("resnet18", (64, 128, 256, 512)), ("senet154", (256, 512, 1024, 2048))])
def test_the_pyramid_sees_every_stage(name: str, widths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        backbone = faster_rcnn(create(name)).backbone
        features = backbone.body(torch.empty(1, 3, 64, 64))
        assert [tuple(feature.shape[1:]) for feature in features.values()] == [
            (width, 64 // stride, 64 // stride) for width, stride in zip(widths, (4, 8, 16, 32), strict=True)
        ]
        assert {feature.shape[1] for feature in backbone(torch.empty(1, 3, 64, 64)).values()} == {256}


def test_frozen_norms_compute_the_same_and_stay() -> None:
    net = create("resnet18", SE(), seed=0)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.0)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    plain = detector(create("resnet18", SE()), weights=net.state_dict(), frozen_norms=False).backbone.body.eval()
    frozen = detector(net).backbone.body.train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in frozen.modules()) == 20
    before = {key: tensor.clone() for key, tensor in frozen.state_dict().items()}
    with torch.no_grad():
        image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        for one, other in zip(plain(image).values(), frozen(image).values(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, before[key]) for key, tensor in frozen.state_dict().items())


@pytest.mark.parametrize(
    ("layers", "trained"),
    [
        (0, set()),
        (1, {"layer4"}),
        (4, {"layer1", "layer2", "layer3", "layer4"}),
        (5, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
    ],
)
def test_as_many_stages_are_trained_as_were_asked_for(layers: int, trained: set[str]) -> None:
    with torch.device("meta"):
        model = faster_rcnn(create("resnet18"), trainable_layers=layers, frozen_norms=False)
    learns: dict[str, set[bool]] = {}
    for path, weight in model.backbone.body.named_parameters():
        learns.setdefault(path.partition(".")[0], set()).add(weight.requires_grad)
    assert learns == {name: {name in trained} for name in learns}


def test_weights_of_ours_are_loaded_whatever_the_classes(tmp_path: Path) -> None:
    trained = create("resnet18", SE(), 10, seed=1)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    model = detector(create("resnet18", SE(), 1000, seed=0), weights=tmp_path / "trained.pth")
    loaded = model.backbone.body.state_dict()
    wanted = {k: v for k, v in trained.state_dict().items() if not k.startswith("fc.") and "num_batches" not in k}
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[key], wanted[key]) for key in wanted)


def test_what_cannot_be_a_backbone_is_refused() -> None:
    with torch.device("meta"):
        with pytest.raises(ValueError, match="backbone: the Sequential has no stages layer1, layer2, layer3, layer4"):
            faster_rcnn(create("resnet8"))
        for layers in (-1, 6, "all"):
            with pytest.raises(ValueError, match=r"trainable_layers: .* is not a whole number from 0 to 5"):
                faster_rcnn(create("resnet18"), trainable_layers=layers)
        with pytest.raises(ValueError, match="weights: they do not fit the network: 16 missing"):
            faster_rcnn(create("resnet18"), weights=create("resnet18", None).state_dict())

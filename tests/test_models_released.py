"""Named networks and gates compute what was released under their names; `released.write_released` writes it anew."""

from __future__ import annotations

import pytest

from senet_lab.models import BACKBONES, released

LARGE = {"shake26_2x96d", "shake29_2x4x64d", "resnet101", "resnet152", "resnext101", "senet154", "vgg16"}
LARGE |= {"inception_resnet_v2", "resnet34", "resnet50", "resnext50", "wrn16_8"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in BACKBONES]
)
def test_networks_compute_what_was_released(name: str) -> None:
    """A change here would have all that is recorded of the network trained again. Where it is meant, give the new one
    a new name."""
    was = released.released_table()[name]
    found = released.network(BACKBONES[name], was["side"])
    assert found.keys() == released.DECIMALS.keys()
    for kind, values in found.items():
        assert values == pytest.approx(was[kind], abs=1.5 * 10.0 ** -released.DECIMALS[kind]), kind


@pytest.mark.parametrize("se", released.gate_designs(), ids=released.gate_name)
def test_gates_compute_what_was_released(se: released.SE) -> None:
    assert released.is_gate(se)


def test_the_table_has_what_there_is() -> None:
    assert list(released.released_table()) == [*BACKBONES, *map(released.gate_name, released.gate_designs())]

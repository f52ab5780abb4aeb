"""What networks made of each test image: kept and read back to the bit, in the order of the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from senet_lab import outputs
from senet_lab.outputs import Outputs


def made_up(images: int, seed: int = 0) -> Outputs:
    rng = np.random.default_rng(seed)
    loss = rng.exponential(0.3, images).astype(np.float16)
    return Outputs(loss < 0.7, loss)


@pytest.mark.parametrize("images", [0, 1, 7, 8, 9, 899, 10_000])
def test_bytes_are_read_back(images: int) -> None:
    whole = made_up(images)
    again = Outputs.unpacked(whole.packed())
    assert np.array_equal(again.right, whole.right)
    assert np.array_equal(again.loss, whole.loss)
    if images:
        with pytest.raises(ValueError, match="not the outputs of any number of images"):
            Outputs.unpacked(whole.packed()[:-1])


def test_a_file_is_read_back_and_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    by_trial = {f"{seed:016x}": made_up(10_000, seed) for seed in range(100)}
    packed = {name: each.packed() for name, each in by_trial.items()}
    content = outputs.file_bytes(packed, 10_000)
    assert content == outputs.file_bytes(packed, 10_000)
    assert len(content) < 3e6
    (tmp_path / "outputs.npz").write_bytes(content)
    again = outputs.read_file(tmp_path / "outputs.npz")
    assert list(again) == list(by_trial)
    assert {name: each.packed() for name, each in again.items()} == packed


def test_a_huge_loss_is_the_largest_that_there_is() -> None:
    batch_2B = np.array([[0.0, 1.0], [1e6, 0.25]])
    assert outputs.merge_batches([[batch_2B]]).loss.tolist() == [65504, 0.25]


def test_outputs_of_other_images_are_refused_by_name() -> None:
    packed = {"a": made_up(20).packed(), "b": made_up(21).packed()}
    with pytest.raises(ValueError, match="trial b has outputs of 21 test images, and there are 20"):
        outputs.file_bytes(packed, 20)


@pytest.mark.parametrize(
    "content", [b"", b"no file of NumPy's", outputs.file_bytes({"a": made_up(9).packed()}, 9)[:-30]]
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "outputs.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"outputs\.npz: no outputs of trials") as caught:
        outputs.read_file(tmp_path / "outputs.npz")
    assert "\n" not in str(caught.value)

"""Labelling on a device: the CPU's logits, of the CPU's pixels, and no piece waits."""

from pathlib import Path

import pytest
import torch
from devices import (
    CPU,
    DEVICE,
    K,
    alone,
    check_close,
    dataset,
    description,
    needs_device,
    network,
    rows,
    teacher,
)

from kd_ray.config import TransferSetOptions
from kd_ray.runs.label import plan_labelling, write_set
from kd_ray.runs.rows import rows_to_label
from kd_ray.training.saved_model import SavedModel, raw_logits
from kd_ray.transfer_set import open_transfer_set

pytestmark = needs_device


def teachers(device: torch.device, fingerprint: str = "") -> list[SavedModel]:
    about = description("convnet", parents={"dataset": fingerprint})
    return [teacher(network("convnet", seed), about, seed, device) for seed in range(2)]


def test_logits_of_a_device_are_those_of_the_cpu():
    images = dataset(rows(96)).train.in_memory
    found = raw_logits(teachers(DEVICE), images.split(40), DEVICE)
    wanted = raw_logits(teachers(CPU), [images], CPU)
    assert found.device == wanted.device == CPU
    assert found.shape == (96, 2, K)
    check_close(found, wanted, rtol=0, atol=0.01 * float(wanted.abs().amax()))


@pytest.mark.parametrize("views", [1, 3])
def test_transfer_set_of_a_device_has_the_pixels_and_nearly_the_logits_of_the_cpu(
    views: int, tmp_path: Path
):
    options = TransferSetOptions.model_validate(
        {
            "views": views,
            "augment": {"shift": 1, "rotate": 10.0} if views > 1 else {},
            "include_images": True,
            "shard_rows": 64,
        }
    )
    data, opened = dataset(rows(96)), []
    for device in (DEVICE, CPU):
        nets = teachers(device, data.fingerprint)
        plan = plan_labelling(data, options, nets, [0.5, 0.5])
        events = write_set(
            tmp_path / device.type,
            plan,
            rows_to_label(data, options),
            lambda shard, images, nets=nets, device=device: raw_logits(nets, images, device),
            alone(device),
        )
        assert sum(event.rows for event in events) == 96 * views + 40
        opened.append(open_transfer_set(tmp_path / device.type).train)
    found, wanted = opened
    assert torch.equal(found.images, wanted.images)
    assert torch.equal(found.labels, wanted.labels)
    check_close(found.logits, wanted.logits, rtol=0, atol=0.01 * float(wanted.logits.abs().amax()))

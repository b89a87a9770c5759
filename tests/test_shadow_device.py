"""Every method on a device that is not there: numbers of the CPU, a device's rules, a count of what crosses over."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch.utils import backend_registration

from fd_flower import methods

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no hook for devices in Python",
)

HERE = Path(__file__).parent
MOST = {
    "fedalm": 5,
    "fedcollm": 4,
    "fedgen": 4,
    "fraug": 6,
    "fedlgd": 22,
    "fedlex": 2,
    "fedmkt": 5,
    "kdstudy": 4,
    "mhd": 2,
    "offsite": 4,
}
"""Crossings between a step and its next one, where these are more than one.

Language models read the texts of a batch on the host. FedGen's noise and FedLGD's augmentations are drawn there, for
each class of an image step. A pass of kdstudy's training ends with an evaluation; mhd has the orders of two passes.
"""


def played(*names: str, plant: str = "") -> Mapping[str, Any]:
    """Return what ``helpers.on_shadow`` writes, in a process of its own."""
    command = [sys.executable, "-m", "helpers.on_shadow", *names]
    told = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "PLANT": plant}
    out = subprocess.run(command, cwd=HERE, env=told, capture_output=True, text=True, timeout=600)
    assert out.returncode == 0, out.stderr[-3000:]
    return json.loads(out.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def every() -> Mapping[str, Any]:
    return played(*methods.names())


@pytest.mark.parametrize("method", methods.names())
def test_a_method_on_the_device_equals_the_cpu_bit_for_bit(every: Mapping[str, Any], method: str):
    assert every[method]["error"] is None
    assert every[method]["equal"]
    assert every[method]["up"] > 0  # it was there


@pytest.mark.parametrize("method", methods.names())
def test_little_crosses_between_two_steps(every: Mapping[str, Any], method: str):
    assert max(every[method]["steps"], default=0) <= MOST.get(method, 1)


@pytest.mark.parametrize(
    ("plant", "error"),
    [
        ("samples", "tensors on the device, and on the CPU"),  # samples that stay on the CPU
        ("teacher", "tensors on the device, and on the CPU"),  # knowledge that stays on the CPU
        ("generator", "a generator of the CPU draws for the device"),
    ],
)
def test_what_lies_in_the_wrong_place_is_noticed(plant: str, error: str):
    assert error in played("fd", plant=plant)["fd"]["error"]

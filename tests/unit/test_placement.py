"""Where a server's workers compute: the option, and the device with the most room."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetal.errors import InputError
from hetal.server import placement
from hetal.server.config import ServerConfig
from hetal.server.devices import Device
from hetal.server.placement import Placement, device_names

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("auto", ("auto",)),
        ("cpu", ("cpu",)),
        ("cuda:3", ("cuda:3",)),
        ("cuda:0, cuda:2", ("cuda:0", "cuda:2")),
        ("emulated:0", ("emulated:0",)),
    ],
)
def test_devices_have_names(text: str, names: tuple[str, ...]) -> None:
    assert device_names(text) == names


@pytest.mark.parametrize("text", ["", "cuda", "gpu:0", "cuda:0,cuda:0", "cpu,cuda:0", "cuda:0,", "cuda:-1", "auto,cpu"])
def test_what_names_no_device_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device"):
        ServerConfig(data_dir=tmp_path, device=text).check()


def test_openfhe_computes_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="openfhe"):
        ServerConfig(data_dir=tmp_path, device="cuda:0", backend="openfhe").check()
    ServerConfig(data_dir=tmp_path, device="auto", backend="openfhe").check()
    assert ServerConfig(data_dir=tmp_path, device="auto", backend="openfhe").chosen_devices() == ("cpu",)


def test_auto_takes_all_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServerConfig(data_dir=tmp_path, device="auto")
    for count, names in ((0, ("cpu",)), (2, ("cuda:0", "cuda:1"))):
        monkeypatch.setattr("hetal.server.config.device_count", lambda count=count: count)
        assert config.chosen_devices() == names
    assert config.chosen_backend() == "native"


def test_workers_share_devices_that_tell_nothing() -> None:
    placed = Placement(["emulated:0", "emulated:1"])
    first, second, third = (placed.take(need) for need in (3 * GIB, 2 * GIB, 2 * GIB))
    assert [place.device for place in (first, second, third)] == ["emulated:0", "emulated:1", "emulated:1"]
    placed.give(third)
    placed.give(second)
    assert placed.take(GIB).device == "emulated:1"


class Watched:
    """Three devices, of which another program holds the most of the first one."""

    used = (60, 10, 10)

    def look(self) -> tuple[Device, ...]:
        gpus = (Device(f"gpu{i} H100", used * GIB, 80 * GIB, 0.0) for i, used in enumerate(self.used))
        return (Device("cpu", 1, 2, 0.0), *gpus)


def test_workers_go_where_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "Devices", Watched)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    placed = Placement(["cuda:0", "cuda:1", "cuda:2"])
    # What a worker has not taken yet is promised all the same.
    assert [placed.take(40 * GIB).device for _ in range(3)] == ["cuda:1", "cuda:2", "cuda:1"]
    assert placed.take(GIB).device == "cuda:2"
    # An operator may have given CUDA other numbers.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    renamed = Placement(["cuda:0", "cuda:1"])
    assert [renamed.take(GIB).device for _ in range(2)] == ["cuda:0", "cuda:0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1f,GPU-2f")
    unknown = Placement(["cuda:0", "cuda:1"])
    assert [unknown.take(GIB).device for _ in range(2)] == ["cuda:0", "cuda:1"]

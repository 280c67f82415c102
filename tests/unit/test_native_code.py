"""The cache of compiled kernels: what is damaged or of other sources or compilers is not used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hetal.errors import DeviceError
from hetal.native.cuda import code, nvrtc


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(code.DIRECTORY, str(tmp_path / "cache"))
    return tmp_path / "cache"


def maker(made: list[bytes]) -> Callable[[], bytes]:
    def make() -> bytes:
        made.append(b"code %d" % len(made))
        return made[-1]

    return make


def test_code_is_made_once(cache: Path) -> None:
    made: list[bytes] = []
    assert [code.compiled("sm_90", 16, "a", maker(made)) for _ in range(2)] == [b"code 0"] * 2
    (file,) = cache.iterdir()
    assert file.name.startswith("sm_90-16-")
    assert cache.stat().st_mode & 0o777 == 0o700
    for other in (("sm_80", 16, "a"), ("sm_90", 10, "a"), ("sm_90", 16, "b")):
        assert code.compiled(*other, maker(made)) == made[-1]
    assert len(made) == len(list(cache.iterdir())) == 4


def test_other_sources_other_code(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    code.compiled("sm_90", 16, "a", maker(made))
    monkeypatch.setattr(code, "_digest", lambda: "0" * 32)
    assert code.compiled("sm_90", 16, "a", maker(made)) == b"code 1"


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_what_is_damaged_is_made_anew(damage: bytes | None, cache: Path) -> None:
    made: list[bytes] = []
    code.compiled("sm_90", 16, "a", maker(made))
    (file,) = cache.iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-1] if damage is None else damage)
    assert code.compiled("sm_90", 16, "a", maker(made)) == b"code 1"
    assert code.compiled("sm_90", 16, "a", maker(made)) == b"code 1"


def test_a_cache_that_cannot_be_written_is_none(cache: Path) -> None:
    cache.write_bytes(b"a file")
    made: list[bytes] = []
    assert [code.compiled("sm_90", 16, "a", maker(made)) for _ in range(2)] == [b"code 0", b"code 1"]


def test_without_a_compiler_what_another_one_left_serves(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "find", lambda: None)
    with pytest.raises(DeviceError, match="no compiler for sm_90"):
        nvrtc.cubin("sm_90", 16)
    code.compiled("sm_90", 16, "nvrtc 13.0", lambda: b"cubin")
    assert nvrtc.cubin("sm_90", 16) == b"cubin"


def test_the_directory_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(code.DIRECTORY, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert code.cache_directory() == Path("/somewhere/hetal/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert code.cache_directory() == Path.home() / ".cache" / "hetal" / "kernels"

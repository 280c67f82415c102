"""Compiled kernels on disk: one file per processor, size of limbs and set of sources, under a name that says so.

Files are written under another name and moved, and hold the hash of what follows: a file that is cut off or damaged is
compiled anew.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

KERNELS: Final = Path(__file__).parent.parent / "kernels"
ENTRY: Final = "gpu_entry.cu"
DIRECTORY: Final = "HETAL_KERNEL_CACHE"
_DIGEST_BYTES: Final = 32


def cache_directory() -> Path:
    """``$HETAL_KERNEL_CACHE``, or ``hetal/kernels`` in the user's cache."""
    chosen = os.environ.get(DIRECTORY)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hetal" / "kernels"


@lru_cache(maxsize=1)
def sources() -> dict[str, bytes]:
    """The entry points and all headers, by name."""
    return {path.name: path.read_bytes() for path in (*sorted(KERNELS.glob("*.h")), KERNELS / ENTRY)}


def compiled(target: str, log2: int, compiler: str | None, compile_: Callable[[], bytes] | None = None) -> bytes | None:
    """The code for a target and limbs of 2^log2 words, from the cache or else made and kept there.

    Args:
        target: what runs it, e.g. "sm_90".
        compiler: its name, version and options: code of another one is not used. None for code of any.
        compile_: makes the code; without it, None is returned where the cache has none.
    """
    prefix = f"{target}-{log2}-{_digest()}-"
    directory = cache_directory()
    if compiler is None:
        paths = sorted(directory.glob(f"{prefix}*"))
    else:
        paths = [directory / f"{prefix}{hashlib.sha256(compiler.encode()).hexdigest()[:16]}"]
    for path in paths:
        code = _read(path)
        if code is not None:
            return code
    if compile_ is None:
        return None
    code = compile_()
    _write(paths[0], code)
    return code


@lru_cache(maxsize=1)
def _digest() -> str:
    """Of all sources."""
    digest = hashlib.sha256()
    for name, text in sources().items():
        digest.update(f"{name}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()[:32]


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    code = data[_DIGEST_BYTES:]
    return code if code and hashlib.sha256(code).digest() == data[:_DIGEST_BYTES] else None


def _write(path: Path, code: bytes) -> None:
    """A cache that cannot be written is none: the code is used all the same."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    except OSError:
        return
    try:
        with open(descriptor, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)

"""Files written whole or not at all, and arrays read from files that nobody vouches for."""

from __future__ import annotations

import io
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

MAX_BYTES = 2 << 30  # of a file, and of an array in one
DAMAGED = (  # what readers raise for files that are not what they seem
    OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, RuntimeError,
    MemoryError, ArithmeticError, AssertionError, SyntaxError, struct.error, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file beside its place and move it there: nobody ever reads half a file."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_arrays(path: str | Path, **arrays: np.ndarray) -> None:
    """Write a compressed .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def read_arrays(path: str | Path, *names: str) -> list[np.ndarray]:
    """Arrays of an .npz; raises one of `DAMAGED` where they are not there or too large."""
    with np.load(path, allow_pickle=False) as arrays:
        for name in names:
            if name not in arrays:
                raise ValueError(f"an array '{name}' is wanted")
            if arrays.zip.getinfo(f"{name}.npy").file_size > MAX_BYTES:
                raise ValueError(f"at most {MAX_BYTES} bytes of {name} wanted")
        return [arrays[name] for name in names]

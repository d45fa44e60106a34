"""Messages as bytes, written with numpy: `Publisher.publish` takes them as they are.

Building a large message from Python objects costs a hundred times more than its bytes do.
"""

from __future__ import annotations

import numpy as np

_PADDING = b"\x00"


class CdrWriter:
    """Plain little-endian CDR, the very bytes of rclpy.serialization.serialize_message.

    (But for the padding between numbers, which that function leaves as it finds it.)
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = [b"\x00\x01\x00\x00"]
        self._size = 0  # numbers are aligned relative to the end of these first four bytes

    def numbers(self, values: object, kind: str) -> None:
        """One number or an array of numbers of a numpy type such as "i4", one after the other."""
        array = np.asarray(values, dtype="<" + kind)
        if array.size:
            padding = -self._size % array.itemsize
            self._add(_PADDING * padding + array.tobytes())

    def sequence(self, values: np.ndarray, kind: str, width: int = 1) -> None:
        """A sequence of structs of `width` numbers each (1: of plain numbers)."""
        self.numbers(values.size // width, "u4")
        self.numbers(values, kind)

    def string(self, text: str) -> None:
        content = text.encode() + b"\x00"
        self.numbers(len(content), "u4")
        self._add(content)

    def stamp(self, stamp_ns: int) -> None:
        """builtin_interfaces/Time, also of a time before 1970."""
        self.numbers(stamp_ns // 10**9, "i4")
        self.numbers(stamp_ns % 10**9, "u4")

    def header(self, frame_id: str, stamp_ns: int) -> None:
        self.stamp(stamp_ns)
        self.string(frame_id)

    def finish(self) -> bytes:
        return b"".join(self._parts)

    def _add(self, content: bytes) -> None:
        self._parts.append(content)
        self._size += len(content)

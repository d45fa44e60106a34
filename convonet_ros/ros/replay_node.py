"""A recording in a folder onto the topics of a real camera, stamped with the time of sending."""

from __future__ import annotations

from collections.abc import Iterator

from convonet_ros.datasets.recordings import Frame, open_recording
from convonet_ros.ros.depth_source import DepthSource, parameter, run


class ReplayNode(DepthSource):
    """Parameters beside the source's: folder, frames (a Python slice), loop (again and again)."""

    def __init__(self) -> None:
        super().__init__("replay_node")
        folder = parameter(self, "folder", "")
        if not folder:
            raise ValueError("folder: expected the folder of a recording, got none")
        self._recording = open_recording(folder, parameter(self, "frames", "::"))
        self._loop = parameter(self, "loop", False)
        self.whole_millimetres = self._recording.units_per_m == 1000

    def frames(self) -> Iterator[Frame]:
        yield from self._recording
        for image, why in self._recording.skipped.items():
            self.get_logger().warning(f"skipped {image}: {why}")
        while self._loop and len(self._recording.skipped) < len(self._recording):
            yield from self._recording


def main(args: list[str] | None = None) -> int:
    """Run the node until the recording ends; returns the exit code."""
    return run(ReplayNode, args)


if __name__ == "__main__":
    raise SystemExit(main())

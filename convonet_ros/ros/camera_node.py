"""The simulated camera: a drive through a procedural room, onto the topics of a real camera."""

from __future__ import annotations

from collections.abc import Iterator

from convonet_ros.datasets.recordings import Frame
from convonet_ros.datasets.sensing.drives import drive_camera, drive_frames
from convonet_ros.datasets.world.rooms import make_room
from convonet_ros.ros.depth_source import DepthSource, parameter, run


class CameraNode(DepthSource):
    """Parameters beside the source's: seed (of the room), frames (of the whole drive), width."""

    def __init__(self) -> None:
        super().__init__("camera_node")
        self._room = make_room(parameter(self, "seed", 3, low=0, high=2**31 - 1))
        self._count = parameter(self, "frames", 60, low=1, high=1_000_000)
        self._camera = drive_camera(parameter(self, "width", 320, low=16, high=4096))

    def frames(self) -> Iterator[Frame]:
        return drive_frames(self._room, self._count, self._camera)


def main(args: list[str] | None = None) -> int:
    """Run the node until the drive ends; returns the exit code."""
    return run(CameraNode, args)


if __name__ == "__main__":
    raise SystemExit(main())

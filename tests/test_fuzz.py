"""Whatever arrives: no exception leaves a callback or the worker, every scan is accounted for."""

import contextlib
import time
from array import array
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")

from driver import cloud, tiny_network
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from convonet_ros.config import Config, with_values
from convonet_ros.geometry import canonical_pose
from convonet_ros.mapping.mapper import Mapper
from convonet_ros.ros.inputs import Inputs
from convonet_ros.ros.scan_queue import Tally
from convonet_ros.ros.transforms import NoTransform, OwnListener, TransformHistory

fuzz = partial(
    settings,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

UINT8, UINT32 = st.integers(0, 255), st.integers(0, 2**32 - 1)
SIZE = st.one_of(st.integers(0, 24), UINT32)
FLOAT = st.one_of(
    st.floats(width=64), st.floats(-3.0, 3.0), st.sampled_from([0.0, 1.0, -1.0, 525.0, 1e-300])
)
TEXT = st.text(max_size=8).map(lambda text: text.replace("\x00", ""))
ENCODING = st.one_of(st.sampled_from(["rgb8", "mono8", "64FC1", "32FC1", "16UC1"]), TEXT)
WILD_FIELDS = st.lists(
    st.builds(
        PointField,
        name=st.sampled_from(["x", "y", "z", "intensity", ""]),
        offset=st.one_of(st.integers(0, 40), UINT32),
        datatype=st.one_of(st.integers(1, 8), UINT8),
        count=UINT32,
    ),
    max_size=6,
)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    result = Header(frame_id="camera")
    result.stamp.sec = draw(st.integers(1, 10))
    if draw(st.integers(0, 7)) == 0:
        result.frame_id = draw(st.one_of(st.sampled_from(["/camera", "radar", ""]), TEXT))
    if draw(st.integers(0, 7)) == 0:
        result.stamp.sec = draw(st.integers(-(2**31), 2**31 - 1))
        result.stamp.nanosec = draw(UINT32)
    return result


def content(draw: st.DrawFn, size: int) -> array:
    """Bytes of many kinds; now and then some are missing, or some too many."""
    size += draw(st.sampled_from([0, 0, 0, 0, 3, -1, -size // 2, -size]))
    size = max(0, min(size, 50_000))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["bytes", "zeros", "ones", "floats", "nan", "huge", "millimetres"]))
    if kind in ("bytes", "zeros", "ones"):
        low, high = {"bytes": (0, 256), "zeros": (0, 1), "ones": (255, 256)}[kind]
        return array("B", rng.integers(low, high, size, dtype=np.uint8).tobytes())
    if kind == "millimetres":
        return array("B", rng.integers(300, 4000, size // 2 + 1).astype("<u2").tobytes()[:size])
    values = {
        "floats": rng.normal(0, 2, size // 4 + 1),
        "nan": np.where(rng.random(size // 4 + 1) < 0.5, np.nan, 1.0),
        "huge": rng.choice([3e38, -3e38, 1e30, 1e-40, 1e5], size // 4 + 1),
    }[kind]
    return array("B", values.astype(">f4" if draw(st.booleans()) else "<f4").tobytes()[:size])


def spoil(draw: st.DrawFn, message: Any, fields: dict[str, st.SearchStrategy[Any]]) -> Any:
    """Overwrite no, one or two fields of a sound message with anything of their type."""
    count = draw(st.sampled_from([0, 0, 0, 1, 1, 2]))
    for name in draw(st.permutations(sorted(fields)))[:count]:
        setattr(message, name, draw(fields[name]))
    return message


@st.composite
def images(draw: st.DrawFn) -> Image:
    encoding = draw(st.sampled_from(["16UC1", "32FC1", "mono16"]))
    width, height = draw(st.sampled_from([(24, 18), (24, 18), (7, 3), (1, 1)]))
    step = width * (4 if encoding == "32FC1" else 2) + draw(st.sampled_from([0, 0, 5]))
    message = Image(
        header=draw(headers()), height=height, width=width, encoding=encoding,
        is_bigendian=draw(st.integers(0, 1)), step=step, data=content(draw, step * height),
    )  # fmt: skip
    wild = {"height": SIZE, "width": SIZE, "step": SIZE, "encoding": ENCODING}
    return spoil(draw, message, {**wild, "is_bigendian": UINT8})


@st.composite
def infos(draw: st.DrawFn) -> CameraInfo:
    k = [60.0, 0.0, 12.0, 0.0, 60.0, 9.0, 0.0, 0.0, 1.0]
    message = CameraInfo(header=draw(headers()), height=18, width=24, k=k)
    wild_k = st.lists(FLOAT, min_size=9, max_size=9)
    return spoil(draw, message, {"k": wild_k, "height": SIZE, "width": SIZE})


@st.composite
def clouds(draw: st.DrawFn) -> PointCloud2:
    width, height = draw(st.sampled_from([(100, 1), (12, 9), (1, 1), (0, 1)]))
    step = draw(st.sampled_from([12, 16, 24, 32]))
    row_step = width * step + draw(st.sampled_from([0, 0, 8]))
    names = draw(st.permutations(["x", "y", "z"]))
    message = PointCloud2(
        header=draw(headers()), height=height, width=width,
        fields=[PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate(names)],
        is_bigendian=draw(st.booleans()), point_step=step, row_step=row_step,
        data=content(draw, row_step * height), is_dense=draw(st.booleans()),
    )  # fmt: skip
    wild = {"height": SIZE, "width": SIZE, "point_step": SIZE, "row_step": SIZE}
    return spoil(draw, message, {**wild, "fields": WILD_FIELDS})


class QuietNode:
    """Stands in for a node: hands out the callbacks instead of subscribing."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Any] = {}

    def resolve_topic_name(self, name: str) -> str:
        return f"/{name}"

    def create_subscription(
        self, kind: type, name: str, callback: Any, qos: Any, **options: Any
    ) -> None:
        self.callbacks[f"/{name.lstrip('/')}"] = callback


class Door:
    """Inputs, TF and a map behind the callbacks, without the middleware."""

    def __init__(self, known_pose: bool = True) -> None:
        self.warnings: list[str] = []
        node = QuietNode()
        self.tally = Tally(self.warnings.append)
        self.config = with_values(
            Config(), {"node.tf_timeout_s": 0.0, "node.queue_size": 3, "map.window_xy_crops": 2}
        )
        self.transforms = OwnListener(node, self.warnings.append)  # type: ignore[arg-type]
        self.inputs = Inputs(
            node,  # type: ignore[arg-type]
            self.config,
            self.transforms,
            self.tally,
            lambda: None,
        )
        if known_pose:
            identity = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
            self.transforms.add("odom", "camera", 0, identity, static=True)
        self.send = node.callbacks
        self.mapper = Mapper(self.config, tiny_network())

    def work(self) -> int:
        """What the node's worker does; returns how many scans came through."""
        came = 0
        for _ in range(10):
            taken = self.inputs.take()
            if taken is None:
                continue
            scan, restarted = taken
            if restarted:
                self.mapper.reset()
            self.mapper.integrate(scan)
            self.tally.integrate()
            came += 1
        return came


# How many come through depends on the examples, which depend on what modules are loaded.
@fuzz(max_examples=300)
@given(infos(), st.lists(st.one_of(infos(), images(), clouds()), min_size=1, max_size=5))
def test_no_message_gets_an_exception_out(first: CameraInfo, messages: list[Any]) -> None:
    door = SHARED
    door.tally.__init__(door.warnings.append)  # type: ignore[misc]
    for message in [first, *messages]:
        topic = {
            CameraInfo: "/camera_0/depth/camera_info",
            Image: "/camera_0/depth/image",
            PointCloud2: "/pointcloud",
        }[type(message)]
        door.send[topic](message)
    FUZZED["integrated"] += door.work()
    for measurement in door.inputs.queue.waiting():
        door.inputs._drop(measurement, "waiting", "left over")
    received, integrated, drops, error = door.tally.snapshot()
    assert received == integrated + sum(drops.values())
    assert bool(drops) == bool(error)
    assert "\n" not in error
    FUZZED.update(drops)
    door.mapper.update()
    for mesh in door.mapper.everything().meshes.values():
        assert np.isfinite(mesh.vertices).all()
    assert not np.isinf(door.mapper.occupancy().probability).any()


def test_the_fuzz_went_deep() -> None:
    """A fuzz whose messages all stop at the first check would prove little."""
    if not FUZZED:
        pytest.skip("the fuzz did not run")
    reasons = {"bad_image", "bad_cloud", "bad_camera_info", "no_frame", "no_points"}
    assert reasons | {"no_transform", "bad_stamp"} <= set(FUZZED)
    assert FUZZED["integrated"] > 30


FUZZED: Counter[str] = Counter()
SHARED = Door()


@fuzz(max_examples=60)
@given(
    st.integers(1, 24), st.integers(1, 24), st.integers(0, 9), st.booleans(),
    st.sampled_from(["16UC1", "32FC1", "mono16"]), st.integers(0, 2**16),
)  # fmt: skip
def test_every_valid_image_comes_through(
    width: int, height: int, padding: int, big: bool, encoding: str, seed: int
) -> None:
    depth = np.random.default_rng(seed).uniform(0.5, 3.0, (height, width))
    order = ">" if big else "<"
    if encoding == "32FC1":
        pixels = depth.astype(order + "f4")
    else:
        pixels = np.round(depth * 1000).astype(order + "u2")
    rows = pixels.view(np.uint8).reshape(height, -1)
    padded = np.concatenate([rows, np.full((height, padding), 255, np.uint8)], axis=1)
    header = Header(frame_id="camera")
    header.stamp.sec = 100
    door = SHARED
    before = door.tally.integrated
    info = CameraInfo(width=width, height=height, k=[60.0, 0, 12, 0, 60, 12, 0, 0, 1])
    door.send["/camera_0/depth/camera_info"](info)
    door.send["/camera_0/depth/image"](
        Image(
            header=header, width=width, height=height, encoding=encoding, is_bigendian=big,
            step=padded.shape[1], data=array("B", padded.tobytes()),
        )
    )  # fmt: skip
    assert door.work() == 1
    assert door.tally.integrated == before + 1


@fuzz(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["odom", "base", "camera", "", "/base"]),
            st.sampled_from(["odom", "base", "camera", "", "/base"]),
            st.one_of(st.integers(0, 5), st.integers(-(2**31), 2**31 - 1)),
            st.lists(FLOAT, min_size=7, max_size=7),
            st.booleans(),
            st.booleans(),
        ),
        max_size=12,
    ),
    st.integers(-(2**31), 2**31 - 1),
)
def test_no_transform_gets_an_exception_out(
    sent: list[tuple[str, str, int, list[float], bool, bool]], at_s: int
) -> None:
    complaints: list[str] = []
    node = QuietNode()
    listener = OwnListener(node, complaints.append)  # type: ignore[arg-type]
    for parent, child, sec, numbers, unit, static in sent:
        stamped = TransformStamped(child_frame_id=child)
        stamped.header.frame_id, stamped.header.stamp.sec = parent, sec
        t, r = stamped.transform.translation, stamped.transform.rotation
        t.x, t.y, t.z = numbers[:3]
        if unit:
            numbers = [*numbers[:3], 0.6, 0.0, 0.0, 0.8]
        r.x, r.y, r.z, r.w = numbers[3:]
        node.callbacks["/tf_static" if static else "/tf"](TFMessage(transforms=[stamped]))
    for stamp_s in (at_s, 0, 3):
        for target, source in (("odom", "camera"), ("camera", "base"), ("base", "base")):
            with contextlib.suppress(NoTransform):
                T = listener.lookup(target, source, stamp_s * 10**9)
                assert T.shape == (4, 4)
                if np.abs(T).max() < 1e6:
                    canonical_pose(T)
    listener.rewind(at_s * 10**9)


def test_ten_million_points_are_thinned_and_taken() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-2, 2, (10_000_000, 3)).astype(np.float32)
    points[::7] = np.nan
    message = cloud(10**9, points)
    door = Door()
    started = time.process_time()
    door.send["/pointcloud"](message)
    in_callback = time.process_time() - started
    taken = door.inputs.take()
    assert taken is not None
    scan, _ = taken
    assert in_callback < 0.05
    assert time.process_time() - started < 5.0
    limit = door.config.scan.max_points
    assert 0.5 * limit < len(scan.points) <= limit
    door.mapper.integrate(scan)


def test_a_history_of_wild_stamps_stays_sorted() -> None:
    history = TransformHistory()
    rng = np.random.default_rng(0)
    for stamp in rng.integers(-(2**62), 2**62, 500).tolist():
        history.add("odom", "base", stamp, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0))
        for track in history._moving.values():
            assert track.stamps == sorted(track.stamps)
            assert len(track.stamps) == len(track.links)

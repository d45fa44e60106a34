"""TF: chains, interpolation, and no pose that was not said."""

import sys
import threading
import types
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("rclpy")

from convonet_ros.geometry import inverse, pose_from
from convonet_ros.ros.transforms import (
    KEEP_S,
    NoTransform,
    OwnListener,
    Tf2Listener,
    TransformHistory,
    listen,
)

SECOND = 10**9
IDENTITY = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def row(x: float = 0.0, yaw: float = 0.0, y: float = 0.0) -> tuple[float, ...]:
    return (x, y, 0.0, *Rotation.from_euler("z", yaw).as_quat().tolist())


def matrix(numbers: tuple[float, ...]) -> np.ndarray:
    return pose_from(np.array(numbers[:3]), np.array(numbers[3:]))


def robot() -> TransformHistory:
    """map <- odom <- base <- camera, and a lidar beside the camera."""
    history = TransformHistory()
    for i in range(11):
        history.add("odom", "base", i * SECOND // 10, row(x=0.1 * i, yaw=0.2 * i))
        history.add("map", "odom", i * SECOND // 10, row(x=5.0, yaw=0.5))
    history.add("base", "camera", 0, row(x=0.2, yaw=1.0), static=True)
    history.add("base", "lidar", 0, row(y=0.3), static=True)
    return history


def test_exact_stamps_give_the_very_pose() -> None:
    rng = np.random.default_rng(0)
    history = TransformHistory()
    numbers = [(*rng.normal(size=3), *Rotation.random(random_state=i).as_quat()) for i in range(5)]
    for i, n in enumerate(numbers):
        history.add("map", "camera", i * SECOND, n)
    for i, n in enumerate(numbers):
        np.testing.assert_array_equal(history.lookup("map", "camera", i * SECOND), matrix(n))


def test_chains_up_down_and_across() -> None:
    history, at = robot(), 3 * SECOND // 10
    T_map_odom, T_odom_base = matrix(row(x=5.0, yaw=0.5)), matrix(row(x=0.3, yaw=0.6))
    T_base_camera, T_base_lidar = matrix(row(x=0.2, yaw=1.0)), matrix(row(y=0.3))
    expected = T_map_odom @ T_odom_base @ T_base_camera
    np.testing.assert_allclose(history.lookup("map", "camera", at), expected, atol=1e-12)
    np.testing.assert_allclose(history.lookup("camera", "map", at), inverse(expected), atol=1e-12)
    np.testing.assert_allclose(
        history.lookup("lidar", "camera", at), inverse(T_base_lidar) @ T_base_camera, atol=1e-12
    )
    np.testing.assert_array_equal(history.lookup("odom", "odom", at), np.eye(4))


def test_between_two_stamps_it_interpolates() -> None:
    history = robot()
    T = history.lookup("odom", "base", 350_000_000)
    np.testing.assert_allclose(T, matrix(row(x=0.35, yaw=0.7)), atol=1e-12)


def test_links_above_the_common_frame_need_not_be_known() -> None:
    history = robot()
    history.add("odom", "base", 2 * SECOND, row(x=1.5))  # newer than the last map <- odom
    np.testing.assert_allclose(
        history.lookup("odom", "base", 2 * SECOND), matrix(row(x=1.5)), atol=1e-12
    )
    with pytest.raises(NoTransform, match=r"'odom' is 1\.000 s older"):
        history.lookup("map", "camera", 2 * SECOND)


@pytest.mark.parametrize(
    ("target", "source", "stamp_ns", "why"),
    [
        ("map", "camera", 1_100_000_000, "the newest transform of 'base' is 0.100 s older"),
        ("odom", "camera", -1, "the oldest transform of 'base' is 0.000 s newer"),
        ("map", "radar", SECOND, "nobody says where 'radar' is"),
        ("world", "camera", SECOND, "nobody says where 'map' is"),
    ],
)
def test_what_is_not_known_is_refused_in_one_sentence(
    target: str, source: str, stamp_ns: int, why: str
) -> None:
    with pytest.raises(NoTransform) as caught:
        robot().lookup(target, source, stamp_ns)
    text = str(caught.value)
    assert f"'{source}'" in text
    assert f"'{target}'" in text
    assert why in text
    assert "\n" not in text
    if stamp_ns > 0:
        assert f"{stamp_ns // SECOND}.{stamp_ns % SECOND:09d}" in text


def test_loops_of_frames_end() -> None:
    history = TransformHistory()
    for parent, child in (("a", "b"), ("b", "c"), ("c", "a")):
        history.add(parent, child, 0, IDENTITY, static=True)
    with pytest.raises(NoTransform, match="loop"):
        history.lookup("map", "a", 0)
    np.testing.assert_array_equal(history.lookup("c", "a", 0), np.eye(4))


@pytest.mark.parametrize(
    ("parent", "child", "numbers"),
    [
        ("", "camera", IDENTITY),
        ("map", "", IDENTITY),
        ("map", "map", IDENTITY),
        ("map", "camera", (float("nan"), *IDENTITY[1:])),
        ("map", "camera", (float("inf"), *IDENTITY[1:])),
        ("map", "camera", (0.0,) * 7),
        ("map", "camera", (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0)),
    ],
)
def test_broken_transforms_are_refused(parent: str, child: str, numbers: tuple[float, ...]) -> None:
    history = robot()
    with pytest.raises(ValueError, match="transform"):
        history.add(parent, child, 5, numbers)
    history.lookup("map", "camera", SECOND)


def test_memory_is_bounded_in_time() -> None:
    history = TransformHistory()
    for i in range(200_000):
        history.add("odom", "base", i * SECOND // 1000, row(x=0.001 * i))
    track = history._moving["base"]
    assert KEEP_S * 1000 <= len(track.stamps) <= 1.3 * KEEP_S * 1000
    assert len(track.links) == len(track.stamps)
    T = history.lookup("odom", "base", 199_999 * SECOND // 1000)
    assert T[0, 3] == pytest.approx(199.999)


def test_late_transforms_find_their_place() -> None:
    history = TransformHistory()
    for i in (0, 2, 4, 1, 3):
        history.add("odom", "base", i * SECOND // 10, row(x=float(i)))
    for i in range(5):
        assert history.lookup("odom", "base", i * SECOND // 10)[0, 3] == i


def test_time_that_falls_back_forgets_what_moved() -> None:
    history = robot()
    history.add("odom", "base", 100 * SECOND, row(x=9.0))
    history.add("odom", "base", 50 * SECOND, row(x=3.0))  # the recording starts again
    with pytest.raises(NoTransform):
        history.lookup("odom", "base", 100 * SECOND)
    assert history.lookup("odom", "base", 50 * SECOND)[0, 3] == 3.0
    with pytest.raises(NoTransform, match="nobody says where 'odom' is"):
        history.lookup("map", "base", 50 * SECOND)
    history.lookup("base", "camera", 50 * SECOND)  # what is fixed stays


def test_rewind_keeps_what_already_started_again() -> None:
    history = TransformHistory()
    history.add("odom", "base", 100 * SECOND, row(x=9.0))
    history.add("map", "odom", 50 * SECOND, row(x=1.0))
    history.rewind(50 * SECOND)
    assert history.lookup("map", "odom", 50 * SECOND)[0, 3] == 1.0
    with pytest.raises(NoTransform, match="nobody says where 'base' is"):
        history.lookup("odom", "base", 50 * SECOND)


def test_a_frame_that_changes_its_parent_is_not_interpolated_between_them() -> None:
    history = TransformHistory()
    history.add("left_hand", "cup", 0, row(x=1.0))
    history.add("right_hand", "cup", SECOND, row(x=2.0))
    assert history.lookup("right_hand", "cup", SECOND)[0, 3] == 2.0
    with pytest.raises(NoTransform, match="moves from 'left_hand' to 'right_hand'"):
        history.lookup("right_hand", "cup", SECOND // 2)


def test_reading_while_writing() -> None:
    history, failed = robot(), []

    def write() -> None:
        try:
            for i in range(11, 3000):
                history.add("odom", "base", i * SECOND // 10, row(x=0.1 * i))
        except Exception as error:  # noqa: BLE001 the test reports whatever it was
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        with pytest.raises(NoTransform):
            history.lookup("odom", "base", 10**6 * SECOND)
    thread.join()
    assert failed == []


# ---- the listeners ------------------------------------------------------------------------------


class QuietNode:
    """Stands in for a node: remembers what was subscribed to."""

    def __init__(self) -> None:
        self.topics: dict[str, Any] = {}

    def create_subscription(
        self, kind: type, topic: str, callback: Any, qos: Any, **options: Any
    ) -> None:
        self.topics[topic] = callback


def stamped(parent: str, child: str, stamp_ns: int, numbers: tuple[float, ...]) -> Any:
    x, y, z, *q = numbers
    return types.SimpleNamespace(
        header=types.SimpleNamespace(
            frame_id=parent,
            stamp=types.SimpleNamespace(sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND),
        ),
        child_frame_id=child,
        transform=types.SimpleNamespace(
            translation=types.SimpleNamespace(x=x, y=y, z=z),
            rotation=types.SimpleNamespace(x=q[0], y=q[1], z=q[2], w=q[3]),
        ),
    )


def test_own_listener_takes_messages_and_complains_of_bad_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)  # as if it were not installed
    node, complaints = QuietNode(), []
    listener = listen(node, complaints.append)  # type: ignore[arg-type]
    assert isinstance(listener, OwnListener)
    assert set(node.topics) == {"/tf", "/tf_static"}
    node.topics["/tf_static"](
        types.SimpleNamespace(transforms=[stamped("/base", "/camera", 0, row(x=0.5))])
    )
    bad = stamped("odom", "base", 0, (0.0,) * 7)
    node.topics["/tf"](
        types.SimpleNamespace(
            transforms=[bad, stamped("odom", "base", 0, IDENTITY),
                        stamped("odom", "base", SECOND, row(x=2.0))]
        )
    )  # fmt: skip
    assert len(complaints) == 1
    assert "'base' to 'odom'" in complaints[0]
    assert listener.lookup("odom", "camera", SECOND // 2)[0, 3] == pytest.approx(1.5)


def test_tf2_ros_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class TransformException(Exception):
        pass

    class Buffer:
        def __init__(self, cache_time: Any) -> None:
            self.cleared = 0

        def lookup_transform_core(self, target: str, source: str, time: Any) -> Any:
            if source == "nowhere":
                raise TransformException(f"{source} passed to lookupTransform does not exist")
            return stamped(target, source, time.nanoseconds, row(x=1.0, yaw=0.3))

        def clear(self) -> None:
            self.cleared += 1

    fake = types.ModuleType("tf2_ros")
    fake.Buffer, fake.TransformException = Buffer, TransformException  # type: ignore[attr-defined]
    fake.TransformListener = lambda buffer, node, spin_thread: (buffer, node)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tf2_ros", fake)
    listener = listen(QuietNode(), lambda text: None)  # type: ignore[arg-type]
    assert isinstance(listener, Tf2Listener)
    np.testing.assert_array_equal(
        listener.lookup("map", "camera", SECOND), matrix(row(x=1.0, yaw=0.3))
    )
    with pytest.raises(NoTransform, match=r"from 'nowhere' to 'map' at stamp 1\.0{9}:"):
        listener.lookup("map", "nowhere", SECOND)
    listener.rewind(0)
    assert listener._buffer.cleared == 1

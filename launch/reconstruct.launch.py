"""Starts the node; optionally RViz, and a recording or a simulated camera to see it at work.

ros2 launch convonet_ros reconstruct.launch.py camera:=true rviz:=true
ros2 launch convonet_ros reconstruct.launch.py overlays:=lidar,/home/me/my_robot.yaml
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(__file__).resolve().parents[1]  # the package's share folder, or the source tree
SHOWN = ("mesh", "occupancy_grid", "occupancy_cloud")  # in rviz/reconstruct.rviz

ARGUMENTS = {
    "params_file": (str(SHARE / "config" / "default.yaml"), "Parameter file of the node."),
    "overlays": (
        "",
        "More parameter files, separated by commas; the later ones win. A word without a slash "
        "names one of the package's: lidar, tabletop.",
    ),
    "use_sim_time": ("false", "Take the time from /clock."),
    "namespace": ("", "Namespace of all nodes; topics and services lie in it, /tf does not."),
    "log_level": ("info", "debug, info, warn, error or fatal."),
    "rviz": ("false", "Start RViz with rviz/reconstruct.rviz."),
    "recording": ("", "Folder of a recording to replay onto the camera's topics."),
    "camera": ("false", "Start the simulated camera, which drives through a room."),
}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=nodes)])


def overlay_file(name: str) -> str:
    """The file of an overlay: a path, or the name of one in config/."""
    path = SHARE / "config" / f"{name}.yaml" if "/" not in name else Path(name).expanduser()
    if not path.is_file():
        known = sorted(p.stem for p in (SHARE / "config").glob("*.yaml") if p.stem != "default")
        raise ValueError(
            f"overlays: no file {path}; give a path or one of the package's: {', '.join(known)}"
        )
    return str(path)


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context).strip()

    namespace = value("namespace").strip("/")
    names = [name.strip() for name in value("overlays").split(",") if name.strip()]
    files = [value("params_file"), *(overlay_file(name) for name in names)]
    common = {
        "namespace": namespace,
        "output": "screen",
        "arguments": ["--ros-args", "--log-level", value("log_level")],
    }
    clock = {"use_sim_time": value("use_sim_time").lower() == "true"}

    started: list[LaunchDescriptionEntity] = [
        Node(
            package="convonet_ros",
            executable="reconstruct_node",
            parameters=[*files, clock],
            **common,
        ),
        Node(
            package="convonet_ros",
            executable="camera_node",
            parameters=[clock],
            condition=IfCondition(LaunchConfiguration("camera")),
            **common,
        ),
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=namespace,
            arguments=["-d", str(SHARE / "rviz" / "reconstruct.rviz")],
            parameters=[clock],
            remappings=[
                (f"/convonet/{topic}", f"/{namespace}/convonet/{topic}")
                for topic in SHOWN
                if namespace
            ],
            condition=IfCondition(LaunchConfiguration("rviz")),
        ),
    ]
    if value("recording"):
        replay = {"folder": str(Path(value("recording")).expanduser().resolve())}
        started.append(
            Node(
                package="convonet_ros",
                executable="replay_node",
                parameters=[replay, clock],
                **common,
            )
        )
    return started

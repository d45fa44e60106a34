"""What the package promises: one version, documented interfaces, ROS only at the edge."""

import importlib.metadata
import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
INTERFACES = sorted([*REPOSITORY.glob("msg/*.msg"), *REPOSITORY.glob("srv/*.srv")])
PACKAGE = ElementTree.parse(REPOSITORY / "package.xml").getroot()
ROS_ROOMS = ("convonet_ros.ros", "convonet_ros.msg", "convonet_ros.srv")


def modules_outside_ros() -> list[str]:
    names = []
    for path in sorted((REPOSITORY / "convonet_ros").rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if not name.startswith(ROS_ROOMS):
            names.append(name)
    return names


def distributions() -> list[importlib.metadata.Distribution]:
    return list(importlib.metadata.distributions(name="convonet_ros"))


def test_version_is_the_same_everywhere() -> None:
    version = PACKAGE.findtext("version")
    assert version
    # pip's and the interface overlay's
    assert {found.version for found in distributions()} == {version}
    # and written once: nobody else may hold a copy
    for name in ("setup.py", "CMakeLists.txt", "pyproject.toml", "convonet_ros/__init__.py"):
        assert version not in (REPOSITORY / name).read_text(), f"{name} repeats the version"


def test_changelog_knows_the_version() -> None:
    version = re.escape(str(PACKAGE.findtext("version")))
    assert re.search(rf"^## .*{version}", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_package_xml_is_what_colcon_accepts() -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg comes with colcon")
    warnings: list[str] = []
    package = catkin_pkg.parse_package(str(REPOSITORY), warnings=warnings)
    package.validate(warnings=warnings)
    assert warnings == []
    assert package.get_build_type() == "ament_cmake"
    assert "rosidl_interface_packages" in {group.name for group in package.member_of_groups}


def test_cmake_lists_every_interface() -> None:
    listed = set(
        re.findall(
            r"^  ((?:msg|srv)/\w+\.\w+)$", (REPOSITORY / "CMakeLists.txt").read_text(), re.MULTILINE
        )
    )
    assert listed == {str(path.relative_to(REPOSITORY)) for path in INTERFACES}


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_interface_is_built_and_importable(path: Path) -> None:
    module = pytest.importorskip(f"convonet_ros.{path.parent.name}")
    interface = getattr(module, path.stem)
    if path.suffix == ".srv":
        interface.Request()
        interface.Response()
    else:
        interface()


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_every_field_is_commented(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# "), "the file starts with what it is for"
    for above, line in itertools.pairwise(lines):
        if line and not line.startswith("#") and line != "---":
            assert above.startswith("# "), f"{path.name}: no comment above '{line}'"


def test_classes_of_message_and_service_agree() -> None:
    def constants(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^uint8 ([A-Z_]+)=(\d+)$", path.read_text(), re.MULTILINE))

    message = constants(REPOSITORY / "msg/OccupancyVolume.msg")
    assert len(message) == 5
    assert message == constants(REPOSITORY / "srv/QueryOccupancy.srv")


def test_no_module_outside_ros_imports_rclpy() -> None:
    program = "\n".join(f"import {name}" for name in modules_outside_ros())
    program += (
        "\nimport sys\nprint(*(name for name in sys.modules if name.split('.')[0] == 'rclpy'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_executables_of_pip_and_colcon_are_the_same() -> None:
    pip = {
        point.name: point.value
        for found in distributions()
        for point in found.entry_points
        if point.group == "console_scripts"
    }
    cmake = re.findall(
        r"^install_node\((\w+) ([\w.]+)\)$",
        (REPOSITORY / "CMakeLists.txt").read_text(),
        re.MULTILINE,
    )
    assert pip == {name: f"convonet_ros.{module}:main" for name, module in cmake}

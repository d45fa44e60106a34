"""Makes `pip install` work; `colcon build` reads CMakeLists.txt instead."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import find_packages, setup

# The version is written once, in package.xml.
package = ElementTree.parse(Path(__file__).parent / "package.xml").getroot()

setup(
    name="convonet_ros",
    version=package.findtext("version"),
    description=package.findtext("description"),
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["convonet_ros", "convonet_ros.*"]),
    package_data={"convonet_ros.model": ["weights/*.pt"]},
    install_requires=[
        "manifold3d",
        "matplotlib",
        "numpy",
        "open3d",
        "pillow",
        "pyvista",
        "pyyaml",
        "scikit-image",
        "scipy",
        "torch>=2.6",
        "tqdm",
        "trimesh",
    ],
    extras_require={
        "dev": ["hypothesis", "mypy", "pytest", "ruff", "types-PyYAML"],
        "meshes": ["pybullet; python_version < '3.12'"],  # only its models, for training data
    },
    entry_points={
        "console_scripts": [
            "convonet = convonet_ros.cli:main",
            "reconstruct_node = convonet_ros.ros.node:main",
            "camera_node = convonet_ros.ros.camera_node:main",
            "replay_node = convonet_ros.ros.replay_node:main",
            "record_node = convonet_ros.ros.record_node:main",
        ],
    },
)

"""Learned 3D reconstruction for robots: Convolutional Occupancy Networks over ROS 2."""

from pkgutil import extend_path

# The generated convonet_ros.msg and convonet_ros.srv lie in the interface overlay, which is another
# folder of the Python path.
__path__ = extend_path(__path__, __name__)

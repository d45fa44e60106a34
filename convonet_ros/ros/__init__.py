"""The ROS 2 door: the only room that imports rclpy or message classes."""

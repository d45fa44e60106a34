"""How a node's process begins, and how it is told to end."""

from __future__ import annotations

import signal
import sys
import threading

import rclpy
from rclpy.signals import SignalHandlerOptions


def begin(name: str, args: list[str] | None) -> threading.Event | None:
    """Start rclpy; returns what SIGINT and SIGTERM set, None (and a sentence) where it fails."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # a broken parameter file, an unknown ROS argument
        sys.stderr.write(f"{name}: {error}\n")
        return None
    return stop

"""The node `convonet`: scans from topics into the map, and what becomes of them onto topics."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from convonet_ros.mapping.mapper import Mapper, MapUpdate
from convonet_ros.model.crops import CropModel
from convonet_ros.msg import MapStatus
from convonet_ros.offline.files import merged, write_grid, write_mesh
from convonet_ros.ros import messages, transforms
from convonet_ros.ros.inputs import Inputs
from convonet_ros.ros.outputs import Outputs
from convonet_ros.ros.parameters import declare
from convonet_ros.ros.process import begin
from convonet_ros.ros.scan_queue import Tally
from convonet_ros.ros.silence import SilenceWatch
from convonet_ros.srv import QueryOccupancy

Result = TypeVar("Result")

# The worker looks up from an update at least so often: for services, for the end.
_LONGEST_UPDATE_S = 1.0
_ANSWER_S = 20.0  # a service gives up after that
# What work for a service may fail with; it is told so, and the worker lives on. OSError includes
# TimeoutError, RuntimeError a GPU without memory.
_FAILURES = (ValueError, OSError, RuntimeError, MemoryError)
_POLL_S = 0.02  # while scans wait for their transforms
_IDLE_S = 0.2


class ReconstructNode(Node):
    """Owns one worker thread, and only that thread touches the map.

    Subscriptions queue what arrives; the worker integrates it, updates the map within its budget,
    goes on inferring what waits, and publishes. Services hand their work to the worker.
    """

    def __init__(
        self,
        network: CropModel | None = None,
        parameter_overrides: list[Parameter] | None = None,
    ) -> None:
        """network: None loads the configured weights. Raises ValueError for bad parameters and
        bad weights.
        """
        super().__init__(
            "convonet",
            parameter_overrides=parameter_overrides or [],
            automatically_declare_parameters_from_overrides=True,
        )
        self.config = declare(self)
        self._mapper = Mapper(self.config, network)
        self._tally = Tally(self.get_logger().warning)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._changed = False  # the map, by other means than a scan
        self._stamp_ns = 0  # of the last integrated scan
        self._integrate_ms = 0.0
        self._last: MapUpdate | None = None

        listener = transforms.listen(self, lambda text: self._tally.complain("bad_transform", text))
        self._inputs = Inputs(self, self.config, listener, self._tally, self._wake.set)
        self._outputs = Outputs(self, self.config, self._mapper.lattice.crop_m)
        services = MutuallyExclusiveCallbackGroup()
        for name, kind, callback in (
            ("query_occupancy", QueryOccupancy, self._on_query),
            ("reset", Trigger, self._on_reset),
            ("save_map", Trigger, self._on_save),
        ):
            self.create_service(kind, f"~/{name}", callback, callback_group=services)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # also while a simulated clock stands
        self.create_timer(0.1, self._on_watch, clock=steady)
        self._silence = SilenceWatch(self, self._inputs, self._tally)
        self.create_timer(1.0, self._silence.check, clock=steady)
        self._status = self.create_publisher(MapStatus, "~/status", 10)
        if self.config.node.status_rate_hz > 0:
            period = 1 / self.config.node.status_rate_hz
            self.create_timer(period, self._on_status, clock=steady)

        threads = concurrent.futures.ThreadPoolExecutor(1, "worker")
        self.worker = threads.submit(self._work)
        threads.shutdown(wait=False)
        self.get_logger().info(
            f"mapping in frame '{self.config.map.frame_id}' on {self._mapper.device}; listening to "
            + ", ".join(self._inputs.types)
        )

    def stop(self) -> None:
        """Let the worker finish what it is doing, and no more."""
        self._stop.set()
        self._wake.set()

    def close(self) -> None:
        """Stop the worker and destroy the node. Raises what the worker failed with."""
        self.stop()
        try:
            self.worker.result()
        finally:
            self.destroy_node()

    # ---- the worker -------------------------------------------------------------------------

    def _work(self) -> None:
        budget_s = min(self.config.update.budget_s, _LONGEST_UPDATE_S)
        while not self._stop.is_set():
            self._wake.clear()
            self._do_jobs()
            busy = self._integrate_waiting(budget_s) or self._changed or self._mapper.waiting > 0
            if busy and not self._stop.is_set():
                self._changed = False
                self._last = self._mapper.update(budget_s)
                self._outputs.collect(self._last)
            if self._stop.is_set():
                break
            self._outputs.publish(self._mapper)
            if not busy:
                self._wake.wait(_POLL_S if len(self._inputs.queue) else _IDLE_S)
        self._do_jobs()

    def _integrate_waiting(self, budget_s: float) -> bool:
        """Put scans that are ready into the map; whether there were any.

        No longer than an update may take: where the sensors are too fast for the machine, the
        surface still gets its share of the time.
        """
        until = time.monotonic() + budget_s
        count = 0
        while (count == 0 or time.monotonic() < until) and not self._stop.is_set():
            taken = self._inputs.take()
            if taken is None:
                break
            scan, restarted = taken
            if restarted:
                self.get_logger().info(
                    f"stamps fell back to {transforms.seconds(scan.stamp_ns)} from "
                    f"{transforms.seconds(self._stamp_ns)}: the recording starts again, so does "
                    "the map"
                )
                self._mapper.reset()
            started = time.perf_counter()
            self._mapper.integrate(scan)
            self._integrate_ms = (time.perf_counter() - started) * 1e3
            self._stamp_ns = scan.stamp_ns
            self._tally.integrate()
            count += 1
        return count > 0

    def _do_jobs(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            job()

    def _in_worker(self, work: Callable[[], Result]) -> Result:
        """Let the worker do something with the map and wait for it; raises what it raises.

        Raises TimeoutError when the worker does not come to it.
        """
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except _FAILURES as error:
                future.set_exception(error)

        self._jobs.put(job)
        self._wake.set()
        either: list[concurrent.futures.Future[Any]] = [future, self.worker]
        done, _ = concurrent.futures.wait(either, _ANSWER_S, concurrent.futures.FIRST_COMPLETED)
        if future not in done and future.cancel():
            raise TimeoutError("the node is shutting down" if done else "the map is too busy")
        return future.result()

    # ---- services ---------------------------------------------------------------------------

    def _on_query(self, request: Any, response: Any) -> Any:
        points = np.array([(p.x, p.y, p.z) for p in request.points]).reshape(-1, 3)
        try:
            probability, classes = self._in_worker(lambda: self._mapper.query(points))
        except _FAILURES as error:
            response.success, response.message = False, str(error)
            return response
        response.probability = array("f", probability.tobytes())
        response.classes = array("B", classes.tobytes())
        response.success = True
        return response

    def _on_reset(self, request: Any, response: Any) -> Any:
        def reset() -> None:
            self._mapper.reset()
            self._changed = True

        return self._answer(response, reset, "the map is empty")

    def _on_save(self, request: Any, response: Any) -> Any:
        folder = Path(self.config.node.save_dir).resolve()

        def save() -> None:
            mesh = merged(self._mapper.everything().meshes.values())
            if not self._tally.integrated or mesh.empty:
                raise ValueError("the map is empty, there is nothing to save")
            grid = self._mapper.occupancy().project(
                self.config.grid.min_z_m, self.config.grid.max_z_m
            )
            folder.mkdir(parents=True, exist_ok=True)
            write_mesh(folder / "mesh.ply", mesh)
            write_grid(folder, grid)

        return self._answer(
            response, save, f"wrote mesh.ply, occupancy.png and occupancy.yaml into {folder}"
        )

    def _answer(self, response: Any, work: Callable[[], None], done: str) -> Any:
        try:
            self._in_worker(work)
        except _FAILURES as error:
            response.success, response.message = False, str(error)
        else:
            response.success, response.message = True, done
        return response

    # ---- timers -----------------------------------------------------------------------------

    def _on_watch(self) -> None:
        if not self._stop.is_set() and self._outputs.watch():
            self._wake.set()

    def _on_status(self) -> None:
        if self._stop.is_set() or not self._status.get_subscription_count():
            return
        received, integrated, drops, last_error = self._tally.snapshot()
        stage_ms = self._last.stage_ms if self._last else {}
        self._status.publish(
            MapStatus(
                header=messages.header(self.config.map.frame_id, self._stamp_ns),
                scans_received=received,
                scans_integrated=integrated,
                scans_dropped=sum(drops.values()),
                drop_reasons=list(drops),
                drop_counts=list(drops.values()),
                crops_inferred=self._mapper.inferred_total,
                crops_waiting=self._mapper.waiting,
                integrate_ms=self._integrate_ms,
                infer_ms=stage_ms.get("infer", 0.0),
                mesh_ms=stage_ms.get("mesh", 0.0),
                latency_ms=self._outputs.latency_ms,
                device=str(self._mapper.device),
                last_error=last_error,
            )
        )


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code."""
    stop = begin("convonet", args)
    if stop is None:
        return 1
    try:
        node = ReconstructNode()
    except ValueError as error:
        rclpy.logging.get_logger("convonet").fatal(str(error))
        rclpy.shutdown()
        return 1
    executor = MultiThreadedExecutor(num_threads=2)  # one may wait for a service's answer
    executor.add_node(node)
    try:
        while not stop.is_set() and not node.worker.done():
            executor.spin_once(timeout_sec=0.2)
    finally:
        # No executor.shutdown(): it does not wait for callbacks that run, and pulls away from them
        # what they use. They end by themselves in no time.
        try:
            node.close()
        finally:
            rclpy.shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

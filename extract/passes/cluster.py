"""A Ray cluster: how this process comes to be a driver of one, and what its workers must take over from it."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import configs  # noqa: F401 (before torch, which a worker's process would else load first)
from configs import EngineError, first_line

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported

try:
    import ray
except ImportError as missing:
    raise EngineError("--engine ray: needs Ray; install it with: pip install -e .[ray]") from missing
import torch
from ray.exceptions import RayTaskError
from threadpoolctl import threadpool_limits


@dataclass(frozen=True)
class Manner:
    """What results depend on beside the work itself: where relative paths lead, and over how many threads sums are
    taken, which decides their last bits."""

    folder: str
    threads: int

    @classmethod
    def own(cls) -> "Manner":
        return cls(os.getcwd(), torch.get_num_threads())  # noqa: PTH109 (it travels as a string)

    def adopt(self) -> None:
        """Let this process, a worker, go on like the one that it works for. Raises EngineError without its folder."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise EngineError(
                f"--engine ray: {self.folder}: {error.strerror} on {socket.gethostname()}: the project's folder must "
                "have the same path on every machine of the cluster"
            ) from error
        os.environ["OMP_NUM_THREADS"] = str(self.threads)  # for libraries that are loaded later
        threadpool_limits(self.threads)
        torch.set_num_threads(self.threads)


@contextmanager
def connected() -> Iterator[None]:
    """Be a driver of the cluster that ``RAY_ADDRESS`` names, or of one of this machine's processes; inside another
    connection, stay with that.

    Raises:
        EngineError: it does not answer, or does not let this process in.
    """
    if ray.is_initialized():
        yield
        return
    _reach(os.environ.get("RAY_ADDRESS", ""))
    ended_by = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise EngineError(f"--engine ray: {reason}; if it wants a token, set RAY_AUTH_MODE=token everywhere") from error
    signal.signal(signal.SIGTERM, ended_by)  # Ray's own handler ends in an abort, with nothing committed
    try:
        yield
    finally:
        ray.shutdown()


def needs(threads: int) -> dict[str, Any]:
    """What a worker that computes in so many threads asks the cluster for: a GPU where there is any, else CPUs.

    Raises:
        EngineError: no machine of the cluster offers any.
    """
    if ray.cluster_resources().get("GPU", 0) >= 1:
        return {"num_gpus": 1, "num_cpus": 1}
    largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if not largest:
        raise EngineError("--engine ray: no machine of the cluster offers a CPU: ray start --num-cpus N")
    return {"num_cpus": min(threads, largest)}


def places_on_a_machine(wanted: dict[str, Any]) -> int:
    """How many workers that want this the largest machine of the cluster takes at once."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max([1, *(int(min(node.get(names[key], 0) / n for key, n in wanted.items())) for node in alive)])


def raised(error: RayTaskError) -> Exception:
    """What was raised in a worker, as it was raised: what Ray makes of it says a traceback where one line should be."""
    return error.cause if isinstance(error.cause, Exception) else error


def _reach(address: str) -> None:
    """Ray itself tries for minutes. Raises EngineError where nothing answers at ``host:port``."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", "local", a URL of Ray's own
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise EngineError(f"--engine ray: no cluster at RAY_ADDRESS={address}: {error.strerror or error}") from error

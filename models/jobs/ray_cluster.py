"""Joins a Ray cluster, or starts one on this machine that ends with this process, and leaves it again."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from folds.base.errors import UserError
from models.settings import EngineSettings

ROOMS = Path(__file__).parents[2]
SHIPPED = ("folds", "models")  # a machine of the cluster needs the packages of pyproject.toml, and no checkout
ANSWER_SECONDS = 5.0
OBJECT_STORE_BYTES = 1 << 27  # of a Ray of our own: jobs say little, and what they say is small


@contextmanager
def on_ray(engine: EngineSettings) -> Iterator[Any]:
    """The `ray` module, connected as long as one is inside.

    A Ray that is started here takes all GPUs and cores of this machine, and its processes end with this one, even if
    that is killed. Raises UserError where Ray is not installed or the cluster cannot be joined.
    """
    refuse_without_ray(engine)
    if engine.address is not None:
        _refuse_silence(engine.address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read at import: nothing is reported to anybody
    import ray

    alone = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if engine.address is None else {}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            ray.init(
                address=engine.address or "local",
                runtime_env={"py_modules": [str(ROOMS / room) for room in SHIPPED]},
                configure_logging=True,
                logging_level="error",
                log_to_driver=False,  # what a job says comes as events
                **alone,
            )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as err:
            if engine.address is None:
                raise
            reason = str(err).strip().partition("\n")[0].rstrip(".")
            hint = (
                "`ray start --address HOST:PORT` makes this machine a part of it; `ray status` says whether it is one"
            )
            raise UserError(f"no Ray cluster can be joined at {engine.address}: {reason}", hint=hint) from err
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray sets its own, which knows no clean end
                signal.signal(number, handler)
        yield ray
    finally:
        ray.shutdown()


def refuse_without_ray(engine: EngineSettings) -> None:
    """Refuse Ray, before any work, where it is not installed; it is not imported for that."""
    if engine.is_ray and find_spec("ray") is None:
        raise UserError("Ray is not installed here", hint="`pip install -e '.[ray]'`")


def _refuse_silence(address: str) -> None:
    """Refuse an address where nobody answers: Ray itself would try for more than ten minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"`--address {address}` is no HOST:PORT", hint="`--address HOST:6379`")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as err:
        raise UserError(
            f"nothing answers at {address}: {err}", hint="`ray start --head --port 6379` on the first machine"
        ) from err

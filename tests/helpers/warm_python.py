"""A ``python`` whose libraries are loaded: scripts started through it are forked, and import only what is ours.

What DVC runs in a test are a dozen scripts one after another, each a few seconds of importing torch and its like.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIBRARIES = (
    "torch",
    "transformers.modeling_utils",
    "sklearn.linear_model",
    "matplotlib.figure",
    "zarr",
    "dvclive",
    "av",
)
SHIM = """#!{python} -IS
import json, os, socket, sys
if not sys.argv[1:2] or sys.argv[1].startswith("-"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(asked)
    code = server.recv(1)
sys.exit(code[0] if code else 255)
"""


@contextmanager
def warm_python(folder: Path) -> Iterator[str]:
    """A folder for the front of ``PATH``, with a ``python`` that is ready; its scripts get the caller's variables."""
    address = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        shim = folder / "python"
        shim.write_text(SHIM.format(python=sys.executable, address=str(address)))
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listening.fileno())],
            pass_fds=[listening.fileno()],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},  # what is read when they are loaded
        )
    try:
        yield str(folder)
    finally:
        server.terminate()
        server.wait()


def serve(listening: socket.socket) -> None:
    for library in LIBRARIES:
        __import__(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children leave nothing behind
    while True:
        asking, _ = listening.accept()
        if not os.fork():
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = answer(asking)
            asking.sendall(bytes([code]))
            os._exit(0)
        asking.close()


def answer(asking: socket.socket) -> int:
    """Be the script that is asked for; its exit code."""
    size, streams, _, _ = socket.recv_fds(asking, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(size, "big"):
        asked += asking.recv(1 << 16)
    arguments, folder, environment = json.loads(asked)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    code = 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code & 255


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))

"""Tasks beside each other on one machine, each in a process of its own that ends with the one that started it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from traceback import format_exception
from typing import Any

from msrim.workflows.quiet_nipype import MultiProcPlugin, nipype

# Of prctl(2).
PR_SET_PDEATHSIG = 1
# For a task that is ended, to end its programs and remove what is temporary.
GRACE_SECONDS = 5


class Processes(MultiProcPlugin):
    """Nipype's MultiProc with a process for each task in the place of a pool.

    A pool's workers outlive a run that was killed and keep its locks, and when one of them is killed, by the system for
    want of memory say, Nipype waits for it without end.
    """

    def run(self, *args: Any, **options: Any) -> None:
        """Run the graph; tasks that are still at work when it is interrupted are ended."""
        self._failure: OSError | None = None
        try:
            super().run(*args, **options)
        except RuntimeError:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            processes = [process for process, _ in self._task_obj.values()]
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(GRACE_SECONDS)
                process.kill()

    def _submit_job(self, node: nipype.Node, updatehash: bool = False) -> int:
        self._taskid += 1
        context = multiprocessing.get_context(self.plugin_args.get("mp_context"))
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(node, updatehash, self._taskid, sender, os.getpid()))
        process.start()
        sender.close()
        self._task_obj[self._taskid] = process, receiver
        return self._taskid

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        process, receiver = self._task_obj[taskid]
        if not receiver.poll():
            return None
        try:
            result = receiver.recv()
        except (EOFError, OSError):
            result = {"result": None, "traceback": ["its process was killed\n"], "taskid": taskid}
        process.join()
        if isinstance(result, OSError):  # Nipype's own files, on a full disk.
            self._failure = result
            result = {"result": None, "traceback": [f"{result}\n"], "taskid": taskid}
        return result


def _work(node: nipype.Node, updatehash: bool, taskid: int, sender: Connection, parent: int) -> None:
    # A task that is ended takes the programs that it started with it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    try:
        result: Any = {"result": node.run(updatehash), "traceback": None, "taskid": taskid}
    except OSError as error:
        result = error
    except BaseException:
        result = {"result": None, "traceback": format_exception(*sys.exc_info()), "taskid": taskid}
    sender.send(result)

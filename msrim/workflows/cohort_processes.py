"""Tasks beside each other on one machine, each in a process of its own that ends with the one that started it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from typing import Any

import nipype
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

# Of prctl(2).
PR_SET_PDEATHSIG = 1


class Processes(MultiProcPlugin):
    """Nipype's MultiProc with a process for each task in the place of a pool.

    A pool's workers outlive a run that was killed and keep its locks, and when one of them is killed, by the system for
    want of memory say, Nipype waits for it without end.
    """

    def run(self, *args: Any, **options: Any) -> None:
        """Run the graph; tasks that are still at work when it is interrupted are ended."""
        try:
            super().run(*args, **options)
        finally:
            for process, _ in self._task_obj.values():
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
        return result


def _work(node: nipype.Node, updatehash: bool, taskid: int, sender: Connection, parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        sender.send(run_node(node, updatehash, taskid))

"""The server of the interactive page: for this machine alone, for the holder of its address, and for one visit.

Every address begins with a random token, so that another user of the machine, or another page in the same browser,
reads and writes nothing. There is one fixed answer for each name and none for any other: no path of a request ever
becomes one of the disk. The one thing that is written is the corrected mask of
:mod:`msrim.workflows.view.correction`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import secrets
from collections.abc import Callable
from functools import cached_property, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from msrim.errors import MsrimError
from msrim.report.page import read_asset, render_page
from msrim.workflows.view.correction import save_correction
from msrim.workflows.view.results import Results, shown

ADDRESS = "127.0.0.1"
# Content policy of the page: scripts and images of this server, nothing from anywhere else.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The report carries its own style and script.
REPORT_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
# Runs of lesion voxels of any mask take less.
MAX_BODY_BYTES = 64 * 2**20
MAX_NOTE_CHARACTERS = 10_000


class ViewServer(ThreadingHTTPServer):
    """Serves one visit on 127.0.0.1.

    Parameters
    ----------
    results : Results
    port : int
        0 takes a free one.

    Raises
    ------
    MsrimError
        The visit cannot be read, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, results: Results, *, port: int = 0) -> None:
        self.results = results
        self.token = secrets.token_urlsafe(24)
        # Read before the first request: errors are shown in the terminal.
        self._pictures = {"FLAIR": results.image("FLAIR")}
        self._shape = tuple(shown(results)["shape"])
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise MsrimError(f"port {port}: cannot be used ({error.strerror}); choose another with --port") from error
        self.origin = f"http://{ADDRESS}:{self.server_port}"
        self.address = f"{self.origin}/{self.token}/"
        self.answers: dict[str, Callable[[], tuple[str, bytes]]] = {
            "": self._page,
            "view.css": lambda: ("text/css", read_asset("view.css")),
            "view.js": lambda: ("text/javascript", read_asset("view.js")),
            "niivue.js": lambda: ("text/javascript", self._niivue),
            "visit.json": lambda: ("application/json", json.dumps(shown(results)).encode()),
            "report.html": lambda: ("text/html; charset=utf-8", results.report.read_bytes()),
            **{f"{name}.nii": partial(self._image, name) for name in results.subject.contrasts},
        }

    def _page(self) -> tuple[str, bytes]:
        return "text/html; charset=utf-8", render_page(
            "view.html.jinja", has_report=self.results.report.is_file()
        ).encode()

    @cached_property
    def _niivue(self) -> bytes:
        return niivue_module().encode()

    def _image(self, contrast: str) -> tuple[str, bytes]:
        if contrast not in self._pictures:
            self._pictures[contrast] = self.results.image(contrast)
        return "application/octet-stream", self._pictures[contrast]

    def save(self, content: Any) -> dict[str, Any]:
        """Save what the page sends.

        Parameters
        ----------
        content : dict
            ``{"shape": [X, Y, Z], "runs": [start, length, ...], "note": text, "state": text}``: runs of lesion voxels
            are counted along the first axis, then the second, in the FLAIR's own order. The state is that of the
            correction that the page has shown: another one is not replaced.

        Raises
        ------
        ValueError
            It is something else.
        MsrimError
            It cannot be written.
        """
        mask = _mask_of(content, shape=self._shape)
        note = content.get("note")
        if not isinstance(note, str) or len(note) > MAX_NOTE_CHARACTERS:
            raise ValueError(f"the note is a text of at most {MAX_NOTE_CHARACTERS} characters")
        state = content.get("state")
        if not isinstance(state, str):
            raise ValueError("which correction was shown is not told")
        path = save_correction(self.results, mask, note=note, over=state)
        saved = {"mask": str(path), "voxels": int(mask.sum()), "state": self.results.state()}
        return {**saved, "measure": self.results.measure_command()}


def niivue_module() -> str:
    """NiiVue as a module that a plain page can import, from the installed package ipyniivue.

    That package's module gives away a notebook's widget and keeps the viewer's class to itself; one more export makes
    it known.

    Raises
    ------
    MsrimError
        The package is missing, or is of a version that is put together otherwise.
    """
    # Looked up and not imported: the package brings a notebook's machinery along.
    found = importlib.util.find_spec("ipyniivue")
    again = "install it again: pip install 'ipyniivue>=2.4.4,<2.5'"
    if found is None or found.origin is None:
        raise MsrimError(f"the viewer needs the package ipyniivue, which is not installed; {again}")
    path = Path(found.origin).with_name("static") / "widget.js"
    try:
        source = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MsrimError(f"{path}: cannot be read ({error.strerror}); {again}") from error
    made = re.search(r'"Creating new Niivue instance"\).{0,200}?=new ([\w$]+)\(', source, flags=re.DOTALL)
    if made is None:
        raise MsrimError(f"{path}: no NiiVue as msrim knows it; {again}")
    return f"{source}\nexport {{{made[1]} as Niivue}};\n"


def _mask_of(content: Any, *, shape: tuple[int, int, int]) -> np.ndarray:
    """The mask that runs describe: (X, Y, Z) bool; ValueError for anything else."""
    if not isinstance(content, dict) or content.get("shape") != list(shape):
        raise ValueError(f"not a correction of a mask of {shape} voxels")
    runs = content.get("runs")
    if not isinstance(runs, list) or len(runs) % 2 or not all(type(number) is int for number in runs):
        raise ValueError("runs are pairs of whole numbers")
    starts, lengths = np.array(runs, dtype=object).reshape(-1, 2).T
    size = int(np.prod(shape))
    if not all(0 <= start < size and 0 < length <= size - start for start, length in zip(starts, lengths, strict=True)):
        raise ValueError("runs lie outside the image")
    flat = np.zeros(size, bool)
    for start, length in zip(starts, lengths, strict=True):
        flat[start : start + length] = True
    return flat.reshape(shape, order="F")


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    server_version, sys_version = "msrim", ""
    protocol_version = "HTTP/1.1"
    # A request that never ends does not hold its thread for ever.
    timeout = 60

    def do_GET(self) -> None:
        """Answer with one of the server's things."""
        name = self._name()
        answer = None if name is None else self.server.answers.get(name)
        if answer is None:
            return self._refuse(HTTPStatus.NOT_FOUND, "no such thing here")
        try:
            kind, body = answer()
        except (MsrimError, OSError) as error:
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        return self._send(HTTPStatus.OK, kind, body)

    def do_POST(self) -> None:
        """Save a correction."""
        if self._name() != "correction":
            return self._refuse(HTTPStatus.NOT_FOUND, "no such thing here")
        # Pages of other origins can send neither this kind of content nor this origin.
        if self.headers.get("Origin") != self.server.origin or self.headers.get_content_type() != "application/json":
            return self._refuse(HTTPStatus.FORBIDDEN, "only msrim's own page saves")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return self._refuse(HTTPStatus.BAD_REQUEST, "cut short")
        try:
            reply = self.server.save(json.loads(body))
        except MsrimError as error:
            return self._refuse(HTTPStatus.CONFLICT, str(error))
        except (ValueError, RecursionError) as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        return self._send(HTTPStatus.OK, "application/json", json.dumps(reply).encode())

    def _name(self) -> str | None:
        """The requested path, after the token; None without the right token or at another address."""
        # The name of the host keeps out pages whose own name has been pointed at this machine.
        if self.headers.get("Host") != f"{ADDRESS}:{self.server.server_port}":
            return None
        _, token, *name = self.path.split("/", 2)
        if not secrets.compare_digest(token.encode(), self.server.token.encode()) or not name:
            return None
        return name[0]

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True
        self._send(status, "text/plain; charset=utf-8", why.encode("utf-8", "replace"))

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": REPORT_POLICY if self.path.endswith("/report.html") else POLICY,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: stdout and stderr are the user's."""

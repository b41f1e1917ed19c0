"""The interactive page: what it shows, what it saves, and whom it answers. The page itself runs in a real browser."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chromium import Tab, chromium
from typer.testing import CliRunner
from visits import hashes, segmented_visit, serving
from volumes import OBLIQUE, PIL, pose

from msrim.bids import Subject
from msrim.cli.main import app
from msrim.errors import InputError, OutputError
from msrim.files import locked
from msrim.image import Volume, read_labels, read_volume
from msrim.workflows.view.correction import save_correction
from msrim.workflows.view.results import Results, find_results, runs_of
from msrim.workflows.view.server import ViewServer, niivue_module

# Sagittal slices, oblique: neither order nor direction of the axes are those of the page.
SHAPE, AFFINE = (60, 44, 24), pose(OBLIQUE @ PIL, (3.0, 3.5, 6.0), origin_mm=(70.0, 90.0, -60.0))
# Voxels, radius in mm.
LESIONS = (((30, 22, 8), 9.0), ((20, 26, 15), 7.0), ((38, 16, 16), 5.0))


def egg() -> tuple[Volume, np.ndarray, np.ndarray]:
    """A FLAIR, the brain in it, and three lesions."""
    centre = (np.array(SHAPE) - 1) / 2
    away = np.abs(np.indices(SHAPE).T - centre).T
    brain = (away[0] / 25) ** 2 + (away[1] / 18) ** 2 + (away[2] / 10) ** 2 < 1
    points = np.moveaxis(np.indices(SHAPE), 0, -1) @ AFFINE[:3, :3].T
    lesions = np.zeros(SHAPE, bool)
    for place, radius in LESIONS:
        lesions |= np.linalg.norm(points - points[place], axis=-1) < radius
    noise = np.random.default_rng(0).normal(0, 4, SHAPE)
    data = np.where(brain, 90 + 60 * lesions + noise, 0).astype(np.float32)
    return Volume(data, AFFINE), brain, lesions


@pytest.fixture
def visit(tmp_path) -> tuple[Subject, Path]:
    flair, brain, lesions = egg()
    return segmented_visit(tmp_path, flair, lesions, brain=brain)


@pytest.fixture
def results(visit) -> Results:
    subject, out = visit
    return find_results(subject.folder(out))


def edited(results: Results) -> np.ndarray:
    return read_volume(results.edited["mask"], mask=True).data


def canvas_place(tab: Tab, index: tuple[int, ...]) -> tuple[float, float]:
    """Where a voxel of the FLAIR, by its own order, is on the screen, in the axial picture that shows it."""
    number = int(np.ravel_multi_index(index, SHAPE, order="F"))
    return tuple(
        tab.js(f"""(() => {{
          const viewer = msrim.viewer, box = viewer.canvas.getBoundingClientRect(), size = viewer.volumes[0].dimsRAS;
          const at = msrim.own.indexOf({number});
          const voxel = [at % size[1], Math.floor(at / size[1]) % size[2], Math.floor(at / size[1] / size[2])];
          const tile = viewer.screenSlices.findIndex((slice) => slice.axCorSag === 0);
          const [x, y] = viewer.frac2canvasPosWithTile(voxel.map((v, k) => (v + 0.5) / size[k + 1]), tile).pos;
          return [box.x + x / viewer.uiData.dpr, box.y + y / viewer.uiData.dpr];
        }})()""")
    )


def test_a_patient_is_corrected_in_the_page(results, tmp_path):
    before = hashes(results.folder)
    original = read_labels(results.files["instances"]).data
    places = {int(original[place]): place for place, _ in LESIONS}
    with serving(results) as server, chromium(tmp_path) as tab:
        tab.open(server.address)
        tab.wait("document.body?.dataset.ready")
        assert (tab.text("#name"), tab.text("#count")) == ("sub-egg", "3")

        # One plane from here on: without a GPU the 3-D view takes its time.
        tab.click('[data-layout="axial"]')

        # Jump: the cross stands in the lesion, and the line below names it.
        tab.click('[data-lesion="2"]')
        tab.wait("document.querySelector('#where').textContent.includes('lesion 2')")
        cross = [float(word) for word in tab.text("#where").split() if word.strip("-").replace(".", "").isdigit()][:3]
        np.testing.assert_allclose(cross, (AFFINE @ [*places[2], 1])[:3], atol=0.06)

        # Scroll: the wheel over the axial picture moves the cross up or down by slices, and nowhere else.
        axial = canvas_place(tab, places[2])
        tab.wheel(axial, 2)
        voxel = "[...msrim.viewer.frac2vox(msrim.viewer.scene.crosshairPos)]"
        moved = tab.js(voxel)
        tab.wheel(axial, 1)
        step = np.subtract(tab.js(voxel), moved)
        assert np.abs(step).tolist() == [0, 0, 1]

        # Another contrast is fetched and drawn.
        tab.click('[data-contrast="T1w"]')
        tab.wait("msrim.viewer.volumes.length === 2 && msrim.viewer.volumes[1].opacity === 1")

        # Remove lesion 1; take it back; remove it again.
        for expected in ("2", "3", "2"):
            tab.click('[data-lesion="1"] button')
            tab.wait(f"document.querySelector('#count').textContent === '{expected}'")

        # Erase the middle of lesion 2, add tissue beside lesion 3.
        tab.click('[data-lesion="2"]')
        tab.key("e")
        tab.key("[")
        tab.drag([canvas_place(tab, places[2])])
        gone = int((original == 1).sum())
        tab.wait(f"document.querySelector('#difference').textContent === '(+0 −{gone + 1} voxels)'")
        tab.key("v")
        tab.click('[data-lesion="3"]')
        tab.key("a")
        i, j, k = places[3]
        # The third axis runs to the left.
        tab.drag([canvas_place(tab, (i, j, k)), canvas_place(tab, (i, j, k + 3))])
        tab.wait("!document.querySelector('#difference').textContent.includes('+0')")

        tab.js("document.querySelector('#note').focus()")
        tab.type("Lesion 1 is a Virchow–Robin space")
        tab.click("#submit")
        tab.wait("document.querySelector('#state').textContent === 'Saved'")
        assert "--lesions" in tab.text("#command")
        tab.screenshot(tmp_path / "page.png")

        # What was said agrees with what was written; nothing else was.
        mask, sidecar = edited(results), json.loads(results.edited["sidecar"].read_text())
        assert not mask[original == 1].any() and mask[original == 3].all()
        added, erased = mask & (original == 0), (original > 0) & ~mask
        assert np.argwhere(erased & (original == 2)).tolist() == [list(places[2])]
        assert {(i, j, k + step) for step in (1, 2, 3)} >= {tuple(voxel) for voxel in np.argwhere(added).tolist()}
        assert added.any()
        assert tab.text("#difference") == f"(+{added.sum()} −{erased.sum()} voxels)"
        assert sidecar["Note"] == "Lesion 1 is a Virchow–Robin space"
        assert sidecar["RemovedLesions"] == [1] and sidecar["Manual"] is True
        assert (sidecar["AddedVoxels"], sidecar["ErasedVoxels"]) == (added.sum(), erased.sum())
        after = hashes(results.folder)
        assert {name: after[name] for name in before} == before
        assert sorted(set(after) - set(before)) == [
            "anat/sub-egg_space-orig_label-L_desc-edited_mask.json",
            "anat/sub-egg_space-orig_label-L_desc-edited_mask.nii.gz",
        ]

        # Opened again, the page shows the correction.
        tab.reload()
        tab.wait("document.body?.dataset.ready && document.querySelector('#corrected').hidden === false")
        assert tab.text("#difference") == f"(+{added.sum()} −{erased.sum()} voxels)"
        assert tab.js("document.querySelector('#note').value") == sidecar["Note"]
        tab.click("#original")
        tab.wait("document.querySelector('#count').textContent === '3'")
        assert tab.errors == []

        # Somebody else saves meanwhile: that is not replaced, and the page says so. Undone, nothing waits to be saved.
        save_correction(results, original == 3, note="another rater")
        tab.click("#submit")
        tab.wait("document.querySelector('#state').textContent.includes('saved elsewhere since this page was loaded')")
        assert results.note() == "another rater" and edited(results).sum() == (original == 3).sum()
        tab.click("#undo")
        tab.wait("document.querySelector('#submit').disabled")
        # A contrast that is gone is told, and the FLAIR stays.
        results.subject.contrasts["T1w"].unlink()
        server._pictures.pop("T1w")
        tab.reload()
        tab.wait("document.body?.dataset.ready")
        tab.click('[data-contrast="T1w"]')
        tab.wait("document.querySelector('#state').textContent.startsWith('T1w cannot be shown')")
        assert tab.js("msrim.viewer.volumes.length") == 1 and tab.js("document.querySelector('#loading').hidden")
        assert all(url.startswith((server.origin, "data:", "blob:")) for url in tab.requests)


def test_what_is_saved_lies_on_the_grid_of_the_mask(results):
    mask = np.zeros(SHAPE, bool)
    mask[3, 5, 7] = True
    path = save_correction(results, mask, note="")
    one, other = nib.load(path), nib.load(results.files["mask"])
    np.testing.assert_array_equal(np.asarray(one.dataobj), mask)
    np.testing.assert_array_equal(one.affine, other.affine)
    assert one.get_data_dtype() == np.uint8
    assert runs_of(mask) == [3 + 60 * (5 + 44 * 7), 1]


def test_a_correction_of_nothing_but_a_note_and_an_empty_one_are_answers(results):
    original = read_volume(results.files["mask"], mask=True).data
    save_correction(results, original, note="looked at")
    assert results.note() == "looked at"
    np.testing.assert_array_equal(edited(results), original)
    save_correction(results, np.zeros(SHAPE, bool), note="")
    assert not edited(results).any()
    assert json.loads(results.edited["sidecar"].read_text())["RemovedLesions"] == [1, 2, 3]


def test_nothing_is_saved_while_a_run_is_at_work(results):
    with locked(results.folder / "work"), pytest.raises(OutputError, match="another msrim run"):
        save_correction(results, np.zeros(SHAPE, bool), note="")
    assert not results.edited["mask"].exists() and not results.edited["sidecar"].exists()


# Whom the server answers.


def ask(server: ViewServer, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    given = {"Host": f"127.0.0.1:{server.server_port}"} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        connection.putheader(name, value)
    if body is not None and "Content-Length" not in given:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_only_who_knows_the_token_is_answered(results):
    with serving(results) as server:
        assert server.server_address[0] == "127.0.0.1"
        token = f"/{server.token}/"
        status, page, headers = ask(server, token)
        assert status == 200 and b"view.js" in page and b"http" not in page.replace(b"http-equiv", b"")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert len(server.token) >= 32
        for path in ("/", "/visit.json", "//visit.json", "/wrong/visit.json", f"/{server.token}", "/%2e%2e/x/"):
            assert ask(server, path)[0] == 404, path
        assert ask(server, token + "visit.json", Host="evil.example:80")[0] == 404
        secret = results.folder / "run.json"
        for name in (
            "../run.json",
            "%2e%2e/run.json",
            "run.json",
            str(secret),
            "anat/../run.json",
            "visit.json/..",
            "?x",
        ):
            assert ask(server, token + name)[0] == 404, name


def test_only_the_page_itself_saves(results):
    good = {"shape": list(SHAPE), "runs": [0, 2], "note": "fine", "state": ""}
    with serving(results) as server:
        path, own = f"/{server.token}/correction", {"Origin": server.origin, "Content_Type": "application/json"}

        def post(content: object, to: str = path, **headers: str) -> int:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            return ask(server, to, method="POST", body=body, **(own | headers))[0]

        assert post(good, "/wrong/correction") == 404
        assert post(good, f"/{server.token}/../correction") == 404
        assert post(good, Origin="http://evil.example") == 403
        assert post(good, Origin="null") == 403
        assert post(good, Content_Type="text/plain") == 403
        assert (
            ask(server, path, method="POST", body=json.dumps(good).encode(), Content_Type="application/json")[0] == 403
        )
        assert post(good, Content_Length=str(2**40)) == 413
        assert post(good, Content_Length="-1") == 413
        for wrong in (
            b"", b"{", b"[1]", b"[" * 100_000,
            good | {"shape": [1, 2, 3]}, good | {"shape": "60"}, good | {"runs": [0]}, good | {"runs": [0, 10**30]},
            good | {"runs": [-1, 2]}, good | {"runs": [0, 0]}, good | {"runs": ["0", "1"]}, good | {"runs": [0.0, 1.0]},
            good | {"runs": [True, True]}, good | {"runs": None}, good | {"note": None}, good | {"note": "x" * 10_001},
            {"shape": list(SHAPE), "runs": []}, good | {"state": None},
        ):  # fmt: skip
            assert post(wrong) == 400, wrong
        assert not results.edited["mask"].exists()
        assert post(good) == 200
        assert np.argwhere(edited(results)).tolist() == [[0, 0, 0], [1, 0, 0]]
        # A second page, loaded before that was saved.
        assert post(good | {"runs": [7, 1]}) == 409
        assert np.argwhere(edited(results)).tolist() == [[0, 0, 0], [1, 0, 0]]
        assert post(good | {"runs": [7, 1], "state": results.state()}) == 200


def test_a_killed_server_leaves_nothing_half_written(results):
    """Saved over and over until it is killed: what lies there is one of the two masks, whole, and a note."""
    command = [sys.executable, "-m", "msrim", "view", str(results.folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = process.stdout.readline().strip()
    port, token = address.removeprefix("http://127.0.0.1:").strip("/").split("/")
    masks = [[0, 5], [0, 50_000]]

    def save_again_and_again() -> None:
        headers = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
        number = 0
        try:
            while True:
                state = results.state()
                body = json.dumps(
                    {"shape": list(SHAPE), "runs": masks[number % 2], "note": str(number % 2), "state": state}
                )
                connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
                connection.request("POST", f"/{token}/correction", body, headers)
                assert connection.getresponse().status == 200
                number += 1
        except (OSError, http.client.HTTPException):
            return

    thread = threading.Thread(target=save_again_and_again)
    thread.start()
    while not results.edited["mask"].exists():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    thread.join()
    assert np.count_nonzero(edited(results)) in (5, 50_000)
    assert results.note() in ("0", "1")
    # The next one clears away what was on its way.
    save_correction(results, np.zeros(SHAPE, bool), note="")
    assert not list(results.folder.rglob(".*-partial-*"))


def test_ctrl_c_ends_the_server_quietly(results):
    command = [sys.executable, "-m", "msrim", "view", str(results.folder)]
    # A shell's background jobs ignore Ctrl-C, and so would their children.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert "Traceback" not in process.stderr.read()


# Which results.


def test_a_visit_is_found_from_where_people_stand(visit):
    subject, out = visit
    for path in (out, subject.folder(out), subject.folder(out) / "report.html"):
        found = find_results(path)
        assert (found.folder, found.out, found.subject.label) == (subject.folder(out), out, "egg")
        assert list(found.subject.contrasts) == ["FLAIR", "T1w"]


def test_what_is_no_visit_is_told_in_one_line(visit, tmp_path):
    subject, out = visit
    shown = CliRunner().invoke(app, ["view", str(tmp_path / "raw")])
    assert shown.exit_code == 2 and "no lesions that `msrim segment` has found" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    with pytest.raises(InputError, match="no such folder"):
        find_results(tmp_path / "nowhere")
    (out / "sub-egg").rename(out / "sub-other")
    flair, brain, lesions = egg()
    segmented_visit(tmp_path, flair, lesions, brain=brain)
    with pytest.raises(InputError, match=r"several visits \(sub-egg, sub-other\)"):
        find_results(out)
    subject.contrasts["FLAIR"].unlink()
    with pytest.raises(InputError, match=r"FLAIR.nii.gz: gone, but the lesions"):
        find_results(subject.folder(out))


def test_a_dataset_that_was_moved_with_its_results_is_found(tmp_path, visit):
    _, out = visit
    moved = (tmp_path / "raw").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="gone, but the lesions"):
        find_results(out)
    (moved / "derivatives").mkdir()
    found = find_results(out.rename(moved / "derivatives" / "msrim"))
    flair = found.subject.contrasts["FLAIR"]
    assert flair == moved / "sub-egg" / "anat" / "sub-egg_FLAIR.nii.gz" and list(found.subject.contrasts) == [
        "FLAIR",
        "T1w",
    ]
    # Of another content it is another image.
    flair.write_bytes(found.subject.contrasts["T1w"].read_bytes())
    with pytest.raises(InputError, match="gone, but the lesions"):
        find_results(found.folder)


def test_a_flair_that_was_exported_again_is_not_shown(visit):
    subject, out = visit
    subject.contrasts["FLAIR"].write_bytes(subject.contrasts["T1w"].read_bytes())
    with pytest.raises(InputError, match="is not the image any more that the lesions in"):
        find_results(out)


def test_niivue_comes_from_its_package():
    source = niivue_module()
    assert source.rstrip().endswith("as Niivue};") and "drawBitmap" in source

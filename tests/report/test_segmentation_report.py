"""The report as a reader gets it: the written file, taken apart again."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from datetime import datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from volumes import LAS, LPS, OBLIQUE, RAS, centres

from msrim.errors import OutputError
from msrim.evaluation.grade import CONTRASTS, PaintedLesion, summarise_grade
from msrim.image import Volume, read_volume
from msrim.lesions.measure import LESION_COLUMNS, measure_lesions, summarise
from msrim.lesions.split import label_lesions
from msrim.manifest import StepRecord
from msrim.report.segmentation import COLUMNS, Report, write_report

VOID = {"meta", "input", "br", "hr", "img", "link"}
# Left, anterior, superior: RAS mm.
MARKER_MM = np.array([-22.0, 26.0, 18.0])
THIN_SLICES_MM = (0.7, 0.7, 3.0)


class Page(HTMLParser):
    """Every element of a page with its attributes and text; fails on tags that don't match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data + " "

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def figure(self, plane: str) -> str:
        """Source of the picture of a plane with the longest outline."""
        figures = re.findall(rf'<figure id="{plane}-.*?</figure>', self.source, flags=re.DOTALL)
        return max(figures, key=lambda figure: len("".join(re.findall(r'lesion" d="(.*?)"', figure))))


def pixels(figure: str) -> np.ndarray:
    """The first image of a figure, decoded: (H, W)."""
    uri = re.search(r'href="data:image/webp;base64,(.*?)"', figure)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("L"), dtype=float)


def size_mm(figure: str) -> tuple[float, float]:
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', figure).groups()
    return float(width), float(height)


def outline_mm(figure: str) -> np.ndarray:
    return np.array(re.findall(r"([\d.]+) ([\d.]+)", re.search(r'lesion" d="(.*?)"', figure)[1]), dtype=float)


def ball(affine, shape, *, middle_mm, radius_mm) -> np.ndarray:
    return np.linalg.norm(centres(shape, affine) - middle_mm, axis=-1) <= radius_mm


def phantom(axes: np.ndarray = RAS, *, spacing_mm=THIN_SLICES_MM, lesions_mm=(MARKER_MM,), radius_mm=6.0) -> Report:
    """A ball of a brain, 45 mm in radius, in a mask that is 3 mm wider, with bright balls of lesions in it."""
    shape = tuple(int(100 / step) for step in spacing_mm)
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(spacing_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    brain = ball(affine, shape, middle_mm=0, radius_mm=48)
    marked = np.zeros(shape, np.int32)
    for number, middle_mm in enumerate(lesions_mm, 1):
        marked[ball(affine, shape, middle_mm=middle_mm, radius_mm=radius_mm)] = number
    # The brain's grey value falls over 3 mm, as partial volume makes it, so that half of it is met at 45 mm.
    distance_mm = np.linalg.norm(centres(shape, affine), axis=-1)
    flair = Volume((60 * np.clip((45 - distance_mm) / 3 + 0.5, 0, 1) + 140 * (marked > 0)).astype(np.float32), affine)
    labels = flair.like(np.where(brain, 5, 0).astype(np.uint8))
    rows = measure_lesions(flair.like(marked), probability=flair.like(np.full(shape, 0.8, np.float32)), labels=labels)
    template = np.diag([2.0, 2.0, 2.0, 1.0])
    template[:3, 3] = -60
    return Report(
        subject="sub-1",
        session="ses-2",
        date=datetime(2026, 3, 4, 15, 6),
        model="ball@3",
        threshold=0.37,
        model_limits="finds balls alone",
        flair=flair,
        contrasts={"T1w": flair},
        brain=flair.like(brain),
        tissue=flair.like(np.where(brain, 3, 0).astype(np.uint8)),
        labels=labels,
        instances=flair.like(marked),
        template=Volume(100.0 * ball(template, (61, 61, 61), middle_mm=0, radius_mm=45), template),
        mni_from_flair=np.eye(4),
        lesions=rows,
        summary=summarise(rows),
        inputs={"FLAIR": Path("/scans/FLAIR.nii.gz")},
        steps=[StepRecord("find_brain", 12.34, 11.0, 567.8, False), StepRecord("find_lesions", 2.0, 1.9, None, True)],
        backend="fsl 6.0.7.4",
        versions={"msrim": "9.8.7", "numpy": "2.3.5"},
        recipe='model = "ball@3"\n',
        warnings=[],
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write a report, once for each."""
    folder = tmp_path_factory.mktemp("reports")

    @cache
    def write(name: str, make=phantom) -> Page:
        return Page(write_report(make(), folder / f"{name}.html"))

    return write


def test_one_file_holds_everything(written):
    page = written("plain")
    sources = [
        attributes[key]
        for _, attributes in page.elements
        for key in ("src", "href", "xlink:href", "action", "srcset")
        if key in attributes
    ]
    assert len(sources) > 50
    assert [source for source in sources if not source.startswith(("#", "data:image/webp;base64,"))] == []
    rest = re.sub(r"data:image/webp;base64,[\w+/=]*", "", page.source)
    assert re.findall(r"https?:|//\w+\.|url\(|@import|fetch\(", rest) == []


def test_links_lead_somewhere(written):
    page = written("plain")
    assert len(page.ids) == len(set(page.ids))
    targets = {attributes["href"][1:] for tag, attributes in page.elements if tag == "a"}
    assert targets <= set(page.ids)


def test_every_picture_is_described(written):
    drawings = [attributes for tag, attributes in written("plain").elements if tag == "svg"]
    assert len(drawings) >= 35 + 5 * 4
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)


def graded() -> Report:
    """A scan that shows painted lesions of 100 mm3 and none of 10 mm3."""
    rows = [
        PaintedLesion(
            k + 1, (10.0, 100.0)[k % 2], 10.0, list(CONTRASTS)[k % 3], 1.0 + k % 3, 0, 0, 0, (None, 80.0)[k % 2]
        )
        for k in range(30)
    ]
    told = summarise_grade(rows, sizes_mm3=[10.0, 100.0], false_positives_mm3=[12.0], lost=2, seed=1)
    return dataclasses.replace(phantom(), grade=told)


def test_a_grade_is_told_where_lesions_were_painted(written):
    page = written("graded", graded)
    text = " ".join(page.text.split())
    for expected in (
        "This scan shows lesions like the patient's own from",
        "30 simulated lesions",
        "15 of 15",
        "0 of 15",
        "0.80 of the painted volume in the median",
        "False positives that painting made: 1 (12 mm³)",
        "no longer found beside painted ones: 2",
    ):
        assert expected in text, expected
    assert "grade" in page.ids and "grade" not in written("plain").ids


def test_header_and_run_details(written):
    text = " ".join(written("plain").text.split())
    for expected in (
        "sub-1 ses-2",
        "Research use only – not for diagnosis",
        "4 March 2026, 15:06",
        "msrim 9.8.7",
        "Backend fsl 6.0.7.4",
        "ball@3",
        "finds balls alone",
        "0.70 × 0.70 × 3.00 mm",
        "Lesions in 0 of the brain's three regions; spinal cord and optic nerve not assessed.",
        "the patient's left (L) is on the picture's right",
        "/scans/FLAIR.nii.gz",
        "find brain 12.3 568",
        "find lesions 2.0 – kept from an earlier run",
        'model = "ball@3"',
    ):
        assert expected in text


def test_row_of_a_lesion(written):
    row = re.search(r'<tr id="lesion-1">(.*?)</tr>', written("plain").source)[1]
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?>(.*?)</td>", row)]
    volume, diameter, *others, x, y, z, picture = cells[1:]
    assert float(volume) == pytest.approx(905, rel=0.08)  # a ball of 6 mm radius
    assert 12 <= float(diameter) <= 15  # and up to a slice more
    assert others == ["deep white matter", "0.80"]
    assert [float(cell.replace("−", "-")) for cell in (x, y, z)] == pytest.approx(MARKER_MM, abs=0.3)
    assert re.fullmatch(r"axial z \+(1[6-9]|20)", picture)
    assert "Not assessed in this run: to ventricle, to cortex, rim probability, rim, change, earlier number." in (
        written("plain").text
    )


def test_columns_are_those_of_the_table():
    assert {column.name for column in COLUMNS} == set(LESION_COLUMNS)


POSES = {"RAS": RAS, "LAS": LAS, "LPS": LPS, "oblique": OBLIQUE @ LPS}


@pytest.mark.parametrize("name", POSES)
def test_pictures_follow_the_radiological_convention(written, name):
    page = written(name, lambda: phantom(POSES[name]))
    right, down = -MARKER_MM[0], -MARKER_MM[2]
    # Where the marker lies from the middle of the brain, on the picture: to the right and down, mm.
    expected = {"axial": (right, -MARKER_MM[1]), "coronal": (right, down), "sagittal": (-MARKER_MM[1], down)}
    letters = {"axial": ["R", "L"], "coronal": ["R", "L"], "sagittal": ["A", "P"]}
    for plane, offset_mm in expected.items():
        figure = page.figure(plane)
        image = pixels(figure)
        middle = np.array(size_mm(figure)) / 2
        rows, columns = np.nonzero(image > 200)
        bright_mm = (np.array([columns.mean(), rows.mean()]) + 0.5) * size_mm(figure) / np.array(image.shape[::-1])
        assert bright_mm - middle == pytest.approx(offset_mm, abs=1.5)
        assert outline_mm(figure).mean(axis=0) == pytest.approx(bright_mm, abs=1.0)
        assert re.findall(r">([RLAP])</text>", figure) == letters[plane]


@pytest.mark.parametrize("name", POSES)
def test_a_ball_of_thick_slices_is_round(written, name):
    page = written(name, lambda: phantom(POSES[name]))
    figures = re.findall(r'<figure id="(axial|coronal|sagittal)-(-?\d+)">(.*?)</figure>', page.source, flags=re.DOTALL)
    for wanted in ("axial", "coronal", "sagittal"):
        # The largest section of the brain, whose radius is 45 mm; the median of the brain is shown at 255 / 1.8.
        sections = [pixels(figure) > 255 / 1.8 / 2 for plane, _, figure in figures if plane == wanted]
        mm = size_mm(page.figure(wanted))
        section = max(sections, key=np.count_nonzero)
        rows, columns = np.nonzero(section)
        height = (np.ptp(rows) + 1) * mm[1] / section.shape[0]
        width = (np.ptp(columns) + 1) * mm[0] / section.shape[1]
        assert width == pytest.approx(90, abs=2.0)
        assert height == pytest.approx(90, abs=2.0)


def test_tilted_head_stands_upright(written):
    """A head that lies tilted in the scanner is shown as the template stands: the marker is where MNI has it."""
    turn = np.eye(4)
    turn[:3, :3] = OBLIQUE

    def tilted():
        lesion_mm = np.linalg.inv(OBLIQUE) @ MARKER_MM
        return dataclasses.replace(phantom(lesions_mm=(lesion_mm,)), mni_from_flair=turn)

    figure = written("tilted", tilted).figure("coronal")
    offset_mm = outline_mm(figure).mean(axis=0) - np.array(size_mm(figure)) / 2
    assert offset_mm == pytest.approx((-MARKER_MM[0], -MARKER_MM[2]), abs=1.5)
    assert re.search(r"y \+(2[4-8]) ", figure)


def test_no_lesion_is_an_answer(written):
    page = written("none", lambda: phantom(lesions_mm=()))
    text = " ".join(page.text.split())
    assert "No lesion was marked" in text
    assert "0 lesions" in text
    assert "0.00 ml" in text
    assert "NaN" not in text
    assert "nan" not in text
    assert [tag for tag, attributes in page.elements if attributes.get("class") == "drawn lesion"] == []
    assert len(re.findall(r'<figure id="axial-', page.source)) == 15


def test_flair_alone(written):
    page = written("alone", lambda: dataclasses.replace(phantom(), contrasts={}))
    assert "FLAIR alone was given" in page.text
    assert "registered to the FLAIR" not in page.text


def test_three_hundred_lesions(written):
    def many():
        report = phantom(spacing_mm=(1.0, 1.0, 1.0))
        marked = np.zeros(report.flair.shape, np.int32)
        corners = np.stack(np.meshgrid(*[np.arange(24, 73, 8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        for number, (x, y, z) in enumerate(corners[:300], 1):
            marked[x : x + 3, y : y + 3, z : z + 3] = number
        instances = report.flair.like(marked)
        rows = measure_lesions(instances, probability=report.flair, labels=report.labels)
        return dataclasses.replace(report, instances=instances, lesions=rows, summary=summarise(rows))

    page = written("many", many)
    assert sum(name.startswith("lesion-") for name in page.ids) == 300
    assert "8.10 ml" in page.text
    assert len(page.source) < 4_000_000
    # On a regular raster every lesion can be shown, and then the table leads to it.
    assert len(re.findall(r'<tr id="lesion-\d+">.*?<a href="#', page.source)) == 300


def test_names_from_outside_are_text(written):
    page = written("rude", lambda: dataclasses.replace(phantom(), subject="<script>alert(1)</script>"))
    assert "<script>alert" not in page.source
    assert "<script>alert(1)</script>" in page.text


def test_same_report_same_bytes(written, tmp_path):
    again = write_report(phantom(), tmp_path / "again.html")
    assert again.read_text("utf-8") == written("plain").source


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match=r"report\.html"):
        write_report(phantom(), tmp_path / "taken" / "report.html")


def test_real_patient(shared_data, tmp_path):
    folder = shared_data / "mni" / "sub-openms19"
    flair = read_volume(next(folder.rglob("*_FLAIR.nii.gz")))
    instances = label_lesions(read_volume(next(folder.rglob("*_mask.nii.gz")), mask=True).data)
    inside = flair.data > 0
    labels = flair.like(np.where(inside, 5, 0).astype(np.uint8))
    rows = measure_lesions(flair.like(instances), probability=flair.like(inside.astype(np.float32)), labels=labels)
    report = dataclasses.replace(
        phantom(),
        flair=flair,
        contrasts={"T1w": read_volume(next(folder.rglob("*_T1w.nii.gz")))},
        brain=flair.like(inside),
        tissue=labels,
        labels=labels,
        instances=flair.like(instances),
        lesions=rows,
        summary=summarise(rows),
    )
    page = Page(write_report(report, tmp_path / "report.html"))
    assert sum(name.startswith("lesion-") for name in page.ids) == 98
    assert "49.8 ml" in page.text
    assert len(page.source) < 4_000_000

"""Registrations of every backend: the right one is taken, one that cannot be right is replaced or refused, and told."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from fsl_programs import answer
from volumes import rotation

from msrim.errors import BackendError, Fallback, InputError
from msrim.image import Volume
from msrim.preprocess import ants, backends, fsl, register
from msrim.preprocess.template import load_template, load_template_brain_mask

# Where the moving image's header puts it: this brings it back.
BACK = np.eye(4)
BACK[:3, :3], BACK[:3, 3] = rotation(x_deg=8, z_deg=-5), (22, -9, 14)


@pytest.fixture(scope="module")
def pair() -> dict[str, Volume]:
    """The template's brain in steps of 4 mm, and once more elsewhere in a contrast of opposite sign."""
    template, mask = load_template(), load_template_brain_mask()
    image, brain = (each.data[::4, ::4, ::4] for each in (template, mask))
    grid = template.affine @ np.diag([4.0, 4.0, 4.0, 1.0])
    away = np.linalg.inv(BACK) @ grid
    return {
        "moving": Volume(np.where(brain, 1.2 - image, 0).astype(np.float32), away),
        "fixed": Volume(image, grid),
        "moving_mask": Volume(brain, away),
        "fixed_mask": Volume(brain, grid),
    }


def turned(matrix: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """A transform whose target is turned about its origin, where the fixed brain's centre lies."""
    extra = np.eye(4)
    extra[:3, :3] = linear
    return extra @ matrix


APART = np.eye(4)
APART[:3, 3] = 150.0, 0, 0
OFF = np.eye(4)
OFF[:3, 3] = 0, 10.0, 0
WRONG = {
    "identity for a misplaced T1w": (np.eye(4), "match worse"),
    "mirrored": (turned(BACK, np.diag([-1.0, 1, 1])), "mirrors the head"),
    "brains apart": (APART @ BACK, "of the smaller brain"),
    "upside down": (turned(BACK, np.diag([-1.0, 1, -1])), "match worse"),
    "10 mm off": (OFF @ BACK, "match worse"),
    "shrunk": (turned(BACK, 0.9 * np.eye(3)), "scales the head by 0.90 to 0.90"),
    "not a number": (np.full((4, 4), np.nan), "is no transform"),
}


@pytest.fixture
def finding(stand_in, monkeypatch, pair) -> Callable[[str, np.ndarray], str]:
    """Let a backend's rigid or affine registration find a transform; returns its name."""

    def find(kind: str, matrix: np.ndarray, way: str = "register_rigid") -> str:
        if kind == "fsl" and np.isfinite(matrix).all():
            answer(stand_in(), matrix, moving=pair["moving"], fixed=pair["fixed"])
        else:
            monkeypatch.setattr(backends.TWINS[kind], way, lambda *_, **__: matrix)
        return f"{kind} 1.0"

    return find


def gap_mm(matrix: np.ndarray, pair: dict[str, Volume]) -> float:
    """Mean distance over the brain from where it belongs."""
    mask = pair["moving_mask"]
    points = np.argwhere(mask.data) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    error = matrix - BACK
    return float(np.linalg.norm(points @ error[:3, :3].T + error[:3, 3], axis=1).mean())


@pytest.mark.parametrize("backend", ["embedded", "ants 0.6.3"])
def test_registrations_are_right_and_taken_as_they_are(pair, backend):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Fallback)
        found = backends.align(**pair, backend=backend, names=("T1w", "FLAIR"))
    assert gap_mm(found, pair) < 1


def test_what_flirt_found_is_taken_as_it_is(pair, finding):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Fallback)
        found = backends.align(**pair, backend=finding("fsl", BACK), names=("T1w", "FLAIR"))
    np.testing.assert_allclose(found, BACK, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name"), [*(("fsl", name) for name in WRONG), *(("ants", name) for name in list(WRONG)[:3])]
)
def test_a_wrong_registration_is_replaced_and_told(pair, finding, kind, name):
    (matrix, told), program = WRONG[name], {"fsl": "FLIRT of FSL", "ants": "ANTs"}[kind]
    backend = finding(kind, matrix)
    with pytest.warns(Fallback) as notes:
        found = backends.align(**pair, backend=backend, names=("T1w", "FLAIR"))
    assert gap_mm(found, pair) < 1
    [note] = notes
    assert str(note.message).startswith(f"registration of the T1w to the FLAIR: what {program} found ")
    assert told in str(note.message)
    assert "that by msrim was taken" in str(note.message)


@pytest.mark.parametrize(("matrix", "told"), WRONG.values(), ids=WRONG)
def test_a_wrong_registration_of_the_embedded_backend_is_refused(pair, finding, matrix, told):
    with pytest.raises(InputError, match="the T1w cannot be registered to the FLAIR: what msrim found ") as refused:
        backends.align(**pair, backend=finding("embedded", matrix).split()[0], names=("T1w", "FLAIR"))
    assert told in str(refused.value)
    assert str(refused.value).endswith("give images of the same head, or leave the T1w out")


AFFINE_WRONG = {name: WRONG[name] for name in ("identity for a misplaced T1w", "mirrored")}
AFFINE_WRONG["collapsed"] = (turned(BACK, np.diag([1.0, 1.0, 0.1])), "scales the head by 0.10 to 1.00")


@pytest.mark.parametrize(
    ("kind", "name"), [*(("embedded", name) for name in AFFINE_WRONG), ("fsl", "mirrored"), ("ants", "mirrored")]
)
def test_a_wrong_affine_to_the_template_is_replaced_and_told(pair, finding, kind, name):
    """Whoever found it: where msrim's own is wrong as well, the brain is turned and scaled by its volume."""
    matrix, told = AFFINE_WRONG[name]
    with pytest.warns(Fallback, match="registration of the T1w to the template: what ") as notes:
        found = backends.align_to_template(
            pair["moving"], pair["fixed"], brain=pair["moving_mask"], template_brain=pair["fixed_mask"],
            backend=finding(kind, matrix, "register_affine"), name="T1w",
        )  # fmt: skip
    assert gap_mm(found, pair) < 3
    assert told in str(notes[0].message)
    assert ("turning it and scaling it" in str(notes[0].message)) == (kind == "embedded")


def test_failed_programs_are_not_replaced(pair, stand_in):
    """A crash is for the user to mend; only a result that cannot be right is replaced."""
    stand_in(flirt="exit 1")
    with pytest.raises(BackendError, match="FLIRT of FSL"):
        backends.align(**pair, backend="fsl 6.0.7.4", names=("T1w", "FLAIR"))


def test_backends_are_named_with_their_versions(stand_in, monkeypatch):
    assert backends.find_backend("auto") == backends.find_backend("embedded") == "embedded"
    assert backends.find_backend("ants") == "ants 0.6.3"
    stand_in()
    assert backends.find_backend("fsl") == "fsl 6.0.7.4"
    assert backends.versions_of("fsl 6.0.7.4") == {"FSL": "6.0.7.4"}
    assert backends.versions_of("ants 0.6.3") == {"antspyx": "0.6.3"}
    monkeypatch.delenv("FSLDIR")
    with pytest.raises(BackendError, match="FSLDIR is not set"):
        backends.find_backend("fsl")


def test_bias_and_tissue_come_from_the_backend(stand_in, pair, monkeypatch):
    image, brain = pair["fixed"], pair["fixed_mask"]
    stand_in()
    for name, twin in (("fsl 6.0.7.4", fsl), ("ants 0.6.3", ants)):
        found = backends.classify_tissue(image, brain, backend=name).data
        np.testing.assert_array_equal(found, twin.classify_tissue(image, brain).data)
    assert backends.TWINS["embedded"] is register
    by_ants = backends.correct_bias(image, brain, backend="ants 0.6.3").data
    np.testing.assert_array_equal(by_ants, ants.correct_bias(image, brain).data)
    assert not np.array_equal(by_ants, backends.correct_bias(image, brain, backend="fsl 6.0.7.4").data)

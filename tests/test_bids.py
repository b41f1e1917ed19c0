"""Which file is taken for which contrast, and what a visit is called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from msrim.bids import (
    CONTRASTS,
    Subject,
    contrast_of,
    find_qsm,
    find_subject,
    is_qsm,
    subject_from_files,
    write_dataset_description,
)
from msrim.errors import InputError, Remark
from msrim.files import write_text
from msrim.training import contrasts
from msrim.workflows.cohort.tasks import find_cohort, visits_below


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def names(subject: Subject) -> dict[str, str]:
    return {contrast: path.name for contrast, path in subject.contrasts.items()}


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("FLAIR.nii.gz", "FLAIR"),
        ("flair.nii", "FLAIR"),
        ("sub-12_ses-01_FLAIR.nii.gz", "FLAIR"),
        ("sub-07_desc-brain_FLAIR.nii.gz", "FLAIR"),
        ("T2_FLAIR.nii.gz", "FLAIR"),
        ("t2-flair_sag.nii.gz", "FLAIR"),
        ("3DFLAIR.nii.gz", "FLAIR"),
        ("005_t2_space_dark-fluid_sag.nii.gz", "FLAIR"),
        ("t2_tirm_tra.nii", "FLAIR"),
        ("T1.nii", "T1w"),
        ("T1w.nii.gz", "T1w"),
        ("MPRAGE.nii.gz", "T1w"),
        ("sub-12_ses-01_acq-3D_T1w.nii.gz", "T1w"),
        ("t2w.nii.gz", "T2w"),
        ("T2.NII.GZ", "T2w"),
        ("sub-12_ses-01_PDw.nii.gz", "PDw"),
        ("training01_01_pd_pp.nii", "PDw"),
        ("proton_density.nii.gz", None),
        ("FLAIR_mask.nii.gz", None),
        ("sub-12_space-FLAIR_label-L_mask.nii.gz", None),
        ("flair_brainmask.nii.gz", None),
        ("FLAIR_seg.nii.gz", None),
        ("sub-12_T1w_dseg.nii.gz", None),
        ("sub-12_ce-gadolinium_T1w.nii.gz", None),
        ("T1_GD.nii.gz", None),
        ("consensus_gt.nii.gz", None),
        ("T2star.nii.gz", None),
        ("bold.nii.gz", None),
        # Words of other entities say nothing.
        ("sub-01_ses-post_FLAIR.nii.gz", "FLAIR"),
        ("sub-01_ses-gt_T1w.nii.gz", "T1w"),
        ("sub-GD_acq-expert_T2w.nii.gz", "T2w"),
        ("sub-01_acq-multiseg_rec-bias_FLAIR.nii.gz", "FLAIR"),
        ("sub-lesion_ses-mask_T1w.nii", "T1w"),
        ("sub-flair01_acq-FLAIR_T1w.nii.gz", "T1w"),
        ("sub-01_ses-post_flair_brain.nii.gz", "FLAIR"),
        ("sub-01_part-phase_T1w.nii.gz", None),
        ("sub-01_mod-T1w_defacemask.nii.gz", None),
        ("sub-01_T2starw.nii.gz", None),
        ("sub-01_inv-1_MP2RAGE.nii.gz", None),
        ("sub-01_ses-t1_bold.nii.gz", None),
        # Look-alikes.
        ("t2_fl2d_tra_hemo.nii.gz", None),
        ("T2_star.nii.gz", None),
        ("T2s_map.nii.gz", None),
        ("t2_swi.nii.gz", None),
        ("T2_GRE.nii.gz", None),
        ("ep2d_diff_t2.nii.gz", None),
        ("T2-PD.nii.gz", None),
        ("pd_t2_tse.nii.gz", None),
        ("t1_fl2d_tra.nii.gz", "T1w"),
        ("t2_tse_cervical_spine.nii.gz", None),
        ("localizer_t1.nii.gz", None),
        ("Sag_T1_FLAIR.nii.gz", "T1w"),
        ("T1_postcontrast.nii.gz", None),
        ("t1_mprage_km.nii.gz", None),
        ("mp2rage_t1_inv2.nii.gz", None),
        ("flair_to_t1.nii.gz", "FLAIR"),
        ("T1w_in_FLAIR.nii.gz", "T1w"),
        ("QSM_to_FLAIR.nii.gz", None),
        ("chi_FLAIR.nii.gz", "FLAIR"),
        ("PAT01_AX_FLAIR.NII.GZ", "FLAIR"),
        ("PAT01 Ax T1.Nii.gz", "T1w"),
        # Labels that say what the image is.
        ("sub-01_part-mag_FLAIR.nii.gz", "FLAIR"),
        ("sub-01_mt-off_T1w.nii.gz", "T1w"),
        ("sub-01_mt-on_T1w.nii.gz", None),
        ("SUB-01_FLAIR.nii.gz", "FLAIR"),
        ("sub 01 T1.nii", "T1w"),
        # Written together, and as scanners and challenges call them.
        ("T1toFLAIR.nii.gz", "T1w"),
        ("T12FLAIR.nii.gz", "T1w"),
        ("T2toFLAIR.nii.gz", "T2w"),
        ("FLAIR2T1.nii.gz", "FLAIR"),
        ("T1FLAIR.nii.gz", "T1w"),
        ("T2FLAIR.nii.gz", "FLAIR"),
        ("FLAIR_T1.nii.gz", None),
        ("FLAIR_reg2_T1.nii.gz", "FLAIR"),
        ("FLAIR_registered_to_T1.nii.gz", "FLAIR"),
        ("FLAIR_to_atlas_space.nii.gz", "FLAIR"),
        ("3DT1.nii.gz", "T1w"),
        ("T23D.nii.gz", "T2w"),
        ("WIP_sT1W_3D_TFE_SENSE.nii.gz", "T1w"),
        ("Ax_BRAVO.nii.gz", "T1w"),
        ("BraTS-MEN-1-000-t1n.nii.gz", "T1w"),
        ("BraTS-MEN-1-000-t2f.nii.gz", "FLAIR"),
        ("BraTS-MEN-1-000-t1c.nii.gz", None),
        ("T1WI.nii.gz", "T1w"),
        # Before and after contrast agent.
        ("T1_Dotarem.nii.gz", None),
        ("t1_enhanced.nii.gz", None),
        ("T1wCE.nii.gz", None),
        ("T1_pre_contrast.nii.gz", "T1w"),
        ("T1w_without_contrast.nii.gz", "T1w"),
        ("t1_ohne_km.nii.gz", "T1w"),
        ("T1_no_gd.nii.gz", "T1w"),
        # Made from an image by FSL, ANTs, SPM, LST, FreeSurfer and people.
        ("FLAIR_to_T1_mask.nii.gz", None),
        ("FLAIR_reg_mask.nii.gz", None),
        ("FLAIR_mask1.nii.gz", None),
        ("T1_to_MNI_nonlin_field.nii.gz", None),
        ("T1_to_MNI_nonlin_jac.nii.gz", None),
        ("T1_1Warp.nii.gz", None),
        ("T1_1InverseWarp.nii.gz", None),
        ("FLAIR_InverseWarped.nii.gz", None),
        ("FLAIR_Warped.nii.gz", "FLAIR"),
        ("c1FLAIR.nii", None),
        ("mwc2rFLAIR.nii", None),
        ("rmFLAIR.nii", "FLAIR"),
        ("P1_FLAIR.nii", "FLAIR"),
        ("iy_T1w.nii", None),
        ("ples_lpa_mrFLAIR.nii", None),
        ("FLAIR_WMH.nii.gz", None),
        ("FLAIR-les.nii.gz", None),
        ("FLAIR_annotation_JS.nii.gz", None),
        ("FLAIR_groundtruth.nii.gz", None),
        ("FLAIR_prediction.nii.gz", None),
        ("T1_wm.nii.gz", None),
        ("WM_FLAIR.nii.gz", "FLAIR"),
        # People have names, too.
        ("Charles_FLAIR.nii.gz", "FLAIR"),
        ("Annouk_Predrag_T1.nii.gz", "T1w"),
        ("PH_01_T2.nii.gz", "T2w"),
        ("gdansk07_FLAIR.nii.gz", "FLAIR"),
        ("T1_ribbon.nii.gz", None),
        # Other series and other organs.
        ("T2*.nii.gz", None),
        ("T2_*_ax.nii.gz", None),
        ("T2_HEME.nii.gz", None),
        ("FLAIR*.nii.gz", None),
        ("T2_FLAIR_ph.nii.gz", None),
        ("T1_imaginary.nii.gz", None),
        ("t2_spc_DIR_sag.nii.gz", None),
        ("t2_tse_sag_HWS.nii.gz", None),
        ("T2_neck.nii.gz", None),
        ("T2_optic_nerve.nii.gz", None),
        ("FLAIR_ROI1.nii.gz", None),
        ("t2_swi3d_tra_p2.nii.gz", None),
        ("T2_mag.nii.gz", None),
        ("T2_mese_e1.nii.gz", None),
        ("T1_fa5.nii.gz", None),
        ("T1_rho.nii.gz", None),
        ("t2_tse_cor_hippo.nii.gz", None),
        ("t2_wirbelsaeule.nii.gz", None),
        ("memprage_RMS.nii.gz", "T1w"),
        ("t2_tse_e2.nii.gz", "T2w"),
        # With and without contrast agent, in other words.
        ("T1+.nii.gz", None),
        ("T1+C.nii.gz", None),
        ("T1_C-.nii.gz", "T1w"),
        ("T1_nachKM.nii.gz", None),
        ("T1_avec_contraste.nii.gz", None),
        ("T1_sans_contraste.nii.gz", "T1w"),
        ("T1_dopo_mdc.nii.gz", None),
        ("T1_injecte.nii.gz", None),
        # Made of one.
        ("T1_filled.nii.gz", None),
        ("FLAIR_std.nii.gz", None),
        ("T1w_T2w_ratio.nii.gz", None),
        ("Swanson_FLAIR.nii.gz", "FLAIR"),
        ("Rho_Hippolyte_FLAIR.nii.gz", "FLAIR"),
        ("MDC_FLAIR.nii.gz", "FLAIR"),
    ],
)
def test_contrast_of_a_name(name, contrast):
    assert contrast_of(name) == contrast


def test_of_a_double_echo_the_second_is_the_t2w(tmp_path):
    for folder, first, second in (
        ("bids/sub-1", "anat/sub-1_echo-1_T2w.nii.gz", "anat/sub-1_echo-2_T2w.nii.gz"),
        ("plain", "t2_tse_e1.nii.gz", "t2_tse_e2.nii.gz"),
    ):
        flair = "anat/sub-1_FLAIR.nii.gz" if "anat" in first else "flair.nii.gz"
        subject = find_subject(make(tmp_path / folder, first, second, flair))
        assert subject.contrasts["T2w"].name == Path(second).name
        assert f"left out: {Path(first).name}" in subject.chosen()
        assert not subject.contradictions()


@pytest.mark.parametrize("echoes", [("T2_e1", "T2_e2", "T2_e3"), ("T2_e1", "T2_tse_e2"), ("T2", "T2_e2")])
def test_which_of_other_echoes_is_the_t2w_is_asked(tmp_path, echoes):
    with pytest.raises(InputError, match=r"several files may be the T2w \(T2"):
        find_subject(make(tmp_path / "p", "FLAIR.nii", *(f"{echo}.nii" for echo in echoes)))


def test_a_first_echo_alone_is_told(tmp_path):
    subject = find_subject(make(tmp_path / "p", "FLAIR.nii", "T2_e1.nii"))
    [told] = subject.contradictions()
    assert told == f"{tmp_path}/p/T2_e1.nii: a first echo by its name, as a rule proton-density weighted; taken as T2w"


@pytest.mark.parametrize("name", ["qsm_e1.nii.gz", "qsm_echo-1.nii.gz", "sub-1_echo-1_qsm.nii.gz"])
def test_an_echo_is_no_qsm(name):
    assert not is_qsm(name)


def test_bids_subject_with_one_session(tmp_path):
    anat = "ses-02/anat/sub-20_ses-02_"
    make(tmp_path / "sub-20", anat + "FLAIR.nii.gz", anat + "T1w.nii.gz", anat + "FLAIR.json")
    subject = find_subject(tmp_path / "sub-20")
    assert (subject.label, subject.session) == ("20", "02")
    assert names(subject) == {"FLAIR": "sub-20_ses-02_FLAIR.nii.gz", "T1w": "sub-20_ses-02_T1w.nii.gz"}
    for folder in ("ses-02", "ses-02/anat"):
        assert find_subject(tmp_path / "sub-20" / folder) == subject


def test_bids_subject_without_sessions(tmp_path):
    make(tmp_path / "sub-3", "anat/sub-3_FLAIR.nii")
    subject = find_subject(tmp_path / "sub-3")
    assert (subject.label, subject.session) == ("3", None)


def test_several_sessions_are_named(tmp_path):
    make(tmp_path / "sub-12", "ses-01/anat/sub-12_ses-01_FLAIR.nii.gz", "ses-02/anat/sub-12_ses-02_FLAIR.nii.gz")
    with pytest.raises(InputError, match=r"several sessions \(ses-01, ses-02\); give one of them"):
        find_subject(tmp_path / "sub-12")


def test_a_flair_beside_a_session_is_in_neither(tmp_path):
    patient = make(tmp_path / "sub-1", "anat/sub-1_FLAIR.nii", "ses-a/anat/sub-1_ses-a_FLAIR.nii")
    with pytest.raises(InputError, match=r"anat/sub-1_FLAIR.nii: lies beside the session ses-a in .*; give the folder"):
        find_subject(patient)
    assert find_subject(patient / "anat").session is None and find_subject(patient / "ses-a").session == "a"
    with pytest.warns(Remark, match=r"sub-1_FLAIR.nii: in no session, so it is left out; move it into one"):
        assert [visit.session for visit in visits_below(patient)] == ["a"]
    with pytest.warns(Remark, match="in no session, so it is left out"):
        assert [visit.session for visit in find_cohort(tmp_path, validate=False)] == ["a"]


def test_plain_folder(tmp_path):
    folder = make(tmp_path / "Patient 7", "flair.nii.gz", "T1.nii", "t2w.NII.gz", "FLAIR_mask.nii.gz", "notes.txt")
    subject = find_subject(folder)
    assert (subject.label, subject.session) == ("Patient7", None)
    assert names(subject) == {"FLAIR": "flair.nii.gz", "T1w": "T1.nii", "T2w": "t2w.NII.gz"}


def test_hidden_twins_and_folders_are_no_candidates(tmp_path):
    folder = make(tmp_path / "jane", "FLAIR.nii.gz", "._FLAIR.nii.gz", "T1w.nii.gz", "._T1w.nii.gz", "QSM.nii.gz",
                  "._QSM.nii.gz", "QSM_mask.nii.gz", "QSM_magnitude.nii.gz")  # fmt: skip
    (folder / "T2w.nii.gz").mkdir()
    assert names(find_subject(folder)) == {"FLAIR": "FLAIR.nii.gz", "T1w": "T1w.nii.gz"}
    assert find_qsm(folder) == folder / "QSM.nii.gz"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("QSM.nii.gz", True),
        ("chi_ppb.nii", True),
        ("sub-1_ses-mask_Chimap.nii.gz", True),
        ("QSM_to_FLAIR.nii.gz", True),
        ("chi_FLAIR.nii.gz", False),
        ("susceptibility_weighted.nii.gz", False),
        ("QSM_brainmask.nii.gz", False),
        ("sub-1_acq-qsm_T1w.nii.gz", False),
        ("sub-1_part-phase_QSM.nii.gz", False),
        ("SusceptibilityMap.nii.gz", True),
        ("qsmmap.nii", True),
        ("T2star_QSM.nii.gz", True),
        ("QSM_T2star.nii.gz", False),
        ("QSM_R2star.nii.gz", False),
        ("QSM_rdf.nii.gz", False),
        ("QSM_mag1.nii.gz", False),
        ("QSM_ph2.nii.gz", False),
        ("chi-separation_pos.nii.gz", False),
        ("chi_para.nii.gz", False),
        ("QSM_rims.nii.gz", False),
        ("Magdalena_QSM.nii.gz", True),
        ("Diana_QSM.nii.gz", True),
    ],
)
def test_qsm_by_its_name(name, known):
    assert is_qsm(name) == known


def test_what_was_chosen_and_left_out_is_told(tmp_path):
    folder = make(tmp_path / "jane", "FLAIR.nii.gz", "t2_tse.nii.gz", "t2_fl2d_hemo.nii.gz", "FLAIR_mask.nii.gz")
    told = (
        f"FLAIR: {folder}/FLAIR.nii.gz, T2w: {folder}/t2_tse.nii.gz; left out: FLAIR_mask.nii.gz, t2_fl2d_hemo.nii.gz"
    )
    assert find_subject(folder).chosen() == told


@given(name=st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_name_breaks_the_search(name, tmp_path_factory):
    """Whatever files are called, a folder gives a subject with a label that BIDS allows, or one message."""
    assume(name not in (".", "..") and len(os.fsencode(name)) < 200)
    assert contrast_of(name) in {*CONTRASTS, None} and is_qsm(name) in (True, False)
    folder = tmp_path_factory.mktemp("names") / name
    make(folder, f"{name}.nii.gz", f"{name}_FLAIR.nii.gz", f"sub-1_{name}_T1w.nii")
    try:
        subject = find_subject(folder)
    except InputError as error:
        assert str(error).startswith(f"{folder}: ")
    else:
        assert subject.label.isalnum() and subject.label.isascii() and "FLAIR" in subject.contrasts


def test_pd_weighted_images_are_for_networks_that_know_them(tmp_path):
    folder = make(tmp_path, "flair_pp.nii", "mprage_pp.nii", "t2_pp.nii", "pd_pp.nii")
    subject = find_subject(folder)
    assert names(subject.for_network(["FLAIR"])) == names(subject)
    assert list(subject.contrasts) == ["FLAIR", "T1w", "T2w"]
    assert names(subject.for_network(["FLAIR", "PDw"])) == names(subject) | {"PDw": "pd_pp.nii"}
    make(tmp_path, "PD.nii")
    assert find_subject(folder).for_network(["FLAIR"]).contrasts == subject.contrasts
    with pytest.raises(InputError, match=r"several files may be the PDw \(PD.nii, pd_pp.nii\)"):
        find_subject(folder).for_network(["PDw"])


def test_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path / "jane", "FLAIR.nii.gz"))
    subject = find_subject(Path())
    assert subject.label == "jane"
    assert subject.contrasts["FLAIR"] == tmp_path / "jane" / "FLAIR.nii.gz"


def test_results_in_the_subject_folder_are_not_inputs(tmp_path):
    make(tmp_path / "sub-12", "anat/sub-12_FLAIR.nii.gz", "anat/sub-12_space-orig_label-L_probseg.nii.gz")
    assert list(find_subject(tmp_path / "sub-12").contrasts) == ["FLAIR"]


def test_several_candidates_are_named(tmp_path):
    make(tmp_path, "FLAIR.nii.gz", "FLAIR_brain.nii.gz")
    with pytest.raises(InputError, match=r"several files may be the FLAIR \(FLAIR.nii.gz, FLAIR_brain.nii.gz\)"):
        find_subject(tmp_path)


def test_one_file_under_two_names_is_one_candidate(tmp_path):
    make(tmp_path / "jane", "FLAIR.nii.gz").joinpath("FLAIR_link.nii.gz").symlink_to("FLAIR.nii.gz")
    assert names(find_subject(tmp_path / "jane")) == {"FLAIR": "FLAIR.nii.gz"}


@pytest.mark.parametrize(
    ("flair", "other", "what"),
    [
        ("sub-1/anat/sub-2_FLAIR.nii", None, "patient sub-2 by its name and of sub-1 by its folder"),
        ("sub-1/ses-1/anat/sub-1_ses-2_FLAIR.nii", None, "visit ses-2 by its name and of ses-1 by its folder"),
        ("sub-1/anat/sub-1_FLAIR.nii", "sub-1/anat/sub-2_T1w.nii", "patient sub-2 by its name and of sub-1 by"),
        (
            "x/sub-1_ses-1_FLAIR.nii",
            "x/sub-1_ses-2_T1w.nii",
            "ses-2 by its name and of ses-1 by sub-1_ses-1_FLAIR",
        ),
    ],
)
def test_images_of_another_patient_or_visit_in_the_folder(tmp_path, flair, other, what):
    make(tmp_path, flair, *([other] if other else []))
    with pytest.raises(InputError, match=what):
        find_subject((tmp_path / flair).parent)


def test_a_qsm_of_another_patient(tmp_path):
    with pytest.raises(InputError, match="patient sub-2 by its name and of sub-1 by its folder"):
        find_qsm(make(tmp_path / "sub-1", "anat/sub-2_Chimap.nii.gz"))


def test_an_image_of_another_patient_or_visit_is_told():
    given = {
        "FLAIR": Path("/d/sub-1_ses-a_FLAIR.nii"),
        "T1w": Path("/d/sub-2/T1w.nii"),
        "T2w": Path("/d/ses-b/T2w.nii"),
    }
    assert Subject("1", "a", given).contradictions() == [
        "/d/sub-2/T1w.nii: is of sub-2 by its name, the FLAIR of sub-1",
        "/d/ses-b/T2w.nii: is of ses-b by its name, the FLAIR of ses-a",
    ]


@pytest.mark.parametrize(
    ("contrast", "name", "sidecar", "told"),
    [
        ("FLAIR", "t1_mprage.nii.gz", b"{}", "is called like a T1w and taken as FLAIR"),
        (
            "FLAIR",
            "x.nii.gz",
            b'{"SeriesDescription": "t1_mprage_sag"}',
            "'t1_mprage_sag', a T1w; taken as FLAIR",
        ),
        ("T2w", "T2w.nii", b'\xef\xbb\xbf{"ProtocolName": "t2_space_dark-fluid"}', "a FLAIR; taken as T2w"),
        ("T1w", "T1w.nii.gz", b'{"ContrastBolusIngredient": "GADOLINIUM"}', "after contrast agent by its sidecar"),
        ("T1w", "T1_Gadovist.nii.gz", b"[]", "after contrast agent by its name"),
        ("T1w", "T1_pre_gd.nii.gz", b'{"SeriesDescription": "Sag T1 FLAIR", "ContrastBolusIngredient": ""}', None),
        ("FLAIR", "FLAIR.nii", b'{"SeriesDescription": "K\xf6ln t1"}', None),
        ("FLAIR", "FLAIR.nii", b'{"SeriesDescription": null, "ProtocolName": "Head^MS"}', None),
    ],
)
def test_what_names_and_sidecars_say_against_an_image(tmp_path, contrast, name, sidecar, told):
    (tmp_path / f"{name.split('.')[0]}.json").write_bytes(sidecar)
    said = Subject("1", None, {contrast: tmp_path / name}).contradictions()
    assert len(said) == (told is not None) and all(str(tmp_path / name) in text and told in text for text in said)


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("FLAIR.mgz", "no NIfTI files, but FLAIR.mgz, which must be converted"),
        ("FLAIR.img", "no NIfTI files, but FLAIR.img"),
        ("IM1.DCM", "no NIfTI files, but IM1.DCM"),
        ("nifti/FLAIR.nii.gz", "but there are some in its folder nifti"),
    ],
)
def test_a_folder_without_nifti_files_says_what_is_there(tmp_path, file, what):
    with pytest.raises(InputError, match=what):
        find_subject(make(tmp_path, file))


def test_no_flair(tmp_path):
    make(tmp_path, "T1w.nii.gz", "bold.nii.gz")
    with pytest.raises(InputError, match=r"no FLAIR among T1w.nii.gz, bold.nii.gz|no FLAIR among bold"):
        find_subject(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(InputError, match="no FLAIR among no NIfTI files"):
        find_subject(tmp_path)


def test_not_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_subject(tmp_path / "nobody")
    make(tmp_path, "FLAIR.nii.gz")
    with pytest.raises(InputError, match="is a file, not a folder; name files with --flair"):
        find_subject(tmp_path / "FLAIR.nii.gz")


def test_files_by_name():
    subject = subject_from_files(Path("/data/sub-04/ses-01/anat/x.nii"), t2=Path("/data/t2.nii"))
    assert (subject.label, subject.session) == ("04", "01")
    assert subject.contrasts == {"FLAIR": Path("/data/sub-04/ses-01/anat/x.nii"), "T2w": Path("/data/t2.nii")}
    assert subject_from_files(Path("/scan.nii")).label == "unnamed"
    assert subject_from_files(Path("/data/sub-01-A/scan.nii")).label == "01A"


def test_paths_of_results():
    subject = Subject("12", "01", {})
    out = Path("out")
    assert subject.folder(out) == Path("out/sub-12/ses-01")
    mask = subject.output(out, "space-orig_label-L_mask.nii.gz")
    assert mask == Path("out/sub-12/ses-01/anat/sub-12_ses-01_space-orig_label-L_mask.nii.gz")
    transform = subject.output(out, "from-T1w_to-FLAIR_mode-image_xfm.txt")
    assert transform == Path("out/sub-12/ses-01/xfm/sub-12_ses-01_from-T1w_to-FLAIR_mode-image_xfm.txt")


def test_dataset_description(tmp_path):
    content = json.loads(write_dataset_description(tmp_path).read_text())
    assert (content["DatasetType"], content["GeneratedBy"][0]["Name"]) == ("derivative", "msrim")


def test_spaces_are_described_if_there_are_images_in_them(tmp_path):
    """The BIDS validator asks for it, and wants no description of what is not there."""
    for path in ("sub-1/anat/sub-1_space-orig_desc-brain_mask.nii.gz", "sub-1/anat/sub-1_space-Chimap_dseg.nii.gz",
                 "sub-2/ses-1/anat/sub-2_ses-1_space-orig_dseg.nii.gz"):  # fmt: skip
        write_text("", tmp_path / path)
    write_dataset_description(tmp_path)
    described = {path.name: json.loads(path.read_text())["SpatialReference"] for path in tmp_path.glob("space-*.json")}
    flair = "FLAIR of the same visit, as it was given"
    qsm = "Susceptibility map of the same visit, as it was given"
    assert described == {"space-orig_mask.json": flair, "space-orig_dseg.json": flair, "space-Chimap_dseg.json": qsm}


def test_training_knows_the_looks_of_every_contrast():
    """A new contrast needs an entry in each table there, and nothing else anywhere."""
    tables = {name: table for name, table in vars(contrasts).items() if isinstance(table, dict) and name.isupper()}
    assert len(tables) > 5
    assert {name: sorted(table) for name, table in tables.items()} == dict.fromkeys(tables, sorted(CONTRASTS))


def test_every_raw_visit_of_the_shared_data(shared_data):
    for session in sorted((shared_data / "bids").glob("sub-*/ses-*")):
        subject = find_subject(session)
        assert f"sub-{subject.label}/ses-{subject.session}" == session.relative_to(shared_data / "bids").as_posix()
        assert len(subject.contrasts) == len(list(session.rglob("*.nii.gz")))

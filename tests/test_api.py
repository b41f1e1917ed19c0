"""``import msrim``: what is offered, and what is wrong with an input. Whole runs are in the doctests and workflows."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import msrim
from msrim.bids import Subject
from msrim.results import comparison_of, read_table, rims_of, segmentation_of


def test_what_is_offered_is_there():
    assert dir(msrim) == msrim.__all__
    assert all(hasattr(msrim, name) for name in msrim.__all__)
    with pytest.raises(AttributeError, match="no attribute 'segmentation'"):
        _ = msrim.segmentation


@pytest.mark.parametrize("command", ["segment", "rim_classify", "longitudinal"])
def test_every_option_of_the_command_line_is_an_argument(command):
    from msrim.cli import longitudinal, rims, segment

    on_the_line = {
        "segment": segment.segment,
        "rim_classify": rims.rim_classify,
        "longitudinal": longitudinal.longitudinal,
    }
    options = [
        set(inspect.signature(function).parameters) for function in (on_the_line[command], getattr(msrim, command))
    ]
    assert options[0] == options[1]


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(msrim.MsrimError, match="nobody: no such folder"):
        msrim.segment(tmp_path / "nobody")
    with pytest.raises(msrim.MsrimError, match="no subject; give a folder with FLAIR and QSM"):
        msrim.rim_classify(flair="flair.nii")
    with pytest.raises(msrim.MsrimError, match="one visit is not enough"):
        msrim.longitudinal([str(tmp_path)])


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: msrim.segment(5), "a int where a path is needed"),
        (lambda: msrim.segment(""), "an empty text where a path is needed"),
        (lambda: msrim.segment(np.zeros((2, 2, 2))), "a ndarray where a path is needed"),
        (lambda: msrim.segment("a", out=3), "a: no such folder|a int where"),
        (lambda: msrim.segment("a", recipe={"threshold": 0.4}), "no such folder|a dict where"),
        (lambda: msrim.run(["a", "b"]), "a list where a path is needed"),
        (lambda: msrim.longitudinal("a"), "a: one visit is not enough; give a list"),
        (lambda: msrim.longitudinal({"a", "b"}), "a set of visits has no order"),
        (lambda: msrim.longitudinal(None), "a NoneType of visits has no order"),
        (lambda: msrim.longitudinal(["a", 5]), "a int where a path is needed"),
    ],
)
def test_wrong_arguments_are_one_clear_error(call, what):
    with pytest.raises(msrim.MsrimError, match=what) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_the_user_s_folder_is_known_as_in_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(msrim.MsrimError, match=f"{tmp_path}/nobody: no such folder"):
        msrim.segment("~/nobody")


def test_results_are_absolute_and_cannot_be_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other, out = Subject("1", "a", {}), Subject("1", "b", {}), Path("out")
    for result in (segmentation_of(one, out), rims_of(one, out), comparison_of(one, other, out)):
        paths = [value for value in vars(result).values() if isinstance(value, Path)]
        assert len(paths) > 4 and all(path.is_relative_to(tmp_path / "out" / "sub-1") for path in paths)
        with pytest.raises(FrozenInstanceError):
            result.folder = tmp_path


def test_tables_know_what_was_not_assessed(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text(
        "id\tregion\trim_probability\trim\tchange\tmatched_id\n1\tNone\t0.5\ttrue\tn/a\t4\n2\tx\tn/a\tn/a\tnew\tn/a\n"
    )
    table = read_table(path)
    assert table.index.tolist() == [1, 2] and table.loc[1, "region"] == "None"
    assert table.loc[1, "rim"] is True or bool(table.loc[1, "rim"])
    assert pd.isna(table.loc[2, "rim"]) and pd.isna(table.loc[2, "matched_id"]) and table.loc[1, "matched_id"] == 4
    assert table["rim_probability"].dtype == float
    path.write_text("id\tses-1_ids\tses-1_rim\n1\t4\tn/a\n2\tn/a\tfalse\n3\t5,6\ttrue\n")
    table = read_table(path)
    assert table["ses-1_ids"].fillna("").tolist() == ["4", "", "5,6"]
    assert table["ses-1_rim"].fillna(True).tolist() == [True, False, True]
    path.write_text("id\trim\n")
    assert read_table(path).empty

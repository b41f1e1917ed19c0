"""The table of lesions and its totals."""

import json
from dataclasses import fields, replace
from decimal import Decimal

import numpy as np
import pytest
import SimpleITK as sitk

from msrim.image import Volume, read_volume, to_sitk
from msrim.lesions.measure import LESION_COLUMNS, Lesion, measure_lesions, summarise, write_lesions_tsv
from msrim.lesions.split import label_lesions

HEADER = (
    "id\tvolume_mm3\tcentre_x_mm\tcentre_y_mm\tcentre_z_mm\tdiameter_mm\tregion\tdistance_to_ventricle_mm\t"
    "distance_to_cortex_mm\tmean_probability\trim_probability\trim\tchange\tmatched_id\n"
)


def two_lesions() -> tuple[Volume, Volume, Volume]:
    """3 mm slices stored to the left; a bar of four voxels at a ventricle and a single voxel, numbered 1 and 3."""
    affine = np.array([[-0.5, 0, 0, 20], [0, 0.5, 0, -10], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    instances = np.zeros((60, 40, 20), dtype=np.int32)
    instances[10, 10:14, 5] = 1
    instances[40, 30, 15] = 3
    probability = np.full(instances.shape, 0.25, dtype=np.float32)
    probability[10, 10:14, 5] = 0.6, 0.7, 0.8, 0.9
    labels = np.full(instances.shape, 5, dtype=np.uint8)
    labels[:10, :, :10] = 2
    labels[10, 10:14, 5] = 3
    instances = Volume(instances, affine)
    return instances, instances.like(probability), instances.like(labels)


def test_every_column_of_a_case_done_by_hand():
    instances, probability, labels = two_lesions()
    first, second = measure_lesions(instances, probability=probability, labels=labels)
    assert first == Lesion(
        id=1,
        volume_mm3=3.0,
        centre_x_mm=15.0,
        centre_y_mm=-4.25,
        centre_z_mm=20.0,
        # Between the top of one end and the bottom of the other: 1.5 mm on, 3 mm down.
        diameter_mm=3.35,
        region="periventricular",
        distance_to_ventricle_mm=0.0,
        distance_to_cortex_mm=None,
        mean_probability=0.75,
    )
    # From x = 40 to the voxels that border the ventricle at x = 10: 15 mm; from z = 15 to 10: 15 mm.
    assert second == Lesion(3, 0.75, 0.0, 5.0, 50.0, 3.0, "deep white matter", 21.21, None, 0.25)


def test_diameter_of_a_ball():
    x, y, z = np.indices((30, 30, 30)) - 14.5
    instances = Volume((x**2 + y**2 + z**2 <= 100).astype(np.int32), np.eye(4))
    like = {"probability": instances, "labels": instances.like(np.full(instances.shape, 5))}
    (ball,) = measure_lesions(instances, **like)
    assert 20 <= ball.diameter_mm <= 21  # centres within 10 mm; the faces of voxels lie half a voxel further out


def test_the_table_as_text(tmp_path):
    instances, probability, labels = two_lesions()
    lesions = measure_lesions(instances, probability=probability, labels=labels)
    lesions[1] = replace(lesions[1], rim_probability=0.5, rim=True, change="new", matched_id=7)
    path = write_lesions_tsv(lesions, tmp_path / "sub-1_desc-lesions.tsv")
    assert path.read_bytes().decode() == HEADER + (
        "1\t3.000\t15.00\t-4.25\t20.00\t3.35\tperiventricular\t0.00\tn/a\t0.7500\tn/a\tn/a\tn/a\tn/a\n"
        "3\t0.750\t0.00\t5.00\t50.00\t3.00\tdeep white matter\t21.21\tn/a\t0.2500\t0.5000\ttrue\tnew\t7\n"
    )


def test_no_lesion_is_a_header_alone_and_zero_totals(tmp_path):
    empty = Volume(np.zeros((20, 20, 20), dtype=np.int32), np.eye(4))
    assert measure_lesions(empty, probability=empty, labels=empty) == []
    assert write_lesions_tsv([], tmp_path / "t.tsv").read_bytes().decode() == HEADER
    summary = summarise([])
    assert summary["lesions"] == 0
    assert summary["volume_mm3"] == 0.0
    assert summary["regions_met"] == []
    assert summary["regions"]["juxtacortical"] == {"lesions": 0, "volume_mm3": 0.0}


def test_columns_described_are_the_fields_and_can_be_json():
    assert list(LESION_COLUMNS) == [field.name for field in fields(Lesion)]
    assert all(column["Description"] for column in json.loads(json.dumps(LESION_COLUMNS)).values())
    millimetres = {name for name, column in LESION_COLUMNS.items() if "Units" in column}
    assert millimetres == {name for name in LESION_COLUMNS if name.endswith(("_mm", "_mm3"))}


def test_regions_met_are_those_of_the_criteria():
    instances, probability, labels = two_lesions()
    lesion = measure_lesions(instances, probability=probability, labels=labels)[0]
    rows = [
        replace(lesion, region=r) for r in ("juxtacortical", "deep white matter", "juxtacortical", "infratentorial")
    ]
    summary = summarise(rows)
    assert summary["regions_met"] == ["juxtacortical", "infratentorial"]
    assert summary["dissemination_in_space"] == (
        "lesions in 2 of the brain's three regions (juxtacortical, infratentorial); "
        "spinal cord and optic nerve not assessed"
    )
    assert summary["regions"]["juxtacortical"] == {"lesions": 2, "volume_mm3": 6.0}
    assert summary["use"] == "research use only"


@pytest.mark.parametrize("voxel_mm3", [1.0, 0.9375**2 * 3, 1 / 3])
def test_rows_add_up_to_the_totals_exactly(tmp_path, voxel_mm3):
    rng = np.random.default_rng(0)
    mask = rng.random((40, 40, 20)) < 0.02
    affine = np.diag([1.0, 1.0, voxel_mm3, 1.0])
    instances = Volume(label_lesions(mask), affine)
    labels = instances.like(rng.choice([2, 3, 5, 8], size=(40, 1, 1)) * np.ones(mask.shape, dtype=int))
    lesions = measure_lesions(instances, probability=instances.like(rng.random(mask.shape)), labels=labels)
    assert len(lesions) > 300
    header, *rows = (
        line.split("\t") for line in write_lesions_tsv(lesions, tmp_path / "t.tsv").read_text().splitlines()
    )
    summary = summarise(lesions)
    volumes = [Decimal(row[header.index("volume_mm3")]) for row in rows]
    assert sum(volumes) == Decimal(str(summary["volume_mm3"]))
    assert float(sum(volumes)) == pytest.approx(mask.sum() * voxel_mm3, abs=len(rows) * 0.0005 + 1e-9)
    for name, total in summary["regions"].items():
        inside = [v for v, row in zip(volumes, rows, strict=True) if row[header.index("region")] == name]
        assert len(inside) == total["lesions"]
        assert sum(inside) == Decimal(str(total["volume_mm3"]))


def test_a_patients_lesions_measured_another_way(shared_data):
    mask = read_volume(
        shared_data / "mni/sub-openms07/anat/sub-openms07_space-MNI152_label-L_desc-expert_mask.nii.gz", mask=True
    )
    instances = mask.like(label_lesions(mask.data))
    lesions = measure_lesions(
        instances,
        probability=mask.like(mask.data.astype(np.float32)),
        labels=mask.like(np.full(mask.shape, 5, np.uint8)),
    )
    assert len(lesions) == 37
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.ComputeFeretDiameterOn()
    shape.Execute(to_sitk(instances))
    for lesion in lesions:
        x, y, z = shape.GetCentroid(lesion.id)
        assert (lesion.centre_x_mm, lesion.centre_y_mm, lesion.centre_z_mm) == pytest.approx((-x, -y, z), abs=0.006)
        assert lesion.volume_mm3 == pytest.approx(shape.GetPhysicalSize(lesion.id), abs=0.001)
        # ITK measures between voxel centres.
        assert 0.5 <= lesion.diameter_mm - shape.GetFeretDiameter(lesion.id) <= 1.01
        assert lesion.mean_probability == 1.0

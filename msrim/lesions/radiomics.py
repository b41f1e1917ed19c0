"""Radiomic features of lesions on QSM, by pyradiomics: always the same 527, in one order.

14 of shape, and of the image and its eight coif1 wavelet bands each 18 first-order features, 23 of the grey-level
co-occurrence matrix (SumAverage is twice JointAverage and left out) and 16 of the run-length matrix (Zhang et al. 2022,
section 2.2.2). The image is given to pyradiomics in ppb.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from msrim.errors import BackendError
from msrim.files import written_atomically
from msrim.image import Volume, bounding_boxes, to_sitk

BIN_WIDTH_PPB = 10.0
# Wavelets see this far around the lesion, in voxels; what lies beyond doesn't count.
MARGIN = 8
# Starting another process takes as long as some 40 lesions do.
LESIONS_WORTH_A_PROCESS = 60

SHAPE = (
    "Elongation", "Flatness", "LeastAxisLength", "MajorAxisLength", "Maximum2DDiameterColumn", "Maximum2DDiameterRow",
    "Maximum2DDiameterSlice", "Maximum3DDiameter", "MeshVolume", "MinorAxisLength", "Sphericity", "SurfaceArea",
    "SurfaceVolumeRatio", "VoxelVolume",
)  # fmt: skip
FIRST_ORDER = (
    "10Percentile", "90Percentile", "Energy", "Entropy", "InterquartileRange", "Kurtosis", "Maximum",
    "MeanAbsoluteDeviation", "Mean", "Median", "Minimum", "Range", "RobustMeanAbsoluteDeviation", "RootMeanSquared",
    "Skewness", "TotalEnergy", "Uniformity", "Variance",
)  # fmt: skip
GLCM = (
    "Autocorrelation", "ClusterProminence", "ClusterShade", "ClusterTendency", "Contrast", "Correlation",
    "DifferenceAverage", "DifferenceEntropy", "DifferenceVariance", "Id", "Idm", "Idmn", "Idn", "Imc1", "Imc2",
    "InverseVariance", "JointAverage", "JointEnergy", "JointEntropy", "MCC", "MaximumProbability", "SumEntropy",
    "SumSquares",
)  # fmt: skip
GLRLM = (
    "GrayLevelNonUniformity", "GrayLevelNonUniformityNormalized", "GrayLevelVariance", "HighGrayLevelRunEmphasis",
    "LongRunEmphasis", "LongRunHighGrayLevelEmphasis", "LongRunLowGrayLevelEmphasis", "LowGrayLevelRunEmphasis",
    "RunEntropy", "RunLengthNonUniformity", "RunLengthNonUniformityNormalized", "RunPercentage", "RunVariance",
    "ShortRunEmphasis", "ShortRunHighGrayLevelEmphasis", "ShortRunLowGrayLevelEmphasis",
)  # fmt: skip
IMAGES = ("original", *("wavelet-" + "".join(band) for band in product("LH", repeat=3)))
FEATURES = (
    *(f"original_shape_{name}" for name in SHAPE),
    *(
        f"{image}_{kind}_{name}"
        for image in IMAGES
        for kind, names in (("firstorder", FIRST_ORDER), ("glcm", GLCM), ("glrlm", GLRLM))
        for name in names
    ),
)
FIRST_ORDER_COLUMNS = [FEATURES.index(f"original_firstorder_{name}") for name in FIRST_ORDER]


def lesion_features(
    qsm: Volume,
    instances: Volume,
    *,
    first_order: bool = False,
    cache: Path | None = None,
    workers: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """The features of every lesion.

    Parameters
    ----------
    qsm : Volume of float, ppm
    instances : Volume of int
        On the same grid; 0 outside lesions.
    first_order : bool
        Only the 18 first-order features of the image itself, which take far less time; the others are NaN.
    cache : Path, optional
        Folder in which results are kept; the same images give them back at once.
    workers : int, optional
        Processes; one for every core if not given, as far as there are lesions enough to pay for them.
    report : callable
        Gets the number of lesions done and that of all.

    Returns
    -------
    (lesions, 527) float64
        In ascending order of the lesions' numbers. NaN where a feature is not defined: a lesion of one voxel has none.

    Raises
    ------
    BackendError
        pyradiomics is not installed.
    """
    what = "first-order" if first_order else "radiomics"
    kept = None if cache is None else cache / f"{what}-{_digest(qsm, instances)}.npy"
    if kept is not None and kept.is_file():
        return np.load(kept, allow_pickle=False)
    _extractor(first_order)
    measure = partial(_features, first_order=first_order)
    lesions = list(_lesions(qsm, instances))
    rows = np.full((len(lesions), len(FEATURES)), np.nan)
    workers = min(workers or len(os.sched_getaffinity(0)), 1 + len(lesions) // LESIONS_WORTH_A_PROCESS)
    if workers == 1:
        for number, lesion in enumerate(lesions):
            rows[number] = measure(lesion)
            report(number + 1, len(lesions))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for number, row in enumerate(pool.map(measure, lesions, chunksize=8)):
                rows[number] = row
                report(number + 1, len(lesions))
    if kept is not None:
        with written_atomically(kept) as temporary:
            np.save(temporary, rows, allow_pickle=False)
    return rows


def _lesions(qsm: Volume, instances: Volume) -> Iterator[tuple[Volume, Volume]]:
    """Each lesion's surroundings in ppb, and its mask."""
    for number, box in bounding_boxes(instances.data, margin=MARGIN).items():
        # Lengths matter to the shape features, place and turn don't.
        affine = np.diag([*qsm.spacing, 1.0])
        yield Volume(1000 * qsm.data[box], affine), Volume(instances.data[box] == number, affine)


def _features(lesion: tuple[Volume, Volume], *, first_order: bool) -> np.ndarray:
    image, mask = lesion
    if np.count_nonzero(mask.data) < 2:
        return np.full(len(FEATURES), np.nan)
    found = _extractor(first_order).execute(to_sitk(image), to_sitk(mask))
    return np.array([float(found.get(name, np.nan)) for name in FEATURES])


@cache
def _extractor(first_order: bool) -> Any:
    try:
        import radiomics
        from radiomics.featureextractor import RadiomicsFeatureExtractor
    except ImportError as error:
        raise BackendError(
            "pyradiomics is not installed; `make` installs it (see pipelines/README.md), or choose --model datrnet"
        ) from error
    radiomics.setVerbosity(50)
    extractor = RadiomicsFeatureExtractor(binWidth=BIN_WIDTH_PPB, minimumROIDimensions=1, additionalInfo=False)
    extractor.disableAllImageTypes()
    extractor.disableAllFeatures()
    if first_order:
        extractor.enableImageTypes(Original={})
        extractor.enableFeaturesByName(firstorder=list(FIRST_ORDER))
        return extractor
    extractor.enableImageTypes(Original={}, Wavelet={"wavelet": "coif1"})
    extractor.enableFeaturesByName(shape=list(SHAPE), firstorder=list(FIRST_ORDER), glcm=list(GLCM), glrlm=list(GLRLM))
    return extractor


def _digest(qsm: Volume, instances: Volume) -> str:
    digest = hashlib.sha256(" ".join(FEATURES).encode())
    digest.update(f"{BIN_WIDTH_PPB} {MARGIN} {qsm.spacing.round(4).tolist()}".encode())
    for data in (qsm.data.astype(np.float32), instances.data.astype(np.int32)):
        digest.update(np.ascontiguousarray(data).tobytes())
    return digest.hexdigest()[:16]

"""Constants of training by contrast: a new one gets an entry in every table here, and file names in `msrim.bids`."""

from __future__ import annotations

# How lesions differ from the tissue around them, in robust standard deviations of the brain's tissue: darker in T1w,
# brighter in T2w. The ranges hold the 5th to 95th percentile of what raters marked, with room on both sides. PDw takes
# T2w's, seen in no patient: by the signal of a spin echo (TR 4.2 s; TE 12 and 80 ms, as in ISBI-2015) a lesion differs
# from white matter 1.8 and 1.9 times as much as grey matter does.
PAINTED_CONTRAST = {"FLAIR": (0.9, 4.5), "T1w": (-2.6, 0.0), "T2w": (0.3, 4.5), "PDw": (0.3, 4.5)}
# Factors of real lesions' contrast: a site's sequence decides how much they stand out, and there are few
# sites.
CHANGED_CONTRAST = {"FLAIR": (-1.0, 0.7), "T1w": (-0.5, 0.5), "T2w": (-0.8, 0.6), "PDw": (-0.8, 0.6)}
# The same for grey matter and for CSF beside white matter.
CHANGED_GREY = {"FLAIR": (-0.7, 1.0), "T1w": (-0.7, 0.7), "T2w": (-0.7, 0.7), "PDw": (-0.7, 0.7)}
CHANGED_CSF = {"FLAIR": (-1.0, 1.5), "T1w": (-1.0, 1.0), "T2w": (-1.5, 1.5), "PDw": (-1.5, 1.5)}
# Caps and bands around the ventricles, which healthy people have too; as bright as lesions.
CAP_CONTRAST = {"FLAIR": (0.5, 4.0), "T1w": (-1.2, 0.2), "T2w": (0.0, 2.5), "PDw": (0.0, 2.5)}
# Chance that a contrast which the patient has is withheld. FLAIR is what a lesion is defined on and always stays.
DROPOUT = {"FLAIR": 0.0, "T1w": 0.4, "T2w": 0.5, "PDw": 0.5}
# Structures that share a signal, by their FreeSurfer values, left and right as one; each gets its own random intensity.
# Means in T1w, T2w, FLAIR and PDw on a scale of 0 to 1. From 507 on they are tissues outside the brain.
STRUCTURES = (
    ((24,), (0.15, 0.95, 0.12, 0.6)),  # CSF
    ((4, 43, 5, 44, 14, 15, 72), (0.13, 0.95, 0.1, 0.62)),  # ventricles
    ((136, 137, 163, 164), (0.3, 0.7, 0.35, 0.64)),
    ((3, 42), (0.45, 0.55, 0.55, 0.65)),  # cortex
    ((17, 18, 53, 54), (0.45, 0.55, 0.58, 0.65)),  # hippocampus and amygdala
    ((10, 49), (0.52, 0.48, 0.5, 0.62)),  # thalamus
    ((11, 50, 26, 58), (0.48, 0.5, 0.52, 0.64)),  # caudate and accumbens
    ((12, 51), (0.52, 0.45, 0.5, 0.61)),  # putamen
    ((13, 52), (0.6, 0.35, 0.45, 0.55)),  # pallidum
    ((2, 41), (0.72, 0.35, 0.42, 0.57)),  # white matter
    ((25, 57), (0.5, 0.65, 0.85, 0.71)),  # lesions
    ((28, 60), (0.65, 0.4, 0.45, 0.58)),  # ventral diencephalon
    ((8, 47), (0.45, 0.52, 0.55, 0.65)),  # cerebellar cortex
    ((7, 46), (0.68, 0.35, 0.43, 0.57)),  # cerebellar white matter
    ((16,), (0.65, 0.4, 0.47, 0.6)),  # brainstem
    ((30, 62, 85), (0.3, 0.6, 0.35, 0.45)),  # vessels and chiasm
    ((507,), (0.4, 0.3, 0.35, 0.5)),
    ((511,), (0.85, 0.5, 0.55, 0.6)),
    ((515,), (0.1, 0.08, 0.06, 0.06)),
    ((516,), (0.6, 0.35, 0.35, 0.45)),
    ((509,), (0.2, 0.9, 0.2, 0.6)),
    ((506,), (0.2, 0.9, 0.2, 0.6)),
    ((514,), (0.4, 0.2, 0.25, 0.3)),
    ((512,), (0.6, 0.4, 0.4, 0.5)),
    ((502,), (0.4, 0.6, 0.3, 0.5)),
    ((508,), (0.4, 0.4, 0.35, 0.45)),
    ((530,), (0.5, 0.35, 0.3, 0.4)),
)
TISSUES = tuple(values for values, _ in STRUCTURES)
SIGNAL = {name: tuple(means[k] for _, means in STRUCTURES) for k, name in enumerate(("T1w", "T2w", "FLAIR", "PDw"))}

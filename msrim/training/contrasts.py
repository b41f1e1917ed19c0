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
# Structures that share a signal; each gets its own random intensity. Left and right are the same tissue.
TISSUES = (
    (24,), (4, 43, 5, 44, 14, 15, 72), (136, 137, 163, 164), (3, 42), (17, 18, 53, 54), (10, 49), (11, 50, 26, 58),
    (12, 51), (13, 52), (2, 41), (25, 57), (28, 60), (8, 47), (7, 46), (16,), (30, 62, 85), (507,), (511,), (515,),
    (516,), (509,), (506,), (514,), (512,), (502,), (508,), (530,),
)  # fmt: skip
# Means of those structures, in the same order, on a scale of 0 to 1.
SIGNAL = {
    "T1w": (.15, .13, .3, .45, .45, .52, .48, .52, .6, .72, .5, .65, .45, .68, .65, .3, .4, .85, .1, .6, .2, .2, .4, .6,
            .4, .4, .5),
    "T2w": (.95, .95, .7, .55, .55, .48, .5, .45, .35, .35, .65, .4, .52, .35, .4, .6, .3, .5, .08, .35, .9, .9, .2, .4,
            .6, .4, .35),
    "FLAIR": (.12, .1, .35, .55, .58, .5, .52, .5, .45, .42, .85, .45, .55, .43, .47, .35, .35, .55, .06, .35, .2, .2,
              .25, .4, .3, .35, .3),
    "PDw": (.6, .62, .64, .65, .65, .62, .64, .61, .55, .57, .71, .58, .65, .57, .6, .45, .5, .6, .06, .45, .6, .6, .3,
            .5, .5, .45, .4),
}  # fmt: skip

"""``msrim simulate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from msrim.cli.options import Quiet


class Part(StrEnum):
    """Which heads and lesions of the bank a rim cohort is made of."""

    all = "all"
    train = "train"
    test = "test"


app = typer.Typer(help="Make patients whose truth is known.", no_args_is_help=True)


@app.callback()
def simulate() -> None:
    """Make patients whose truth is known."""


@app.command()
def subject(
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for the patient; made if missing.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed gives another patient.")] = 0,
    lesion_free: Annotated[bool, typer.Option("--lesion-free", help="A head without any lesion.")] = False,
) -> None:
    """Make a whole-head patient with lesions, with a scanner's images. Prints the path of its folder."""
    from msrim.workflows.inputs import check_output_folder

    check_output_folder(out, kind="raw")
    from msrim.simulation.phantom import simulate_subject

    typer.echo(simulate_subject(out, seed=seed, lesion_free=lesion_free))


@app.command()
def rim_cohort(
    *,
    subjects: Annotated[int, typer.Option("--subjects", min=1, help="172 have about 177 lesions with a rim.")] = 172,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed gives other patients.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder for the cohort; made if missing.")],
    lesion_bank: Annotated[
        Path | None, typer.Option("--lesion-bank", help="Lesion maps (.npz) for places and shapes; made ones without.")
    ] = None,
    head_labels: Annotated[
        Path | None, typer.Option("--head-labels", help="Folder of whole-head label maps; made heads without.")
    ] = None,
    part: Annotated[
        Part, typer.Option("--part", help="Heads and lesions to train with, the others to test with, or all.")
    ] = Part.all,
    label_noise: Annotated[
        bool, typer.Option("--label-noise", help="Rims as two raters and a third between them see them.")
    ] = False,
    lesions: Annotated[
        tuple[int, int] | None,
        typer.Option("--lesions", min=0, help="With and without a rim, of each; as patients have them if not given."),
    ] = None,
    in_plane_mm: Annotated[float, typer.Option("--in-plane-mm", min=0.4, max=1.5, help="Voxels of the QSM.")] = 0.75,
    slice_mm: Annotated[float, typer.Option("--slice-mm", min=0.5, max=5, help="Their thickness.")] = 3.0,
    field_t: Annotated[float, typer.Option("--field-t", min=0.5, max=10, help="Main field in tesla.")] = 3.0,
    snr: Annotated[float, typer.Option("--snr", min=5, help="Of white matter right after excitation.")] = 45.0,
    quiet: Quiet = False,
) -> None:
    """Make patients with QSM, FLAIR and lesions whose rims are known. Prints the cohort's folder."""
    from msrim.workflows.inputs import check_output_folder

    check_output_folder(out, kind="raw")
    from msrim.console import Console
    from msrim.simulation.cohort import CohortSettings
    from msrim.simulation.rim_patient import Scanner
    from msrim.simulation.susceptibility import GradientEcho
    from msrim.workflows.rim_cohort import make_rim_cohort

    scanner = Scanner(in_plane_mm, slice_mm, echoes=GradientEcho(field_t=field_t, snr=snr))
    settings = CohortSettings(subjects, seed, scanner, lesion_bank, head_labels, part.value, label_noise, lesions)
    typer.echo(make_rim_cohort(out, settings, console=Console(quiet=quiet)))

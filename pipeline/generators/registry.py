"""Which generators exist: the standard name to a class, imported only when it is asked for.

Listing imports no torch. Other packages add generators through the entry-point group `cohortloom.generators`
(name = standard name, value = "module:Class").
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, NotFoundError, nearest

if TYPE_CHECKING:
    from pipeline.generators.base import Generator

BUILT_IN: dict[str, str] = {
    "independent": "pipeline.generators.independent:Independent",
    "gaussian_copula": "pipeline.generators.gaussian_copula:GaussianCopula",
    "bootstrap": "pipeline.generators.bootstrap:Bootstrap",
    "smote": "pipeline.generators.smote:Smote",
    "cart": "pipeline.generators.cart.generator:Cart",
    "mst": "pipeline.generators.mst:MST",
    "vae": "pipeline.generators.vae:VAE",
    "cvae": "pipeline.generators.cvae:CVAE",
    "synthvae": "pipeline.generators.synthvae:SynthVAE",
    "tvae": "pipeline.generators.tvae:TVAE",
    "vae_gan": "pipeline.generators.vae_gan:VAEGAN",
    "mixed_flow": "pipeline.generators.mixed_flow:MixedFlow",
    "scoehr": "pipeline.generators.scoehr:ScoEHR",
    "ehrdiff": "pipeline.generators.ehrdiff:EHRDiff",
    "tabddpm": "pipeline.generators.tabddpm:TabDDPM",
    "tabdiff_lite": "pipeline.generators.tabdiff_lite:TabDiffLite",
    "rlsyn": "pipeline.generators.rlsyn:RLSyn",
    "arf": "pipeline.generators.arf.generator:ARF",
    "argn": "pipeline.generators.argn.generator:ARGN",
    "ctgan": "pipeline.generators.ctgan:CTGAN",
    "ctab_gan": "pipeline.generators.ctab_gan:CTABGAN",
    "copula_gan": "pipeline.generators.copula_gan:CopulaGAN",
    "emr_wgan": "pipeline.generators.emr_wgan:EMRWGAN",
    "healthgan": "pipeline.generators.healthgan:HealthGAN",
    "medgan": "pipeline.generators.medgan:MedGAN",
    "medbgan": "pipeline.generators.medgan:MedBGAN",
    "medwgan": "pipeline.generators.medgan:MedWGAN",
    "triple_gan": "pipeline.generators.triple_gan:TripleGAN",
    "bt_gan": "pipeline.generators.bt_gan:BtGAN",
    "bt_gan_minus": "pipeline.generators.bt_gan:BtGANMinus",
    "fairgan": "pipeline.generators.fairgan:FairGAN",
    "ads_gan": "pipeline.generators.ads_gan:ADSGAN",
    "pate_gan": "pipeline.generators.pate_gan:PateGAN",
    "decaf": "pipeline.generators.decaf:DECAF",
    "halo_small": "pipeline.generators.halo_small:HaloSmall",
}


def generator_paths() -> dict[str, str]:
    """Standard name to "module:Class", built-in ones first, then those of other packages.

    Raises:
        ConfigError: an entry point takes a name that is already in use.
    """
    paths = dict(BUILT_IN)
    for point in entry_points(group="cohortloom.generators"):
        if point.name in paths and paths[point.name] != point.value:
            raise ConfigError(
                f"Two generators are called '{point.name}': {paths[point.name]} and {point.value}.",
                todo="Rename one entry point.",
            )
        paths[point.name] = point.value
    return paths


def generator_names() -> list[str]:
    """All standard names, sorted."""
    return sorted(generator_paths())


def generator_class(name: str) -> type[Generator]:
    """The class registered under `name`; raises `NotFoundError` with the nearest name."""
    paths = generator_paths()
    if name not in paths:
        raise NotFoundError(f"There is no generator '{name}'.", todo=nearest(name, list(paths)))
    module, _, attribute = paths[name].partition(":")
    return getattr(import_module(module), attribute)

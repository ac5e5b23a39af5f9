"""What a user chooses a generator by: what it takes, how it meets conditions, who published it, and under which licence.

Everything here was written from the papers; a note says what the licence of the code is that others mostly use, since some
of it is not open source. Generators of other packages say the same of themselves in `Generator.about`.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.generators.registry import generator_class

OURS = "own code, Apache-2.0"
ROWS = "columns, codes"
TRIES = "redrawn"


@dataclass(frozen=True)
class About:
    """What is told of a generator before it is chosen.

    Attributes:
        takes: What it learns: columns, codes, visits.
        conditions: How asked levels and values are met: "any column" and the like natively, "redrawn" by rejection.
        paper: Who published it, and when.
        licence: Of the code here, and of the code that others mostly use.
    """

    takes: str
    conditions: str
    paper: str
    licence: str = OURS


def _beside(others: str) -> str:
    return f"{OURS}; {others}"


_SDV = _beside("SDV's is BUSL-1.1, not open source")
_MED = _beside("the authors' is BSD-style; a common port of the two variants has no licence")
_NONE = _beside("the authors published none")

ABOUT: dict[str, About] = {
    "independent": About(ROWS, "any column", "baseline"),
    "gaussian_copula": About(ROWS, "any column", "Nelsen 2006; Patki et al. 2016", _SDV),
    "bootstrap": About(ROWS, "any column, among real rows", "Efron 1979"),
    "smote": About(ROWS, "any column, among real rows", "Chawla et al. 2002"),
    "cart": About(ROWS, "columns drawn first, else redrawn", "Nowok, Raab and Dibben 2016", _beside("synthpop is GPL")),
    "mst": About(ROWS, "any column", "McKenna, Miklau and Sheldon 2021", _beside("private-pgm is Apache-2.0")),
    "vae": About(ROWS, TRIES, "Kingma and Welling 2014; Kondapally 2025"),
    "cvae": About(ROWS, "chosen columns, else redrawn", "Sohn et al. 2015"),
    "synthvae": About(ROWS, TRIES, "NHSX Analytics Unit 2021", _beside("the NHS's is MIT")),
    "tvae": About(ROWS, TRIES, "Xu et al. 2019", _SDV),
    "mixed_flow": About(ROWS, "any column, by inpainting", "Eijkelboom et al. 2024; Guzman-Cordero et al. 2025"),
    "scoehr": About(ROWS, TRIES, "Naseer et al. 2023"),
    "ehrdiff": About(ROWS, TRIES, "Yuan et al. 2023"),
    "tabddpm": About(ROWS, "label; any other by inpainting", "Kotelnikov et al. 2023"),
    "tabdiff_lite": About(ROWS, "any column", "Shi et al. 2025"),
    "rlsyn": About(ROWS, "chosen columns, else redrawn", "Espinosa-Dice et al. 2025"),
    "arf": About(ROWS, "any column", "Watson et al. 2023"),
    "argn": About(ROWS, "any column", "Tiwald et al. 2025", _beside("mostlyai-engine is Apache-2.0")),
    "halo_small": About("columns, codes, visits", "as its generator of columns", "Theodorou, Xiao and Sun 2023"),
    "ctgan": About(ROWS, "one discrete column, else redrawn", "Xu et al. 2019", _SDV),
    "copula_gan": About(ROWS, "one discrete column, else redrawn", "Patki et al. 2016 (SDV)", _SDV),
    "ctab_gan": About(ROWS, "one discrete column, else redrawn", "Zhao et al. 2021, 2022"),
    "emr_wgan": About(ROWS, TRIES, "Zhang et al. 2020; Yan et al. 2022", _beside("Yan's benchmark is MIT")),
    "medgan": About(ROWS, TRIES, "Choi et al. 2017", _MED),
    "medbgan": About(ROWS, TRIES, "Baowaly et al. 2019", _MED),
    "medwgan": About(ROWS, TRIES, "Baowaly et al. 2019", _MED),
    "healthgan": About(ROWS, TRIES, "Yale et al. 2020", _beside("the authors' is MIT")),
    "ads_gan": About(ROWS, TRIES, "Yoon, Drumright and van der Schaar 2020", _beside("the authors' is BSD-3")),
    "pate_gan": About(ROWS, TRIES, "Jordon, Yoon and van der Schaar 2019", _beside("the authors' is BSD-3")),
    "vae_gan": About(ROWS, TRIES, "Larsen et al. 2016", _beside("the authors' is MIT")),
    "triple_gan": About(ROWS, "label, else redrawn", "Li et al. 2017", _beside("the authors' is MIT")),
    "bt_gan": About(ROWS, "label, else redrawn", "Ramachandranpillai et al. 2024", _NONE),
    "bt_gan_minus": About(ROWS, "label, else redrawn", "Ramachandranpillai et al. 2024", _NONE),
    "fairgan": About(ROWS, "protected columns, else redrawn", "Xu et al. 2018"),
    "decaf": About(
        ROWS, "columns with all causes, else redrawn", "van Breugel et al. 2021", _beside("the authors' is BSD-3")
    ),
}
"""Of the generators in this package, by standard name."""


def about(name: str) -> About:
    """What is told of a generator; what another package's does not say is "not said"."""
    if name in ABOUT:
        return ABOUT[name]
    return generator_class(name).about or About("not said", "not said", "not said", "see its package")

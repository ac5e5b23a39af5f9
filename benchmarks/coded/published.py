"""What papers print of code generators, and which of these figures are wrong (MIMIC-III, other people than ours).

Absolute sizes depend on the number of people and codes, so none of them is comparable with ours; the notes say what
else is amiss.
"""

from __future__ import annotations

PRINTED: dict[str, str] = {
    "scoehr paper": "ScoEHR (2023): DDM .0029, PCD 21.8, U -6.0; its reproduction (144): PCD 37.3, U printed -5.01, true -2.48,"
    " mean count .0085 of .0132 (ratio .64)",
    "scoehr paper_ae64": "reproduction (64): PCD 33.6, U printed -3.47, true -2.85, ratio .80",
    "scoehr paper_ae256": "reproduction (256): PCD 36.5, U printed -3.69, true -2.79, ratio .63",
    "scoehr paper_no_ae": "ScoEHR (2023): DDM .005, PCD 22.8, U -1.4; reproduction: PCD 28.8, U printed -3.28, true -2.90,"
    " ratio .97",
    "ehrdiff": "RLSyn's files (MIMIC-IV): dimension-wise .0020, concept abundance .064, log-cluster -2.94",
    "rlsyn": "RLSyn's files (MIMIC-IV): dimension-wise .0021, concept abundance .029, log-cluster -2.97",
}
NOTES = (
    "The reproduction's U is ln(1/G) times a sum instead of the logarithm of a mean: its sign of quality is turned round"
    " (printed -6.5 is its worst run). 'true' is recomputed from what it prints.",
    "Its DDM compares arbitrarily paired rows and divides by the number of rows: a table of zeros scores .0014, better than"
    " every published model. It is not reproduced here.",
    "PCD: two real samples of MIMIC-III lie about 15 apart, so that 21.8 is near the noise; codes that became constant count"
    " as if they were right. The floor is printed above, and 'excess' is what is left above it.",
    "Its 'privacy' is the share of arbitrarily paired rows with a cosine above one half, which says nothing of anybody;"
    " 'members' is an attack that knows who is who.",
    "The reproduction's learning rate halves every seven epochs: 'converged at 50 epochs' is the schedule.",
)

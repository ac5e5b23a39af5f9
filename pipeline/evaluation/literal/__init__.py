"""The papers' own formulas, to the letter, each with its flaw and with the figures that its paper prints.

They are shown beside the sound metrics so that published tables can be read against ours; nothing here is ever gated
or ranked. `METRICS` names them; their modules are imported only when they are computed.
"""

METRICS: dict[str, str] = {}

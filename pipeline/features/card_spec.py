"""What people must say of a cohort before it leaves: the human part of the data card and the model card."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

TO_BE_SAID = "nobody has said so yet"
"""What a card prints where the cohort's file is silent."""


class CardSpec(BaseModel):
    """The part of the cards that no program can know; what is left out is printed as lacking."""

    model_config = ConfigDict(extra="forbid")
    terms: str = Field(
        default="",
        description="Consent and licence terms of the source, and what they mean for rows made from it (cohorts from MIMIC "
        "inherit the credentialed-access agreement).",
    )
    licence: str = Field(default="", description="Licence of the released rows: SPDX identifier or URL.")
    contact: str = Field(default="", description="Who answers questions about the rows.")
    citation: str = Field(default="", description="How the rows are cited.")
    population: str = Field(default="", description="Who the real people are: inclusion rules and time span.")
    intended_uses: list[str] = Field(default_factory=list, description="What the rows are for.")
    forbidden_uses: list[str] = Field(default_factory=list, description="What they must not be used for.")
    review_months: int = Field(
        default=12, ge=1, le=120, description="Months after the cohort's month at which the release is reviewed."
    )

    def lacking(self) -> list[str]:
        """Names of the fields that nobody has filled in."""
        return [name for name in type(self).model_fields if not getattr(self, name)]

    def said(self, name: str) -> str:
        """A text field, or that it is lacking."""
        return str(getattr(self, name)) or TO_BE_SAID

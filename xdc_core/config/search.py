"""The settings of the stored index of search."""

from typing import Annotated

from pydantic import Field

from shards.section import Section, Since


class SearchSettings(Section):
    """How clips are found by `xdc search`."""

    exact_up_to: Annotated[int, Since("0.2.0")] = Field(
        1_000_000, ge=0, description="with more clips than this, search is approximate: an inverted file (IVF) of faiss"
    )
    recall: Annotated[float, Since("0.2.0")] = Field(
        0.95,
        gt=0,
        le=1,
        description="share of the 10 nearest clips that it is to find, measured on clips of the run",
    )

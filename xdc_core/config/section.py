"""What every section of the configuration has in common."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shards.errors import ConfigError

Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Unknown keys are errors; infinities and NaN are no numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def known_layout(name: str) -> str:
    """Return the name of a layout of data sets. Raises ValueError where there is none; says which is meant."""
    from shards.layouts.registry import LAYOUTS  # Reads of Parquet manifests need pyarrow, which is slow to load.

    try:
        LAYOUTS.check(name)
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from None
    return name


LayoutName = Annotated[str, AfterValidator(known_layout)]

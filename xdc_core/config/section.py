"""What sections of the configuration have in common, beside what every section of settings has."""

from typing import Annotated

from pydantic import AfterValidator

from shards.errors import ConfigError
from shards.section import Positive as Positive
from shards.section import Section as Section


def known_layout(name: str) -> str:
    """Return the name of a layout of data sets. Raises ValueError where there is none; says which is meant."""
    from shards.layouts.registry import LAYOUTS  # Reads of Parquet manifests need pyarrow, which is slow to load.

    try:
        LAYOUTS.check(name)
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from None
    return name


LayoutName = Annotated[str, AfterValidator(known_layout)]

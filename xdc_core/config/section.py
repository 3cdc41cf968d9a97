"""Types that sections of the configuration share."""

from typing import Annotated

from pydantic import AfterValidator

from shards.errors import ConfigError


def known_layout(name: str) -> str:
    """Return the name of a layout of data sets. Raises ValueError if it is unknown; the text suggests a name."""
    from shards.layouts.registry import LAYOUTS  # Reading Parquet manifests needs pyarrow, which is slow to import.

    try:
        LAYOUTS.check(name)
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from None
    return name


LayoutName = Annotated[str, AfterValidator(known_layout)]

"""Values for the scripts of pages."""

import json

from markupsafe import Markup


def embedded(value: object) -> Markup:
    """Return JSON for a script element, escaped so that it cannot end the element. Raises ValueError for NaN."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))

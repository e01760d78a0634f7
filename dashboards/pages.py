"""The handlers of the ops pages."""

from typing import Final

from dashboards.login import login
from dashboards.overview import overview
from dashboards.site import static_file

__all__ = ("handlers",)

handlers: Final = [overview, login, static_file]

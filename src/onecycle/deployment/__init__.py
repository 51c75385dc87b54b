"""A trained run in use elsewhere: exported to other formats, described by a card, served over HTTP."""

from .api import Exported as Exported
from .api import export as export
from .hub import push_to_hub as push_to_hub

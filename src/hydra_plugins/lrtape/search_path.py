"""Makes lrtape's config groups usable from other people's Hydra apps: ``defaults: [scheduler: steplr]``."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class LRTapeSearchPath(SearchPathPlugin):
    """Appends lrtape's configs to the search path, behind those of the app: its own groups win."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra once for each app."""
        search_path.append(provider="lrtape", path="pkg://lrtape.conf")

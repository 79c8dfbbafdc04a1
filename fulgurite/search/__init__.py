"""Search over the keys of a recipe: each trial a run of its own, all of them in one study."""

from fulgurite.search.settings import Early, Objective, SearchSettings, read_search
from fulgurite.search.space import Dimension

__all__ = ["Dimension", "Early", "Objective", "SearchSettings", "read_search"]

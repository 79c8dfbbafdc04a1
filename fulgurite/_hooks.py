"""Register with transformers when, and only when, transformers is imported.

``import fulgurite`` must stay lean, yet ``from_pretrained`` must know our format from then on: a finder
waits for the module that keeps transformers' table of formats and adds ours once it has run.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

_WAITED_FOR = "transformers.quantizers.auto"
_REGISTRATION = "fulgurite.artifact.transformers_quantizer"


def register_when_imported() -> None:
    """Register now if transformers is there already, else as soon as it is imported."""
    if _WAITED_FOR in sys.modules:
        importlib.import_module(_REGISTRATION)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _WAITED_FOR:
            return None
        sys.meta_path.remove(self)  # so that the search below does not come back here
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, wrapped: importlib.abc.Loader) -> None:
        self._wrapped = wrapped

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._wrapped.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._wrapped.exec_module(module)
        importlib.import_module(_REGISTRATION)

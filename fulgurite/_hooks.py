"""Register with transformers when, and only when, transformers is imported.

``import fulgurite`` must stay lean, yet ``from_pretrained`` must know our format from then on: a finder
waits for the modules that keep transformers' tables of formats and networks, and adds ours once they have run.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_REGISTRATIONS = {
    "transformers.quantizers.auto": "fulgurite.artifact.transformers_quantizer",
    "transformers.models.auto.modeling_auto": "fulgurite.models.static_encoder",
}
"""Modules that are waited for, and those that register with them."""

OWN_CLASSES = {"StaticEncoder": "fulgurite.models.static_encoder"}
"""Classes of networks that are ours and not transformers'."""


def network_class(name: str) -> Any:
    """A class of transformers or of ours by its name; ``None`` where there is none."""
    home = importlib.import_module(OWN_CLASSES.get(name, "transformers"))
    return getattr(home, name, None)


def network_class_name(network: Any) -> str:
    """What a manifest calls a network's class: its name in transformers, or ``open_clip.CLIP``.

    Example:
        >>> network_class_name(torch.nn.Linear(1, 1))
        'Linear'
    """
    cls = type(network)
    cls = cls.__dict__.get("_fulgurite_base", cls)  # of a packed network, the class it had before
    return f"open_clip.{cls.__name__}" if cls.__module__.split(".")[0] == "open_clip" else cls.__name__


def register_when_imported() -> None:
    """Register now where transformers is there already, else as soon as it is imported."""
    for waited_for, registration in _REGISTRATIONS.items():
        if waited_for in sys.modules:
            importlib.import_module(registration)
        elif not any(
            isinstance(finder, _Finder) and finder.waited_for == waited_for for finder in sys.meta_path
        ):
            sys.meta_path.insert(0, _Finder(waited_for))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, waited_for: str) -> None:
        self.waited_for = waited_for

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.waited_for:
            return None
        sys.meta_path.remove(self)  # so that the search below does not come back here
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, _REGISTRATIONS[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, wrapped: importlib.abc.Loader, registration: str) -> None:
        self._wrapped = wrapped
        self._registration = registration

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._wrapped.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._wrapped.exec_module(module)
        importlib.import_module(self._registration)

"""One measurement in a fresh process: ``benchmark.py`` starts it and reads the JSON on its last line.

    python scripts/benchmark_worker.py encode "UniformCodec(bits=4)" 4096
    python scripts/benchmark_worker.py load packed runs/books6m/artifact
    python scripts/benchmark_worker.py network "EcqCodec(rate=2.0, states=8)" model.safetensors

Memory is resident memory as Linux counts it. Its peak is set back before each measurement (``clear_refs``), so
that neither imports nor the making of the input count.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from fulgurite import codecs
from fulgurite.codecs import Codec

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_TOKENS = 128
_PASSES = 3


def resident(key: str) -> int:
    """``VmRSS`` or ``VmHWM``, its peak, in bytes.

    Raises:
        OSError: On a system without /proc.
    """
    if not _STATUS.exists():
        raise OSError(f"memory is read from {_STATUS}, which only Linux has")
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Set the peak back to what is resident now, and return that."""
    _CLEAR.write_text("5")
    return resident("VmRSS")


def parse_codec(text: str) -> Codec:
    """A codec as it is written in Python, with literals as its arguments.

    Raises:
        ValueError: If it is no call of a codec.

    Example:
        >>> parse_codec("UniformCodec(bits=4)").bits
        4
    """
    call = ast.parse(text, mode="eval").body
    if (
        not isinstance(call, ast.Call)
        or not isinstance(call.func, ast.Name)
        or call.func.id not in codecs.__all__
    ):
        raise ValueError(f"expected a codec such as UniformCodec(bits=4), got {text!r}")
    values = [ast.literal_eval(argument) for argument in call.args]
    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    codec: Codec = getattr(codecs, call.func.id)(*values, **named)
    return codec


def encode(codec: Codec, width: int) -> dict[str, float]:
    """Peak memory beyond what was there before, while one weight is encoded."""
    weight = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    codec.encode(weight[:16, :64].clone())  # what is loaded or made on first use belongs to no weight
    before, began = reset_peak(), time.perf_counter()
    codec.encode(weight)
    seconds, peak = time.perf_counter() - began, resident("VmHWM") - before
    return {"copies": peak / weight.nbytes, "peak_mb": peak / 1e6, "seconds": seconds}


def network(codec: Codec, path: Path, rows: int | None = None) -> dict[str, float]:
    """Time and memory of all matrices of a network, beyond the network; decoding on one thread.

    Args:
        codec: What codes them.
        path: A safetensors file.
        rows: Of each matrix at most; all by default.
    """
    from safetensors.torch import load_file

    from fulgurite.codecs import decode
    from fulgurite.threads import side_by_side

    matrices = [value.float()[:rows] for value in load_file(path).values() if value.dim() == 2]
    decode(codec.encode(matrices[0][:64, :64].clone()))  # what is compiled on first use is no network's
    before, began = reset_peak(), time.perf_counter()
    encoded = list(side_by_side(codec.encode, matrices, None if codec.one_thread else 1))
    seconds, peak = time.perf_counter() - began, resident("VmHWM") - before
    torch.set_num_threads(1)
    began = time.perf_counter()
    for each in encoded:
        decode(each)
    weights = sum(map(torch.numel, matrices))
    return {
        "weights": weights,
        "bits": 8 * sum(each.num_bytes for each in encoded) / weights,
        "seconds": seconds,
        "peak_mb": peak / 1e6,
        "decoded_per_s": weights / (time.perf_counter() - began),
    }


def load(form: str, folder: Path) -> dict[str, float]:
    """Memory and time of loading a network and of passes through it."""
    import transformers

    import fulgurite

    for name in ("reader", "loading", "transformers_quantizer"):
        importlib.import_module(f"fulgurite.artifact.{name}")
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    getattr(transformers, kind)  # imports what builds it
    before, began = reset_peak(), time.perf_counter()
    if form == "original":
        network: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        network = fulgurite.load(folder, packed=form == "packed")
    load_s, load_peak = time.perf_counter() - began, resident("VmHWM") - before
    tokens = torch.arange(_TOKENS)[None] % network.config.vocab_size
    reset_peak()
    with torch.inference_mode():
        network(tokens)
        began = time.perf_counter()
        for _ in range(_PASSES):
            network(tokens)
        seconds = (time.perf_counter() - began) / _PASSES
    return {
        "load_s": load_s,
        "load_peak_mb": load_peak / 1e6,
        "pass_peak_mb": (resident("VmHWM") - before) / 1e6,
        "tokens_per_s": _TOKENS / seconds,
    }


def prepare(network: Any, folder: Path) -> dict[str, int]:
    """Write a network as ``original`` and as ``artifact``, matrices at 4 bits; sizes in bytes."""
    from fulgurite.artifact.network_files import network_files
    from fulgurite.artifact.writer import write_artifact
    from fulgurite.models import save_causal_lm, tied_names, unique_parameters

    save_causal_lm(network, None, folder / "original")
    matrices, rest = codecs.UniformCodec(bits=4, group_size=64), codecs.Float16Codec()
    parameters = unique_parameters(network)
    encoded = {
        name: (matrices if weight.dim() == 2 else rest).encode(weight.detach())
        for name, weight in parameters.items()
    }
    write_artifact(
        folder / "artifact",
        encoded,
        model_class=type(network).__name__,
        aliases=tied_names(network),
        files=network_files(network),
    )
    return {
        "weights": sum(weight.numel() for weight in parameters.values()),
        "largest": max(weight.nbytes for weight in parameters.values()),
        **{
            kind: sum(path.stat().st_size for path in (folder / kind).iterdir())
            for kind in ("original", "artifact")
        },
    }


def main() -> None:
    """Measure one thing and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("encode", help="one weight by one codec")
    verb.add_argument("codec", type=parse_codec)
    verb.add_argument("width", type=int)
    verb.add_argument("--threads", type=int, default=1)
    verb = verbs.add_parser("network", help="all matrices of a network by one codec")
    verb.add_argument("codec", type=parse_codec)
    verb.add_argument("path", type=Path)
    verb.add_argument("--rows", type=int, help="of each matrix at most")
    verb.add_argument("--threads", type=int, default=1)
    verb = verbs.add_parser("load", help="one network in one form")
    verb.add_argument("form", choices=("original", "decoded", "packed"))
    verb.add_argument("folder", type=Path)
    verb.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.verb == "encode":
        found = encode(given.codec, given.width)
    elif given.verb == "network":
        found = network(given.codec, given.path, given.rows)
    else:
        found = load(given.form, given.folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Load a run's artefact as a user would, in a new process, and let it write.

python scripts/show_sample.py runs/quickstart
"""

from __future__ import annotations

import sys
from pathlib import Path

import fulgurite  # noqa: F401 (teaches transformers the format)


def main(run: Path, prompt: str = "Return the number of") -> None:
    """Print what the artefact makes of a prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = run / "artifact"
    if not folder.exists():
        print(f"no stage was accepted, so there is no artefact in {run}; the reference is as it was")
        return
    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(prompt, return_tensors="pt")
    written = network.generate(**tokens, max_new_tokens=40, do_sample=False, pad_token_id=0)
    print(f'sample     "{tokenizer.decode(written[0], skip_special_tokens=True)}"')


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])

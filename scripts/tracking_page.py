"""Write ``docs/tracking.md``: the names that loggers see, from the code that sends them.

python scripts/tracking_page.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from callbacks.tracking import names_markdown

HEAD = """\
# Tracking

A run sends numbers and the table of its stages to every logger of `--trainer.logger`:

| logger | numbers | table |
| --- | --- | --- |
| CSV files, the default | `metrics/metrics.csv` in the run's folder | `metrics/comparison.md` |
| `WandbLogger` | charts; the resolved recipe is the run's configuration | a `wandb.Table`, `comparison` |
| `TensorBoardLogger` | scalars | text, `comparison` |

```bash
fulgurite compress --config configs/recipes/books6m.yaml --trainer.logger WandbLogger --trainer.logger.project fulgurite
WANDB_MODE=offline fulgurite compress --config configs/recipes/books6m.yaml --trainer.logger WandbLogger
```

Weights & Biases needs no account where `WANDB_MODE` is `offline`: the run lies in `wandb/offline-run-...`, and
`wandb sync` sends it later. The step is the number of the try over all stages, 0 for the reference. A number that is
not known, as a score of a network that diverged, is not sent. `*` stands for the name of a measure, a check or a stage.

"""


def page() -> str:
    """The page."""
    return f"{HEAD}{names_markdown()}\n\nThis page is written by `python scripts/tracking_page.py`.\n"


if __name__ == "__main__":
    Path("docs/tracking.md").write_text(page())
    sys.exit(0)

"""Repair: what a coded layer's outputs lack, made up for in closed form."""

from fulgurite.repair.folding import fold
from fulgurite.repair.recoding import recode, recoder
from fulgurite.repair.update import Update, null_space, output_error, solve, too_few_rows

__all__ = [
    "Update",
    "fold",
    "null_space",
    "output_error",
    "recode",
    "recoder",
    "solve",
    "too_few_rows",
]

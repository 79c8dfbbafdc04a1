"""Lossless coding: integers to bytes and back."""

from fulgurite.coding.bits import pack_bits, unpack_bits
from fulgurite.coding.stream import decode_symbols, encode_symbols

__all__ = ["decode_symbols", "encode_symbols", "pack_bits", "unpack_bits"]

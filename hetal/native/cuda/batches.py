"""The arguments of the GPU's entry points: ``kernels/gpu_batch.h`` as ctypes structures, and the shapes of launches."""

from __future__ import annotations

from ctypes import Structure, c_bool, c_double, c_int, c_int64, c_uint64
from dataclasses import dataclass
from typing import Any, Final

BATCH_POLYS: Final = 16
TERMS_MAX: Final = 64
SWITCH_KEYS: Final = 8
CONVERSION_TARGETS: Final = 4
TRANSFORM_ROWS: Final = 2
BLOCK_WORDS: Final = 256
# Of a compact plaintext, at least.
SMALL_LOG2: Final = 6
LARGE_LOG2: Final = 10

Address = c_uint64


class Constant(Structure):
    _fields_ = [("value", c_uint64), ("quotient", c_uint64)]


class Limb(Structure):
    _fields_ = [
        ("modulus", c_uint64),
        ("bits", c_int),
        ("wide", c_bool),
        ("tight", c_bool),
        ("p", c_double),
        ("inverse", c_double),
        # Wide: p, floor(2^64 / p), 2^64 mod p and its quotient.
        ("integer", c_uint64 * 4),
        # Roots, and a table that only CPUs read.
        ("forward", Address * 2),
        ("backward", Address * 2),
        # Roots and their quotients.
        ("wide_forward", Address * 2),
        ("wide_backward", Address * 2),
        ("dimension_inverse", c_uint64),
    ]


class Chain(Structure):
    _fields_ = [("limbs", Address), ("q_limbs", c_int), ("p_offset", c_int)]


Polys = Address * BATCH_POLYS
Constants = Constant * (2 * TERMS_MAX)


class Operand(Structure):
    _fields_ = [("words", Address), ("log2_run", c_int), ("p_offset", c_int)]


class Permutation(Structure):
    _fields_ = [("targets", Address), ("lanes", Address)]


class ConversionPlan(Structure):
    _fields_ = [
        ("sources", c_int),
        ("targets", c_int),
        ("source_bits", c_int),
        ("exact", c_bool),
        ("integers", c_bool),
        ("source_limbs", Address),
        ("source_rows", Address),
        ("target_limbs", Address),
        ("target_rows", Address),
        ("constants", Address),
    ]


class Forward(Structure):
    _fields_ = [("chain", Chain), ("a", Polys), ("digit_limbs", c_int), ("first_digit", c_int)]


class ForwardRowsDivide(Structure):
    _fields_ = [("chain", Chain), ("out", Polys), ("x", Polys), ("a", Polys), ("constants", Constants)]


class Unary(Structure):
    _fields_ = [("chain", Chain), ("out", Polys), ("a", Polys)]


class InverseColumns(Structure):
    _fields_ = [("chain", Chain), ("a", Polys), ("constants", Constants)]


class Binary(Structure):
    _fields_ = [("chain", Chain), ("out", Polys), ("a", Polys), ("b", Polys)]


class MultiplyOperand(Structure):
    _fields_ = [("chain", Chain), ("out", Polys), ("a", Polys), ("b", Operand * BATCH_POLYS)]


class WithConstants(Structure):
    _fields_ = [("chain", Chain), ("out", Polys), ("a", Polys), ("constants", Constants)]


class SubtractMultiply(Structure):
    _fields_ = [("chain", Chain), ("out", Polys), ("x", Polys), ("t", Polys), ("constants", Constants)]


class Tensor(Structure):
    _fields_ = [("chain", Chain), ("out", Polys * 3), ("a", Polys * 2), ("b", Polys * 2)]


class MultiplyMonomial(Structure):
    _fields_ = [("chain", Chain), ("out", Polys), ("a", Polys), ("tables", Address)]


class Permute(Structure):
    _fields_ = [("chain", Chain), ("out", Polys), ("a", Polys), ("permutation", Permutation)]


class Import(Structure):
    _fields_ = [("chain", Chain), ("out", Polys), ("residues", Polys), ("bad", Address)]


class Convert(Structure):
    _fields_ = [("limbs", Address), ("plans", Address), ("plan_step", c_int), ("out", Polys), ("y", Polys)]


class SwitchKey(Structure):
    _fields_ = [
        ("b", Address),
        ("a", Address),
        ("digit_stride", c_int64),
        ("p_offset", c_int),
        ("permutation", Permutation),
        ("out", Address * 2),
        ("after", Address * 2),
    ]


class Switch(Structure):
    _fields_ = [
        ("chain", Chain),
        ("terms", c_int),
        ("digit_limbs", c_int),
        ("own", Address),
        ("digits", Address),
        ("digit_stride", c_int64),
        ("before", Address * 2),
        ("before_limbs", c_int),
        ("constants", Constants),
        ("keys", SwitchKey * SWITCH_KEYS),
    ]


class Dot(Structure):
    _fields_ = [
        ("chain", Chain),
        ("count", c_int),
        ("row_count", c_int),
        ("diagonals", Address),
        ("parts", Address * TERMS_MAX * 1),
        ("outs", Address * TERMS_MAX * 1),
    ]


class Transform(Structure):
    _fields_ = [
        ("chain", Chain),
        ("count", c_int),
        ("row_count", c_int),
        ("diagonals", Address),
        ("parts", Address * TERMS_MAX * 2),
        ("outs", Address * TERMS_MAX * 2),
    ]


# By entry point: its argument, and which threads and blocks run it.
ARGUMENTS: Final[dict[str, type[Structure]]] = {
    "forward_columns": Forward,
    "forward_rows": Forward,
    "forward_rows_divide": ForwardRowsDivide,
    "inverse_rows": Unary,
    "inverse_columns": InverseColumns,
    "add": Binary,
    "subtract": Binary,
    "multiply": Binary,
    "negate": Unary,
    "multiply_operand": MultiplyOperand,
    "multiply_constants": WithConstants,
    "add_constants": WithConstants,
    "subtract_multiply": SubtractMultiply,
    "tensor": Tensor,
    "multiply_monomial": MultiplyMonomial,
    "permute": Permute,
    "from_integers": Unary,
    "import_words": Import,
    "export_words": Unary,
    "convert": Convert,
    "inner_product": Switch,
    "switch_rows": Switch,
    "dot": Dot,
    "transform": Transform,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How launches over limbs of 2^log2 words are cut: ``GpuShape`` of ``kernels/gpu_ntt.h``."""

    log2: int
    column_levels: int
    column_blocks: int
    column_threads: int
    row_blocks: int
    row_threads: int
    switch_blocks: int
    switch_threads: int
    word_blocks: int

    @staticmethod
    def of(log2: int) -> Shape:
        column_levels = 0 if log2 < LARGE_LOG2 else log2 // 2
        rows, row = 1 << column_levels, 1 << (log2 - column_levels)
        tile_columns, tile_rows = min(row, 16), min(4096 // row, rows)
        switch_rows = max(1, tile_rows // 4)
        return Shape(
            log2,
            column_levels,
            column_blocks=row // tile_columns,
            column_threads=max(32, tile_columns * rows // 16),
            row_blocks=rows // tile_rows,
            row_threads=max(32, tile_rows * row // 16),
            switch_blocks=rows // switch_rows,
            switch_threads=max(32, switch_rows * row // 16),
            word_blocks=-(-(1 << log2) // BLOCK_WORDS),
        )

    def launch(self, entry: str) -> tuple[int, int]:
        """Blocks of one limb and threads of a block."""
        if entry.endswith("columns"):
            return self.column_blocks, self.column_threads
        if entry == "switch_rows":
            return self.switch_blocks, self.switch_threads
        if entry.startswith(("forward_rows", "inverse_rows")):
            return self.row_blocks, self.row_threads
        return self.word_blocks, BLOCK_WORDS


def polys(addresses: list[int]) -> Any:
    """The addresses of up to ``BATCH_POLYS`` polynomials."""
    return Polys(*addresses)

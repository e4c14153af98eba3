"""What an instruction computes from its operands, on the 32 lanes of a warp: functions of numpy arrays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from emulator.ptx import Instruction

Lanes = np.ndarray[Any, Any]
Function = Callable[..., Lanes]

DTYPES: dict[str, Any] = {
    "pred": np.bool_, "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16,
    "s16": np.int16, "f16": np.uint16, "bf16": np.uint16, "b32": np.uint32, "u32": np.uint32, "s32": np.int32,
    "f32": np.float32, "f16x2": np.uint32, "bf16x2": np.uint32, "e4m3x2": np.uint16, "b64": np.uint64,
    "u64": np.uint64, "s64": np.int64, "f64": np.float64,
}  # fmt: skip
ROUNDINGS = {"rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc, "rni": np.rint}
COMPARISONS = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater}
COMPARISONS |= {"ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
LOGIC = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
TINY = np.finfo(np.float32).tiny


def flush(x: Lanes) -> Lanes:
    """Denormal numbers to zero (.ftz)."""
    return np.where(np.abs(x) < TINY, np.float32(0), x)


def fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """One rounding: a product of two floats is exact in double; the sum's double rounding is one in 2^29."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def fma_down(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    exact = a.astype(np.float64) * b + c
    nearest = exact.astype(np.float32)
    return np.where(nearest > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def ex2(x: Lanes) -> Lanes:
    return flush(np.exp2(flush(x).astype(np.float64)).astype(np.float32))


def shift_left(a: Lanes, count: Lanes) -> Lanes:
    width = a.dtype.itemsize * 8
    return np.where(count < width, a << np.minimum(count, width - 1).astype(a.dtype), a.dtype.type(0))


def shift_right(a: Lanes, count: Lanes) -> Lanes:
    return a >> np.minimum(count, a.dtype.itemsize * 8 - 1).astype(a.dtype) if a.dtype.kind == "i" else np.where(
        count < a.dtype.itemsize * 8, a >> np.minimum(count, a.dtype.itemsize * 8 - 1).astype(a.dtype), a.dtype.type(0)
    )  # fmt: skip


def truncated_quotient(a: Lanes, b: Lanes) -> Lanes:
    if a.dtype.kind == "f":
        return a / b
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient) if a.dtype.kind == "i" else quotient


def remainder(a: Lanes, b: Lanes) -> Lanes:
    return np.fmod(a, b)


def permute_bytes(a: Lanes, b: Lanes, selector: Lanes) -> Lanes:
    both = (b.astype(np.uint64) << np.uint64(32)) | a
    result = np.zeros(np.broadcast(a, b, selector).shape, np.uint32)
    for i in range(4):
        choice = (selector >> np.uint32(4 * i)) & np.uint32(15)
        byte = (both >> (8 * (choice & np.uint32(7))).astype(np.uint64)) & np.uint64(255)
        byte = np.where(choice & 8, np.where(byte & np.uint64(128), 255, 0), byte)
        result |= byte.astype(np.uint32) << np.uint32(8 * i)
    return result


def look_up_3(a: Lanes, b: Lanes, c: Lanes, table: Lanes) -> Lanes:
    result = np.uint32(0)
    for i in range(8):
        term = (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
        result = result | np.where((table >> np.uint32(i)) & np.uint32(1), term, np.uint32(0))
    return result


def bit_field(a: Lanes, position: Lanes, length: Lanes) -> Lanes:
    """bfe of 32 bits; a signed one extends its highest bit."""
    unused = np.uint32(32) - (length & np.uint32(255))
    high = shift_left(a.view(np.uint32), unused - (position & np.uint32(255))).view(a.dtype)
    return shift_right(high, unused)


def bit_field_inserted(a: Lanes, b: Lanes, position: Lanes, length: Lanes) -> Lanes:
    """bfi of 32 bits: the lowest bits of a, put into b."""
    mask = shift_left(
        shift_left(np.asarray(~np.uint32(0)), np.uint32(32) - length) >> (np.uint32(32) - length), position
    )
    return (b & ~mask) | (shift_left(a, position) & mask)


def funnel_left(low: Lanes, high: Lanes, count: Lanes) -> Lanes:
    both = (high.astype(np.uint64) << np.uint64(32)) | low
    return ((both << (count & np.uint32(31)).astype(np.uint64)) >> np.uint64(32)).astype(np.uint32)


def funnel_right(low: Lanes, high: Lanes, count: Lanes) -> Lanes:
    both = (high.astype(np.uint64) << np.uint64(32)) | low
    return (both >> (count & np.uint32(31)).astype(np.uint64)).astype(np.uint32)


def bf16_bits(x: Lanes) -> Lanes:
    """Round to nearest even."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded).astype(np.uint16)


def f16_bits(x: Lanes) -> Lanes:
    return np.asarray(x, np.float32).astype(np.float16).view(np.uint16)


def e4m3_bits(x: Lanes) -> Lanes:
    clamped = torch.from_numpy(np.clip(np.asarray(x, np.float32), -448, 448))
    return clamped.to(torch.float8_e4m3fn).view(torch.uint8).numpy()


E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()


def floats(bits: Lanes, kind: str) -> Lanes:
    """Float32 values of stored numbers: bf16, f16, e4m3 or tf32."""
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    return E4M3[bits] if kind == "e4m3" else (bits & np.uint32(0xFFFFE000)).view(np.float32)


ENCODERS = {"bf16": bf16_bits, "f16": f16_bits, "bf16x2": bf16_bits, "f16x2": f16_bits, "e4m3x2": e4m3_bits}


def pack(encode: Function, shift: int) -> Function:
    """Two numbers in one register, the first in the upper half."""
    return lambda high, low: (encode(high).astype(np.uint32) << np.uint32(shift)) | encode(low)


def pairs(function: Function, *operands: Lanes) -> Lanes:
    """Of the two bf16 numbers in each register."""
    low, high = (
        bf16_bits(function(*(floats((operand >> np.uint32(shift)).astype(np.uint16), "bf16") for operand in operands)))
        for shift in (0, 16)
    )
    return (high.astype(np.uint32) << np.uint32(16)) | low


def conversion(ins: Instruction) -> tuple[Function, list[str]]:
    """cvt: the function, and the types its operands are read as."""
    *flags, target, source = ins.modifiers
    if target in ENCODERS and source == "f32":
        encode = ENCODERS[target]
        if target.endswith("x2"):
            return pack(encode, 8 if target == "e4m3x2" else 16), ["f32", "f32"]
        return encode, ["f32"]
    if source in ("bf16", "f16") and target == "f32":
        return (lambda x: floats(x, source)), ["b16"]
    wanted = DTYPES[target]
    rounding = next((ROUNDINGS[flag] for flag in flags if flag in ROUNDINGS), np.asarray)
    if "sat" in flags:
        return (lambda x: np.nan_to_num(np.clip(x, 0, 1)).astype(wanted)), [source]
    if DTYPES[source] in (np.float32, np.float64) and np.issubdtype(wanted, np.integer):
        limits = np.iinfo(wanted)
        return (lambda x: np.clip(np.nan_to_num(rounding(x.astype(np.float64))), limits.min, limits.max)), [source]
    return (lambda x: rounding(x).astype(wanted)), [source]


def multiply(ins: Instruction) -> Function:
    """mul: of floats, or the low, high or all bits of a product of integers."""
    kind = ins.type
    if kind == "bf16x2":
        return lambda a, b: pairs(lambda left, right: left * right, a, b)
    if kind == "f32":
        return (lambda a, b: flush(a * b)) if "ftz" in ins.modifiers else operator.mul
    if "lo" in ins.modifiers:
        return operator.mul
    wide = DTYPES[kind[0] + {"16": "32", "32": "64"}[kind[1:]]]
    if "hi" in ins.modifiers:
        return lambda a, b: (a.astype(wide) * b.astype(wide)) >> wide(32)
    return lambda a, b: a.astype(wide) * b.astype(wide)


def comparison(ins: Instruction) -> Function:
    """setp, with a second predicate joined to it or not. Unordered variants end in u: true for NaN."""
    name = ins.modifiers[0]
    if name in ("nan", "num"):
        wanted = name == "nan"
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == wanted
    if name in COMPARISONS:
        compare = COMPARISONS[name]
        ordered = compare if name != "ne" or ins.type[0] != "f" else (lambda a, b: (a < b) | (a > b))
    else:
        compare = COMPARISONS[name[:-1]]
        ordered = lambda a, b: np.isnan(a) | np.isnan(b) | compare(a, b)  # noqa: E731
    join = next((LOGIC[flag] for flag in ins.modifiers[1:] if flag in LOGIC), None)
    return ordered if join is None else lambda a, b, c: join(ordered(a, b), c)


def extremum(ins: Instruction) -> Function:
    """min and max: of a number and NaN the number, unless .NaN is asked for."""
    propagate = "NaN" in ins.modifiers
    if ins.name == "min":
        return np.minimum if propagate else np.fmin
    return np.maximum if propagate else np.fmax


SIMPLE: dict[str, Function] = {
    "mov": np.asarray, "add": operator.add, "sub": operator.sub, "and": operator.and_, "or": operator.or_,
    "xor": operator.xor, "not": np.invert, "neg": operator.neg, "abs": np.abs, "div": truncated_quotient,
    "rem": remainder, "ex2": ex2, "lg2": np.log2, "sqrt": np.sqrt, "selp": lambda a, b, p: np.where(p, a, b),
    "rcp": lambda x: np.float32(1) / x, "copysign": lambda sign, x: np.copysign(x, sign), "shl": shift_left,
    "shr": shift_right, "prmt": permute_bytes, "lop3": look_up_3,
}  # fmt: skip


def function(ins: Instruction) -> tuple[Function, list[str], str] | None:
    """What the instruction computes, the types of its operands and of its result; None if it does more than compute."""
    kind, count = ins.type, len(ins.operands) - 1
    if ins.name == "cvt":
        convert, types = conversion(ins)
        return convert, types, ins.modifiers[-2]
    if ins.name in ("mul", "mad"):
        wide = kind[0] + str(2 * int(kind[1:])) if "wide" in ins.modifiers else kind
        product = multiply(ins)
        if ins.name == "mul":
            return product, [kind, kind], wide
        return (lambda a, b, c: product(a, b) + c), [kind, kind, wide], wide
    if ins.name == "fma":
        return (fma_down if "rm" in ins.modifiers else fma), [kind] * 3, kind
    if ins.name in ("min", "max"):
        return extremum(ins), [kind] * 2, kind
    if ins.name == "setp":
        return comparison(ins), [kind, kind, "pred"][:count], "pred"
    if ins.name == "selp":
        return SIMPLE["selp"], [kind, kind, "pred"], kind
    if ins.name == "shf":
        return (funnel_left if ins.modifiers[0] == "l" else funnel_right), ["u32"] * 3, "u32"
    if ins.name == "bfi":
        return bit_field_inserted, ["u32"] * 4, "u32"
    if ins.name == "bfe":
        return bit_field, [kind, "u32", "u32"], kind
    if ins.name in ("shl", "shr"):
        return SIMPLE[ins.name], [kind, "u32"], kind
    if ins.name in SIMPLE:
        return SIMPLE[ins.name], [kind] * count, kind
    return None

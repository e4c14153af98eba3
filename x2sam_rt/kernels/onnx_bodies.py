"""The kernels' bodies in standard ONNX operators, in ONNX's textual syntax."""

from __future__ import annotations

import onnx
import onnx.parser

# Queries go through in pieces, so that the scores never take more than 256 × keys.
_SELF_ATTENTION = """
SelfAttention (query, key, value) => (out)
{
    count = Shape <start: int = 0, end: int = 1> (query)
    dim = Shape <start: int = 1, end: int = 2> (query)
    piece_limit = Constant <value_ints: ints = [256]> ()
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    minus_one = Constant <value_ints: ints = [-1]> ()
    limited = Min (count, piece_limit)
    piece = Max (limited, one)
    over = Mod (count, piece)
    missing = Sub (piece, over)
    padding = Mod (missing, piece)
    pads = Concat <axis: int = 0> (zero, zero, padding, zero)
    dim_float = CastLike (dim, query)
    width = Sqrt (dim_float)
    scaled = Div (query, width)
    padded = Pad (scaled, pads)
    pieces_shape = Concat <axis: int = 0> (minus_one, piece, dim)
    pieces = Reshape (padded, pieces_shape)
    key_columns = Transpose <perm: ints = [1, 0]> (key)
    attended = Scan <num_scan_inputs: int = 1, body: graph = attend (part) => (result) {
        scores = MatMul (part, key_columns)
        weights = Softmax <axis: int = -1> (scores)
        result = MatMul (weights, value)
    }> (pieces)
    rows_shape = Concat <axis: int = 0> (minus_one, dim)
    rows = Reshape (attended, rows_shape)
    out = Slice (rows, zero, count, zero)
}
"""

# Every head by itself, its queries in pieces: scores never take more than 256 × keys.
_ATTENTION = """
Attention (query, key, value) => (out)
{
    minus_one = Constant <value_ints: ints = [-1]> ()
    shape = Shape (query)
    query_rows = Shape <start: int = 2, end: int = 4> (query)
    key_rows = Shape <start: int = 2, end: int = 4> (key)
    value_rows = Shape <start: int = 2, end: int = 4> (value)
    query_shape = Concat <axis: int = 0> (minus_one, query_rows)
    key_shape = Concat <axis: int = 0> (minus_one, key_rows)
    value_shape = Concat <axis: int = 0> (minus_one, value_rows)
    queries = Reshape (query, query_shape)
    keys = Reshape (key, key_shape)
    values = Reshape (value, value_shape)
    heads = Scan <num_scan_inputs: int = 3, body: graph = attend_head (head_query, head_key, head_value) => (result) {
        result = x2sam_rt.HeadAttention (head_query, head_key, head_value)
    }> (queries, keys, values)
    out = Reshape (heads, shape)
}
"""

# The few queries of a mask decoder, every head by itself; True in `allowed` (queries, keys) takes part.
_MASKED_ATTENTION = """
MaskedAttention (query, key, value, allowed) => (out)
{
    minus_one = Constant <value_ints: ints = [-1]> ()
    shape = Shape (query)
    dim = Shape <start: int = 3, end: int = 4> (query)
    dim_float = CastLike (dim, query)
    width = Sqrt (dim_float)
    scaled = Div (query, width)
    query_rows = Shape <start: int = 2, end: int = 4> (query)
    key_rows = Shape <start: int = 2, end: int = 4> (key)
    query_shape = Concat <axis: int = 0> (minus_one, query_rows)
    key_shape = Concat <axis: int = 0> (minus_one, key_rows)
    queries = Reshape (scaled, query_shape)
    keys = Reshape (key, key_shape)
    values = Reshape (value, key_shape)
    mask_rows = Shape <start: int = -2> (allowed)
    mask = Reshape (allowed, mask_rows)
    infinite = Constant <value_float: float = -inf> ()
    hidden = CastLike (infinite, query)
    heads = Scan <num_scan_inputs: int = 3, body: graph = attend_head (head_query, head_key, head_value) => (result) {
        key_columns = Transpose <perm: ints = [1, 0]> (head_key)
        scores = MatMul (head_query, key_columns)
        seen = Where (mask, scores, hidden)
        weights = Softmax <axis: int = -1> (seen)
        result = MatMul (weights, head_value)
    }> (queries, keys, values)
    out = Reshape (heads, shape)
}
"""

_SLOT_ATTENTION = """
SlotAttention (query, key, value, key_shift) => (out)
{
    one = Constant <value_ints: ints = [1]> ()
    dim = Shape <start: int = 1, end: int = 2> (query)
    minus_one = Constant <value_ints: ints = [-1]> ()
    flat_shape = Concat <axis: int = 0> (minus_one, dim)
    shift = Unsqueeze (key_shift, one)
    shifted = Add (key, shift)
    keys = Reshape (shifted, flat_shape)
    values = Reshape (value, flat_shape)
    out = x2sam_rt.SelfAttention (query, keys, values)
}
"""

_MASK_FUSION = """
MaskFusion (class_logits, mask_logits) => (out)
{
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    two = Constant <value_ints: ints = [2]> ()
    minus_one = Constant <value_ints: ints = [-1]> ()
    least = Constant <value_float: float = 1e-6> ()
    probability = Softmax <axis: int = -1> (class_logits)
    conditions = Slice (probability, zero, minus_one, one)
    best = ReduceMax <keepdims: int = 1> (conditions, one)
    least_like = CastLike (least, best)
    score = Clip (best, least_like)
    log_score = Log (score)
    bias = Unsqueeze (log_score, two)
    biased = Add (mask_logits, bias)
    weight = Softmax <axis: int = 0> (biased)
    inside = Sigmoid (mask_logits)
    shares = Mul (weight, inside)
    out = ReduceSum <keepdims: int = 0> (shares, zero)
}
"""

_ATTENTION_MASK = """
AttentionMask <size> (mask_logits) => (out)
{
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    minus_one = Constant <value_ints: ints = [-1]> ()
    grid = Constant <value_ints: ints = @size> ()
    queries = Shape <start: int = 0, end: int = 1> (mask_logits)
    batch = Unsqueeze (mask_logits, zero)
    sizes = Concat <axis: int = 0> (one, queries, grid)
    resized = Resize <mode: string = "linear", coordinate_transformation_mode: string = "half_pixel"> (batch, , , sizes)
    rows = Concat <axis: int = 0> (queries, minus_one)
    logits = Reshape (resized, rows)
    threshold = CastLike (zero, logits)
    allowed = GreaterOrEqual (logits, threshold)
    allowed_int = Cast <to: int = 6> (allowed)
    any_int = ReduceMax <keepdims: int = 1> (allowed_int, one)
    any = Cast <to: int = 9> (any_int)
    nothing = Not (any)
    out = Or (allowed, nothing)
}
"""


def _deformable_attention(levels: int) -> str:
    """Written out per level, as every level has its own plane."""
    names = range(levels)
    sampled = "\n".join(
        f"""
    plane_{i} = Transpose <perm: ints = [0, 2, 3, 1]> (tokens_{i})
    plane_shape_{i} = Concat <axis: int = 0> (minus_one, head_dim, extent_{i})
    image_{i} = Reshape (plane_{i}, plane_shape_{i})
    grid_{i} = Reshape (level_grid_{i}, grid_shape)
    sampled_{i} = GridSample <mode: string = "linear", padding_mode: string = "zeros"> (image_{i}, grid_{i})"""
        for i in names
    )

    def listed(stem: str) -> str:
        return ", ".join(f"{stem}_{i}" for i in names)

    return f"""
DeformableAttention <spatial_shapes> (value, locations, weights) => (out)
{{
    one = Constant <value_ints: ints = [1]> ()
    two = Constant <value_ints: ints = [2]> ()
    minus_one = Constant <value_ints: ints = [-1]> ()
    extents_shape = Constant <value_ints: ints = [-1, 2]> ()
    double = CastLike (two, locations)
    unit = CastLike (one, locations)
    flat_extents = Constant <value_ints: ints = @spatial_shapes> ()
    extents = Reshape (flat_extents, extents_shape)
    level_tokens = ReduceProd <keepdims: int = 0> (extents, one)
    {listed("extent")} = Split <axis: int = 0, num_outputs: int = {levels}> (flat_extents)
    {listed("tokens")} = Split <axis: int = 1> (value, level_tokens)
    batch = Shape <start: int = 0, end: int = 1> (value)
    head_dim = Shape <start: int = 3, end: int = 4> (value)
    queries = Shape <start: int = 1, end: int = 2> (weights)
    levels = Shape <start: int = 3, end: int = 4> (weights)
    points = Shape <start: int = 4, end: int = 5> (weights)
    stretched = Mul (locations, double)
    grids = Sub (stretched, unit)
    by_level = Transpose <perm: ints = [3, 0, 2, 1, 4, 5]> (grids)
    {listed("level_grid")} = Split <axis: int = 0, num_outputs: int = {levels}> (by_level)
    grid_shape = Concat <axis: int = 0> (minus_one, queries, points, two)
    {sampled.strip()}
    samples = Concat <axis: int = -1> ({listed("sampled")})
    level_points = Mul (levels, points)
    by_head = Transpose <perm: ints = [0, 2, 1, 3, 4]> (weights)
    weights_shape = Concat <axis: int = 0> (minus_one, one, queries, level_points)
    sample_weights = Reshape (by_head, weights_shape)
    weighted = Mul (samples, sample_weights)
    summed = ReduceSum <keepdims: int = 0> (weighted, minus_one)
    channels_shape = Concat <axis: int = 0> (batch, minus_one, queries)
    channels = Reshape (summed, channels_shape)
    out = Transpose <perm: ints = [0, 2, 1]> (channels)
}}
"""


_BODIES = {
    "SelfAttention": _SELF_ATTENTION,
    "HeadAttention": _SELF_ATTENTION.replace("SelfAttention", "HeadAttention"),
    "Attention": _ATTENTION,
    "MaskedAttention": _MASKED_ATTENTION,
    "SlotAttention": _SLOT_ATTENTION,
    "MaskFusion": _MASK_FUSION,
    "AttentionMask": _ATTENTION_MASK,
}

# Bodies that use another operation of this domain.
CALLS = {"SlotAttention": ("SelfAttention",), "Attention": ("HeadAttention",)}


def body(name: str, opset: int, levels: int) -> onnx.FunctionProto:
    """The operation's body for models of the given opset (20 or later); levels: of the deformable attention."""
    text = _deformable_attention(levels) if name == "DeformableAttention" else _BODIES[name]
    header = f'<domain: "x2sam_rt", opset_import: ["" : {opset}, "x2sam_rt" : 1]>'
    return onnx.parser.parse_function(header + text)

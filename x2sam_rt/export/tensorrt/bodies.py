"""The kernels' bodies in the standard operators that TensorRT parses and compiles rightly, in ONNX's textual syntax.

They differ from the kernels' own bodies where TensorRT does:

- Attention over a scale's tokens is one `Attention` node. TensorRT has a dedicated kernel for it in bf16 from two
  heads on, and refuses the one-head form; the queries are therefore folded into two heads over the one head of keys
  and values, which computes the same. In fp32 it has no dedicated kernel, and would hold the scores of all queries and
  keys: there attention goes through the keys piece by piece, with a running softmax.
- Deformable attention is written with `Gather`. Several versions of TensorRT compile `GridSample` as deformable
  attention uses it into engines that run and are wrong (github.com/NVIDIA/TensorRT issues 4646 and 4813: 10.13 to
  11.1, opset 20 and strongly typed networks); gathers of rows leave nothing to be misread.
"""

from __future__ import annotations

import onnx
import onnx.parser

OPSET = 23  # the first with Attention
PIECE = 256  # keys whose scores exist at one time in the online form

_SELF_ATTENTION = """
SelfAttention (query, key, value) => (out)
{
    dim = Shape <start: int = 1, end: int = 2> (query)
    one = Constant <value_ints: ints = [1]> ()
    two = Constant <value_ints: ints = [2]> ()
    minus_one = Constant <value_ints: ints = [-1]> ()
    halves_shape = Concat <axis: int = 0> (one, two, minus_one, dim)
    tokens_shape = Concat <axis: int = 0> (one, one, minus_one, dim)
    rows_shape = Concat <axis: int = 0> (minus_one, dim)
    halves = Reshape (query, halves_shape)
    keys = Reshape (key, tokens_shape)
    values = Reshape (value, tokens_shape)
    attended = Attention (halves, keys, values)
    out = Reshape (attended, rows_shape)
}
"""

# Milakov and Gimelshein, "Online normalizer calculation for softmax": the sum over the keys so far is kept relative to
# the largest score so far. Every piece of keys needs the one before, so that no compiler can make one product of them.
# Splitting the queries instead does not help: TensorRT makes one product of their pieces again. Keys that fill the last
# piece up get the least score there is. Query (batch, heads, queries, dim), key and value alike, with as many heads or
# one, float32; scores scaled by 1/√dim.
_ONLINE_ATTENTION = """
OnlineAttention (query, key, value) => (out)
{
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    two = Constant <value_ints: ints = [2]> ()
    minus_one = Constant <value_ints: ints = [-1]> ()
    limit = Constant <value_ints: ints = [PIECE]> ()
    nothing = Constant <value_float: float = 0.0> ()
    least = Constant <value_float: float = -3e38> ()
    query_outer = Shape <start: int = 0, end: int = 2> (query)
    key_outer = Shape <start: int = 0, end: int = 2> (key)
    queries = Shape <start: int = 2, end: int = 3> (query)
    dim = Shape <start: int = 3, end: int = 4> (query)
    keys = Shape <start: int = 2, end: int = 3> (key)
    piece = Min (keys, limit)
    over = Mod (keys, piece)
    missing = Sub (piece, over)
    padding = Mod (missing, piece)
    pads = Concat <axis: int = 0> (zero, padding)
    pieces_shape = Concat <axis: int = 0> (key_outer, minus_one, piece, dim)
    padded_key = Pad (key, pads, nothing, two)
    padded_value = Pad (value, pads, nothing, two)
    key_pieces = Reshape (padded_key, pieces_shape)
    value_pieces = Reshape (padded_value, pieces_shape)
    real = Expand (nothing, keys)
    biases = Pad (real, pads, least)
    bias_shape = Concat <axis: int = 0> (minus_one, piece)
    bias_pieces = Reshape (biases, bias_shape)
    dim_float = Cast <to: int = 1> (dim)
    width = Sqrt (dim_float)
    scaled = Div (query, width)
    column_shape = Concat <axis: int = 0> (query_outer, queries, one)
    first_peak = Expand (least, column_shape)
    first_total = Expand (nothing, column_shape)
    first_sum = Mul (query, nothing)
    peak, total, sum = Scan <
        num_scan_inputs: int = 3,
        scan_input_axes: ints = [2, 2, 0],
        body: graph = attend (
            float[b, h, n, 1] peak_before, float[b, h, n, 1] total_before, float[b, h, n, d] sum_before,
            float[b, g, p, d] keys_here, float[b, g, p, d] values_here, float[p] bias_here
        ) => (float[b, h, n, 1] peak_after, float[b, h, n, 1] total_after, float[b, h, n, d] sum_after) {
            columns = Transpose <perm: ints = [0, 1, 3, 2]> (keys_here)
            products = MatMul (scaled, columns)
            scores = Add (products, bias_here)
            last = Constant <value_ints: ints = [-1]> ()
            peak_here = ReduceMax <keepdims: int = 1> (scores, last)
            peak_after = Max (peak_before, peak_here)
            fallen = Sub (peak_before, peak_after)
            decay = Exp (fallen)
            below = Sub (scores, peak_after)
            weights = Exp (below)
            total_here = ReduceSum <keepdims: int = 1> (weights, last)
            total_kept = Mul (total_before, decay)
            total_after = Add (total_kept, total_here)
            sum_here = MatMul (weights, values_here)
            sum_kept = Mul (sum_before, decay)
            sum_after = Add (sum_kept, sum_here)
        }
    > (first_peak, first_total, first_sum, key_pieces, value_pieces, bias_pieces)
    out = Div (sum, total)
}
""".replace("PIECE", str(PIECE))

_CORNERS = ("0, 0", "1, 0", "0, 1", "1, 1")  # x, y: the four cells around a place


def _deformable_attention(levels: int) -> str:
    """One gather of rows per level and corner; a cell counts by its distance, on either axis, from the place."""
    parts = [f"part_{level}_{corner}" for level in range(levels) for corner in range(len(_CORNERS))]
    sums = "\n    ".join(
        f"sum_{i + 1} = Add ({'sum_' + str(i) if i else parts[0]}, {part})" for i, part in enumerate(parts[1:])
    )

    def listed(stem: str) -> str:
        return ", ".join(f"{stem}_{level}" for level in range(levels))

    return f"""
DeformableAttention <spatial_shapes> (value, locations, weights) => (out)
{{
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    minus_one = Constant <value_ints: ints = [-1]> ()
    zero_scalar = Constant <value_int: int = 0> ()
    one_scalar = Constant <value_int: int = 1> ()
    last_axis = Constant <value_ints: ints = [-1]> ()
    level_and_points = Constant <value_ints: ints = [3, 4]> ()
    nothing = Constant <value_float: float = 0.0> ()
    unit = Constant <value_float: float = 1.0> ()
    half = Constant <value_float: float = 0.5> ()
    batch = Shape <start: int = 0, end: int = 1> (value)
    tokens = Shape <start: int = 1, end: int = 2> (value)
    heads = Shape <start: int = 2, end: int = 3> (value)
    head_dim = Shape <start: int = 3, end: int = 4> (value)
    queries = Shape <start: int = 1, end: int = 2> (weights)
    table_shape = Concat <axis: int = 0> (minus_one, head_dim)
    table = Reshape (value, table_shape)
    batch_scalar = Squeeze (batch)
    batches = Range (zero_scalar, batch_scalar, one_scalar)
    batch_shape = Constant <value_ints: ints = [-1, 1, 1, 1, 1]> ()
    batch_axis = Reshape (batches, batch_shape)
    batch_tokens = Mul (batch_axis, tokens)
    heads_scalar = Squeeze (heads)
    head_numbers = Range (zero_scalar, heads_scalar, one_scalar)
    head_shape = Constant <value_ints: ints = [1, 1, -1, 1, 1]> ()
    head_axis = Reshape (head_numbers, head_shape)
    flat_extents = Constant <value_ints: ints = @spatial_shapes> ()
    {listed("extent")} = Split <axis: int = 0, num_outputs: int = {levels}> (flat_extents)
    start_0 = Identity (zero)
    {listed("at")} = Split <axis: int = 3, num_outputs: int = {levels}> (locations)
    {listed("count")} = Split <axis: int = 3, num_outputs: int = {levels}> (weights)
{"".join(_level(level) for level in range(levels))}
    {sums}
    out_shape = Concat <axis: int = 0> (batch, queries, minus_one)
    out = Reshape (sum_{len(parts) - 1}, out_shape)
}}
"""


def _level(n: int) -> str:
    """n: which level. Its size, its first row of the table, and the corners of its samples' cells."""
    return f"""
    height_{n}, width_{n} = Split <axis: int = 0, num_outputs: int = 2> (extent_{n})
    level_tokens_{n} = Mul (height_{n}, width_{n})
    start_{n + 1} = Add (start_{n}, level_tokens_{n})
    size_int_{n} = Concat <axis: int = 0> (width_{n}, height_{n})
    size_{n} = CastLike (size_int_{n}, locations)
    last_{n} = Sub (size_{n}, unit)
    stride_int_{n} = Concat <axis: int = 0> (one, width_{n})
    stride_{n} = CastLike (stride_int_{n}, locations)
    stretched_{n} = Mul (at_{n}, size_{n})
    place_{n} = Sub (stretched_{n}, half)
    corner_{n} = Floor (place_{n})
{"".join(_corner(n, corner, step) for corner, step in enumerate(_CORNERS))}"""


def _corner(level: int, corner: int, step: str) -> str:
    """One cell around every sample: what it counts (nothing outside the level), its row, and the row's share."""
    n = f"{level}_{corner}"
    return f"""
    step_int_{n} = Constant <value_ints: ints = [{step}]> ()
    step_{n} = CastLike (step_int_{n}, locations)
    cell_{n} = Add (corner_{level}, step_{n})
    not_low_{n} = Max (cell_{n}, nothing)
    inside_{n} = Min (not_low_{n}, last_{level})
    is_inside_{n} = Equal (cell_{n}, inside_{n})
    is_inside_float_{n} = CastLike (is_inside_{n}, locations)
    offset_{n} = Sub (place_{level}, cell_{n})
    distance_{n} = Abs (offset_{n})
    closeness_{n} = Sub (unit, distance_{n})
    axis_share_{n} = Mul (closeness_{n}, is_inside_float_{n})
    share_{n} = ReduceProd <keepdims: int = 0> (axis_share_{n}, last_axis)
    counted_{n} = Mul (share_{n}, count_{level})
    counted_row_{n} = Unsqueeze (counted_{n}, last_axis)
    stepped_{n} = Mul (inside_{n}, stride_{level})
    cell_row_float_{n} = ReduceSum <keepdims: int = 0> (stepped_{n}, last_axis)
    cell_row_{n} = Cast <to: int = 7> (cell_row_float_{n})
    token_{n} = Add (cell_row_{n}, start_{level})
    batch_token_{n} = Add (token_{n}, batch_tokens)
    head_row_{n} = Mul (batch_token_{n}, heads)
    row_{n} = Add (head_row_{n}, head_axis)
    sample_{n} = Gather <axis: int = 0> (table, row_{n})
    weighted_{n} = Mul (sample_{n}, counted_row_{n})
    part_{n} = ReduceSum <keepdims: int = 0> (weighted_{n}, level_and_points)
"""


def tensorrt_body(name: str, levels: int) -> onnx.FunctionProto | None:
    """An operation's body for TensorRT, or None where the kernel's own does. levels: of the deformable attention."""
    texts = {
        "SelfAttention": _SELF_ATTENTION,
        "OnlineAttention": _ONLINE_ATTENTION,
        "DeformableAttention": _deformable_attention(levels),
    }
    if name not in texts:
        return None
    return onnx.parser.parse_function(f'<domain: "x2sam_rt", opset_import: ["" : {OPSET}]>' + texts[name])

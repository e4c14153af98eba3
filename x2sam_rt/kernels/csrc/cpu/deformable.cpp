// Multi-scale deformable attention: per query and head, levels x points bilinear samples of head_dim channels.
//
// First all samples of a query are turned into four corner tokens and four weights each (vectorised over the
// samples; a corner outside its level gets weight zero and a harmless token), then the corners are gathered
// (vectorised over the channels).

#include "kernels.h"
#include "simd.h"

namespace x2sam::X2SAM_ISA {
namespace {

constexpr int64_t kQueries = 32;  // queries per task

// Work space for `count` samples, heads x levels x points in the order of the inputs. Corner c of a sample:
// 0 top left, 1 top right, 2 bottom left, 3 bottom right.
struct Samples {
  int64_t count;
  float *width, *height;  // of each sample's level
  int32_t *start, *row;   // of each sample's level, in tokens
  int32_t* token[4];
  float* factor[4];
  float* inside[4];      // 1 or 0; only for gradients
  float *right, *lower;  // fractions; only for gradients

  static constexpr int64_t kArrays = 18;

  Samples(const DeformableArgs& args, int64_t heads, float* memory) : count(heads * args.levels * args.points) {
    auto next = [&] {
      float* array = memory;
      memory += count;
      return array;
    };
    width = next(), height = next(), right = next(), lower = next();
    start = reinterpret_cast<int32_t*>(next()), row = reinterpret_cast<int32_t*>(next());
    for (int c = 0; c < 4; ++c) {
      token[c] = reinterpret_cast<int32_t*>(next());
      factor[c] = next(), inside[c] = next();
    }
    for (int64_t i = 0; i < count; ++i) set_level(args, i, i / args.points % args.levels);
  }

  void set_level(const DeformableArgs& args, int64_t sample, int64_t level) {
    int64_t first = 0;
    for (int64_t l = 0; l < level; ++l) first += args.spatial_shapes[2 * l] * args.spatial_shapes[2 * l + 1];
    height[sample] = static_cast<float>(args.spatial_shapes[2 * level]);
    width[sample] = static_cast<float>(args.spatial_shapes[2 * level + 1]);
    row[sample] = static_cast<int32_t>(args.spatial_shapes[2 * level + 1]);
    start[sample] = static_cast<int32_t>(first);
  }
};

// NaN becomes `low`.
inline float clamp(float x, float low, float high) { return x > low ? (x < high ? x : high) : low; }
inline float flag(bool condition) { return condition ? 1.0f : 0.0f; }

// locations: (x, y) in 0...1 over the sample's level.
template <bool gradient>
void prepare(const Samples& samples, const float* locations, const float* weights) {
  X2SAM_INDEPENDENT
  for (int64_t i = 0; i < samples.count; ++i) {
    const float width = samples.width[i], height = samples.height[i], last_x = width - 1.0f, last_y = height - 1.0f;
    // Far outside reads nothing, but must stay in the range of int; -2 reads nothing either.
    const float x = clamp(locations[2 * i] * width - 0.5f, -2.0f, width + 1.0f);
    const float y = clamp(locations[2 * i + 1] * height - 0.5f, -2.0f, height + 1.0f);
    const float x0 = __builtin_floorf(x), y0 = __builtin_floorf(y), x1 = x0 + 1.0f, y1 = y0 + 1.0f;
    const float right = x - x0, lower = y - y0;
    const float cx0 = clamp(x0, 0.0f, last_x), cx1 = clamp(x1, 0.0f, last_x);
    const float cy0 = clamp(y0, 0.0f, last_y), cy1 = clamp(y1, 0.0f, last_y);
    const float in_left = flag(cx0 == x0), in_right = flag(cx1 == x1);
    const float in_top = flag(cy0 == y0), in_bottom = flag(cy1 == y1);
    const int32_t top = samples.start[i] + static_cast<int32_t>(cy0) * samples.row[i];
    const int32_t bottom = samples.start[i] + static_cast<int32_t>(cy1) * samples.row[i];
    samples.token[0][i] = top + static_cast<int32_t>(cx0);
    samples.token[1][i] = top + static_cast<int32_t>(cx1);
    samples.token[2][i] = bottom + static_cast<int32_t>(cx0);
    samples.token[3][i] = bottom + static_cast<int32_t>(cx1);
    const float upper_weight = (1.0f - lower) * weights[i], lower_weight = lower * weights[i];
    samples.factor[0][i] = upper_weight * (1.0f - right) * (in_top * in_left);
    samples.factor[1][i] = upper_weight * right * (in_top * in_right);
    samples.factor[2][i] = lower_weight * (1.0f - right) * (in_bottom * in_left);
    samples.factor[3][i] = lower_weight * right * (in_bottom * in_right);
    if constexpr (gradient) {
      samples.right[i] = right;
      samples.lower[i] = lower;
      samples.inside[0][i] = in_top * in_left;
      samples.inside[1][i] = in_top * in_right;
      samples.inside[2][i] = in_bottom * in_left;
      samples.inside[3][i] = in_bottom * in_right;
    }
  }
}

// The samples [first, last) of one head, its channels in registers; one sum per corner keeps the adders busy.
template <int vectors>
void gather(const float* value, int64_t step, const Samples& samples, int64_t first, int64_t last, float* out) {
  Floats sum[4][vectors] = {};
  for (int64_t i = first; i < last; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const float* source = value + samples.token[c][i] * step;
      const float factor = samples.factor[c][i];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[c][v] += load(source + v * kLanes) * factor;
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) store(out + v * kLanes, (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]));
}

void gather_any(const float* value, int64_t step, const Samples& samples, int64_t first, int64_t last, float* out,
                int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) out[d] = 0.0f;
  for (int64_t i = first; i < last; ++i)
    for (int c = 0; c < 4; ++c) {
      const float* source = value + samples.token[c][i] * step;
      for (int64_t d = 0; d < dim; ++d) out[d] += source[d] * samples.factor[c][i];
    }
}

void gather_head(const float* value, int64_t step, const Samples& samples, int64_t first, int64_t last, float* out,
                 int64_t dim) {
  switch (dim) {
    case kLanes: return gather<1>(value, step, samples, first, last, out);
    case 2 * kLanes: return gather<2>(value, step, samples, first, last, out);
    case 4 * kLanes: return gather<4>(value, step, samples, first, last, out);
    default: return gather_any(value, step, samples, first, last, out, dim);
  }
}

void attend_query(const DeformableArgs& args, const Samples& samples, int64_t batch, int64_t query) {
  const int64_t row = batch * args.queries + query, per_head = args.levels * args.points;
  prepare<false>(samples, args.locations + 2 * row * samples.count, args.weights + row * samples.count);
  for (int64_t head = 0; head < args.heads; ++head) {
    const float* value = args.value + batch * args.value_batch + head * args.value_head;
    float* out = args.out + (row * args.heads + head) * args.head_dim;
    gather_head(value, args.value_token, samples, head * per_head, (head + 1) * per_head, out, args.head_dim);
  }
}

// Sample i of one head: the dot products of the incoming gradient with the four corners give all three gradients.
void sample_gradient(const DeformableGradArgs& args, const Samples& samples, int64_t i, const float* value,
                     float* grad_value, const float* grad, int64_t at) {
  const DeformableArgs& in = args.forward;
  float dot[4];
  for (int c = 0; c < 4; ++c) {
    const float* source = value + samples.token[c][i] * in.value_token;
    float* target = grad_value + samples.token[c][i] * in.heads * in.head_dim;
    const float factor = samples.factor[c][i];
    float sum = 0.0f;
    for (int64_t d = 0; d < in.head_dim; ++d) {
      sum += grad[d] * source[d];
      target[d] += grad[d] * factor;
    }
    dot[c] = sum * samples.inside[c][i];
  }
  const float right = samples.right[i], lower = samples.lower[i], weight = in.weights[at];
  const float top = dot[0] + (dot[1] - dot[0]) * right, bottom = dot[2] + (dot[3] - dot[2]) * right;
  args.grad_weights[at] = top + (bottom - top) * lower;
  const float slope_x = (dot[1] - dot[0]) * (1.0f - lower) + (dot[3] - dot[2]) * lower;
  args.grad_locations[2 * at] = slope_x * weight * samples.width[i];
  args.grad_locations[2 * at + 1] = (bottom - top) * weight * samples.height[i];
}

// A task owns one head of one batch entry, so that no two tasks add to the same grad_value.
void head_gradient(const DeformableGradArgs& args, const Samples& samples, int64_t batch, int64_t head) {
  const DeformableArgs& in = args.forward;
  const float* value = in.value + batch * in.value_batch + head * in.value_head;
  float* grad_value = args.grad_value + (batch * in.tokens * in.heads + head) * in.head_dim;
  for (int64_t query = 0; query < in.queries; ++query) {
    const int64_t row = (batch * in.queries + query) * in.heads + head, at = row * samples.count;
    prepare<true>(samples, in.locations + 2 * at, in.weights + at);
    for (int64_t i = 0; i < samples.count; ++i)
      sample_gradient(args, samples, i, value, grad_value, in.out + row * in.head_dim, at + i);
  }
}

// Runs body(samples, task) with every thread's own work space for `heads` heads. False when there was no memory.
template <class Body>
bool with_samples(const DeformableArgs& args, int64_t heads, int64_t tasks, const Threads& threads, const Body& body) {
  const int64_t floats = heads * args.levels * args.points * Samples::kArrays;
  bool out_of_memory = false;
  auto task = [&](size_t index) {
    float* memory = scratch(static_cast<size_t>(floats));
    if (!memory) {
      __atomic_store_n(&out_of_memory, true, __ATOMIC_RELAXED);
      return;
    }
    body(Samples(args, heads, memory), static_cast<int64_t>(index));
  };
  threads.each(static_cast<size_t>(tasks), task);
  return !out_of_memory;
}

}  // namespace

bool deformable(const DeformableArgs& args, const Threads& threads) {
  const int64_t chunks = ceil_div(args.queries, kQueries);
  return with_samples(args, args.heads, args.batch * chunks, threads, [&](const Samples& samples, int64_t task) {
    const int64_t first = task % chunks * kQueries, end = smaller(first + kQueries, args.queries);
    for (int64_t query = first; query < end; ++query) attend_query(args, samples, task / chunks, query);
  });
}

bool deformable_grad(const DeformableGradArgs& args, const Threads& threads) {
  const DeformableArgs& in = args.forward;
  return with_samples(in, 1, in.batch * in.heads, threads, [&](const Samples& samples, int64_t task) {
    head_gradient(args, samples, task / in.heads, task % in.heads);
  });
}

}  // namespace x2sam::X2SAM_ISA

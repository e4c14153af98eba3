// The memory encoder's mask guidance and the mask decoder's attention masks: each reads the logits once.

#include "kernels.h"
#include "simd.h"

namespace x2sam::X2SAM_ISA {
namespace {

constexpr int64_t kPixels = 256;  // pixels per task: its running sums stay in the first-level cache
constexpr int kQueries = 4;       // queries folded into the running sums at a time

struct Sums {
  float top[kPixels], weighted[kPixels], total[kPixels];
};

// softmax over queries of (mask + log score) is exp(mask - top) * score over its sum; with e = exp(mask - top),
// sigmoid(mask) = e / (e + exp(-top)), so one exponential serves both.
void fold(const float* const* rows, const float* score, int count, int64_t offset, Sums& sums, int64_t at, bool first) {
  Floats mask[kQueries];
  Floats now = load(rows[0] + offset);
  for (int q = 0; q < count; ++q) {
    mask[q] = load(rows[q] + offset);
    now = maximum(now, mask[q]);
  }
  Floats weighted = {}, total = {};
  if (!first) {
    const Floats before = load(sums.top + at);
    now = maximum(now, before);
    const Floats rescale = exp(before - now);
    weighted = load(sums.weighted + at) * rescale;
    total = load(sums.total + at) * rescale;
  }
  const Floats one = exp(-now);  // the 1 of 1 / (1 + exp(-mask)), relative to exp(now); exp keeps it above zero
  for (int q = 0; q < count; ++q) {
    const Floats e = exp(mask[q] - now);
    const Floats share = e * score[q];
    total += share;
    weighted += share * (e / (e + one));
  }
  store(sums.top + at, now);
  store(sums.weighted + at, weighted);
  store(sums.total + at, total);
}

void fold_queries(const MaskFusionArgs& args, const float* scores, int64_t pixel, int64_t count, Sums& sums) {
  for (int64_t query = 0; query < args.queries; query += kQueries) {
    const int together = static_cast<int>(smaller<int64_t>(kQueries, args.queries - query));
    const float* rows[kQueries];
    for (int q = 0; q < together; ++q) rows[q] = args.mask_logits + (query + q) * args.mask_row + pixel;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) fold(rows, scores + query, together, i, sums, i, query == 0);
    if (i == count) continue;
    // The last, partial vector goes through a copy so that nothing outside the image is read.
    float edge[kQueries][kLanes] = {};
    for (int q = 0; q < together; ++q) {
      for (int64_t lane = 0; lane < count - i; ++lane) edge[q][lane] = rows[q][i + lane];
      rows[q] = edge[q];
    }
    fold(rows, scores + query, together, 0, sums, i, query == 0);
  }
}

// Sum of exp(logits - top).
float sum_exp(const float* logits, int64_t classes, float top) {
  Floats sum = {};
  for (int64_t c = 0; c < classes; c += kLanes) {
    float lanes[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = c + lane < classes ? logits[c + lane] - top : -1e30f;
    sum += exp(load(lanes));
  }
  float total = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  return total;
}

// max over the conditions (the last class is the background) of the softmax over all classes, at least 1e-6.
float query_score(const float* logits, int64_t classes) {
  float best = logits[0];
  for (int64_t c = 1; c + 1 < classes; ++c) best = logits[c] > best ? logits[c] : best;
  const float top = best > logits[classes - 1] ? best : logits[classes - 1];
  const float score = exp(broadcast(best - top))[0] / sum_exp(logits, classes, top);
  return score > 1e-6f ? score : 1e-6f;
}

struct Axis {
  int64_t low, high;
  float low_weight, high_weight;
};

// Bilinear resizing without corner alignment, rounded as torch rounds it: the masks must not flip at the threshold.
Axis axis(int64_t index, int64_t size, int64_t out_size) {
  const float scale = static_cast<float>(size) / static_cast<float>(out_size);
  float at = (static_cast<float>(index) + 0.5f) * scale - 0.5f;
  if (at < 0.0f) at = 0.0f;
  const int64_t low = smaller(static_cast<int64_t>(at), size - 1);
  const float weight = at - static_cast<float>(low);
  const float high_weight = weight < 0.0f ? 0.0f : (weight > 1.0f ? 1.0f : weight);
  return {low, low + (low < size - 1), 1.0f - high_weight, high_weight};
}

uint8_t threshold(const float* mask, const AttentionMaskArgs& args, uint8_t* out) {
  uint8_t any = 0;
  for (int64_t y = 0; y < args.out_height; ++y) {
    const float* row = mask + y * args.mask_row;
    uint8_t* target = out + y * args.out_width;
    for (int64_t x = 0; x < args.out_width; ++x) {
      target[x] = row[x] >= 0.0f;
      any |= target[x];
    }
  }
  return any;
}

uint8_t resize_and_threshold(const float* mask, const AttentionMaskArgs& args, const Axis* columns, uint8_t* out) {
  uint8_t any = 0;
  for (int64_t y = 0; y < args.out_height; ++y) {
    const Axis row = axis(y, args.height, args.out_height);
    const float *upper = mask + row.low * args.mask_row, *lower = mask + row.high * args.mask_row;
    uint8_t* target = out + y * args.out_width;
    for (int64_t x = 0; x < args.out_width; ++x) {
      const Axis& column = columns[x];
      const float top = upper[column.low] * column.low_weight + upper[column.high] * column.high_weight;
      const float bottom = lower[column.low] * column.low_weight + lower[column.high] * column.high_weight;
      target[x] = top * row.low_weight + bottom * row.high_weight >= 0.0f;
      any |= target[x];
    }
  }
  return any;
}

}  // namespace

bool mask_fusion(const MaskFusionArgs& args, const Threads& threads) {
  float* scores = scratch(static_cast<size_t>(args.queries));
  if (!scores) return false;
  for (int64_t q = 0; q < args.queries; ++q)
    scores[q] = query_score(args.class_logits + q * args.class_row, args.classes);
  auto body = [&](size_t index) {
    const int64_t pixel = static_cast<int64_t>(index) * kPixels;
    const int64_t count = smaller(kPixels, args.pixels - pixel);
    Sums sums;
    fold_queries(args, scores, pixel, count, sums);
    for (int64_t i = 0; i < count; ++i) args.out[pixel + i] = sums.weighted[i] / sums.total[i];
  };
  threads.each(static_cast<size_t>(ceil_div(args.pixels, kPixels)), body);
  return true;
}

bool attention_mask(const AttentionMaskArgs& args, const Threads& threads) {
  const bool same_size = args.height == args.out_height && args.width == args.out_width;
  Axis* columns = reinterpret_cast<Axis*>(scratch(static_cast<size_t>(args.out_width) * sizeof(Axis) / sizeof(float)));
  if (!columns) return false;
  for (int64_t x = 0; x < args.out_width; ++x) columns[x] = axis(x, args.width, args.out_width);
  auto body = [&](size_t query) {
    const float* mask = args.mask_logits + static_cast<int64_t>(query) * args.mask_query;
    const int64_t size = args.out_height * args.out_width;
    uint8_t* out = args.out + static_cast<int64_t>(query) * size;
    const uint8_t any = same_size ? threshold(mask, args, out) : resize_and_threshold(mask, args, columns, out);
    if (any) return;
    for (int64_t i = 0; i < size; ++i) out[i] = 1;
  };
  threads.each(static_cast<size_t>(args.queries), body);
  return true;
}

}  // namespace x2sam::X2SAM_ISA

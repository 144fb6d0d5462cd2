// CPU: group normalisation of images with their channels last in memory, with or without the SiLU that follows it, and
// its gradient. y = silu(w (x - mean) / deviation + b), mean and deviation over all positions and channels of a group.
#include "group_norm.h"

#include <cmath>

#include "channels.h"
#include "silu.h"

DK_NAMESPACE_BEGIN

// Memory of one thread. No std::vector: the linker would keep one copy of its functions for all SIMD levels.
template <class T>
struct Scratch {
  T* const data;
  explicit Scratch(int64_t size) : data(new T[size_t(size)]) {}
  ~Scratch() { delete[] data; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data; }
};

// The sum over a group's channels.
DK_INLINE double of_group(const double* channels, int64_t first, int64_t count) {
  double sum = 0;
  for (int64_t c = first; c < first + count; ++c) sum += channels[c];
  return sum;
}

template <bool kSilu, class T>
static void normalize_row(const GroupNormArgs& args, int64_t row, float* means, float* scales, double* sums) {
  const int64_t channels = args.channels, positions = args.rows.width / channels, size = channels / args.groups;
  const double count = double(size) * double(positions);
  const T* x = static_cast<const T*>(args.x) + row * args.rows.width;
  T* y = static_cast<T*>(args.y) + row * args.rows.width;

  // Above the first position: a channel that is the same everywhere, however large, adds up without rounding.
  sum_over_positions<1>(positions, channels, {sums},
                        [&](auto lanes, int64_t i, int64_t c, auto* number) DK_INLINE_LAMBDA {
                          using V = decltype(lanes);
                          number[0] = V::load(x + i * channels + c) - V::load(x + c);
                        });
  for_each_channel(channels, [&](auto lanes, int64_t c)
                                 DK_INLINE_LAMBDA { decltype(lanes)::store(means + c, decltype(lanes)::load(x + c)); });
  for (int64_t c = 0; c < channels; ++c) sums[c] += double(means[c]) * double(positions);
  for (int64_t group = 0; group < args.groups; ++group) {
    const float mean = float(of_group(sums, group * size, size) / count);
    args.mean[row * args.groups + group] = mean;
    for (int64_t c = group * size; c < (group + 1) * size; ++c) means[c] = mean;
  }
  // About the mean, in a pass of its own: a difference of two sums loses what is small beside a large mean.
  sum_over_positions<1>(positions, channels, {sums},
                        [&](auto lanes, int64_t i, int64_t c, auto* number) DK_INLINE_LAMBDA {
                          using V = decltype(lanes);
                          const typename V::F distance = V::load(x + i * channels + c) - V::load(means + c);
                          number[0] = distance * distance;
                        });
  for (int64_t group = 0; group < args.groups; ++group) {
    const float inverse = float(1 / std::sqrt(of_group(sums, group * size, size) / count + args.eps));
    args.inverse_deviation[row * args.groups + group] = inverse;
    for (int64_t c = group * size; c < (group + 1) * size; ++c) scales[c] = args.weight[c] * inverse;
  }
  for (int64_t i = 0; i < positions; ++i)
    for_each_channel(channels, [&](auto lanes, int64_t c) DK_INLINE_LAMBDA {
      using V = decltype(lanes);
      const typename V::F distance = V::load(x + i * channels + c) - V::load(means + c);
      const typename V::F z = V::fma(distance, V::load(scales + c), V::load(args.bias + c));
      V::store(y + i * channels + c, kSilu ? silu<V>(z) : z);
    });
}

bool group_norm_cpu(const GroupNormArgs& args, int64_t begin, int64_t end) {
  const Scratch<float> means(args.channels), scales(args.channels);
  const Scratch<double> sums(args.channels);
  with_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    for (int64_t row = begin; row < end; ++row)
      args.silu ? normalize_row<true, T>(args, row, means, scales, sums)
                : normalize_row<false, T>(args, row, means, scales, sums);
  });
  return true;
}

// What one thread needs for the gradient: of each channel, and the gradient behind the SiLU of all elements of a row.
struct GradScratch {
  Scratch<float> means, inverses, scales, offsets, slopes, grads;
  Scratch<double> grad_sums, product_sums;
  explicit GradScratch(const GroupNormGradArgs& args)
      : means(args.channels),
        inverses(args.channels),
        scales(args.channels),
        offsets(args.channels),
        slopes(args.channels),
        grads(args.rows.width),
        grad_sums(args.channels),
        product_sums(args.channels) {}
};

template <bool kSilu, class T>
static void row_grad(const GroupNormGradArgs& args, int64_t row, GradScratch& own) {
  const int64_t channels = args.channels, positions = args.rows.width / channels, size = channels / args.groups;
  const double count = double(size) * double(positions);
  const T* x = static_cast<const T*>(args.x) + row * args.rows.width;
  const T* grad_y = static_cast<const T*>(args.grad_y) + row * args.rows.width;
  T* grad_x = static_cast<T*>(args.grad_x) + row * args.rows.width;
  for (int64_t c = 0; c < channels; ++c) {
    own.means[c] = args.mean[row * args.groups + c / size];
    own.inverses[c] = args.inverse_deviation[row * args.groups + c / size];
    own.scales[c] = args.weight[c] * own.inverses[c];
  }
  // With g the gradient behind the SiLU and n the normalised x: the sums of g and of g n over the positions.
  sum_over_positions<2>(positions, channels, {own.grad_sums, own.product_sums},
                        [&](auto lanes, int64_t i, int64_t c, auto* numbers) DK_INLINE_LAMBDA {
                          using V = decltype(lanes);
                          const typename V::F distance = V::load(x + i * channels + c) - V::load(own.means + c);
                          typename V::F g = V::load(grad_y + i * channels + c);
                          if constexpr (kSilu)
                            g = g *
                                silu_derivative<V>(V::fma(distance, V::load(own.scales + c), V::load(args.bias + c)));
                          V::store(own.grads + i * channels + c, g);
                          numbers[0] = g;
                          numbers[1] = g * (distance * V::load(own.inverses + c));
                        });
  float *bias_part = args.sums + 2 * row * channels, *weight_part = bias_part + channels;
  for (int64_t c = 0; c < channels; ++c) {
    bias_part[c] = float(own.grad_sums[c]);
    weight_part[c] = float(own.product_sums[c]);
    own.grad_sums[c] *= args.weight[c];
    own.product_sums[c] *= args.weight[c];
  }
  // grad_x = (w g - mean of w g - n times the mean of w g n) / deviation, means over the group.
  for (int64_t group = 0; group < args.groups; ++group) {
    const double inverse = own.inverses[group * size];
    const float offset = float(inverse * of_group(own.grad_sums, group * size, size) / count);
    const float slope = float(inverse * inverse * of_group(own.product_sums, group * size, size) / count);
    for (int64_t c = group * size; c < (group + 1) * size; ++c) own.offsets[c] = -offset, own.slopes[c] = -slope;
  }
  for (int64_t i = 0; i < positions; ++i)
    for_each_channel(channels, [&](auto lanes, int64_t c) DK_INLINE_LAMBDA {
      using V = decltype(lanes);
      const typename V::F distance = V::load(x + i * channels + c) - V::load(own.means + c);
      const typename V::F g = V::load(own.grads + i * channels + c);
      V::store(grad_x + i * channels + c,
               V::fma(distance, V::load(own.slopes + c), V::fma(g, V::load(own.scales + c), V::load(own.offsets + c))));
    });
}

bool group_norm_grad_cpu(const GroupNormGradArgs& args, int64_t begin, int64_t end) {
  GradScratch own(args);
  with_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    for (int64_t row = begin; row < end; ++row)
      args.silu ? row_grad<true, T>(args, row, own) : row_grad<false, T>(args, row, own);
  });
  return true;
}

DK_NAMESPACE_END

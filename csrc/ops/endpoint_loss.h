// Endpoint loss of one element (docs/method.md, eq. 12): residual r = (x - x_end) - delta u,
//   loss = mean_b weight_b / (delta_b^2 D) sum_i r^2,   d loss / d u = -2 weight_b r / (delta_b D B).
#pragma once
#include <cmath>

#include "../lanes/lanes.h"

DK_NAMESPACE_BEGIN

struct LossRow {
  float delta, grad_scale;
  double loss_scale;

  // False too for delta = 0.
  bool is_finite() const { return std::isfinite(delta) && std::isfinite(grad_scale) && std::isfinite(loss_scale); }
};

DK_INLINE LossRow loss_row(const EndpointLossArgs& args, int64_t row) {
  const double delta = row_scalar(args.delta, row), weight = row_scalar(args.weight, row);
  const double count = double(args.rows.count) * double(args.rows.width);
  return {float(delta), float(-2 * weight / (delta * count)), weight / (delta * delta * count)};
}

template <class V>
DK_INLINE typename V::F residual(typename V::F x, typename V::F u, typename V::F x_end, const LossRow& row) {
  return V::fma(V::splat(-row.delta), u, x - x_end);
}

DK_NAMESPACE_END

// What every kernel derives from one row's time t, in double precision, before it touches the row's elements.
#pragma once
#include <cmath>

#include "lanes/lanes.h"

DK_NAMESPACE_BEGIN

// Displacements are computed in units of 2^k close to the radius c*t of the light cone (an exact scaling), so that no
// square over- or underflows whatever the units of a and c are.
struct LightCone {
  double exact;   // c*t
  float radius;   // float32(c*t): the value that the sampler gives to particles that never turned
  float rest;     // float32(c*t - radius), scaled: without it, c^2 t^2 - x^2 loses up to 1e-4
  float scaled;   // radius * scale, in [1, 2)
  float scale;    // a power of two
  float unscale;  // 1 / scale
};

DK_INLINE LightCone light_cone(double t, double c) {
  LightCone cone;
  cone.exact = c * t;
  cone.radius = float(cone.exact);
  // 2^-e for a radius in [2^e, 2^(e+1)), by its exponent bits: frexp and ldexp would cost more than the rest of a row.
  // At least 1: smaller radii (subnormal, 0) are scaled by 2^126 and stay below 1.
  const uint32_t of_radius = bit_cast<uint32_t>(cone.radius) >> 23, exponent = of_radius > 1u ? of_radius : 1u;
  cone.scale = bit_cast<float>((254u - exponent) << 23);
  cone.unscale = bit_cast<float>(exponent << 23);
  cone.scaled = cone.radius * cone.scale;
  cone.rest = float((cone.exact - double(cone.radius)) * double(cone.scale));
  return cone;
}

// How far outside the cone a displacement may lie that is on it but for rounding: in proportion, and by the smallest
// numbers of its type, by which four coordinates may be off together.
struct ConeRounding {
  float relative, absolute;

  // In scaled units, what absolute comes to; at t = 0 displacements are exact.
  DK_INLINE float spacing(const LightCone& cone) const { return cone.radius > 0 ? absolute * cone.scale : 0.f; }
};

// The largest |k| that is taken, in scaled units.
DK_INLINE float cone_limit(const LightCone& cone, ConeRounding rounding) {
  return cone.scaled * (1.f + rounding.relative) + rounding.spacing(cone);
}

constexpr double kMaxLambda = 1e9;  // a*t: beyond, float32 rationals overflow; the law is Gaussian to 1e-9 long before
constexpr double kMaxRadius = 1e30;

// Is this a time the formulas cover? NaN is not.
DK_INLINE bool row_is_valid(double t, double a, double c) {
  return (t >= 0) & (a * t <= kMaxLambda) & (c * t <= kMaxRadius);  // no branches: a loop of these vectorises
}

DK_NAMESPACE_END

#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/hd.h"

namespace strata {

/// Explicit fused multiply-add: the one contraction rules may use, since it is written down.
STRATA_HD inline float fma_(float a, float b, float c) {
  return std::fma(a, b, c);
}
STRATA_HD inline double fma_(double a, double b, double c) {
  return std::fma(a, b, c);
}

// exp_, log_, tanh_: our own polynomials in explicit fma, so that bits agree over machines and
// devices (libm differs between versions, and vectorised libm from scalar libm).

/// e^x. Relative error <= 2 ulp on [-87, 88]; 0 below -87.3, +inf above 88.7.
STRATA_HD float exp_(float x);
/// exp_ where x <= 88, as in a softmax or behind a bound: the same bits, without the care for
/// overflow.
STRATA_HD float exp_softmax(float x);
/// Hyperbolic tangent; absolute error <= 2e-7.
STRATA_HD float tanh_(float x);
/// Natural logarithm of a positive normal float; relative error <= 2 ulp outside [0.99, 1.01],
/// absolute 1e-7 inside.
STRATA_HD float log_(float x);

/// Binary logarithm of a positive normal double and 2^x for |x| <= 1000, absolute and relative
/// error below 1e-12: for the few constants of a group, where libm's last bit would differ by
/// version.
STRATA_HD double log2_(double x);
STRATA_HD double exp2_(double x);

}  // namespace strata

#include "core/math_inl.h"

// The bridge of one element: x_t = f x_0 + k,  u = f' x_0 + g' v  (docs/method.md, eq. 8).
#pragma once
#include "schedules.h"
#include "../lanes/lanes.h"

DK_NAMESPACE_BEGIN

template <class V>
struct Bridge {
  typename V::F f, df, dg;
  explicit DK_INLINE Bridge(const BridgeRow& row)
      : f(V::splat(float(row.f))), df(V::splat(float(row.df))), dg(V::splat(float(row.dg))) {}

  DK_INLINE typename V::F x_t(typename V::F x0, typename V::F k) const { return V::fma(f, x0, k); }
  DK_INLINE typename V::F u(typename V::F x0, typename V::F v) const { return V::fma(dg, v, df * x0); }
};

DK_NAMESPACE_END

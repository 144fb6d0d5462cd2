// CPU: the blocks of draws of one row, of either process.
#pragma once
#include "../planar/blocks.h"
#include "../telegraph/blocks.h"

DK_NAMESPACE_BEGIN

// f(blocks) with those of the process.
template <class F>
inline void with_blocks(Process process, double t, double a, double c, const RowStream& stream, F&& f) {
  if (process == Process::kPlanar) return f(PlanarBlocks<Lanes>(planar_row(t, a, c), stream));
  f(TelegraphBlocks<Lanes>(telegraph_row(t, a, c), stream));
}

DK_NAMESPACE_END

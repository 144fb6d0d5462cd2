// How an op's rows are cut into work units: for the loops of the CPU and for the blocks of a GPU.
#pragma once
#include "../kernels.h"
#include "../lanes/platform.h"

DK_NAMESPACE_BEGIN

struct Chunk {
  int64_t row, begin, end;  // elements [begin, end) of the row
};

DK_INLINE Chunk chunk_of(const Rows& rows, int64_t chunk_size, int64_t unit) {
  const int64_t per_row = chunks_per_row(rows.width, chunk_size), begin = unit % per_row * chunk_size;
  return {unit / per_row, begin, begin + chunk_size < rows.width ? begin + chunk_size : rows.width};
}

DK_NAMESPACE_END

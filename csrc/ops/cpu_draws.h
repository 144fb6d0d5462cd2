// CPU: the draws of an op's work units, of any process. Row parameters are made for as many rows as there are lanes.
#pragma once
#include "../planar/blocks.h"
#include "../planar/rows.h"
#include "../quad/blocks.h"
#include "../quad/rows.h"
#include "../telegraph/blocks.h"
#include "../telegraph/rows.h"
#include "chunks.h"

DK_NAMESPACE_BEGIN

constexpr int kShortRow = 16;  // up to this width a row's own block of 64 draws costs more than a Philox call each

struct Draws {
  Kac kac;
  PhiloxKey key;
  int64_t row_offset;

  Draws(const Kac& process, const Seed& seed)
      : kac(process), key(philox_key(seed_value(seed))), row_offset(seed.row_offset) {}

  // The work units [begin, end) of `rows`. times(row): the process time, and a second one for a second displacement
  // from the same words; NaN where it is out of range: then the result is false and nothing is promised about the
  // output. use(row) gives a sink(lanes, i, k, v), or with two times a sink(lanes, i, k, v, k_to), for the elements i
  // of that row, and of the rows after it too (i counts on) if kOneSink.
  template <bool kVelocity, bool kOneSink, class Use, class... Times>
  bool for_each(const Rows& rows, int64_t begin, int64_t end, Use&& use, Times&&... times) const {
    constexpr int kTimes = sizeof...(Times);
    static_assert(kTimes == 1 || kTimes == 2);
    const bool whole_rows = rows.width <= kChunk;
    for (int64_t unit = begin; unit < end; unit += kTogether) {
      const int count = end - unit < kTogether ? int(end - unit) : kTogether;
      alignas(64) double t[kTimes][kTogether];
      bool valid = true;
      for (int n = 0; n < count; ++n) {
        const int64_t row = whole_rows ? unit + n : chunk_of(rows, kChunk, unit + n).row;
        double(*to)[kTogether] = t;
        (((*to)[n] = times(row), valid &= row_is_valid((*to++)[n], kac.a, kac.c)), ...);
      }
      if (!valid) return false;
      for (auto& of : t)
        for (int n = count; n < kTogether; ++n) of[n] = 0;  // the rest of the last vector
      if (rows.width <= kShortRow) {
        short_rows<kVelocity, kOneSink>(t, unit, count, int(rows.width), use);
        continue;
      }
      switch (kac.process) {
        case Process::kTelegraph:
          telegraph_chunks<kVelocity>(t, rows, unit, count, use);
          break;
        case Process::kPlanar:
          planar_chunks<kVelocity>(t, rows, unit, count, use);
          break;
        case Process::kQuad:
          quad_chunks<kVelocity>(t, rows, unit, count, use);
          break;
      }
    }
    return true;
  }

 private:
  static constexpr int kTogether = 64;  // rows: the set-ups of several vectors of rows overlap
  template <int kTimes>
  using Times = double[kTimes][kTogether];

  template <bool kVelocity, bool kOneSink, int kTimes, class Use>
  void short_rows(const Times<kTimes>& t, int64_t row, int count, int width, Use&& use) const {
    alignas(64) float k[kTimes][kTogether * kShortRow], v[kTogether * kShortRow];
    draw_short_rows<kVelocity>(t[0], row, count, width, k[0], v);
    if constexpr (kTimes == 2) draw_short_rows<false>(t[1], row, count, width, k[1], v);
    const int span = kOneSink ? count * width : width;
    for (int begin = 0; begin < count * width; begin += span) {
      const auto sink = use(row + begin / span);
      for_each_vector<Lanes>(0, span, [&](auto lanes, int64_t i) DK_INLINE_LAMBDA {
        using V = decltype(lanes);
        const typename V::F moving = kVelocity ? V::load(v + begin + i) : V::splat(0.f);
        if constexpr (kTimes == 2)
          sink(lanes, i, V::load(k[0] + begin + i), moving, V::load(k[1] + begin + i));
        else
          sink(lanes, i, V::load(k[0] + begin + i), moving);
      });
    }
  }

  template <bool kVelocity>
  void draw_short_rows(const double* t, int64_t row, int count, int width, float* k, float* v) const {
    const int64_t number = row_offset + row;
    switch (kac.process) {
      case Process::kTelegraph:
        telegraph_short_rows<Lanes, kVelocity, kTogether>(t, kac.a, kac.c, key, number, count, width, k, v);
        break;
      case Process::kPlanar:
        planar_short_rows<Lanes, kVelocity>(t, kac.a, kac.c, key, number, count, width, k, v);
        break;
      case Process::kQuad:
        quad_short_rows<Lanes, kVelocity>(t, kac.a, kac.c, key, number, count, width, k, v);
        break;
    }
  }

  template <bool kVelocity, int kTimes, class Use>
  void telegraph_chunks(const Times<kTimes>& t, const Rows& rows, int64_t unit, int count, Use&& use) const {
    TelegraphRow<Scalar> row[kTimes][kTogether];
    for (int i = 0; i < kTimes; ++i) telegraph_rows<Lanes>(t[i], kac.a, kac.c, count, row[i]);
    for (int n = 0; n < count; ++n) {
      const Chunk chunk = chunk_of(rows, kChunk, unit + n);
      const TelegraphBlocks<Lanes> blocks(
          row[0][n], kVelocity ? telegraph_velocity_row(t[0][n], kac.a, kac.c) : TelegraphVelocityRow{},
          words_of(chunk));
      if constexpr (kTimes == 2)
        blocks.for_each(chunk.begin, chunk.end, TelegraphBlocks<Lanes>(row[1][n], {}, words_of(chunk)), use(chunk.row));
      else
        blocks.template for_each<kVelocity>(chunk.begin, chunk.end, use(chunk.row));
    }
  }

  template <bool kVelocity, int kTimes, class Use>
  void planar_chunks(const Times<kTimes>& t, const Rows& rows, int64_t unit, int count, Use&& use) const {
    for (int n = 0; n < count; ++n) {
      const Chunk chunk = chunk_of(rows, kChunk, unit + n);
      const PlanarBlocks<Lanes> blocks(planar_row(t[0][n], kac.a, kac.c), words_of(chunk));
      if constexpr (kTimes == 2)
        blocks.for_each(chunk.begin, chunk.end, PlanarBlocks<Lanes>(planar_row(t[1][n], kac.a, kac.c), words_of(chunk)),
                        use(chunk.row));
      else
        blocks.template for_each<kVelocity>(chunk.begin, chunk.end, use(chunk.row));
    }
  }

  // Not inline: with three processes in one loop the compiler makes less of the other two.
  template <bool kVelocity, int kTimes, class Use>
  __attribute__((noinline)) void quad_chunks(const Times<kTimes>& t, const Rows& rows, int64_t unit, int count,
                                             Use&& use) const {
    for (int n = 0; n < count; ++n) {
      const Chunk chunk = chunk_of(rows, kChunk, unit + n);
      const QuadBlocks<Lanes> blocks(quad_row(t[0][n], kac.a, kac.c), words_of(chunk));
      if constexpr (kTimes == 2)
        blocks.for_each(chunk.begin, chunk.end, QuadBlocks<Lanes>(quad_row(t[1][n], kac.a, kac.c), words_of(chunk)),
                        use(chunk.row));
      else
        blocks.template for_each<kVelocity>(chunk.begin, chunk.end, use(chunk.row));
    }
  }

  RowStream words_of(const Chunk& chunk) const { return row_stream(key, row_offset + chunk.row); }
};

DK_NAMESPACE_END

// Small matrices times the columns of a block of atoms, in blocks that fill the registers.
//
// A wide block has its atoms in the lanes of COLUMNS vectors. A narrow block has a quarter of the atoms, and SHARED rows of each in
// one vector: number (row, atom) stands at `spot_of`. So few atoms of a species waste few lanes.
#pragma once

#include "lanes.hpp"

namespace mdistill {

constexpr int COLUMNS = REGISTER_BYTES == 64 ? 1 : REGISTER_BYTES == 32 ? 2 : 4;  // vectors of atoms in a wide block
constexpr int SHARED = 4 / COLUMNS;
template <class real>
constexpr int BLOCK = COLUMNS * LANES<real>;  // atoms worked on together
template <class real>
constexpr int NARROW = BLOCK<real> / 4;

constexpr int shared(int rows, int share = SHARED) { return (rows + share - 1) / share * share; }

// How many of `rows`, of `columns` vectors each, are worked on together: as even shares as the registers allow.
constexpr int rows_at_once(int rows, int columns) {
  const int most = std::min(std::max((REGISTERS - columns - 2) / columns, 1), 12), parts = (rows + most - 1) / most;
  return (rows + parts - 1) / parts;
}

// Where number (row, atom) of a block of WIDTH atoms stands.
template <class real, int WIDTH>
constexpr int spot_of(int row, int atom) {
  constexpr int together = WIDTH == BLOCK<real> ? 1 : SHARED;
  return row / together * together * WIDTH + atom * together + row % together;
}

// y[row] (+)= Σ_k w[row][k] x[k], where x and y hold a block of atoms for each k and row.
// SHARE: 1 where no block is narrow.
template <class real, int ROWS, int SHARE = SHARED>
struct Product {
  using V = Lanes<real>;
  static constexpr int TILE = shared(rows_at_once(ROWS, COLUMNS), SHARE), WIDE = BLOCK<real>, ALL = shared(ROWS, SHARE);

  // Where w[row][k] of `depth` k stands in the order in which it is read, and how many numbers there are.
  static size_t place(int row, int k, int depth) {
    const int from = row / TILE * TILE, tall = std::min(TILE, ALL - from);
    return static_cast<size_t>(from) * depth + static_cast<size_t>(k) * tall + (row - from);
  }
  static constexpr int size(int depth) { return ALL * depth; }

  enum Start { ZERO, ADD, BIAS };

  template <Start START, int WIDTH = WIDE>
  static void run(const real *w, int depth, const real *x, real *y, const real *bias = nullptr) {
    int row = 0;
    if constexpr (WIDTH == WIDE) {
      for (; row + TILE <= ROWS; row += TILE) tile<START, TILE, TILE>(w + static_cast<size_t>(row) * depth, depth, x, y + row * WIDE, bias + row);
      constexpr int rest = ROWS % TILE;
      if constexpr (rest > 0) tile<START, rest, shared(rest, SHARE)>(w + static_cast<size_t>(row) * depth, depth, x, y + row * WIDE, bias + row);
    } else {
      constexpr int most = std::max(1, 12 * SHARED / TILE);
      for (; row + most * TILE <= ALL; row += most * TILE) tiles<START, most, TILE>(w + static_cast<size_t>(row) * depth, depth, x, y + row * WIDTH, bias + row);
      constexpr int more = ALL % (most * TILE) / TILE, rest = ALL % TILE;
      if constexpr (more > 0) tiles<START, more, TILE>(w + static_cast<size_t>(row) * depth, depth, x, y + row * WIDTH, bias + row);
      row += more * TILE;
      if constexpr (rest > 0) tiles<START, 1, rest>(w + static_cast<size_t>(row) * depth, depth, x, y + row * WIDTH, bias + row);
    }
  }

 private:
  template <Start START, int TALL, int STEP>
  static void tile(const real *w, int depth, const real *x, real *y, const real *bias) {
    V total[TALL][COLUMNS];
    MDISTILL_UNROLL
    for (int r = 0; r < TALL; ++r) {
      MDISTILL_UNROLL
      for (int c = 0; c < COLUMNS; ++c) {
        if constexpr (START == ZERO) total[r][c] = every<real>(0);
        if constexpr (START == ADD) total[r][c] = load(y + r * WIDE + c * LANES<real>);
        if constexpr (START == BIAS) total[r][c] = every<real>(bias[r]);
      }
    }
    for (int k = 0; k < depth; ++k, w += STEP, x += WIDE) {
      V column[COLUMNS];
      MDISTILL_UNROLL
      for (int c = 0; c < COLUMNS; ++c) column[c] = load(x + c * LANES<real>);
      MDISTILL_UNROLL
      for (int r = 0; r < TALL; ++r) {
        const V weight = every<real>(w[r]);
        MDISTILL_UNROLL
        for (int c = 0; c < COLUMNS; ++c) total[r][c] += weight * column[c];
      }
    }
    MDISTILL_UNROLL
    for (int r = 0; r < TALL; ++r) {
      MDISTILL_UNROLL
      for (int c = 0; c < COLUMNS; ++c) store<real>(y + r * WIDE + c * LANES<real>, total[r][c]);
    }
  }

  // COUNT tiles of a narrow block.
  template <Start START, int COUNT, int TALL>
  static void tiles(const real *w, int depth, const real *x, real *y, const real *bias) {
    constexpr int VECTORS = TALL / SHARED;
    V total[COUNT * VECTORS];
    MDISTILL_UNROLL
    for (int v = 0; v < COUNT * VECTORS; ++v) {
      if constexpr (START == ZERO) total[v] = every<real>(0);
      if constexpr (START == ADD) total[v] = load(y + v * LANES<real>);
      if constexpr (START == BIAS) total[v] = repeated<SHARED>(bias + v * SHARED);
    }
    const auto add = [&](int k, V column) {
      MDISTILL_UNROLL
      for (int n = 0; n < COUNT; ++n) {
        MDISTILL_UNROLL
        for (int v = 0; v < VECTORS; ++v)
          total[n * VECTORS + v] += repeated<SHARED>(w + (static_cast<size_t>(n) * depth + k) * TALL + v * SHARED) * column;
      }
    };
    int k = 0;
    for (; k + SHARED <= depth; k += SHARED) {
      const V all = load(x + k * NARROW<real>);
      add(k, one_of<SHARED, 0>(all));
      if constexpr (SHARED > 1) add(k + 1, one_of<SHARED, 1>(all));
      if constexpr (SHARED > 2) add(k + 2, one_of<SHARED, 2>(all)), add(k + 3, one_of<SHARED, 3>(all));
    }
    if constexpr (SHARED > 1) {
      if (k < depth) {
        const V all = load(x + k * NARROW<real>);
        add(k, one_of<SHARED, 0>(all));
        if (k + 1 < depth) add(k + 1, one_of<SHARED, 1>(all));
        if constexpr (SHARED > 2)
          if (k + 2 < depth) add(k + 2, one_of<SHARED, 2>(all));
      }
    }
    MDISTILL_UNROLL
    for (int v = 0; v < COUNT * VECTORS; ++v) store<real>(y + v * LANES<real>, total[v]);
  }
};

}  // namespace mdistill

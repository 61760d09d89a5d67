// A neighbour list with a skin, kept while no atoms moved far; engines of the same atoms and the same cutoff may share one.
#pragma once

#include <chrono>

#include "neighbours.hpp"

namespace mdistill {

struct SkinList {
  const std::vector<int32_t> species;
  const int kinds;
  const double cutoff, skin;
  const int threads;
  Candidates list;
  int64_t searches = 0;
  double seconds = 0;

  SkinList(std::vector<int32_t> species, int kinds, double cutoff, double skin, int threads)
      : species(std::move(species)), kinds(kinds), cutoff(cutoff), skin(skin), threads(threads) {}

  // Make sure that every pair closer than the cutoff is listed: search again if two atoms can have come nearer by the skin.
  void follow(const double *r, const double *cell, const int32_t *pbc) {
    const int64_t atoms = static_cast<int64_t>(species.size());
    bool same = old_positions.size() == size_t(3 * atoms) && std::equal(cell, cell + 9, old_cell) && std::equal(pbc, pbc + 3, old_pbc);
    if (same) {
      double longest = 0, next = 0;  // squares of the two longest ways since the last search
      for (int64_t i = 0; i < atoms; ++i) {
        double square = 0;
        for (int c = 0; c < 3; ++c) square += (r[3 * i + c] - old_positions[3 * i + c]) * (r[3 * i + c] - old_positions[3 * i + c]);
        next = std::max(next, std::min(square, longest)), longest = std::max(longest, square);
      }
      same = std::sqrt(longest) + std::sqrt(next) < skin;
    }
    if (same) return;
    const auto begin = std::chrono::steady_clock::now();
    Search(Box(cell, pbc), cutoff + skin, atoms, r).find(r, species.data(), kinds, threads, list);
    old_positions.assign(r, r + 3 * atoms);
    std::copy(cell, cell + 9, old_cell), std::copy(pbc, pbc + 3, old_pbc);
    ++searches;
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  std::vector<double> old_positions;
  double old_cell[9];
  int32_t old_pbc[3];
};

}  // namespace mdistill

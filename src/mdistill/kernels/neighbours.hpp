// Neighbour pairs within a cutoff, by bins: any cell, mixed periodicity, cells smaller than the cutoff.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "crew.hpp"

namespace mdistill {

// A neighbour of an atom: its number, and the shift (of a table) to add to its position.
struct Candidate {
  int32_t sender, shift;
};

// Candidates of receiver i of species t (of `kinds`) in slots first[i kinds + t] … first[i kinds + t + 1]. Sorted by species, number
// and image of the sender: the order is a property of the structure, not of the search.
struct Candidates {
  int64_t kinds = 1, version = 0;               // version: counts how often they were made
  std::vector<int64_t> first;
  std::vector<Candidate> pairs;
  std::vector<std::array<int32_t, 3>> turns;    // whole cells by which each atom lies outside; positions are taken without them
  std::vector<std::array<int32_t, 3>> images;   // shifts, in lattice vectors; empty: `offsets` (Å) holds them
  std::vector<std::array<double, 3>> offsets;
  double cell[9] = {};

  struct Room {  // of a search, kept for the next one, which need not ask the system for memory
    std::vector<std::vector<Candidate>> found;  // by thread: receivers of the atoms of its bins
    std::vector<std::vector<int64_t>> slot;     // by thread, receiver and species
    std::vector<std::array<int64_t, 3>> of;     // those of each sender: of which thread, from here, to there
  } room;
};

struct Box {
  double rows[3][3], inverse[3][3], height[3];
  bool periodic[3];

  Box(const double *cell, const int32_t *pbc) {
    for (int a = 0; a < 3; ++a) {
      periodic[a] = pbc[a] != 0;
      for (int b = 0; b < 3; ++b) rows[a][b] = cell[3 * a + b];
    }
    double determinant = 0;
    for (int a = 0; a < 3; ++a) {
      const double *p = rows[(a + 1) % 3], *q = rows[(a + 2) % 3];
      const double cross[3] = {p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]};
      for (int b = 0; b < 3; ++b) inverse[b][a] = cross[b];
      determinant = rows[a][0] * cross[0] + rows[a][1] * cross[1] + rows[a][2] * cross[2];
    }
    for (int a = 0; a < 3; ++a) {
      double square = 0;
      for (int b = 0; b < 3; ++b) {
        inverse[b][a] /= determinant;
        square += inverse[b][a] * inverse[b][a];
      }
      height[a] = 1.0 / std::sqrt(square);
    }
  }

  double along(const double *r, int a) const { return r[0] * inverse[0][a] + r[1] * inverse[1][a] + r[2] * inverse[2][a]; }
};

class Search {
 public:
  Search(const Box &box, double cutoff, int64_t atoms, const double *positions) : box(box), cutoff(cutoff), atoms(atoms) {
    place(positions);
  }

  // The pairs of all atoms; `species`, of `kinds`, orders them. Bin by bin, receivers are found for every sender; then senders are
  // visited in order and handed to their receivers, so that the list of each receiver comes out sorted without being sorted.
  void find(const double *positions, const int32_t *species, int kinds, int threads, Candidates &out) const {
    const int parts = std::max(1, threads);
    const std::vector<int32_t> order = by_species(species);
    auto &found = out.room.found;
    auto &slot = out.room.slot;
    auto &of = out.room.of;
    found.resize(parts), slot.resize(parts), of.resize(atoms);
    out.kinds = kinds, ++out.version, out.turns = turns, out.images = images, out.offsets.clear();
    for (int a = 0; a < 9; ++a) out.cell[a] = box.rows[a / 3][a % 3];
    const int64_t all_bins = static_cast<int64_t>(bins[0]) * bins[1] * bins[2];
    Crew::run(parts, [&](int part) {
      Around around;
      int64_t count = 0;
      for (int64_t b = all_bins * part / parts; b < all_bins * (part + 1) / parts; ++b) {
        if (first[b] == first[b + 1]) continue;
        look_around(b, around);
        for (int32_t m = first[b]; m < first[b + 1]; ++m) {
          const int64_t from = count;
          receivers_of(members[m], positions, around, found[part], count);
          of[members[m]] = {part, from, count};
        }
      }
    });
    const auto visit = [&](int part, const auto &receive) {
      for (int64_t k = atoms * part / parts; k < atoms * (part + 1) / parts; ++k) {
        const auto &[where, from, to] = of[order[k]];
        int64_t *slots = &slot[part][species[order[k]]];
        for (int64_t n = from; n < to; ++n) receive(slots[found[where][n].sender * kinds], Candidate{order[k], found[where][n].shift});
      }
    };
    Crew::run(parts, [&](int part) {
      slot[part].assign(atoms * kinds, 0);
      visit(part, [](int64_t &place, const Candidate &) { ++place; });
    });
    out.first.resize(atoms * kinds + 1);
    int64_t total = 0;
    for (int64_t i = 0; i < atoms * kinds; ++i) {
      out.first[i] = total;
      for (auto &count : slot) std::swap(count[i], total), total += count[i];
    }
    out.first[atoms * kinds] = total;
    out.pairs.resize(total);
    Crew::run(parts, [&](int part) {
      visit(part, [&out](int64_t &place, const Candidate &sender) { out.pairs[place++] = sender; });
    });
  }

 private:
  static constexpr int STRETCH = 8;
  static constexpr double MARGIN = 1e-9;  // of squares; between them the positions as they were given decide

  struct Around {  // atoms and images of atoms near a bin, by their place in `who`; squares of distances from one atom
    std::vector<double> x[3], square;
    std::vector<int32_t> place, near;
    int count = 0;
  };

  const Box box;
  const double cutoff;
  const int64_t atoms;
  int bins[3], range[3];
  double origin[3], width[3];                    // of the bins, in fractions of the cell
  std::vector<std::array<int32_t, 3>> turns, at;  // whole cells each atom lies outside; its bin
  std::vector<int32_t> first, members;            // atoms by bin
  std::vector<double> inside[3];                  // their positions within the cell, by atom
  std::vector<std::array<int32_t, 3>> images;     // shifts of senders to the receivers that are near
  // Bins of the cell and, of periodic directions, `margin` more on either side: where their atoms and images of atoms begin, whose
  // positions, numbers and shifts follow.
  int margin[3], wide[3];
  std::vector<int32_t> starts;
  std::vector<double> there[3];
  std::vector<Candidate> who;

  void place(const double *positions) {
    std::vector<std::array<double, 3>> fraction(atoms);  // positions within the cell, as fractions of it
    turns.assign(atoms, {0, 0, 0});
    for (int a = 0; a < 3; ++a) {
      double low = 1e300, high = -1e300;
      for (int64_t i = 0; i < atoms; ++i) {
        double f = box.along(positions + 3 * i, a);
        if (box.periodic[a]) {
          const double whole = std::floor(f);
          turns[i][a] = static_cast<int32_t>(whole);
          f -= whole;
        }
        fraction[i][a] = f;
        low = std::min(low, f), high = std::max(high, f);
      }
      const double extent = box.periodic[a] ? 1.0 : std::max(high - low, 1e-9);
      const double most = std::cbrt(8.0 * static_cast<double>(atoms)) + 1.0;
      bins[a] = static_cast<int>(std::max(1.0, std::min(std::floor(2.0 * extent * box.height[a] / cutoff), most)));
      origin[a] = box.periodic[a] ? 0.0 : low;
      width[a] = extent / bins[a];
      const double crossed = std::ceil(cutoff * (1.0 + 1e-12) / (width[a] * box.height[a]));
      range[a] = static_cast<int>(box.periodic[a] ? crossed : std::min(crossed, bins[a] - 1.0));
    }
    at.resize(atoms);
    first.assign(static_cast<size_t>(bins[0]) * bins[1] * bins[2] + 1, 0);
    for (int64_t i = 0; i < atoms; ++i) {
      for (int a = 0; a < 3; ++a) {
        const int b = static_cast<int>(std::floor((fraction[i][a] - origin[a]) / width[a]));
        at[i][a] = std::min(std::max(b, 0), bins[a] - 1);
      }
      ++first[number(at[i][0], at[i][1], at[i][2]) + 1];
    }
    for (size_t b = 1; b < first.size(); ++b) first[b] += first[b - 1];
    members.resize(atoms);
    std::vector<int32_t> next(first.begin(), first.end() - 1);
    for (int64_t i = 0; i < atoms; ++i) members[next[number(at[i][0], at[i][1], at[i][2])]++] = static_cast<int32_t>(i);
    for (int c = 0; c < 3; ++c) {
      inside[c].resize(atoms);
      for (int64_t i = 0; i < atoms; ++i)
        inside[c][i] = positions[3 * i + c] - (turns[i][0] * box.rows[0][c] + turns[i][1] * box.rows[1][c] + turns[i][2] * box.rows[2][c]);
    }
    repeat();
  }

  // Puts the atoms into the bins of the cell and, of periodic directions, those around it.
  void repeat() {
    size_t all = 1;
    for (int a = 0; a < 3; ++a) margin[a] = box.periodic[a] ? range[a] : 0, wide[a] = bins[a] + 2 * margin[a], all *= wide[a];
    starts.reserve(all + 1), starts.assign(1, 0);
    int bin[3], image[3], last[3] = {1 << 30, 0, 0}, steps[3];
    double shift[3] = {};
    for (steps[0] = -margin[0]; steps[0] < bins[0] + margin[0]; ++steps[0])
      for (steps[1] = -margin[1]; steps[1] < bins[1] + margin[1]; ++steps[1])
        for (steps[2] = -margin[2]; steps[2] < bins[2] + margin[2]; ++steps[2]) {
          for (int a = 0; a < 3; ++a) {
            image[a] = steps[a] >= 0 ? steps[a] / bins[a] : -((bins[a] - 1 - steps[a]) / bins[a]);
            bin[a] = steps[a] - image[a] * bins[a];
          }
          if (!std::equal(image, image + 3, last)) {
            std::copy(image, image + 3, last);
            for (int c = 0; c < 3; ++c) shift[c] = image[0] * box.rows[0][c] + image[1] * box.rows[1][c] + image[2] * box.rows[2][c];
          }
          const size_t b = number(bin[0], bin[1], bin[2]);
          for (int32_t m = first[b]; m < first[b + 1]; ++m) {
            for (int c = 0; c < 3; ++c) there[c].push_back(inside[c][members[m]] + shift[c]);
            who.push_back({members[m], number_of(image)});
          }
          starts.push_back(static_cast<int32_t>(who.size()));
        }
    for (auto &component : there) component.resize(component.size() + STRETCH, 0.0);
    list_images();
  }

  // The first and the last image in which an atom of the cell can be near another, along axis a.
  int lowest(int a) const { return box.periodic[a] ? -((range[a] + bins[a] - 1) / bins[a]) : 0; }
  int highest(int a) const { return -lowest(a); }

  int number_of(const int *image) const {
    int n = 0;
    for (int a = 0; a < 3; ++a) n = n * (highest(a) - lowest(a) + 1) + image[a] - lowest(a);
    return n;
  }

  // Shifts of senders by the number of the image of the receiver that they are near.
  void list_images() {
    for (int x = lowest(0); x <= highest(0); ++x)
      for (int y = lowest(1); y <= highest(1); ++y)
        for (int z = lowest(2); z <= highest(2); ++z) images.push_back({-x, -y, -z});
  }

  size_t number(int x, int y, int z) const { return (static_cast<size_t>(x) * bins[1] + y) * bins[2] + z; }

  std::vector<int32_t> by_species(const int32_t *species) const {
    std::vector<int32_t> order(atoms);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [species](int32_t a, int32_t b) { return species[a] < species[b]; });
    return order;
  }

  // All atoms and images that can be near the atoms of bin b, in rows of bins along the third axis.
  void look_around(int64_t b, Around &around) const {
    const int at_bin[3] = {static_cast<int>(b / (bins[1] * bins[2])), static_cast<int>(b / bins[2] % bins[1]), static_cast<int>(b % bins[2])};
    int low[3], high[3];
    for (int a = 0; a < 3; ++a) {
      low[a] = std::max(at_bin[a] + margin[a] - range[a], 0);
      high[a] = std::min(at_bin[a] + margin[a] + range[a], wide[a] - 1);
    }
    int count = 0;
    for (int x = low[0]; x <= high[0]; ++x)
      for (int y = low[1]; y <= high[1]; ++y) {
        const size_t row = (static_cast<size_t>(x) * wide[1] + y) * wide[2];
        const int32_t begin = starts[row + low[2]], end = starts[row + high[2] + 1];
        const size_t room = static_cast<size_t>(count + end - begin + 2 * STRETCH);
        if (around.place.size() < room) {
          for (auto &component : around.x) component.resize(2 * room);
          around.square.resize(2 * room), around.place.resize(2 * room), around.near.resize(2 * room);
        }
        for (int32_t m = begin; m < end; m += STRETCH) {  // in stretches; what is copied too much is overwritten
          for (int c = 0; c < 3; ++c) std::memcpy(&around.x[c][count + m - begin], &there[c][m], STRETCH * sizeof(double));
          for (int k = 0; k < STRETCH; ++k) around.place[count + m - begin + k] = m + k;
        }
        count += end - begin;
      }
    around.count = count;
  }

  // Receivers of atom j, put behind the `count` that were found.
  void receivers_of(int32_t j, const double *positions, Around &around, std::vector<Candidate> &found, int64_t &count) const {
    if (static_cast<size_t>(count + around.count) > found.size()) found.resize(2 * (count + around.count));
    const double here[3] = {inside[0][j], inside[1][j], inside[2][j]};
    const double *x = around.x[0].data(), *y = around.x[1].data(), *z = around.x[2].data();
    double *square = around.square.data();
    const int all = (around.count + STRETCH - 1) / STRETCH * STRETCH;
    for (int m = 0; m < all; ++m) {
      const double dx = x[m] - here[0], dy = y[m] - here[1], dz = z[m] - here[2];
      square[m] = dx * dx + dy * dy + dz * dz;
    }
    const double most = cutoff * cutoff * (1.0 + MARGIN), sure = cutoff * cutoff * (1.0 - MARGIN);
    int32_t *near = around.near.data(), near_count = 0;
    for (int m = 0; m < around.count; ++m) near[near_count] = m, near_count += square[m] < most;
    Candidate *to = &found[count];
    for (int32_t k = 0; k < near_count; ++k) {
      *to = who[around.place[near[k]]];
      to += (to->sender != j && square[near[k]] < sure) || close(to->sender, j, images[to->shift], positions);
    }
    count = to - found.data();
  }

  // Whether a pair is closer than the cutoff, judged from the positions as they were given: the answer depends on the structure
  // alone. An atom is not its own neighbour.
  bool close(int32_t i, int32_t j, const std::array<int32_t, 3> &shift, const double *positions) const {
    int s[3];
    for (int a = 0; a < 3; ++a) s[a] = turns[i][a] - turns[j][a] + shift[a];
    double square = 0;
    for (int c = 0; c < 3; ++c) {
      const double d = positions[3 * j + c] - positions[3 * i + c] + s[0] * box.rows[0][c] + s[1] * box.rows[1][c] + s[2] * box.rows[2][c];
      square += d * d;
    }
    return square < cutoff * cutoff && (j != i || s[0] || s[1] || s[2]);
  }
};

}  // namespace mdistill

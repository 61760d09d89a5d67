// SPDX-License-Identifier: GPL-2.0-or-later
// The kicks of a long-stride map (nets/splitting_map.py) on one rank of LAMMPS, as `mdistill export lammps --stride-map` has them.
#pragma once

#include "atom.h"
#include "lammps_model.hpp"
#include "neigh_list.h"

namespace {

struct Kicks {
  Model map;
  int count = 0, time_steps = 0;          // kicks of a stride, less one; time steps in place of a stride
  double stride = 0;                      // ps
  double looked_at = 0, largest_change = 0;  // eV, to be multiplied by √atoms: as kernels/splitting_map.hpp has them
  std::vector<std::vector<double>> limits;   // largest squared forces, by potential and species

  Kicks() = default;
  Kicks(const Kicks &) = delete;
  Kicks &operator=(const Kicks &) = delete;
  ~Kicks() {
    for (void *one : domains) kernel.domain_free(one);
    for (void *one : nets) kernel.net_free(one);
  }

  // Reads a file.
  void open(LAMMPS *lmp, const char *file) {
    map = model_of(lmp, file, Model::MAP);
    const auto number = [&](const char *name) { return map.numbers[name].size() == 1 ? map.numbers[name][0] : 0.0; };
    stride = 1e-3 * number("stride_fs"), looked_at = number("looked_at"), largest_change = number("largest_change");
    count = static_cast<int>(number("kicks")), time_steps = static_cast<int>(number("time_steps"));
    const size_t potentials = count / 2 + 1, kinds = map.elements.size(), share = map.weights.size() / potentials;
    const auto &limit = map.numbers["largest_force"];
    const bool whole = limit.size() == potentials * kinds && share * potentials == map.weights.size();
    if (!whole || !(stride > 0) || count < 1 || time_steps < 1)
      lmp->error->all(FLERR, "{} is incomplete", file);
    const std::string problem = kernel.open(map.kernel);
    stop_if_any(lmp, problem.empty() ? "" : "no kernel: " + problem);
    for (size_t s = 0; s < potentials; ++s) {
      nets.push_back(kernel.net(static_cast<int32_t>(kinds), &map.weights[s * share]));
      domains.push_back(kernel.domain(nets[s]));
      limits.emplace_back();
      for (size_t k = 0; k < kinds; ++k) limits[s].push_back(limit[s * kinds + k] * limit[s * kinds + k]);
    }
  }

  // Number of the potential of a kick: the sequence is a palindrome.
  int potential(int kick) const { return std::min(kick, count - kick); }

  // The neighbours of a list; species by type.
  void take(const Atom &atom, const NeighList &list, const std::vector<int32_t> &species_of) {
    const int64_t all = atom.nlocal + atom.nghost;
    species.resize(all);
    for (int64_t i = 0; i < all; ++i) species[i] = species_of[atom.type[i]];
    const mdistill::RankNeighbours now{list.inum,       atom.nlocal,     all,       list.ilist,
                                       list.numneigh, list.firstneigh, NEIGHMASK, species.data()};
    for (void *one : domains) kernel.take(one, &now);
  }

  void evaluate(int potential, const double *positions, mdistill::RankAnswers &out) {
    kernel.evaluate(domains[potential], positions, &out);
  }

  double memory_usage() const { return 4.0 * double(species.capacity()); }

 private:
  Kernel kernel;
  std::vector<void *> nets, domains;
  std::vector<int32_t> species;
};

}  // namespace

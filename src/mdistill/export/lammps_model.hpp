// SPDX-License-Identifier: GPL-2.0-or-later
// A model as `mdistill export lammps` writes it, and the library that computes it.
#pragma once

#include <dlfcn.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <locale>
#include <map>
#include <sstream>
#include <vector>

#include "comm.h"
#include "error.h"
#include "lammps.h"
#include "rank.hpp"
#include "sha256.hpp"

#define MDISTILL_TEXT_OF(x) #x
#define MDISTILL_TEXT(x) MDISTILL_TEXT_OF(x)

namespace {

using namespace LAMMPS_NS;

// The functions of the student's library (kernels/moment.cpp).
struct Kernel {
  void *(*net)(int32_t, const double *) = nullptr;
  void (*net_free)(void *) = nullptr;
  void *(*domain)(const void *) = nullptr;
  void (*domain_free)(void *) = nullptr;
  void (*take)(void *, const mdistill::RankNeighbours *) = nullptr;
  int32_t (*knows)(const void *, int64_t, const int32_t *) = nullptr;
  void (*evaluate)(void *, const double *, mdistill::RankAnswers *) = nullptr;

  // The library for these sizes, in the folder of a plugin that was loaded; what is wrong, or "".
  std::string open(const std::string &sizes) {
    const std::string name = "mdistill-" MDISTILL_TEXT(MDISTILL_KERNEL) "-" + sizes + ".so";
    std::istringstream folders(known_folders());
    std::string problem = "no folder of a plugin is known";
    for (std::string folder; std::getline(folders, folder, ':');) {
      void *library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!library) {
        problem = std::string(dlerror()) + "; make it on this machine: mdistill export lammps STUDENT --out FOLDER";
        continue;
      }
      const bool all = find(library, "mdistill_net", net) && find(library, "mdistill_net_free", net_free) &&
                       find(library, "mdistill_domain", domain) && find(library, "mdistill_domain_free", domain_free) &&
                       find(library, "mdistill_domain_take", take) && find(library, "mdistill_domain_knows", knows) &&
                       find(library, "mdistill_domain_evaluate", evaluate);
      return all ? "" : folder + name + " lacks a function of the student";
    }
    return problem;
  }

  // Remembers the folder of this plugin. LAMMPS keeps the first plugin of a name in a process, and ignores others: students of
  // other folders are still found.
  static void remember_folder() {
    Dl_info here;
    if (!dladdr(reinterpret_cast<const void *>(&MARK), &here)) return;
    const std::string plugin = here.dli_fname, folder = plugin.substr(0, plugin.find_last_of('/') + 1);
    setenv(FOLDERS, (known_folders() + (folder.empty() ? "./" : folder) + ":").c_str(), 1);
  }

 private:
  static constexpr char MARK = 0;
  static constexpr const char *FOLDERS = "MDISTILL_LAMMPS_FOLDERS";

  static std::string known_folders() {
    const char *known = getenv(FOLDERS);
    return known ? known : "";
  }

  template <class Function>
  static bool find(void *library, const char *name, Function &to) {
    to = reinterpret_cast<Function>(dlsym(library, name));
    return to != nullptr;
  }
};

// A model as text: a student (export/lammps.py), or the kicks of a long-stride map (export/lammps_stride.py).
struct Model {
  std::string digest;                 // sha256 of the text
  std::string kernel;                 // sizes and float type, as in the name of its library
  std::string student;                // of a map: sha256 of the text of its student
  std::vector<std::string> elements;  // in the order of its species
  std::vector<double> masses;         // of these elements, u
  std::map<std::string, std::vector<double>> numbers;  // of a map: by the first word of a line
  std::vector<double> weights;
  double cutoff = 0;

  // Reads the text, which begins with this word; what is wrong, or "".
  std::string read(const std::string &text, const std::string &kind) {
    std::istringstream lines(text);
    lines.imbue(std::locale::classic());
    std::string word, rest;
    int format = 0;
    if (!(lines >> word >> format) || word != kind)
      return "is not a " + std::string(kind == STUDENT ? "student" : "long-stride map") + " that `mdistill export lammps` wrote";
    if (format != 1) return "has format " + std::to_string(format) + ", and this plugin reads format 1: export again";
    if (!(lines >> word >> digest) || word != "sha256" || !std::getline(lines, rest)) return "has no sha256";
    const size_t body = static_cast<size_t>(lines.tellg());
    if (body >= text.size() || mdistill::sha256(text.data() + body, text.size() - body) != digest)
      return "is damaged (sha256): copy or export it again";
    size_t count = 0;
    while (lines >> word && word != "weights") {
      std::getline(lines, rest);
      std::istringstream values(rest);
      values.imbue(std::locale::classic());
      if (word == "kernel") values >> kernel;
      else if (word == "student") values >> student;
      else if (word == "cutoff") values >> cutoff;
      else if (word == "elements") for (std::string name; values >> name;) elements.push_back(name);
      else if (word == "masses") for (double mass; values >> mass;) masses.push_back(mass);
      else if (word != "name") for (double value; values >> value;) numbers[word].push_back(value);
    }
    if (masses.size() != elements.size()) return "states no masses: export again";
    lines >> count;
    weights.reserve(count);
    for (double value; weights.size() < count && lines >> value;) weights.push_back(value);
    const bool whole = weights.size() == count && count > 0 && !elements.empty() && cutoff > 0;
    if (!whole || kernel.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") != std::string::npos) return "is incomplete";
    return "";
  }

  static constexpr const char *STUDENT = "mdistill-lammps", *MAP = "mdistill-lammps-map";
};

// Stops all ranks with the problem of the lowest rank that has one; every rank must call it. `error->one` of two ranks at once loses its
// text: the first to reach MPI_Abort ends the other while it prints.
void stop_if_any(LAMMPS *lmp, const std::string &problem) {
  int first = problem.empty() ? lmp->comm->nprocs : lmp->comm->me, size = static_cast<int>(problem.size());
  MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, lmp->world);
  if (first == lmp->comm->nprocs) return;
  MPI_Bcast(&size, 1, MPI_INT, first, lmp->world);
  std::string said = problem;
  said.resize(size);
  MPI_Bcast(said.data(), size, MPI_BYTE, first, lmp->world);
  lmp->error->all(FLERR, said);
}

// The model in a file, read by rank 0 alone; an error on all ranks where it cannot be read or is damaged.
Model model_of(LAMMPS *lmp, const char *path, const char *kind) {
  std::string text;
  bigint size = -1;
  if (lmp->comm->me == 0) {
    if (FILE *file = fopen(path, "rb")) {
      std::array<char, 65536> part;
      for (size_t n; (n = fread(part.data(), 1, part.size(), file)) > 0;) text.append(part.data(), n);
      size = ferror(file) ? -1 : static_cast<bigint>(text.size());
      fclose(file);
    }
  }
  MPI_Bcast(&size, sizeof size, MPI_BYTE, 0, lmp->world);
  if (size < 0 || size > (bigint(1) << 30)) lmp->error->all(FLERR, "{} cannot be read; write it with: mdistill export lammps", path);
  text.resize(size);
  MPI_Bcast(text.data(), static_cast<int>(size), MPI_BYTE, 0, lmp->world);
  Model model;
  if (const std::string problem = model.read(text, kind); !problem.empty()) lmp->error->all(FLERR, "{} {}", path, problem);
  return model;
}

}  // namespace

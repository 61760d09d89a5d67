// SPDX-License-Identifier: GPL-2.0-or-later
// The pair style `mdistill` of LAMMPS: a student of mdistill on LAMMPS's own neighbour list and ghost atoms.
//
// This file includes headers of LAMMPS, which is under the GNU General Public License, version 2, and so is this file. The rest of
// mdistill is not: the student's code is a library of its own, opened here by name. This file is shipped as source and compiled
// where it is used. MDISTILL_LAMMPS is the version of LAMMPS (20250722) whose headers it is compiled with, MDISTILL_KERNEL the
// first digits of the sha256 of the student's source.
#include <dlfcn.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <locale>
#include <sstream>
#include <vector>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "library.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair.h"
#include "rank.hpp"
#include "sha256.hpp"
#include "update.h"

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

// A student as `mdistill export lammps` writes it (export/lammps.py).
struct Model {
  std::string kernel;                 // sizes and float type, as in the name of its library
  std::vector<std::string> elements;  // in the order of its species
  std::vector<double> masses;         // of these elements, u
  std::vector<double> weights;
  double cutoff = 0;

  // Reads the text; what is wrong, or "".
  std::string read(const std::string &text) {
    std::istringstream lines(text);
    lines.imbue(std::locale::classic());
    std::string word, digest, rest;
    int format = 0;
    if (!(lines >> word >> format) || word != "mdistill-lammps") return "is not a student that `mdistill export lammps` wrote";
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
      if (word == "cutoff") values >> cutoff;
      for (std::string name; word == "elements" && values >> name;) elements.push_back(name);
      for (double mass; word == "masses" && values >> mass;) masses.push_back(mass);
    }
    if (masses.size() != elements.size()) return "states no masses: export again";
    lines >> count;
    weights.reserve(count);
    for (double value; weights.size() < count && lines >> value;) weights.push_back(value);
    const bool whole = weights.size() == count && count > 0 && !elements.empty() && cutoff > 0;
    if (!whole || kernel.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") != std::string::npos) return "is incomplete";
    return "";
  }
};

class PairMdistill : public Pair {
 public:
  explicit PairMdistill(LAMMPS *lmp) : Pair(lmp) {
    restartinfo = single_enable = respa_enable = writedata = 0;
    one_coeff = manybody_flag = no_virial_fdotr_compute = 1;
    centroidstressflag = CENTROID_AVAIL;
  }

  ~PairMdistill() override {
    if (domain) kernel.domain_free(domain);
    if (net) kernel.net_free(net);
    if (allocated) memory->destroy(setflag), memory->destroy(cutsq);
  }

  // [masses any]: types may have masses that are not those of their elements.
  void settings(int narg, char **arg) override {
    const bool any = narg == 2 && std::string(arg[0]) == "masses" && std::string(arg[1]) == "any";
    if (narg != 0 && !any) error->all(FLERR, "pair_style mdistill takes no arguments, or: masses any");
    any_mass = any;
  }

  // * * FILE ELEMENT …: one element, or NULL, for each type.
  void coeff(int narg, char **arg) override {
    const int types = atom->ntypes;
    if (narg != 3 + types) error->all(FLERR, "pair_coeff needs * * FILE and an element (or NULL) for each of the {} types", types);
    if (!allocated) {
      memory->create(setflag, types + 1, types + 1, "pair:setflag");
      memory->create(cutsq, types + 1, types + 1, "pair:cutsq");
      for (int i = 1; i <= types; ++i)
        for (int j = 1; j <= types; ++j) setflag[i][j] = 0;
      map = new int[types + 1];
      allocated = 1;
    }
    map_element2type(narg - 3, arg + 3);
    Model model;
    if (const std::string problem = model.read(text_of(arg[2])); !problem.empty()) error->all(FLERR, "{} {}", arg[2], problem);
    names = model.elements, masses = model.masses;
    std::string known;
    for (const auto &name : names) known += " " + name;
    species_of.assign(types + 1, -1);
    for (int i = 1; i <= types; ++i) {
      if (map[i] < 0) continue;
      for (size_t s = 0; s < names.size(); ++s)
        if (names[s] == elements[map[i]]) species_of[i] = static_cast<int32_t>(s);
      if (species_of[i] < 0) error->all(FLERR, "type {}: {} does not know {}; it knows{}", i, arg[2], elements[map[i]], known);
    }
    if (domain) kernel.domain_free(domain);
    if (net) kernel.net_free(net);
    domain = net = nullptr;
    if (const std::string problem = kernel.open(model.kernel); !problem.empty()) error->all(FLERR, "no kernel: {}", problem);
    cutoff = model.cutoff;
    net = kernel.net(static_cast<int32_t>(names.size()), model.weights.data());
    domain = kernel.domain(net);
  }

  void init_style() override {
    if (std::string(update->unit_style) != "metal") error->all(FLERR, "pair_style mdistill needs units metal");
    if (!force->newton_pair) error->all(FLERR, "pair_style mdistill needs newton on");
    for (int k = 1; k < 4 && atom->molecular != Atom::ATOMIC; ++k)
      if (force->special_lj[k] == 0.0 && force->special_coul[k] == 0.0)
        error->all(FLERR, "bonded neighbours are excluded; pair_style mdistill needs: special_bonds lj/coul 1 1 1");
    if (!any_mass) check_masses();
    neighbor->add_request(this, NeighConst::REQ_FULL);
    fresh = false;
  }

  double init_one(int i, int j) override {
    if (setflag[i][j] == 0) error->all(FLERR, "types {} and {} have no pair_coeff", i, j);
    return cutoff;
  }

  void compute(int eflag, int vflag) override {
    ev_init(eflag, vflag);
    const int64_t all = atom->nlocal + atom->nghost;
    species.resize(all);
    for (int64_t i = 0; i < all; ++i) species[i] = species_of[atom->type[i]];
    if (!fresh || neighbor->ago == 0 || neighbor->ncalls != calls || !kernel.knows(domain, all, species.data())) follow(all);
    mdistill::RankAnswers out{};
    out.forces = all ? atom->f[0] : nullptr;
    out.atomic = eflag_atom ? eatom : nullptr;
    if (vflag_atom) halves.assign(9 * all, 0.0), out.halves = halves.data();
    if (cvflag_atom) senders.assign(9 * all, 0.0), out.senders = senders.data();
    kernel.evaluate(domain, all ? atom->x[0] : nullptr, &out);
    if (eflag_global) eng_vdwl += out.energy;
    if (vflag_global) subtract_symmetric(out.virial, virial);
    for (int64_t i = 0; vflag_atom && i < all; ++i) subtract_symmetric(&halves[9 * i], vatom[i]);
    for (int64_t i = 0; cvflag_atom && i < all; ++i)
      for (int c = 0; c < 9; ++c) cvatom[i][c] -= senders[9 * i + NINE[c]];
  }

  double memory_usage() override {
    return Pair::memory_usage() + 4.0 * double(species.capacity()) + 8.0 * double(halves.capacity() + senders.capacity());
  }

 private:
  static constexpr int SIX[6][2] = {{0, 0}, {4, 4}, {8, 8}, {1, 3}, {2, 6}, {5, 7}};  // xx yy zz xy xz yz, from rows of 9
  static constexpr int NINE[9] = {0, 4, 8, 1, 2, 5, 3, 6, 7};                        // and yx zx zy

  Kernel kernel;
  void *net = nullptr, *domain = nullptr;
  double cutoff = 0;
  bool any_mass = false;
  std::vector<std::string> names;  // of the student's elements
  std::vector<double> masses;      // theirs, u
  bool fresh = false;  // whether the domain holds the present list
  bigint calls = -1;
  std::vector<int32_t> species_of, species;  // by type; by atom
  std::vector<double> halves, senders;

  static void subtract_symmetric(const double *from, double *to) {
    for (int c = 0; c < 6; ++c) to[c] -= 0.5 * (from[SIX[c][0]] + from[SIX[c][1]]);
  }

  // Elements in another order than the types run without an error and are wrong: their masses tell. A mass must be within 2 % of that
  // of its element, and no other element of the student may be nearer.
  void check_masses() {
    for (int i = 1; i <= atom->ntypes && !atom->rmass_flag; ++i)
      if (const std::string problem = atom->mass_setflag[i] ? wrong_mass(i, atom->mass[i]) : ""; !problem.empty())
        error->all(FLERR, problem);  // LAMMPS itself asks for masses that are not set
    for (int i = 0; i < atom->nlocal && atom->rmass_flag; ++i)
      if (const std::string problem = wrong_mass(atom->type[i], atom->rmass[i]); !problem.empty()) error->one(FLERR, problem);
  }

  std::string wrong_mass(int type, double mass) const {
    if (species_of.empty() || species_of[type] < 0) return "";
    const size_t named = species_of[type];
    size_t nearest = named;
    for (size_t s = 0; s < masses.size(); ++s)
      if (std::fabs(masses[s] - mass) < std::fabs(masses[nearest] - mass)) nearest = s;
    const bool close = std::fabs(masses[nearest] - mass) <= 0.02 * masses[nearest];
    if (nearest == named && close) return "";
    return fmt::format(
        "type {} has mass {} and pair_coeff names it {}, whose mass is {}{}. Name the elements in the order of the types, or correct the "
        "mass. Isotopes and other masses on purpose: pair_style mdistill masses any",
        type, mass, names[named], masses[named], close ? "; that is the mass of " + names[nearest] : "");
  }

  void follow(int64_t all) {
    const mdistill::RankNeighbours now{list->inum, atom->nlocal, all, list->ilist, list->numneigh, list->firstneigh, NEIGHMASK, species.data()};
    kernel.take(domain, &now);
    fresh = true, calls = neighbor->ncalls;
  }

  // A file, read by rank 0 alone.
  std::string text_of(const char *path) const {
    std::string text;
    bigint size = -1;
    if (comm->me == 0) {
      if (FILE *file = fopen(path, "rb")) {
        std::array<char, 65536> part;
        for (size_t n; (n = fread(part.data(), 1, part.size(), file)) > 0;) text.append(part.data(), n);
        size = ferror(file) ? -1 : static_cast<bigint>(text.size());
        fclose(file);
      }
    }
    MPI_Bcast(&size, sizeof size, MPI_BYTE, 0, world);
    if (size < 0 || size > (bigint(1) << 30)) error->all(FLERR, "{} cannot be read; write it with: mdistill export lammps", path);
    text.resize(size);
    MPI_Bcast(text.data(), static_cast<int>(size), MPI_BYTE, 0, world);
    return text;
  }
};

// How LAMMPS is told of a style of a plugin, as its documentation gives it.
struct Registration {
  const char *version, *style, *name, *info, *author;
  void *(*create)(void *);
  void *handle;
};

void *create(void *lmp) { return new PairMdistill(static_cast<LAMMPS *>(lmp)); }

// Why this plugin cannot be used in a LAMMPS, or "".
std::string refusal(void *lmp) {
  const int version = lammps_version(lmp), built = MDISTILL_LAMMPS;
  if (version != built)
    return "it was built for LAMMPS " + std::to_string(built) + ", and this is " + std::to_string(version);
  if (lammps_extract_setting(lmp, "tagint") != sizeof(tagint) || lammps_extract_setting(lmp, "bigint") != sizeof(bigint))
    return "it was built for another size of integers (smallbig, bigbig)";
  return "";
}

}  // namespace

extern "C" void lammpsplugin_init(void *lmp, void *handle, void *regfunc) {
  if (const std::string problem = refusal(lmp); !problem.empty()) {
    const std::string fix = "; build it for this one: mdistill export lammps STUDENT --out FOLDER";
    return lammps_error(lmp, 2, ("the mdistill plugin is not loaded: " + problem + fix).c_str());  // 2: on all ranks
  }
  Kernel::remember_folder();
  Registration plugin{static_cast<LAMMPS *>(lmp)->version, "pair", "mdistill", "a student of mdistill", "mdistill", create, handle};
  reinterpret_cast<void (*)(Registration *, void *)>(regfunc)(&plugin, lmp);
}

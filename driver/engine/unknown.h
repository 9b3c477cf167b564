// Something that is reconstructed. Optimisers, checkpoint, result, memory prediction and metrics
// loop over the list of these; none of them knows a name. A new one is a file like
// refined_probe.cpp, a line in make_unknowns and a name in unknown_names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "csrc/tiles.h"
#include "driver/config/config.h"
#include "driver/engine/state.h"
#include "driver/io/hdf5.h"
#include "driver/io/problem.h"
#include "driver/tiles/decomposition.h"
#include "driver/tiles/ranks.h"

namespace ptyle::driver {

// This rank's tiles, what of them is worked on, and how numbers of all tiles are joined.
struct Workplace {
  // Those of `rank`; without `ranks` nothing can be joined.
  Workplace(const Decomposition& cut, std::int64_t rank, const Ranks* ranks);
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;

  std::vector<Tile> tiles;
  std::vector<Rectangle> updated;  // by tile, in its frame
  std::vector<Rectangle> counted;  // by tile, in `updated`: every pixel of the object is in one
  std::int64_t all_tiles = 1;
  // One number for each tile of this rank -> the sum over all tiles of all ranks.
  std::function<double(const std::vector<double>&)> sum;
  // The largest of each number over all ranks.
  std::function<std::vector<double>(std::vector<double>)> maximum;
};

// What is asked of the kernels.
struct Needs {
  bool object = false, probe = false;                     // gradients
  bool illumination = false, probe_illumination = false;  // of these, where they are asked for
};

// What the kernels give for a batch: complete, by tile, in their frames; of all tiles. Empty or
// undefined where nothing that is refined asks for it.
struct KernelGradients {
  std::vector<at::Tensor> object;  // [slices, rows, columns] complex
  // How strongly the batch constrains each voxel: the sum over its positions and modes of |psi|^2,
  // psi the wave that is incident on the slice; real.
  std::vector<at::Tensor> illumination;
  at::Tensor probe;               // [modes, h, w] complex
  at::Tensor probe_illumination;  // [h, w] real: the sum over positions of |O_1|^2 in the window
};

// What a batch says of an unknown.
struct Slopes {
  std::vector<at::Tensor> gradients;     // by part, of what is updated
  std::vector<at::Tensor> illumination;  // likewise, real; empty where the optimiser asks for none
  std::vector<double> most;              // the largest of that in all parts, by plane
};

// What the default rule (descent.cpp) tells an unknown in a batch.
struct Stride {
  double step = 1.0;             // of the rule now
  double curvature = 1.0;        // of the likelihood, relative to the amplitude likelihood's
  double error = 0.0;            // sum of (sqrt(I) - sqrt(n))^2 over sum of n
  double here = 1.0, all = 1.0;  // positions: of the batch, of all batches
  double terms = 0.0;            // the curvature of what terms add
  bool follows = false;          // others' gradients, behind an update by the tile's own
};

class Unknown {
 public:
  enum class Place { kTiled, kShared };

  Unknown(std::string name, Place place, const Config& config, const Workplace& workplace)
      : name_(std::move(name)),
        place_(place),
        config_(config),
        step_(config.refine.contains(name_) ? config.refine.at(name_).step : 1.0),
        workplace_(workplace) {}
  Unknown(const Unknown&) = delete;
  Unknown& operator=(const Unknown&) = delete;
  virtual ~Unknown() = default;

  const std::string& name() const { return name_; }
  bool tiled() const { return place_ == Place::kTiled; }
  bool refined() const { return config_.reconstruct.refines(name_); }  // at some time
  bool refined(std::int64_t iteration) const { return config_.refines(name_, iteration); }
  double step() const { return step_; }  // in units of the optimiser's

  // Its parts at the start of a run, on the run's device.
  virtual std::vector<at::Tensor> start() const = 0;

  // ---- views of a part ----
  at::Tensor updated(const at::Tensor& part, std::size_t k) const {
    return tiled() ? cut_out(part, {}, workplace_.updated[k]) : part;
  }
  // What of it is nobody else's, for sums over all parts.
  at::Tensor counted(const at::Tensor& of_updated, std::size_t k) const {
    return tiled() ? cut_out(of_updated, {}, workplace_.counted[k]) : of_updated;
  }
  double sum(const std::vector<double>& by_part) const {
    return tiled() ? workplace_.sum(by_part) : by_part.front();
  }
  double power(const Values& values) const;  // sum of |x|^2

  // ---- updates ----
  // Which gradients of the kernels it is made of, and by the chain rule its own from them.
  virtual Needs needs() const = 0;
  virtual Slopes slopes(const KernelGradients& kernel) const = 0;
  // What of it acts on the same wave: so many moves add up.
  virtual double shares() const { return 1.0; }
  // Adam: its learning rate, and what that is relative to.
  virtual double learning_rate() const = 0;
  virtual double scale(const Values&) const { return 1.0; }
  // Moves it, as the default rule does.
  virtual void descend(State& state, const Slopes& slopes, const Stride& stride) const = 0;
  virtual void end_iteration(State& /*state*/, bool /*taken_back*/) const {}

  // ---- files and memory ----
  // Its dataset in a result. Called by all ranks; `file` is rank 0's, null elsewhere.
  virtual void write_result(hdf5::File* file, const Values& values, const Ranks& ranks) const = 0;
  // On this rank, of its values and of what is made of them in an update; remembered: by an
  // optimiser, in tensors of the size of what is updated.
  virtual double bytes(std::int64_t remembered) const = 0;

 protected:
  const Workplace& workplace() const { return workplace_; }

 private:
  std::string name_;
  Place place_;
  const Config& config_;
  double step_;
  const Workplace& workplace_;
};

using Unknowns = std::vector<std::unique_ptr<Unknown>>;

// All of them, in the order of unknown_names; the arguments must outlive them. `like`: device and
// complex type.
Unknowns make_unknowns(const Config& config, const Problem& problem, const Decomposition& cut,
                       const Workplace& workplace, const at::TensorOptions& like);

std::unique_ptr<Unknown> make_object(const Config& config, const Problem& problem,
                                     const Decomposition& cut, const Workplace& workplace,
                                     const at::TensorOptions& like);
std::unique_ptr<Unknown> make_probe(const Config& config, const Problem& problem,
                                    const Workplace& workplace, const at::TensorOptions& like);

// The guess of the probe, scaled, on the CPU in the precision of the run. ConfigError and DataError
// where there is none.
at::Tensor start_probe(const Config& config, const Problem& problem);

// complex64 or complex128.
at::ScalarType complex_type(const Config& config);

// What an optimiser remembers under a name, of the size of `like`; zeros at first.
at::Tensor& tensor_like(Memory& memory, const std::string& name, const at::Tensor& like,
                        at::ScalarType type);
// What it remembers under a name, if anything, times `factor`.
void scale_if_present(Memory& memory, const std::string& name, double factor);

}  // namespace ptyle::driver

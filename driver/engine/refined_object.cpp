// The object: complex transmission of every slice, on tiles.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/ones.h>

#include "driver/engine/gather.h"
#include "driver/engine/unknown.h"
#include "driver/engine/vectors.h"

namespace ptyle::driver {
namespace {

constexpr double kAmplitudeShare = 0.1, kLongestMove = 0.5;

class Object final : public Unknown {
 public:
  Object(const Config& config, const Problem& problem, const Decomposition& cut,
         const Workplace& workplace, const at::TensorOptions& like)
      : Unknown("object", Place::kTiled, config, workplace),
        problem_(problem),
        cut_(cut),
        like_(like),
        learning_rate_(config.reconstruct.learning_rate),
        moves_(cut.exchange.sums_later && config.tiles.exchange_every > 1 && workplace.all_tiles > 1
                   ? 2.0
                   : 1.0) {}

  // Vacuum.
  std::vector<at::Tensor> start() const override {
    std::vector<at::Tensor> parts;
    for (const Tile& tile : workplace().tiles) {
      parts.push_back(at::ones({slices(), tile.frame.rows, tile.frame.columns}, like_));
    }
    return parts;
  }

  Needs needs() const override { return {.object = true}; }
  Slopes slopes(const KernelGradients& kernel) const override {
    Slopes found;
    for (std::size_t k = 0; k < kernel.object.size(); ++k) {
      found.gradients.push_back(updated(kernel.object[k], k));
      if (!kernel.illumination.empty()) {
        found.illumination.push_back(updated(kernel.illumination[k], k));
      }
    }
    return found;
  }
  double shares() const override { return static_cast<double>(slices()); }
  double learning_rate() const override { return learning_rate_; }

  // The rule's sum E_s of an iteration's illumination is kept as memory: "illumination", and that
  // of the iteration under way as "illumination_sum".
  void descend(State& state, const Slopes& slopes, const Stride& stride) const override {
    const double unit_step = step() * stride.step;
    const double floor = std::min(0.05, std::max(stride.error, 0.003) / std::min(unit_step, 1.0));
    StepOptions options;
    options.step = unit_step / (2 * shares() * stride.curvature * moves_);
    options.amplitude = kAmplitudeShare;
    options.longest = kLongestMove * std::min(unit_step, 1.0);
    options.share = std::min(0.1, 0.2 * std::sqrt(stride.error));
    // In the first iteration what is known of E_s so far stands for all of it.
    double& done = state.numbers["positions_done"];
    if (!stride.follows) done += stride.here;
    const std::vector<double>& before = state.lists["most_illumination"];
    const bool first = before.empty();
    if (first) options.share *= stride.all / done;
    std::vector<double> floors;
    for (std::size_t s = 0; s < slopes.most.size(); ++s) {
      const double most = slopes.most[s];
      const double all = first ? most * done / stride.here : before[s];
      // A term's curvature w beside the data's, 2 I.
      floors.push_back(floor * (most + options.share * all) +
                       stride.terms / (2 * stride.curvature));
    }
    Values& values = state.unknowns.at(name());
    for (std::size_t k = 0; k < slopes.gradients.size(); ++k) {
      Memory& memory = values.memory[k];
      const at::Tensor& light = slopes.illumination[k];
      at::Tensor sum = tensor_like(memory, "illumination_sum", light, light.scalar_type());
      // what follows is added nowhere: most of it was counted before
      if (stride.follows) sum = sum.clone();
      const at::Tensor all =
          first ? at::Tensor() : tensor_like(memory, "illumination", light, light.scalar_type());
      illuminated_step(updated(values.parts[k], k), slopes.gradients[k], light, all, floors, sum,
                       options);
    }
  }

  // The iteration's illumination becomes E_s.
  void end_iteration(State& state, bool taken_back) const override {
    if (std::exchange(state.numbers["positions_done"], 0.0) == 0) return;  // it did not move
    std::vector<double> most(static_cast<std::size_t>(slices()), 0.0);
    Values& values = state.unknowns.at(name());
    for (std::size_t k = 0; k < values.memory.size(); ++k) {
      Memory& memory = values.memory[k];
      at::Tensor& sum = memory.at("illumination_sum");
      at::Tensor& all = tensor_like(memory, "illumination", sum, sum.scalar_type());
      if (!taken_back) std::swap(all, sum);
      sum.zero_();
      if (taken_back) continue;
      const std::vector<double> here = largest_by_plane(counted(all, k));
      for (std::size_t s = 0; s < most.size(); ++s) most[s] = std::max(most[s], here[s]);
    }
    if (!taken_back) state.lists["most_illumination"] = workplace().maximum(most);
  }

  void write_result(hdf5::File* file, const Values& values, const Ranks& ranks) const override {
    const std::string dataset = "/" + name();
    const auto [slices, rows, columns] = problem_.object_shape;
    if (file != nullptr) {
      file->create_dataset(dataset, {slices, rows, columns}, like_.dtype().toScalarType());
    }
    gather_tiles(
        cut_, ranks, Extent::kOwned, slices, like_.dtype().toScalarType(),
        [&](std::size_t k) {
          const Tile& tile = workplace().tiles[k];
          return cut_out(values.parts[k], tile.frame, tile.owned);
        },
        [&](const Tile& tile, const at::Tensor& tensor) {
          file->attempt([&] {
            file->write_area(dataset, {0, tile.owned.row, tile.owned.column}, tensor);
          });
        });
    if (file == nullptr) return;
    file->set_attribute(dataset, "axes", "slice, row, column");
    file->set_attribute(dataset, "row_cuts", cut_.grid.row_cuts());
    file->set_attribute(dataset, "column_cuts", cut_.grid.column_cuts());
    file->set_attribute(dataset, "unit", "1 (complex transmission)");
    if (const auto pixel = problem_.pixel_nm()) {
      file->set_attribute(dataset, "pixel_size_nm", *pixel);
    }
    if (problem_.slice_distance_A > 0) {
      file->set_attribute(dataset, "slice_distance_nm", problem_.slice_distance_A / 10);
    }
  }

  double bytes(std::int64_t remembered) const override {
    double pixels = 0.0;
    for (const Tile& tile : workplace().tiles) {
      pixels += static_cast<double>(tile.frame.pixels()) +
                static_cast<double>(remembered) * static_cast<double>(tile.updated.pixels());
    }
    return pixels * static_cast<double>(slices()) * static_cast<double>(like_.dtype().itemsize());
  }

 private:
  std::int64_t slices() const { return problem_.object_shape[0]; }

  const Problem& problem_;
  const Decomposition& cut_;
  at::TensorOptions like_;
  double learning_rate_;
  // Updates that each gradient leads to: 2 where a tile follows its own at once and then others'.
  double moves_;
};

}  // namespace

std::unique_ptr<Unknown> make_object(const Config& config, const Problem& problem,
                                     const Decomposition& cut, const Workplace& workplace,
                                     const at::TensorOptions& like) {
  return std::make_unique<Object>(config, problem, cut, workplace, like);
}

}  // namespace ptyle::driver

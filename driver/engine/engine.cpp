#include "driver/engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/view_as_real.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>

#include <ptyle/ops.h>

#include "driver/engine/vectors.h"
#include "driver/errors.h"

namespace ptyle::driver {
namespace {

at::ScalarType complex_type(const Config& config) {
  return config.reconstruct.precision == "double" ? at::kComplexDouble : at::kComplexFloat;
}

std::optional<at::Tensor> converted(const std::optional<at::Tensor>& tensor,
                                    const at::Device& device, at::ScalarType type) {
  if (!tensor) return std::nullopt;
  return tensor->to(device, type).contiguous();
}

[[noreturn]] void diverged(const State& state, const std::string& what, double value,
                           bool with_priors) {
  throw Diverged("the run diverged: the " + what + " must stay finite, got " +
                 std::to_string(value) + " in iteration " + std::to_string(state.iteration + 1) +
                 ": the steps are too long (reconstruct.step, probe_step, momentum, "
                 "learning_rate" +
                 (with_priors ? "), or a prior pulls too hard (prior.strength)" : ")"));
}

Rectangle relative(const Rectangle& inner, const Rectangle& outer) {
  return {inner.row - outer.row, inner.column - outer.column, inner.rows, inner.columns};
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

Rectangle around(const Rectangle& a, const Rectangle& b) {
  const std::int64_t row = std::min(a.row, b.row), column = std::min(a.column, b.column);
  return {row, column, std::max(a.row + a.rows, b.row + b.rows) - row,
          std::max(a.column + a.columns, b.column + b.columns) - column};
}

template <typename Number>
at::Tensor as_tensor(const std::vector<Number>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())},
                                c10::CppTypeToScalarType<Number>::value);
  std::copy(values.begin(), values.end(), tensor.data_ptr<Number>());
  return tensor;
}

std::vector<double> as_vector(const at::Tensor& numbers) {
  const double* first = numbers.const_data_ptr<double>();
  return {first, first + numbers.numel()};
}

// A real plane among those that lie, two in one, behind `slices` complex ones.
at::Tensor real_plane(const at::Tensor& planes, std::int64_t slices, std::int64_t number) {
  return at::view_as_real(planes.select(0, slices + number / 2)).select(-1, number % 2);
}

BatchFacts batch_facts(const Batches& batches, const Problem& problem) {
  BatchFacts facts;
  for (std::int64_t batch = 0; batch < batches.count(); ++batch) {
    const at::Tensor& members = batches.members(batch);
    facts.positions.push_back(static_cast<double>(members.numel()));
    facts.counts.push_back(total(problem.counts_per_pattern.index_select(0, members)));
  }
  return facts;
}

}  // namespace

Engine::Engine(const Config& config, const Problem& problem, const Decomposition& decomposition,
               const Ranks& ranks, const at::Device& device)
    : config_(config),
      problem_(problem),
      cut_(decomposition),
      ranks_(ranks),
      device_(device),
      type_(complex_type(config)),
      likelihood_(likelihood_named(config.reconstruct.likelihood).value()),
      feed_(problem, device),
      propagator_(converted(problem.propagator, device, type_)),
      detector_(converted(problem.detector, device, type_)),
      batches_(problem.positions, config.reconstruct.batch_count(),
               static_cast<std::uint64_t>(config.reconstruct.seed), config.data.hold_out),
      exchange_(make_exchange(decomposition, ranks)),
      priors_(config, problem, decomposition, ranks, device),
      preconditioned_(config.reconstruct.optimizer != "adam"),
      illuminated_(preconditioned_ || priors_.any()) {
  priors_.try_out(problem.probe.sizes());
  const double pixels = static_cast<double>(problem.window[0] * problem.window[1]);
  unmasked_pixels_ = pixels * static_cast<double>(problem.positions.size(0)) -
                     static_cast<double>(problem.masked_pixels);
  for (const std::int64_t number : cut_.tiles_of_rank(ranks_.rank())) {
    const Tile& tile = cut_.tiles[static_cast<std::size_t>(number)];
    tiles_.push_back(tile);
    workplace_.updated.push_back(relative(tile.updated, tile.frame));
    workplace_.counted.push_back(tile.owned.empty() ? Rectangle{}
                                                    : relative(tile.owned, tile.updated));
    if (!config.reconstruct.refines("object")) continue;
    const std::int64_t slices = problem.object_shape[0];
    const std::int64_t more = illuminated_ && cut_.tiles.size() > 1 ? (slices + 1) / 2 : 0;
    const at::TensorOptions options = at::TensorOptions().dtype(type_).device(device_);
    exchanged_.push_back(at::zeros({slices + more, tile.frame.rows, tile.frame.columns}, options));
    gradients_.push_back(exchanged_.back().narrow(0, 0, slices));
    if (illuminated_) {
      illuminations_.push_back(at::zeros({slices, tile.frame.rows, tile.frame.columns},
                                         options.dtype(at::toRealValueType(type_))));
    }
  }
  workplace_.slices = problem.object_shape[0];
  if (exchanges_rarely() && cut_.tiles.size() > 1) workplace_.moves = 2.0;
  workplace_.sum = [this](const std::vector<double>& values) { return sum_over_tiles(values); };
  workplace_.maximum = [this](std::vector<double> values) {
    const at::Tensor all = as_tensor(values);
    ranks_.maximum(all);
    return as_vector(all);
  };
  optimizer_ = make_optimizer(
      config.reconstruct, relative_curvature(likelihood_, std::max(1e-30, problem.largest_count)),
      workplace_, batch_facts(batches_, problem));
  losses_.resize(tiles_.size());
  squared_errors_.resize(tiles_.size());
  plan();
}

// Which positions of which batch a tile works on, and when.
void Engine::plan() {
  const double* p = problem_.positions.const_data_ptr<double>();
  std::vector<std::int64_t> row_of(static_cast<std::size_t>(positions()), -1);
  for (std::size_t k = 0; k < problem_.held.size(); ++k) {
    row_of[static_cast<std::size_t>(problem_.held[k])] = static_cast<std::int64_t>(k);
  }
  // What a position sees of the object.
  const auto window_of = [&](std::int64_t n) {
    const std::int64_t reach = problem_.reach;
    return Rectangle{static_cast<std::int64_t>(std::floor(p[2 * n])) - reach,
                     static_cast<std::int64_t>(std::floor(p[2 * n + 1])) - reach,
                     problem_.window[0] + 2 * reach, problem_.window[1] + 2 * reach};
  };
  const std::int64_t pattern_bytes =
      problem_.window[0] * problem_.window[1] *
      static_cast<std::int64_t>(c10::elementSize(problem_.source->type()));
  const std::int64_t patch_bytes =
      problem_.moves_object() ? problem_.object_shape[0] * problem_.window[0] * problem_.window[1] *
                                    static_cast<std::int64_t>(c10::elementSize(type_))
                              : 0;
  const std::int64_t block = block_positions(pattern_bytes, patch_bytes);
  const auto positions_of = [&](const std::vector<std::int64_t>& members) {
    return problem_.positions.index_select(0, as_tensor(members)).to(device_);
  };
  const auto part_of = [&](const std::vector<std::int64_t>& members) {
    std::vector<std::int64_t> rows;
    for (const std::int64_t n : members) rows.push_back(row_of[static_cast<std::size_t>(n)]);
    Part part{positions_of(members), {}};
    const at::Tensor all = as_tensor(rows);
    for (std::int64_t first = 0; first < all.numel(); first += block) {
      const std::int64_t count = std::min(block, all.numel() - first);
      Rectangle reached = window_of(members[static_cast<std::size_t>(first)]);
      for (std::int64_t k = first + 1; k < first + count; ++k) {
        reached = around(reached, window_of(members[static_cast<std::size_t>(k)]));
      }
      part.blocks.push_back(
          {part.positions.narrow(0, first, count), all.narrow(0, first, count), reached});
    }
    return part;
  };
  std::vector<std::vector<bool>> works_on;
  for (const Tile& tile : tiles_) {
    works_on.emplace_back(static_cast<std::size_t>(positions()), false);
    for (const std::int64_t n : cut_.positions_of_tile(tile.number, problem_.positions)) {
      works_on.back()[static_cast<std::size_t>(n)] = true;
    }
  }
  for (std::int64_t batch = 0; batch <= batches_.count(); ++batch) {
    const at::Tensor& all_members = members(batch);
    const std::int64_t* member = all_members.const_data_ptr<std::int64_t>();
    plan_.emplace_back();
    for (std::size_t k = 0; k < tiles_.size(); ++k) {
      const Tile& tile = tiles_[k];
      std::vector<std::int64_t> inside, boundary, extra;
      for (std::int64_t i = 0; i < all_members.numel(); ++i) {
        const std::int64_t n = member[i];
        const Rectangle window = window_of(n);
        const bool works = works_on[k][static_cast<std::size_t>(n)];
        // `voxels` knows of its own positions alone.
        if (!works) continue;
        if (cut_.tile_of[static_cast<std::size_t>(n)] != tile.number) {
          extra.push_back(n);
          continue;
        }
        const bool needs_no_halo =
            exchange_->overlaps() && contains(tile.owned, intersection(window, cut_.grid.object()));
        (needs_no_halo ? inside : boundary).push_back(n);
      }
      // A single tile has nothing to wait for.
      const auto half =
          static_cast<std::ptrdiff_t>(cut_.tiles.size() == 1 ? inside.size() : inside.size() / 2);
      TileBatch one;
      one.before = part_of({inside.begin(), inside.begin() + half});
      one.boundary = part_of(boundary);
      one.after = part_of({inside.begin() + half, inside.end()});
      one.extra = part_of(extra);
      plan_.back().push_back(std::move(one));
    }
  }
}

std::string Engine::fingerprint() const {
  std::ostringstream out;
  const auto& shape = problem_.object_shape;
  out.precision(17);
  out << positions() << " positions; a window of " << problem_.window[0] << " x "
      << problem_.window[1] << "; an object of " << shape[0] << " x " << shape[1] << " x "
      << shape[2] << "; " << problem_.masked_pixels << " masked pixels; " << problem_.total_counts
      << " counts; counts per pattern of checksum " << checksum(problem_.counts_per_pattern);
  if (problem_.pattern_checksums.defined()) {
    out << "; patterns and masks of checksum " << checksum(problem_.pattern_checksums);
  }
  out << "; positions of checksum " << checksum(problem_.positions) << "; a probe of checksum "
      << checksum(problem_.probe) << checksums_of_priors(config_);
  return out.str();
}

at::Tensor start_probe(const Config& config, const Problem& problem) {
  const at::Tensor probe = problem.probe.to(at::kComplexDouble).clone();  // scaled below
  double factor = 1.0;
  if (config.probe.power == "number") {
    factor = std::sqrt(config.probe.power_value / power(probe));
  } else if (config.probe.power == "data") {
    // The starting object is vacuum, where every position sees the same intensity.
    const at::Tensor vacuum =
        at::ones({problem.object_shape[0], 1, 1}, at::TensorOptions().dtype(at::kComplexDouble));
    const at::Tensor corner = at::zeros({1, 2}, at::TensorOptions().dtype(at::kDouble));
    ModelOptions options;
    options.detector = problem.detector;
    const at::Tensor intensity =
        diffraction(vacuum, probe, corner, problem.propagator, options).select(0, 0);
    const double modelled =
        (problem.good_share ? intensity.mul(*problem.good_share) : intensity).sum().item<double>();
    if (!(problem.mean_counts_per_pattern > 0) || !(modelled > 0)) {
      throw DataError(config.data.file +
                      ": the unmasked pixels must hold counts that the probe can be scaled to "
                      "(probe.power = \"data\"), got a mean of " +
                      std::to_string(problem.mean_counts_per_pattern) + " counts per pattern");
    }
    factor = std::sqrt(problem.mean_counts_per_pattern / modelled);
  }
  scale(probe, factor);
  const at::Tensor start = probe.to(complex_type(config)).contiguous();
  if (const double all = power(start); !std::isfinite(all) || !(all > 0)) {
    throw ConfigError("probe.power: must give the probe a power that " +
                      config.reconstruct.precision + " precision holds, got " +
                      std::to_string(all));
  }
  return start;
}

State Engine::start() const {
  State state;
  const auto& shape = problem_.object_shape;
  for (const Tile& tile : tiles_) {
    state.tiles.push_back({at::ones({shape[0], tile.frame.rows, tile.frame.columns},
                                    at::TensorOptions().dtype(type_).device(device_)),
                           {}});
  }
  state.probe = start_probe(config_, problem_).to(device_);
  state.start_power = power(state.probe);
  return state;
}

bool Engine::refines_probe(const State& state) const {
  return config_.reconstruct.refines("probe") && state.iteration >= config_.reconstruct.probe_start;
}

std::vector<at::Tensor> Engine::objects(const State& state) const {
  std::vector<at::Tensor> all;
  for (const TileState& tile : state.tiles) all.push_back(tile.object);
  return all;
}

// Every rank knows every tile's number afterwards, and adds them up in the same order.
double Engine::sum_over_tiles(const std::vector<double>& values) const {
  at::Tensor all = at::zeros({static_cast<std::int64_t>(cut_.tiles.size())}, at::kDouble);
  double* numbers = all.data_ptr<double>();
  for (std::size_t k = 0; k < tiles_.size(); ++k) numbers[tiles_[k].number] = values[k];
  ranks_.gather(all);
  return total(all);
}

// Tells the feed which patterns a batch will ask for, once.
void Engine::expect(std::int64_t batch) {
  if (expected_ == batch) return;
  feed_.forget();
  expected_ = batch;
  if (batch < 0) return;
  std::vector<at::Tensor> next;
  for (const Part TileBatch::*part :
       {&TileBatch::before, &TileBatch::boundary, &TileBatch::extra, &TileBatch::after}) {
    for (const TileBatch& tile : plan_[static_cast<std::size_t>(batch)]) {
      for (const Block& block : (tile.*part).blocks) next.push_back(block.rows);
    }
  }
  feed_.expect(next);
}

Engine::Windows Engine::windows(const at::Tensor& object, const Tile& tile,
                                const at::Tensor& positions) const {
  const std::array<std::int64_t, 2> corner = {tile.frame.row, tile.frame.column};
  if (!problem_.moves_object()) return {object, positions, corner};
  const auto [h, w] = problem_.window;
  const at::Tensor patches = extract_patches(object, positions, {h, w}, corner, /*outside=*/1.0);
  const std::int64_t count = patches.size(0), slices = patches.size(1);
  at::Tensor corners = at::zeros_like(positions);
  corners.select(1, 0).copy_(at::arange(count, corners.options()).mul_(static_cast<double>(h)));
  return {patches.transpose(0, 1).reshape({slices, count * h, w}), corners, {0, 0}};
}

void Engine::accumulate(const at::Tensor& object, const at::Tensor& probe, const Tile& tile,
                        const Block& block, const at::Tensor& patterns,
                        const GradientBuffers& buffers, const at::Tensor& losses,
                        LossOptions options) const {
  const Windows seen = windows(object, tile, block.positions);
  options.detector = detector_;
  options.origin = seen.origin;
  const Rectangle reached = intersection(block.reached, tile.frame);
  const bool gives_back = problem_.moves_object() && buffers.object;
  GradientBuffers inner = buffers;
  if (gives_back) {
    inner.object = at::zeros_like(seen.object);
    if (buffers.illumination) {
      inner.illumination =
          at::zeros(seen.object.sizes(), seen.object.options().dtype(at::toRealValueType(type_)));
    }
  }
  diffraction_loss_accumulate_(seen.object, probe, seen.positions, propagator_, patterns, inner,
                               losses, options);
  if (!gives_back || reached.empty()) return;
  const auto [h, w] = problem_.window;
  const auto give_back = [&, h = h, w = w](const at::Tensor& stack, const at::Tensor& to,
                                           const at::Tensor& positions) {
    const at::Tensor patches =
        stack.reshape({object.size(0), positions.size(0), h, w}).transpose(0, 1);
    cut_out(to, tile.frame, reached)
        .add_(add_patches(patches, positions, {reached.rows, reached.columns},
                          {reached.row, reached.column}));
  };
  give_back(*inner.object, *buffers.object, block.positions);
  if (buffers.illumination) {  // at whole pixels: interpolated it could be negative
    give_back(*inner.illumination, *buffers.illumination, block.positions.floor());
  }
}

void Engine::add(const State& state, std::size_t tile, const Block& block, bool with_probe,
                 bool counts) {
  const PatternBlock measured = feed_.take(block.rows);
  GradientBuffers buffers;
  if (!gradients_.empty()) buffers.object = gradients_[tile];
  if (!illuminations_.empty()) buffers.illumination = illuminations_[tile];
  if (with_probe) buffers.probe = probe_gradients_[tile];
  LossOptions options;
  options.mask = measured.mask;
  options.likelihood = config_.reconstruct.likelihood;
  const auto losses = [&] {
    return at::zeros({block.rows.numel()}, at::TensorOptions().dtype(at::kDouble).device(device_));
  };
  const at::Tensor& object = state.tiles[tile].object;
  const at::Tensor loss = losses();
  const bool other = counts && options.likelihood != "amplitude";
  at::Tensor squared_error;
  if (other) buffers.amplitude_errors = squared_error = losses();
  accumulate(object, state.probe, tiles_[tile], block, measured.patterns, buffers, loss, options);
  if (!counts) return;
  losses_[tile].push_back(loss);
  squared_errors_[tile].push_back(other ? squared_error : loss);
}

void Engine::add_all(const State& state, std::int64_t batch, Part TileBatch::*part, bool with_probe,
                     bool counts) {
  const std::vector<TileBatch>& tiles = plan_[static_cast<std::size_t>(batch)];
  const auto count = static_cast<std::int64_t>(tiles.size());
  const auto add_tile = [&](std::size_t k) {
    for (const Block& block : (tiles[k].*part).blocks) add(state, k, block, with_probe, counts);
  };
  // Many tiles: a thread works on tiles of its own. Few: threads share a tile's positions.
  if (device_.is_cpu() && count >= 2 * at::get_num_threads()) {
    at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
      const c10::InferenceMode no_autograd;
      for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
        add_tile(k);
      }
    });
  } else {
    for (std::size_t k = 0; k < tiles.size(); ++k) add_tile(k);
  }
}

// The sum of each tile's blocks, each of them summed in order; of all lists with one wait for the
// device.
std::vector<std::vector<double>> Engine::sums_by_tile(
    const std::vector<const std::vector<std::vector<at::Tensor>>*>& lists) const {
  std::vector<at::Tensor> all;
  for (const auto* list : lists) {
    for (const auto& tile : *list) all.insert(all.end(), tile.begin(), tile.end());
  }
  const at::Tensor here = all.empty() ? at::Tensor() : at::cat(all).cpu();
  std::vector<std::vector<double>> sums;
  std::int64_t at = 0;
  for (const auto* list : lists) {
    sums.emplace_back(list->size(), 0.0);
    for (std::size_t k = 0; k < list->size(); ++k) {
      for (const at::Tensor& block : (*list)[k]) {
        sums.back()[k] += total(here.narrow(0, at, block.numel()));
        at += block.numel();
      }
    }
  }
  return sums;
}

Evaluation Engine::evaluate(const State& state, std::int64_t batch,
                            const std::function<bool()>& stop, std::int64_t next_batch) {
  Evaluation result;
  result.batch = batch;
  expect(batch);
  const bool with_object = !gradients_.empty();
  const bool with_probe = refines_probe(state);
  const std::vector<TileBatch>& tiles = plan_[static_cast<std::size_t>(batch)];
  const std::vector<at::Tensor> object = objects(state);
  if (halos_ == Halos::kStale) {
    exchange_->begin_objects(object);
    halos_ = Halos::kOnTheWay;
  }

  const bool with_priors = with_object && priors_.join_gradients(state, batches_.count());
  for (const at::Tensor& sum : exchanged_) sum.zero_();
  for (const at::Tensor& sum : illuminations_) sum.zero_();
  if (with_probe) {
    probe_gradients_.resize(tiles.size());
    for (at::Tensor& gradient : probe_gradients_) {
      if (!gradient.defined()) gradient = at::zeros_like(state.probe);
      gradient.zero_();
    }
  }
  for (auto* blocks : {&losses_, &squared_errors_}) {
    for (std::vector<at::Tensor>& tile : *blocks) tile.clear();
  }

  {
    const Trace::Box box(trace_, "positions that need no halo");
    add_all(state, batch, &TileBatch::before, with_probe);
  }
  if (halos_ == Halos::kOnTheWay) {
    const Trace::Box box(trace_, "wait for voxels");
    exchange_->finish_objects(object);
    halos_ = Halos::kFresh;
  }
  {
    const Trace::Box box(trace_, "boundary positions");
    add_all(state, batch, &TileBatch::boundary, with_probe);
    add_all(state, batch, &TileBatch::extra, false, false);
  }
  const bool exchanged = with_object && !exchanges_rarely();
  if (exchanged) {
    const Trace::Box box(trace_, "send gradients");
    pack_illuminations();
    exchange_->begin_gradients(exchanged_);
  }
  {
    const Trace::Box box(trace_, "positions that need no halo");
    add_all(state, batch, &TileBatch::after, with_probe);
  }
  expected_ = -1;  // all of it is taken
  if (next_batch >= 0) expect(next_batch);

  if (with_probe) {
    const Trace::Box box(trace_, "sum the probe's gradient");
    std::vector<at::Tensor> lit;
    if (preconditioned_) {
      for (std::size_t k = 0; k < tiles.size(); ++k) {
        at::Tensor sum;
        for (const Part TileBatch::*part :
             {&TileBatch::before, &TileBatch::boundary, &TileBatch::after}) {
          const at::Tensor one =
              windowed_power(object[k].select(0, 0), (tiles[k].*part).positions, problem_.window[0],
                             problem_.window[1], {tiles_[k].frame.row, tiles_[k].frame.column});
          sum = sum.defined() ? sum.add_(one) : one;
        }
        lit.push_back(sum);
      }
      result.probe_illumination = ranks_.sum_over_tiles(std::move(lit), cut_.owners);
    }
    result.probe = ranks_.sum_over_tiles(probe_gradients_, cut_.owners);
  }
  if (with_object) {
    const Trace::Box box(trace_, "wait for gradients, add");
    if (exchanged) {
      exchange_->finish_gradients(exchanged_);
      unpack_illuminations();
    }
    for (std::size_t k = 0; k < tiles.size(); ++k) {
      result.object.push_back(workplace_.view(k, gradients_[k]));
      if (illuminated_) {
        result.object_illumination.push_back(workplace_.view(k, illuminations_[k]));
      }
    }
  }
  // The largest illumination of every slice, tile by tile.
  std::vector<std::vector<double>> most;
  for (std::size_t k = 0; k < result.object_illumination.size(); ++k) {
    most.push_back(largest_by_plane(workplace_.counted_view(k, result.object_illumination[k])));
  }
  Priors::Joined joined;
  if (with_priors) {
    const Trace::Box box(trace_, "priors");
    double here = 0.0;  // of the wave that comes in
    for (const std::vector<double>& tile : most) here = std::max(here, tile.front());
    joined = priors_.add_gradients(state, batches_.count(), result.object,
                                   workplace_.maximum({here}).front());
  }

  const Trace::Box box(trace_, "sum the loss");
  // Loss, squared error, whether a rank was asked to stop, and maxima, in one message.
  const auto count = static_cast<std::int64_t>(cut_.tiles.size());
  const std::int64_t fixed = with_priors ? 5 : 3;
  const std::int64_t slices = with_object && illuminated_ ? workplace_.slices : 0;
  at::Tensor numbers = at::zeros({fixed + slices, count}, at::kDouble);
  double* to = numbers.data_ptr<double>();
  const std::vector<std::vector<double>> sums = sums_by_tile({&losses_, &squared_errors_});
  const std::vector<double>&losses = sums[0], &squared_errors = sums[1];
  for (std::size_t k = 0; k < tiles.size(); ++k) {
    to[tiles_[k].number] = losses[k] + (with_priors ? joined.energies[k] : 0.0);
    to[count + tiles_[k].number] = squared_errors[k];
    to[2 * count + tiles_[k].number] = k == 0 && stop && stop() ? 1.0 : 0.0;
    if (with_priors) {
      to[3 * count + tiles_[k].number] = joined.along[k];
      to[4 * count + tiles_[k].number] = joined.squares[k];
    }
    for (std::int64_t s = 0; s < slices; ++s) {
      to[(fixed + s) * count + tiles_[k].number] = most[k][static_cast<std::size_t>(s)];
    }
  }
  ranks_.gather(numbers);
  for (std::int64_t s = 0; s < slices; ++s) {
    const double* row = to + (fixed + s) * count;
    result.most_illumination.push_back(*std::max_element(row, row + count));
  }
  if (with_priors) {
    const double square = total(numbers[4]);
    work_.prior_descent = square > 0 ? total(numbers[3]) / square : 0.0;
  }
  result.loss = total(numbers[0]);
  result.squared_error = total(numbers[1]);
  stopped_ = stopped_ || total(numbers[2]) > 0;
  return result;
}

void Engine::pack_illuminations() {
  for (std::size_t k = 0; k < exchanged_.size(); ++k) {
    if (exchanged_[k].size(0) == workplace_.slices) continue;
    for (std::int64_t s = 0; s < workplace_.slices; ++s) {
      real_plane(exchanged_[k], workplace_.slices, s).copy_(illuminations_[k].select(0, s));
    }
    illuminations_[k].zero_();  // positions that are worked on meanwhile add to it
  }
}

void Engine::unpack_illuminations() {
  for (std::size_t k = 0; k < exchanged_.size(); ++k) {
    if (exchanged_[k].size(0) == workplace_.slices) continue;
    for (std::int64_t s = 0; s < workplace_.slices; ++s) {
      illuminations_[k].select(0, s).add_(real_plane(exchanged_[k], workplace_.slices, s));
    }
  }
}

void Engine::refresh_halos(const State& state) {
  exchange_->begin_objects(objects(state));
  exchange_->finish_objects(objects(state));
}

double Engine::error(const State& state, std::int64_t batch, const std::string& likelihood) {
  std::vector<std::vector<at::Tensor>> blocks(tiles_.size());
  for (std::size_t k = 0; k < tiles_.size(); ++k) {
    const TileBatch& tile = plan_[static_cast<std::size_t>(batch)][k];
    for (const Part* part : {&tile.before, &tile.boundary, &tile.after}) {
      for (const Block& block : part->blocks) {
        const PatternBlock measured = feed_.take(block.rows);
        LossOptions options;
        options.mask = measured.mask;
        options.likelihood = likelihood;
        const at::Tensor losses =
            at::zeros({block.rows.numel()}, at::TensorOptions().dtype(at::kDouble).device(device_));
        accumulate(state.tiles[k].object, state.probe, tiles_[k], block, measured.patterns, {},
                   losses, options);
        blocks[k].push_back(losses);
      }
    }
  }
  const double share = static_cast<double>(members(batch).size(0)) /
                       static_cast<double>(std::max<std::int64_t>(1, positions()));
  const double sum = sum_over_tiles(sums_by_tile({&blocks})[0]);
  return unmasked_pixels_ > 0 ? sum / (share * unmasked_pixels_) : 0.0;
}

// Between an update and the halos that it sends. What priors do to the data error is measured once
// an iteration, where they are applied for the last time.
void Engine::apply_priors(State& state, std::int64_t batch) {
  if (!priors_.replace(state, batches_.count())) return;
  const Trace::Box box(trace_, "priors");
  const bool measured = !priors_.replace_again(state, batches_.count());
  // What the object explains is a matter of the run's own likelihood: at few counts vacuum's
  // amplitude error may be less than that of the truth.
  const std::string& likelihood = config_.reconstruct.likelihood;
  double own_before = 0.0, nothing = 0.0;
  if (measured) {
    refresh_halos(state);
    work_.error_before_priors = error(state, batch, "amplitude");
    own_before =
        likelihood == "amplitude" ? *work_.error_before_priors : error(state, batch, likelihood);
    // without what priors work on: the phase alone, or all of the object
    State without = state;
    for (TileState& tile : without.tiles) {
      tile.object = priors_.replace_phases_alone() ? at::abs(tile.object).to(type_)
                                                   : at::ones_like(tile.object);
    }
    nothing = error(without, batch, likelihood);
  }
  priors_.apply(state, batches_.count());
  if (measured) {
    refresh_halos(state);
    work_.error_after_priors = error(state, batch, "amplitude");
    const double own_after =
        likelihood == "amplitude" ? *work_.error_after_priors : error(state, batch, likelihood);
    if (nothing > own_before) work_.left_by_priors = (nothing - own_after) / (nothing - own_before);
  }
}

std::vector<at::Tensor> Engine::owned_gradients(const State& state) {
  const c10::InferenceMode no_autograd;
  const Evaluation at = evaluate(state, 0, {}, -1);
  std::vector<at::Tensor> owned;
  for (std::size_t k = 0; k < at.object.size(); ++k) {
    owned.push_back(workplace_.counted_view(k, at.object[k]).clone());
  }
  return owned;
}

bool Engine::iterate(State& state, const std::function<bool()>& stop,
                     const std::function<void(std::int64_t)>& batch_done) {
  const c10::InferenceMode no_autograd;
  const std::vector<std::int64_t> order =
      batches_.order(optimizer_->keeps_order() ? 0 : state.iteration);
  std::int64_t done = 0;
  for (std::int64_t b = 0; b < state.batch; ++b) {
    done += batches_.members(order[static_cast<std::size_t>(b)]).size(0);
  }
  const auto iteration_begin = std::chrono::steady_clock::now();
  const Traffic traffic_before = exchange_->traffic();
  const double waited_before = ranks_.wait_seconds();
  const std::int64_t bytes_before = ranks_.bytes_sent() + priors_.bytes();
  const std::int64_t prior_messages_before = priors_.messages();
  const double prior_seconds_before = priors_.seconds();
  work_ = {};
  if (state.batch == 0 && optimizer_->begin_iteration(state)) halos_ = Halos::kStale;
  while (state.batch < batches_.count()) {
    const auto begin = std::chrono::steady_clock::now();
    const std::int64_t batch = order[static_cast<std::size_t>(state.batch)];
    // L-BFGS asks for the same batch again.
    const bool goes_on =
        state.batch + 1 < batches_.count() && !stopped_ && config_.reconstruct.optimizer != "lbfgs";
    const std::int64_t next = goes_on ? order[static_cast<std::size_t>(state.batch) + 1] : -1;
    const Evaluation at = evaluate(state, batch, stop, next);
    if (!std::isfinite(at.loss) && !optimizer_->recovers()) {
      diverged(state, "loss", at.loss, priors_.any());
    }
    {
      const Trace::Box box(trace_, "update");
      optimizer_->update(state, at, [&] {
        halos_ = Halos::kStale;
        return evaluate(state, batch, stop, -1);
      });
    }
    if (!gradients_.empty() && exchanges_rarely()) follow_others(state, at);
    if (std::isfinite(at.loss)) state.loss += at.loss;
    state.squared_error += at.squared_error;
    const bool was_due = exchange_is_due(state);
    ++state.batch;
    done += batches_.members(batch).size(0);
    apply_priors(state, batch);
    if (state.batch == batches_.count() && config_.reconstruct.refines("object") &&
        refines_probe(state)) {
      fix_power(state);
    }
    if (state.batch == batches_.count()) optimizer_->end_iteration(state);
    // The halos travel while the next batch begins.
    if (!gradients_.empty() && (cut_.exchange != "voxels" || was_due)) {
      const Trace::Box box(trace_, "send voxels");
      exchange_->begin_objects(objects(state));
      halos_ = Halos::kOnTheWay;
    }
    state.seconds += seconds_since(begin);
    batch_done(done);
    if (state.batch < batches_.count() && stopped_) break;
  }
  expect(-1);  // nothing reads while a checkpoint is written
  // Whole frames are what a checkpoint holds.
  if (halos_ == Halos::kOnTheWay) {
    exchange_->finish_objects(objects(state));
    halos_ = Halos::kFresh;
  }
  check_finite(state);
  const Traffic traffic = exchange_->traffic();
  work_.pack_seconds = traffic.pack_seconds - traffic_before.pack_seconds;
  work_.wait_seconds =
      traffic.wait_seconds - traffic_before.wait_seconds + ranks_.wait_seconds() - waited_before;
  work_.messages =
      traffic.messages - traffic_before.messages + priors_.messages() - prior_messages_before;
  work_.bytes =
      traffic.bytes - traffic_before.bytes + ranks_.bytes_sent() + priors_.bytes() - bytes_before;
  work_.prior_seconds = priors_.seconds() - prior_seconds_before;
  work_.compute_seconds = seconds_since(iteration_begin) - work_.pack_seconds - work_.wait_seconds;
  if (state.batch < batches_.count()) return false;
  if (batches_.held_out().numel() > 0) {
    work_.held_out_error = error(state, batches_.count(), "amplitude");
  }
  state.history.loss.push_back(state.loss);
  const double worked_on = static_cast<double>(positions_in_batches()) /
                           static_cast<double>(std::max<std::int64_t>(1, positions()));
  state.history.amplitude_error.push_back(
      unmasked_pixels_ > 0 ? state.squared_error / (worked_on * unmasked_pixels_) : 0.0);
  state.history.seconds.push_back(state.seconds);
  state.loss = state.squared_error = state.seconds = 0;
  state.batch = 0;
  ++state.iteration;
  return true;
}

bool Engine::exchanges_rarely() const {
  return cut_.exchange == "passes" && config_.tiles.exchange_every > 1;
}

// After every so many batches, and after the last of an iteration.
bool Engine::exchange_is_due(const State& state) const {
  return (state.batch + 1) % config_.tiles.exchange_every == 0 ||
         state.batch + 1 == batches_.count();
}

// Wang et al. (SC22): the tile has moved by its own gradients; the passes bring the sum of all
// since the last exchange, of which the tile's own part must not be used a second time.
void Engine::follow_others(State& state, const Evaluation& at) {
  pack_illuminations();
  for (std::size_t k = 0; k < tiles_.size(); ++k) {
    at::Tensor& own = state.tiles[k].optimizer["own_sums"];
    if (!own.defined()) own = at::zeros_like(exchanged_[k]);
    add_scaled(own, 1.0, exchanged_[k]);
  }
  if (!exchange_is_due(state)) return;
  const Trace::Box box(trace_, "passes");
  for (std::size_t k = 0; k < tiles_.size(); ++k) {
    exchanged_[k].copy_(state.tiles[k].optimizer["own_sums"]);
  }
  exchange_->begin_gradients(exchanged_);
  exchange_->finish_gradients(exchanged_);
  // The sum of several batches takes the step of one large batch: that of all their light.
  unpack_illuminations();
  Evaluation others = at;
  others.follows = true;
  others.probe = at::Tensor();
  std::vector<double> most(static_cast<std::size_t>(workplace_.slices), 0.0);
  for (std::size_t k = 0; k < tiles_.size(); ++k) {
    at::Tensor& own = state.tiles[k].optimizer["own_sums"];
    add_scaled(gradients_[k], -1.0, own.narrow(0, 0, workplace_.slices));
    own.zero_();
    const std::vector<double> here = largest_by_plane(others.object_illumination[k]);
    for (std::size_t s = 0; s < most.size(); ++s) most[s] = std::max(most[s], here[s]);
  }
  others.most_illumination = workplace_.maximum(most);
  optimizer_->update(state, others, {});
}

// A loss is known only before an update; nothing that is not finite may become a checkpoint.
void Engine::check_finite(const State& state) const {
  std::vector<double> powers;
  for (std::size_t k = 0; k < tiles_.size(); ++k) {
    powers.push_back(power(workplace_.counted_view(k, workplace_.view(k, state.tiles[k].object))));
  }
  const double object = sum_over_tiles(powers);
  if (!std::isfinite(object)) diverged(state, "sum of |object|^2", object, priors_.any());
  const double probe = power(state.probe);
  if (!std::isfinite(probe)) diverged(state, "sum of |probe|^2", probe, priors_.any());
}

void Engine::fix_power(State& state) {
  const double now = power(state.probe);
  if (!std::isfinite(now) || !(now > 0) || !(state.start_power > 0)) return;
  const double probe_factor = std::sqrt(state.start_power / now);
  const auto slices = static_cast<double>(problem_.object_shape[0]);
  const double object_factor = std::pow(probe_factor, -1.0 / slices);
  scale(state.probe, probe_factor);
  for (const TileState& tile : state.tiles) scale(tile.object, object_factor);
  optimizer_->rescale(state, object_factor, probe_factor);
}

}  // namespace ptyle::driver

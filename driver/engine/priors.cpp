#include "driver/engine/priors.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/angle.h>
#include <ATen/ops/complex.h>
#include <ATen/ops/conj_physical.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_file.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/polar.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <ptyle/ops.h>

#include "driver/engine/vectors.h"
#include "driver/errors.h"
#include "driver/threads.h"
#include "driver/words.h"

namespace ptyle::driver {

namespace {

constexpr int kPriorTag = 1 << 23;
// Of the object, below which what pulls at a phase gets weaker.
constexpr double kLeastAmplitude = 0.5;

std::string place(std::size_t number) { return "prior[" + std::to_string(number) + "]"; }

std::vector<std::string> channels_of(const std::string& on) {
  if (on == "phase") return {"phase"};
  if (on == "object") return {"phase", "amplitude"};
  return {"real", "imaginary"};
}

// [slices, rows, columns] complex -> [slices, channels, rows, columns] float32.
at::Tensor image_of(const at::Tensor& object, bool with_amplitude) {
  const at::Tensor phase = at::angle(object).to(at::kFloat);
  if (!with_amplitude) return phase.unsqueeze(1).contiguous();
  return at::stack({phase, at::abs(object).to(at::kFloat)}, 1).contiguous();
}

}  // namespace

std::unique_ptr<Prior> load_prior(const Config& config, std::size_t number,
                                  const Decomposition& cut, const at::Device& device) {
  const Config::Prior& settings = config.priors[number];
  const auto refuse = [&](const char* key, const std::string& rule, const std::string& value) {
    throw ConfigError(place(number) + "." + key + ": must " + rule + ", got " + value + " (" +
                      settings.file + ")");
  };
  std::unique_ptr<Prior> model;
  try {
    model = load_prior(settings.file, device);
  } catch (const ConfigError& error) {
    throw ConfigError(place(number) + ".file: " + error.what());
  }
  const PriorCard& card = model->card();
  const std::string wanted = settings.kind == "gradient" ? "regulariser" : "denoiser";
  if (card.kind != wanted) {
    refuse("file", "hold a " + wanted + " for kind = \"" + settings.kind + "\"", "a " + card.kind);
  }
  if (wanted == "regulariser" && !model->differentiable()) {
    refuse("file", "be TorchScript for kind = \"gradient\"",
           "a compiled .pt2, through which no gradient flows");
  }
  if (card.channels != channels_of(settings.on)) {
    refuse("file",
           "be a model of " + words::listed(channels_of(settings.on)) + " for on = \"" +
               settings.on + "\"",
           "one of " + words::listed(card.channels));
  }
  if (wanted == "denoiser" && settings.noise) {
    const double noise = *settings.noise;
    if (noise < card.least_noise || noise > card.most_noise) {
      refuse("noise",
             "be what the model was trained with, from " + std::to_string(card.least_noise) +
                 " to " + std::to_string(card.most_noise),
             std::to_string(noise));
    }
  }
  if (settings.on == "probe") return model;
  if (card.receptive_field < 0 && cut.tiles.size() > 1) {
    refuse("file", "declare a receptive_field to work on more than one tile", "a card without");
  }
  const Rectangle object = cut.grid.object();
  if (object.rows < card.smallest[0] || object.columns < card.smallest[1]) {
    refuse(
        "file",
        "take an object of " + std::to_string(object.rows) + " x " + std::to_string(object.columns),
        "a model that needs " + std::to_string(card.smallest[0]) + " x " +
            std::to_string(card.smallest[1]));
  }
  return model;
}

std::vector<std::string> never_used(const Config& config) {
  std::vector<std::string> found;
  const std::int64_t batches = config.reconstruct.batch_count();
  for (std::size_t k = 0; k < config.priors.size(); ++k) {
    const Config::Prior& one = config.priors[k];
    const std::int64_t every = one.every_batches > 0 ? one.every_batches : batches;
    const std::int64_t end =
        std::min(config.reconstruct.iterations, one.end.value_or(config.reconstruct.iterations));
    if (one.start < end && end * batches / every > one.start * batches / every) continue;
    std::string text = place(k);
    text += " is never used: every_batches = " + std::to_string(one.every_batches);
    text += ", start = " + std::to_string(one.start) + ", and the run has ";
    text += words::counted(config.reconstruct.iterations, "iteration") + " of ";
    text += words::counted(batches, "batch");
    found.push_back(std::move(text));
  }
  return found;
}

double noise_of(const Config::Prior& settings, const PriorCard& card, double counting_noise) {
  if (settings.noise) return *settings.noise;
  if (settings.on == "probe") return std::sqrt(card.least_noise * card.most_noise);
  return std::clamp(counting_noise, card.least_noise, card.most_noise);
}

Lighting lighting(const Problem& problem, const Decomposition& cut, const Ranks& ranks) {
  const OneThread one_thread;
  const auto tiles = static_cast<std::int64_t>(cut.tiles.size());
  at::Tensor sums = at::zeros({3, tiles}, at::kDouble);
  const double* p = problem.positions.const_data_ptr<double>();
  for (const std::int64_t number : cut.tiles_of_rank(ranks.rank())) {
    const Rectangle& area = cut.tiles[static_cast<std::size_t>(number)].owned;
    if (area.empty()) continue;
    std::vector<std::int64_t> lighting;
    for (std::int64_t n = 0; n < problem.positions.size(0); ++n) {
      // a probe between two pixels reaches one further
      const Rectangle window{static_cast<std::int64_t>(std::floor(p[2 * n])),
                             static_cast<std::int64_t>(std::floor(p[2 * n + 1])),
                             problem.window[0] + 1, problem.window[1] + 1};
      if (!intersection(window, area).empty()) lighting.push_back(n);
    }
    if (lighting.empty()) continue;
    const at::Tensor there = at::empty({static_cast<std::int64_t>(lighting.size())}, at::kLong);
    std::copy(lighting.begin(), lighting.end(), there.data_ptr<std::int64_t>());
    const at::Tensor light = illumination(problem.probe, problem.positions.index_select(0, there),
                                          {area.rows, area.columns}, {area.row, area.column})
                                 .to(at::kDouble);
    sums.select(0, 0).select(0, number).copy_(light.sum());
    sums.select(0, 1).select(0, number).copy_(light.square().sum());
    sums.select(0, 2).select(0, number).copy_(light.max());
  }
  ranks.gather(sums);
  return {total(sums[0]), total(sums[1]), tiles > 0 ? sums[2].max().item<double>() : 0.0};
}

double counting_noise(const Problem& problem, const Decomposition& cut, const Ranks& ranks) {
  const Lighting light = lighting(problem, cut, ranks);
  const auto slices = static_cast<double>(std::max<std::int64_t>(1, problem.object_shape[0]));
  return light.squares > 0 ? std::sqrt(light.sum / light.squares / slices) : 0.0;
}

std::vector<std::string> too_much_noise(const Config& config, double counting_noise) {
  constexpr double kMuch = 2.0;
  std::vector<std::string> found;
  for (std::size_t k = 0; k < config.priors.size(); ++k) {
    const Config::Prior& one = config.priors[k];
    if (one.on == "probe" || !one.noise || *one.noise <= kMuch * counting_noise) continue;
    std::ostringstream text;
    text << place(k) << ".noise = " << *one.noise << " is " << *one.noise / counting_noise
         << " times what the counts leave in a phase, " << counting_noise
         << " rad: a denoiser takes the specimen for noise then";
    found.push_back(text.str());
  }
  return found;
}

std::string checksums_of_priors(const Config& config) {
  std::string facts;
  for (std::size_t k = 0; k < config.priors.size(); ++k) {
    const std::string& path = config.priors[k].file;
    std::error_code status;
    const std::uintmax_t size = std::filesystem::file_size(path, status);
    if (status || size == 0) continue;  // load_prior says it
    const auto bytes = static_cast<std::int64_t>(size);
    facts += "; " + place(k) + ".file of checksum ";
    facts += std::to_string(checksum(at::from_file(path, /*shared=*/false, bytes, at::kByte)));
  }
  return facts;
}

struct Priors::One {
  Config::Prior settings;
  std::unique_ptr<Prior> model;
  double noise = 0.0;
  bool whole = false;                   // a result depends on all of the image
  std::int64_t reach = 0;               // pixels around what is changed that the model must see
  std::unique_ptr<HaloExchange> halos;  // null where every rank has all of the object
  bool with_amplitude() const { return settings.on == "object"; }
  bool replaces() const { return settings.kind == "plug-and-play"; }
};

// A part of what a tile updates, and what of the object the model must see for it.
struct Priors::Task {
  std::size_t tile;  // among this rank's
  Rectangle area, seen;
};

Priors::Priors(const Config& config, const Problem& problem, const Decomposition& cut,
               const Ranks& ranks, const at::Device& device)
    : config_(config),
      cut_(cut),
      ranks_(ranks),
      device_(device),
      probe_ramp_(probe_ramp(problem)),
      mine_(cut.tiles_of_rank(ranks.rank())) {
  if (!config.priors.empty()) counting_noise_ = driver::counting_noise(problem, cut, ranks);
  for (std::size_t k = 0; k < config.priors.size(); ++k) {
    auto one = std::make_unique<One>();
    one->settings = config.priors[k];
    one->model = load_prior(config, k, cut, device);
    const PriorCard& card = one->model->card();
    one->noise = noise_of(one->settings, card, counting_noise_);
    one->whole = card.receptive_field < 0;
    // A pixel's gradient has the energies of all that see it.
    one->reach = one->whole ? 0 : card.receptive_field * (card.kind == "regulariser" ? 2 : 1);
    if (!cut.exchange.whole_object && one->settings.on != "probe") {
      Pair halo{one->reach, one->reach};
      if (cut.exchange.updates_frames) {  // tiles update all of their frames
        halo[0] += cut.grid.halo()[0];
        halo[1] += cut.grid.halo()[1];
      }
      one->halos = std::make_unique<HaloExchange>(
          TileGrid(cut.grid.row_cuts(), cut.grid.column_cuts(), halo), cut.owners, ranks.rank(),
          ranks.group());
    }
    list_.push_back(std::move(one));
  }
}

Priors::~Priors() = default;

void Priors::try_out(at::IntArrayRef probe) const {
  const OneThread one_thread;
  for (const auto& one : list_) {
    std::vector<std::int64_t> shape;
    if (one->settings.on == "probe") {
      if (ranks_.first()) shape = {probe[0], 2, probe[1], probe[2]};
    } else if (const std::vector<Task> all = tasks(*one); !all.empty()) {
      shape = {1, one->with_amplitude() ? 2 : 1, all[0].seen.rows, all[0].seen.columns};
    }
    if (shape.empty()) continue;
    const at::TensorOptions options = at::TensorOptions().dtype(at::kFloat).device(device_);
    at::Tensor x = at::linspace(0, 0.1, c10::multiply_integers(shape), options).view(shape);
    try {
      const at::AutoGradMode gradient(one->settings.kind == "gradient");
      if (one->settings.kind == "gradient") {
        one->model->energy(x.requires_grad_());
      } else {
        one->model->denoised(x, one->noise);
      }
    } catch (const RunError& error) {
      throw ConfigError(error.what());
    }
  }
}

bool Priors::uses(const One& one, std::int64_t iteration, std::int64_t done, std::int64_t batches,
                  bool replaces) const {
  if (one.replaces() != replaces || iteration < one.settings.start ||
      iteration >= one.settings.end.value_or(iteration + 1) ||
      !config_.refines(one.settings.on == "probe" ? "probe" : "object", iteration)) {
    return false;
  }
  const std::int64_t every = one.settings.every_batches > 0 ? one.settings.every_batches : batches;
  // `done` batches of the iteration are done; gradients join the last of every so many.
  return (iteration * batches + done + (replaces ? 0 : 1)) % every == 0;
}

bool Priors::any_uses(const State& state, std::int64_t batches, bool replaces) const {
  return std::any_of(list_.begin(), list_.end(), [&](const std::unique_ptr<One>& one) {
    return uses(*one, state.iteration, state.batch, batches, replaces);
  });
}

bool Priors::joins(const State& state, std::int64_t batches) const {
  return any_uses(state, batches, false);
}

bool Priors::due(const State& state, std::int64_t batches) const {
  return any_uses(state, batches, true);
}

bool Priors::due_again(const State& state, std::int64_t batches) const {
  State later;
  later.iteration = state.iteration;
  for (later.batch = state.batch + 1; later.batch <= batches; ++later.batch) {
    if (due(later, batches)) return true;
  }
  return false;
}

bool Priors::phases_alone() const {
  return std::all_of(list_.begin(), list_.end(), [](const std::unique_ptr<One>& one) {
    return !one->replaces() || one->settings.on == "phase";
  });
}

std::int64_t Priors::messages() const {
  std::int64_t sum = 0;
  for (const auto& one : list_) sum += one->halos ? one->halos->messages_sent() : 0;
  return sum;
}

std::int64_t Priors::bytes() const {
  std::int64_t sum = 0;
  for (const auto& one : list_) sum += one->halos ? one->halos->bytes_sent() : 0;
  return sum;
}

std::vector<at::Tensor> Priors::images(One& one, const State& state) {
  std::vector<at::Tensor> owned, extended;
  for (std::size_t k = 0; k < mine_.size(); ++k) {
    const Tile& tile = cut_.tiles[static_cast<std::size_t>(mine_[k])];
    if (!one.halos) {
      const at::Tensor all = image_of(state.object(k), one.with_amplitude());
      extended.push_back(all.flatten(0, 1));
      continue;
    }
    owned.push_back(image_of(cut_out(state.object(k), tile.frame, tile.owned), one.with_amplitude())
                        .flatten(0, 1));
    const Rectangle frame = one.halos->grid().extended(tile.number);
    extended.push_back(
        at::empty({owned.back().size(0), frame.rows, frame.columns}, owned.back().options()));
  }
  if (!one.halos) return extended;
  calls_ = (calls_ + 1) & 0x3fffff;
  one.halos->begin_insert(owned, kPriorTag + calls_);
  for (std::size_t k = 0; k < mine_.size(); ++k) {
    const Tile& tile = cut_.tiles[static_cast<std::size_t>(mine_[k])];
    if (tile.owned.empty()) continue;
    cut_out(extended[k], one.halos->grid().extended(tile.number), tile.owned).copy_(owned[k]);
  }
  one.halos->finish_insert(extended);
  return extended;
}

std::vector<Priors::Task> Priors::tasks(const One& one) const {
  // Large enough that what the model sees twice is little, small enough for a cache.
  const std::int64_t edge = device_.is_cpu() ? 160 : 1024;
  std::vector<Task> all;
  for (std::size_t k = 0; k < mine_.size(); ++k) {
    const Rectangle area = cut_.tiles[static_cast<std::size_t>(mine_[k])].updated;
    if (area.empty()) continue;
    if (one.whole) {
      all.push_back({k, area, area});
      continue;
    }
    const auto parts = [edge](std::int64_t size) { return (size + edge - 1) / edge; };
    for (std::int64_t i = 0; i < parts(area.rows); ++i) {
      for (std::int64_t j = 0; j < parts(area.columns); ++j) {
        const std::int64_t top = area.rows * i / parts(area.rows);
        const std::int64_t left = area.columns * j / parts(area.columns);
        const Rectangle part{area.row + top, area.column + left,
                             area.rows * (i + 1) / parts(area.rows) - top,
                             area.columns * (j + 1) / parts(area.columns) - left};
        all.push_back({k, part, cut_.grid.widened(part, {one.reach, one.reach})});
      }
    }
  }
  return all;
}

// work(task's number, slice), each on one thread.
template <typename Work>
void Priors::run(const std::vector<Task>& all, std::int64_t slices, const Work& work) const {
  const auto count = static_cast<std::int64_t>(all.size()) * slices;
  const auto range = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      work(static_cast<std::size_t>(i / slices), i % slices);
  };
  if (count > 1 && device_.is_cpu()) {
    at::parallel_for(0, count, 1, range);
  } else {
    const OneThread one_thread;
    range(0, count);
  }
}

void Priors::act(State& state, std::int64_t batches, Optimizer&) {
  for (const auto& one : list_) {
    if (!uses(*one, state.iteration, state.batch, batches, true)) continue;
    const auto begin = std::chrono::steady_clock::now();
    if (one->settings.on == "probe") {
      apply_to_probe(*one, state);
    } else {
      apply_to_object(*one, state);
    }
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
}

void Priors::apply_to_object(One& one, State& state) {
  const std::vector<at::Tensor> extended = [&] {
    const OneThread one_thread;
    return images(one, state);
  }();
  const std::int64_t channels = one.with_amplitude() ? 2 : 1;
  const std::int64_t slices = state.object(0).size(0);
  const double strength = one.settings.strength;
  const std::vector<Task> all = tasks(one);
  run(all, slices, [&](std::size_t number, std::int64_t slice) {
    const c10::InferenceMode no_autograd;
    const Task& task = all[number];
    const Tile& tile = cut_.tiles[static_cast<std::size_t>(mine_[task.tile])];
    const Rectangle frame = one.halos ? one.halos->grid().extended(tile.number) : tile.frame;
    const at::Tensor x = cut_out(extended[task.tile], frame, task.seen)
                             .narrow(0, slice * channels, channels)
                             .unsqueeze(0)
                             .contiguous();
    const at::Tensor change =
        cut_out(one.model->denoised(x, one.noise).sub(x).squeeze(0), task.seen, task.area)
            .mul(strength);
    at::Tensor object = cut_out(state.object(task.tile), tile.frame, task.area).select(0, slice);
    const at::ScalarType real = at::toRealValueType(object.scalar_type());
    const at::Tensor turn = change.select(0, 0).to(real);
    if (channels == 1) {
      object.mul_(at::polar(at::ones_like(turn), turn));
    } else {
      const at::Tensor amplitude = at::abs(object).add(change.select(0, 1).to(real)).clamp_min(0);
      object.copy_(at::polar(amplitude, at::angle(object).add(turn)));
    }
  });
}

// The same on every rank: the first one's.
void Priors::apply_to_probe(One& one, State& state) const {
  if (ranks_.first()) {
    const OneThread one_thread;
    const c10::InferenceMode no_autograd;
    const double most = largest(state.probe().abs().to(at::kDouble).contiguous());
    if (most > 0) {
      at::Tensor ramp;
      if (probe_ramp_) ramp = probe_ramp_->to(device_, state.probe().scalar_type());
      const at::Tensor seen = probe_ramp_ ? state.probe() * at::conj_physical(ramp) : state.probe();
      const at::Tensor x =
          at::view_as_real(seen).permute({0, 3, 1, 2}).div(most).to(at::kFloat).contiguous();
      const at::Tensor change = one.model->denoised(x, one.noise)
                                    .sub(x)
                                    .permute({0, 2, 3, 1})
                                    .to(at::toRealValueType(state.probe().scalar_type()))
                                    .mul(most * one.settings.strength)
                                    .contiguous();
      const at::Tensor moved = at::view_as_complex(change);
      state.probe().add_(probe_ramp_ ? moved * ramp : moved);
    }
  }
  ranks_.broadcast(state.probe());
}

double Priors::most_illumination(const Slopes& object) const {
  double most = 0.0;
  for (std::size_t k = 0; k < mine_.size(); ++k) {
    const Tile& tile = cut_.tiles[static_cast<std::size_t>(mine_[k])];
    if (tile.owned.empty()) continue;
    const at::Tensor owned = cut_out(object.illumination[k], tile.updated, tile.owned);
    most = std::max(most, largest_by_plane(owned).front());
  }
  const at::Tensor all = as_tensor(std::vector<double>{most});
  ranks_.maximum(all);
  return as_vector(all).front();
}

void Priors::add(const State& state, std::int64_t batches, Evaluation& at, Joined& joined) {
  const Slopes& object = at.of.at("object");
  const double most = most_illumination(object);
  const auto now = [&](const auto& one) {
    return uses(*one, state.iteration, state.batch, batches, false);
  };
  std::vector<at::Tensor> data = object.gradients;  // the data's own
  if (std::count_if(list_.begin(), list_.end(), now) > 1) {
    for (at::Tensor& tensor : data) tensor = tensor.clone();
  }
  bool first = true;
  for (const auto& one : list_) {
    if (!now(one)) continue;
    const auto begin = std::chrono::steady_clock::now();
    // The likelihood's second derivative with respect to a pixel is 2 I. A model whose own is at
    // most 1 converges with strength 1, also where there is no light.
    add_gradient(*one, state, data, object.gradients,
                 2 * one->settings.strength * kLeastIllumination * most, first, joined);
    first = false;
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
}

void Priors::add_gradient(One& one, const State& state, const std::vector<at::Tensor>& data,
                          const std::vector<at::Tensor>& gradients, double scale, bool first,
                          Joined& joined) {
  const std::vector<at::Tensor> extended = [&] {
    const OneThread one_thread;
    return images(one, state);
  }();
  const std::int64_t channels = one.with_amplitude() ? 2 : 1;
  const std::int64_t slices = state.object(0).size(0);
  const std::vector<Task> all = tasks(one);
  struct Part {
    double energy = 0.0, along = 0.0, square = 0.0;
  };
  std::vector<Part> parts(all.size() * static_cast<std::size_t>(slices));
  run(all, slices, [&](std::size_t number, std::int64_t slice) {
    const Task& task = all[number];
    Part& part = parts[number * static_cast<std::size_t>(slices) + static_cast<std::size_t>(slice)];
    const Tile& tile = cut_.tiles[static_cast<std::size_t>(mine_[task.tile])];
    const Rectangle frame = one.halos ? one.halos->grid().extended(tile.number) : tile.frame;
    const Rectangle owned = tile.owned.empty() ? Rectangle{} : intersection(task.area, tile.owned);
    at::Tensor slope;  // [channels, rows, columns] with respect to phase and amplitude
    {
      const c10::InferenceMode with_autograd(false);
      const at::AutoGradMode gradient(one.settings.kind == "gradient");
      at::Tensor x = cut_out(extended[task.tile], frame, task.seen)
                         .narrow(0, slice * channels, channels)
                         .unsqueeze(0)
                         .clone(at::MemoryFormat::Contiguous);
      if (one.settings.kind == "red") {
        slope = x.sub(one.model->denoised(x, one.noise));
      } else {
        x.requires_grad_();
        const at::Tensor energy = one.model->energy(x);
        at::Tensor joint = energy, own = energy;
        if (energy.dim() > 0) {
          // What sees the area's pixels; and the energy that is this area's own.
          const std::int64_t radius = one.reach / 2;
          const Rectangle near = cut_.grid.widened(task.area, {radius, radius});
          joint = cut_out(energy, task.seen, one.whole ? task.area : near).sum();
          if (!owned.empty()) own = cut_out(energy, task.seen, owned).sum();
        }
        slope = torch::autograd::grad({joint}, {x}).front();
        if (!owned.empty()) part.energy = own.item<double>();
      }
    }
    const c10::InferenceMode no_autograd;
    const at::Tensor object =
        cut_out(state.object(task.tile), tile.frame, task.area).select(0, slice);
    const at::ScalarType real = at::toRealValueType(object.scalar_type());
    slope = cut_out(slope.squeeze(0), task.seen, task.area).to(real).mul(scale);
    // L(arg O): i O / |O|^2 dL/darg; L(|O|): O / |O| dL/d|O|. The first is without bound where an
    // amplitude vanishes and its phase means nothing: there it fades with |O|.
    const at::Tensor amplitude = at::abs(object);
    const at::Tensor turn = slope.select(0, 0).div(amplitude.clamp_min(kLeastAmplitude).square());
    at::Tensor pull = object.mul(at::complex(at::zeros_like(turn), turn));
    if (channels == 2) pull.add_(object.mul(slope.select(0, 1).div(amplitude.clamp_min(1e-6))));
    if (!owned.empty()) {
      const auto inside = [&](const at::Tensor& tensor) {
        return at::view_as_real(cut_out(tensor, task.area, owned)).to(at::kDouble);
      };
      const at::Tensor of_data =
          inside(cut_out(data[task.tile], tile.updated, task.area).select(0, slice));
      part.along = of_data.mul(inside(pull)).sum().item<double>();
      if (first) part.square = of_data.square().sum().item<double>();
    }
    cut_out(gradients[task.tile], tile.updated, task.area).select(0, slice).add_(pull);
  });
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::size_t tile = all[i / static_cast<std::size_t>(slices)].tile;
    joined.energies[tile] += scale * parts[i].energy;
    joined.along[tile] += parts[i].along;
    joined.squares[tile] += parts[i].square;
  }
}

}  // namespace ptyle::driver

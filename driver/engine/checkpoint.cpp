#include "driver/engine/checkpoint.h"

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>

#include "driver/engine/gather.h"
#include "driver/engine/vectors.h"
#include "driver/errors.h"
#include "driver/io/hdf5.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

constexpr std::int64_t kFormat = 5;

void write_checked(hdf5::File& file, const std::string& name, const at::Tensor& values) {
  const at::Tensor tensor = values.cpu();
  file.write(name, tensor);
  file.set_attribute(name, "checksum", checksum(tensor));
}

at::Tensor read_checked(const hdf5::File& file, const std::string& name) {
  at::Tensor tensor = file.read(name);
  if (checksum(tensor) != file.integer_attribute(name, "checksum")) {
    throw DataError(file.path() + ": " + name +
                    " must match its checksum, got other bytes: the checkpoint is damaged");
  }
  return tensor;
}

std::vector<double> read_numbers(const hdf5::File& file, const std::string& name) {
  const at::Tensor tensor = read_checked(file, name);
  if (tensor.dim() != 1 || tensor.scalar_type() != at::kDouble) {
    throw DataError(file.path() + ": " + name + " must be a list of float64, got " +
                    file.info(name).stored_type + " with " + std::to_string(tensor.dim()) +
                    " axes");
  }
  const double* values = tensor.const_data_ptr<double>();
  return {values, values + tensor.numel()};
}

// Of that size and type.
at::Tensor read_like(const hdf5::File& file, const std::string& name, const at::Tensor& like) {
  at::Tensor tensor = read_checked(file, name);
  if (tensor.sizes() != like.sizes() || tensor.scalar_type() != like.scalar_type()) {
    throw DataError(file.path() + ": " + name + " must be " + words::shape(like.sizes()) + " of " +
                    std::string(at::toString(like.scalar_type())) + ", got " +
                    words::shape(tensor.sizes()) + " of " + file.info(name).stored_type);
  }
  return tensor.to(like.device());
}

// The resolved config line by line, without what may change on a restart. Where the data lies is of
// no account: what it is stands in the fingerprint.
std::vector<std::pair<std::string, std::string>> binding_lines(const std::string& toml) {
  auto lines = lines_of_toml(toml);
  std::erase_if(lines, [](const auto& line) {
    return line.first.starts_with("output.") || line.first == "reconstruct.iterations" ||
           line.first == "tiles.timeout_s" || line.first == "data.stream" ||
           line.first == "device" || line.first == "reconstruct.deterministic" ||
           (names_a_place(line.first) && line.second.find('"') != std::string::npos);
  });
  return lines;
}

// The first of the facts, separated by semicolons, that are not the same.
void check_same_data(const std::string& path, const std::string& then, const std::string& now) {
  std::istringstream before(then), after(now);
  std::string was, is;
  while (true) {
    const bool more_before = static_cast<bool>(std::getline(before >> std::ws, was, ';'));
    const bool more_after = static_cast<bool>(std::getline(after >> std::ws, is, ';'));
    if (!more_before && !more_after) return;
    if (more_before != more_after || was != is) {
      throw DataError(path + ": must be resumed with the data it was made with, " + was + ", got " +
                      is);
    }
  }
}

// What may change with a word: how the unknowns are updated, not what they are.
bool is_of_updates(const std::string& key) {
  return key.starts_with("refine.") ||
         (key.starts_with("reconstruct.") && key != "reconstruct.precision" &&
          key != "reconstruct.seed");
}

// The keys of updates that are not what they were, "reconstruct.step = 0.5, was 1.0". ConfigError
// where another one is not.
std::vector<std::string> changed_keys(const std::string& path, const std::string& then,
                                      const std::string& now) {
  const auto old_lines = binding_lines(then), new_lines = binding_lines(now);
  const auto find = [](const auto& lines, const std::string& key) -> std::string {
    for (const auto& [k, value] : lines) {
      if (k == key) return value;
    }
    return " nothing";
  };
  std::vector<std::string> changes;
  for (const auto* lines : {&new_lines, &old_lines}) {
    for (const auto& [key, value] : *lines) {
      const std::string before = find(old_lines, key), after = find(new_lines, key);
      if (before == after) continue;
      if (is_of_updates(key)) {
        const std::string change = key + " =" + after + ", was" + before;
        if (std::find(changes.begin(), changes.end(), change) == changes.end()) {
          changes.push_back(change);
        }
        continue;
      }
      throw ConfigError(
          key + ": must be what " + path + " was made with," + before + ", to resume, got" + after +
          "; only device, data.stream, [reconstruct] without precision and seed, [refine], "
          "tiles.timeout_s, [output] and names of files and datasets may change");
    }
  }
  return changes;
}

// Of a part of an unknown: the number of its tile, 0 for what all ranks share.
std::string part_name(const std::string& unknown, std::int64_t part) {
  return "/unknowns/" + unknown + "/" + std::to_string(part) + "/";
}

// The unknowns stay; what the updates remember, and a batch that was under way, do not.
void begin_updates_anew(State& state, const std::vector<std::string>& changes) {
  for (auto& [name, values] : state.unknowns) {
    for (Memory& memory : values.memory) memory.clear();
  }
  state.numbers.clear();
  state.lists.clear();
  state.batch = 0;
  state.loss = state.squared_error = state.seconds = 0.0;
  state.changed_now = changes.size();
  for (const std::string& change : changes) {
    state.changes.push_back("after iteration " + std::to_string(state.iteration) + ": " + change);
  }
}

hdf5::File open_checkpoint(const std::string& path) {
  hdf5::File file = hdf5::File::open(path);
  if (!file.has_attribute("/", "format") || file.integer_attribute("/", "format") != kFormat) {
    throw DataError(path + ": must be a checkpoint of this version of ptyle (format " +
                    std::to_string(kFormat) + "), got another file");
  }
  return file;
}

}  // namespace

void write_checkpoint(const std::string& path, const State& state, const Unknowns& unknowns,
                      const Config& config, const std::string& data,
                      const Decomposition& decomposition, const Ranks& ranks) {
  // Called by all ranks, of a part's tensors: mine(number among this rank's).
  const auto write_parts = [&](hdf5::File* file, const Unknown& unknown, const std::string& name,
                               const at::Tensor& like, Extent extent,
                               const std::function<at::Tensor(std::size_t)>& mine) {
    const auto write = [&](std::int64_t part, const at::Tensor& tensor) {
      file->attempt([&] { write_checked(*file, part_name(unknown.name(), part) + name, tensor); });
    };
    if (unknown.tiled()) {
      gather_tiles(decomposition, ranks, extent, like.size(0), like.scalar_type(), mine,
                   [&](const Tile& tile, const at::Tensor& tensor) { write(tile.number, tensor); });
    } else if (file != nullptr) {
      write(0, mine(0));
    }
  };
  const auto write = [&](hdf5::File* file) {
    for (const auto& unknown : unknowns) {
      const Values& values = state.unknowns.at(unknown->name());
      write_parts(file, *unknown, "value", values.parts.front(), Extent::kFrame,
                  [&](std::size_t k) { return values.parts[k]; });
      for (const auto& [name, tensor] : values.memory.front()) {
        const std::string& key = name;
        write_parts(file, *unknown, "optimizer/" + name, tensor, Extent::kUpdated,
                    [&](std::size_t k) { return values.memory[k].at(key); });
      }
    }
    if (file == nullptr) return;
    file->set_attribute("/", "format", kFormat);
    file->set_attribute("/", "config", to_toml(config));
    file->set_attribute("/", "data", data);
    file->set_attribute("/", "changes", state.change_lines());
    file->set_attribute(
        "/", "grid",
        std::vector<std::int64_t>{decomposition.grid.rows(), decomposition.grid.columns()});
    // Scalars as one dataset, so that a checksum guards them too.
    std::string names;
    std::vector<double> numbers{static_cast<double>(state.iteration),
                                static_cast<double>(state.batch),
                                state.loss,
                                state.squared_error,
                                state.seconds,
                                state.start_power};
    for (const auto& [name, number] : state.numbers) {
      names += name + "\n";
      numbers.push_back(number);
    }
    write_checked(*file, "/numbers", as_tensor(numbers));
    file->set_attribute("/numbers", "names", names);
    for (const auto& [name, list] : state.lists) {
      write_checked(*file, "/lists/" + name, as_tensor(list));
    }
    write_checked(*file, "/history/loss", as_tensor(state.history.loss));
    write_checked(*file, "/history/amplitude_error", as_tensor(state.history.amplitude_error));
    write_checked(*file, "/history/seconds", as_tensor(state.history.seconds));
  };
  if (ranks.first()) {
    hdf5::write_atomically(path, [&](hdf5::File& file) { write(&file); });
  } else {
    write(nullptr);
  }
}

Pair checkpoint_grid(const std::string& path) {
  const hdf5::File file = open_checkpoint(path);
  const std::vector<double> grid = file.numbers_attribute("/", "grid");
  if (grid.size() != 2) throw DataError(path + ": must name its grid, got none");
  return {static_cast<std::int64_t>(grid[0]), static_cast<std::int64_t>(grid[1])};
}

State read_checkpoint(const std::string& path, State state, const Unknowns& unknowns,
                      const Config& config, const std::string& data,
                      const Decomposition& decomposition, const Ranks& ranks) {
  const hdf5::File file = open_checkpoint(path);
  const std::vector<std::string> changes =
      changed_keys(path, file.string_attribute("/", "config"), to_toml(config));
  check_same_data(path, file.string_attribute("/", "data"), data);
  constexpr std::size_t kMostNames = 10'000'000;
  std::vector<std::string> names_in_file = file.dataset_names(kMostNames);
  for (std::string& name : names_in_file) {
    if (name.front() != '/') name = "/" + name;
  }
  const std::vector<std::int64_t> mine = decomposition.tiles_of_rank(ranks.rank());
  for (const auto& unknown : unknowns) {
    Values& values = state.unknowns.at(unknown->name());
    for (std::size_t k = 0; k < values.parts.size(); ++k) {
      // Where every rank has the whole object, it has what rank 0 has.
      const bool shared = !unknown->tiled() || decomposition.exchange.whole_object;
      const std::string part = part_name(unknown->name(), shared ? 0 : mine[k]);
      values.parts[k] = read_like(file, part + "value", values.parts[k]);
      const std::string memory = part + "optimizer/";
      for (const std::string& name : names_in_file) {
        if (!name.starts_with(memory)) continue;
        values.memory[k][name.substr(memory.size())] =
            read_checked(file, name).to(values.parts[k].device());
      }
    }
  }
  const std::vector<double> numbers = read_numbers(file, "/numbers");
  std::istringstream names(file.string_attribute("/numbers", "names"));
  constexpr std::size_t kFixed = 6;
  std::size_t count = kFixed;
  for (std::string name; std::getline(names, name) && count < numbers.size(); ++count) {
    state.numbers[name] = numbers[count];
  }
  if (count < kFixed || count != numbers.size()) {
    throw DataError(path + ": /numbers must have one entry per name, got " +
                    std::to_string(numbers.size()));
  }
  constexpr double kMost = 1e15;  // of iterations and batches: a double holds it exactly
  if (!(numbers[0] >= 0.0 && numbers[0] <= kMost && numbers[1] >= 0.0 && numbers[1] <= kMost)) {
    throw DataError(path + ": /numbers must begin with counts of iterations and batches, got " +
                    std::to_string(numbers[0]) + " and " + std::to_string(numbers[1]));
  }
  state.iteration = static_cast<std::int64_t>(numbers[0]);
  state.batch = static_cast<std::int64_t>(numbers[1]);
  state.loss = numbers[2];
  state.squared_error = numbers[3];
  state.seconds = numbers[4];
  state.start_power = numbers[5];
  constexpr std::string_view kLists = "/lists/";
  for (const std::string& name : names_in_file) {
    if (name.starts_with(kLists)) {
      state.lists[name.substr(kLists.size())] = read_numbers(file, name);
    }
  }
  state.history.loss = read_numbers(file, "/history/loss");
  state.history.amplitude_error = read_numbers(file, "/history/amplitude_error");
  state.history.seconds = read_numbers(file, "/history/seconds");
  std::istringstream before(file.string_attribute("/", "changes"));
  for (std::string line; std::getline(before, line);) state.changes.push_back(line);
  if (!changes.empty()) begin_updates_anew(state, changes);
  return state;
}

}  // namespace ptyle::driver

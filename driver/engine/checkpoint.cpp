#include "driver/engine/checkpoint.h"

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <vector>

#include <ATen/ops/empty.h>

#include "driver/errors.h"
#include "driver/io/hdf5.h"

namespace ptyle::driver {
namespace {

constexpr std::int64_t kFormat = 1;

// FNV-1a over the bytes, as a signed integer that an HDF5 attribute can hold.
std::int64_t checksum(const at::Tensor& tensor, std::uint64_t hash = 14695981039346656037ULL) {
  const at::Tensor plain = tensor.contiguous();
  const auto* bytes = static_cast<const unsigned char*>(plain.const_data_ptr());
  for (std::size_t i = 0; i < plain.nbytes(); ++i) hash = (hash ^ bytes[i]) * 1099511628211ULL;
  return static_cast<std::int64_t>(hash);
}

at::Tensor as_tensor(const std::vector<double>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kDouble);
  std::copy(values.begin(), values.end(), tensor.data_ptr<double>());
  return tensor;
}

std::vector<double> as_vector(const at::Tensor& tensor) {
  const double* values = tensor.const_data_ptr<double>();
  return {values, values + tensor.numel()};
}

void write_checked(hdf5::File& file, const std::string& name, const at::Tensor& tensor) {
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

// The resolved config line by line, without what may change on a restart.
std::vector<std::pair<std::string, std::string>> binding_lines(const std::string& toml) {
  std::vector<std::pair<std::string, std::string>> lines;
  std::istringstream in(toml);
  std::string table;
  for (std::string line; std::getline(in, line);) {
    const std::size_t hash = line.find_first_not_of(' ');
    if (hash == std::string::npos || line[hash] == '#') continue;
    if (line.front() == '[') {
      table = line.substr(1, line.find(']') - 1);
      continue;
    }
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    std::string key = line.substr(0, line.find_last_not_of(' ', equals - 1) + 1);
    if (table == "output" || (table == "reconstruct" && key == "iterations")) continue;
    lines.emplace_back(table + "." + key, line.substr(equals + 1));
  }
  return lines;
}

void check_same_config(const std::string& path, const std::string& then, const std::string& now) {
  const auto old_lines = binding_lines(then), new_lines = binding_lines(now);
  const auto find = [](const auto& lines, const std::string& key) -> std::string {
    for (const auto& [k, value] : lines) {
      if (k == key) return value;
    }
    return " nothing";
  };
  for (const auto* lines : {&new_lines, &old_lines}) {
    for (const auto& [key, value] : *lines) {
      const std::string before = find(old_lines, key), after = find(new_lines, key);
      if (before != after) {
        throw ConfigError(key + ": must be what " + path + " was made with," + before +
                          ", to resume, got" + after +
                          "; only reconstruct.iterations and [output] may change");
      }
    }
  }
}

}  // namespace

void write_checkpoint(const std::string& path, const State& state, const Config& config) {
  hdf5::write_atomically(path, [&](hdf5::File& file) {
    file.set_attribute("/", "format", kFormat);
    file.set_attribute("/", "config", to_toml(config));
    file.set_attribute("/", "iteration", state.iteration);
    file.set_attribute("/", "batch", state.batch);
    file.set_attribute("/", "loss", state.loss);
    file.set_attribute("/", "squared_error", state.squared_error);
    file.set_attribute("/", "seconds", state.seconds);
    file.set_attribute("/", "start_power", state.start_power);
    write_checked(file, "/object", state.object);
    write_checked(file, "/probe", state.probe);
    file.create_group("/optimizer");
    for (const auto& [name, tensor] : state.optimizer) {
      if (tensor.defined()) write_checked(file, "/optimizer/" + name, tensor);
    }
    for (const auto& [name, number] : state.numbers) {
      file.set_attribute("/optimizer", name, number);
    }
    std::string names;
    for (const auto& [name, number] : state.numbers) names += name + "\n";
    file.set_attribute("/optimizer", "numbers", names);
    write_checked(file, "/history/loss", as_tensor(state.history.loss));
    write_checked(file, "/history/amplitude_error", as_tensor(state.history.amplitude_error));
    write_checked(file, "/history/seconds", as_tensor(state.history.seconds));
  });
}

State read_checkpoint(const std::string& path, const Config& config) {
  const hdf5::File file = hdf5::File::open(path);
  const std::int64_t format = file.integer_attribute("/", "format");
  if (format != kFormat) {
    throw DataError(path + ": the checkpoint's format must be " + std::to_string(kFormat) +
                    ", got " + std::to_string(format));
  }
  check_same_config(path, file.string_attribute("/", "config"), to_toml(config));
  State state;
  state.iteration = file.integer_attribute("/", "iteration");
  state.batch = file.integer_attribute("/", "batch");
  state.loss = file.number_attribute("/", "loss");
  state.squared_error = file.number_attribute("/", "squared_error");
  state.seconds = file.number_attribute("/", "seconds");
  state.start_power = file.number_attribute("/", "start_power");
  state.object = read_checked(file, "/object");
  state.probe = read_checked(file, "/probe");
  constexpr std::size_t kMostNames = 100000;
  const std::string prefix = "/optimizer/";
  for (std::string name : file.dataset_names(kMostNames)) {
    if (name.front() != '/') name = "/" + name;
    if (name.compare(0, prefix.size(), prefix) == 0) {
      state.optimizer[name.substr(prefix.size())] = read_checked(file, name);
    }
  }
  std::istringstream names(file.string_attribute("/optimizer", "numbers"));
  for (std::string name; std::getline(names, name);) {
    state.numbers[name] = file.number_attribute("/optimizer", name);
  }
  state.history.loss = as_vector(read_checked(file, "/history/loss"));
  state.history.amplitude_error = as_vector(read_checked(file, "/history/amplitude_error"));
  state.history.seconds = as_vector(read_checked(file, "/history/seconds"));
  return state;
}

}  // namespace ptyle::driver

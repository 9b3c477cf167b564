#include "driver/priors/prior.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>

#include <caffe2/serialize/inline_container.h>
#include <nlohmann/json.hpp>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include "driver/errors.h"

namespace ptyle::driver {
namespace {

constexpr const char* kCard = "extra/ptyle_card.json";
// Of a receptive field, pixels. More is a mistake: an image is as large.
constexpr std::int64_t kMostReach = 65536;

// What torch says without its traces: of an interpreter's, the last line has the reason.
std::string reason_of(const std::exception& error) {
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  std::string text = torch != nullptr ? torch->what_without_backtrace() : error.what();
  constexpr std::string_view kRaised = "Error: ";
  if (const std::size_t raised = text.rfind(kRaised); raised != std::string::npos) {
    text.erase(0, raised + kRaised.size());
  }
  return text.substr(0, text.find('\n'));
}

[[noreturn]] void refuse(const std::string& path, const std::string& rule,
                         const std::string& value) {
  throw ConfigError(path + " must " + rule + ", got " + value);
}

enum class Format { kTorchScript, kCompiled };

// Both are zip archives with a folder of records.
Format format_of(const std::string& path, caffe2::serialize::PyTorchStreamReader& reader) {
  const std::vector<std::string> records = reader.getAllRecords();
  const auto has = [&](const char* part) {
    return std::any_of(records.begin(), records.end(), [&](const std::string& name) {
      return name.find(part) != std::string::npos;
    });
  };
  if (has("constants.pkl") || has("code/")) return Format::kTorchScript;
  if (has("aotinductor") || has("archive_format")) return Format::kCompiled;
  refuse(path, "be TorchScript or a compiled .pt2", "another archive");
}

PriorCard card_of(const std::string& path, caffe2::serialize::PyTorchStreamReader& reader) {
  if (!reader.hasRecord(kCard)) {
    refuse(path,
           "hold a model card (`python -m ptyle.models export` writes one; "
           "ptyle.models.files.export writes one with a model of your own)",
           "none");
  }
  const auto [data, size] = reader.getRecord(kCard);
  const auto* text = static_cast<const char*>(data.get());
  const auto json = nlohmann::json::parse(text, text + size, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    refuse(path, "hold a card that is a JSON object", "something else (NaN is not JSON)");
  }
  // The value of a key, which must be what `fits` says.
  const auto value = [&](const nlohmann::json& table, const std::string& key, const auto& fits,
                         const std::string& rule) -> const nlohmann::json& {
    const auto found = table.find(key);
    if (found == table.end()) refuse(path, "have " + key + " in its card", "none");
    if (!fits(*found)) {
      const auto replace = nlohmann::json::error_handler_t::replace;
      refuse(path, "have " + rule + " as " + key + " in its card",
             found->dump(-1, ' ', false, replace));
    }
    return *found;
  };
  const auto whole_number = [](std::int64_t least, std::int64_t most) {
    return [least, most](const nlohmann::json& x) {
      return x.is_number_integer() && x >= least && x <= most;
    };
  };
  const auto noise = [](const nlohmann::json& x) { return x.is_number() && x >= 0; };
  value(
      json, "format", [](const auto& x) { return x == "ptyle.prior"; }, "\"ptyle.prior\"");
  value(
      json, "version", [](const auto& x) { return x == 1; }, "1");
  PriorCard card;
  card.kind = value(
      json, "kind", [](const auto& x) { return x == "denoiser" || x == "regulariser"; },
      "\"denoiser\" or \"regulariser\"");
  const auto words = [](const nlohmann::json& x) {
    return x.is_array() && !x.empty() &&
           std::all_of(x.begin(), x.end(), [](const auto& word) { return word.is_string(); });
  };
  card.channels =
      value(json, "channels", words, "a list of words").template get<std::vector<std::string>>();
  const auto& field = value(
      json, "receptive_field",
      [&](const auto& x) { return x.is_null() || whole_number(0, kMostReach)(x); },
      "a whole number of pixels from 0 to " + std::to_string(kMostReach) +
          ", or null (all of the image),");
  card.receptive_field = field.is_null() ? -1 : field.template get<std::int64_t>();
  if (card.kind == "denoiser") {
    const auto& range = value(
        json, "noise", [](const auto& x) { return x.is_object(); }, "{\"least\", \"most\"}");
    card.least_noise = value(range, "least", noise, "a number from 0");
    card.most_noise = value(
        range, "most", [&](const auto& x) { return noise(x) && x >= card.least_noise; },
        "a number from least");
  }
  if (json.contains("smallest")) {
    const auto& sizes = value(
        json, "smallest",
        [&](const auto& x) {
          return x.is_array() && x.size() == 2 && whole_number(1, kMostReach)(x[0]) &&
                 whole_number(1, kMostReach)(x[1]);
        },
        "[rows, columns] from 1 to " + std::to_string(kMostReach));
    card.smallest = {sizes[0], sizes[1]};
  }
  return card;
}

class Scripted final : public Prior {
 public:
  Scripted(const std::string& path, PriorCard card, const at::Device& device)
      : Prior(path, std::move(card)) {
    try {
      module_ = torch::jit::load(path, device);
      module_.eval();
      for (at::Tensor parameter : module_.parameters()) parameter.requires_grad_(false);
    } catch (const std::exception& error) {
      refuse(path, "be a TorchScript module that torch can load", reason_of(error));
    }
  }
  bool differentiable() const override { return true; }

 protected:
  at::Tensor run(const std::vector<at::Tensor>& inputs) const override {
    // What an optimised graph rounds depends on how often it has run.
    const torch::jit::GraphOptimizerEnabledGuard as_written(false);
    return const_cast<torch::jit::Module&>(module_)
        .forward({inputs.begin(), inputs.end()})
        .toTensor();
  }

 private:
  torch::jit::Module module_;
};

class Compiled final : public Prior {
 public:
  Compiled(const std::string& path, PriorCard card, const at::Device& device)
      : Prior(path, std::move(card)) {
    using Loader = torch::inductor::AOTIModelPackageLoader;
    try {
      const auto facts = Loader::load_metadata_from_package(path, "model");
      const auto fact = [&](const char* key) {
        const auto found = facts.find(key);
        return found == facts.end() ? std::string() : found->second;
      };
      const std::string made_for = fact("AOTI_DEVICE_KEY"), here = device.is_cpu() ? "cpu" : "cuda";
      if (!made_for.empty() && made_for != here) {
        refuse(path, "be compiled for the " + here + " that the run is on",
               "one for \"" + made_for + "\" (TorchScript runs on both)");
      }
      check_processor(path, fact("AOTI_CPU_ISA"));
      const auto at_once = static_cast<std::size_t>(device.is_cpu() ? at::get_num_threads() : 1);
      loader_ = std::make_unique<Loader>(path, "model", /*run_single_threaded=*/false, at_once,
                                         device.is_cpu() ? c10::DeviceIndex{-1} : device.index());
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      refuse(path, "be a package that torch can load", reason_of(error));
    }
  }
  bool differentiable() const override { return false; }

 protected:
  at::Tensor run(const std::vector<at::Tensor>& inputs) const override {
    std::vector<at::Tensor> outputs = loader_->run(inputs);
    if (outputs.size() != 1) {
      throw RunError("the prior " + path() + " must give one tensor, got " +
                     std::to_string(outputs.size()));
    }
    return outputs.front();
  }

 private:
  // A processor without the instructions would end the program without a word.
  static void check_processor(const std::string& path, const std::string& instructions) {
    const bool avx512 = instructions.find("AVX512") != std::string::npos;
    const bool avx2 = avx512 || instructions.find("AVX2") != std::string::npos;
#if defined(__x86_64__)
    const bool has_avx512 = __builtin_cpu_supports("avx512f") != 0;
    const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
#else
    const bool has_avx512 = false, has_avx2 = false;
#endif
    if ((avx512 && !has_avx512) || (avx2 && !has_avx2)) {
      refuse(path,
             "be compiled for this processor (`python -m ptyle.models export` makes a "
             "portable one)",
             "one for " + instructions);
    }
  }

  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
};

}  // namespace

at::Tensor Prior::checked_run(const std::vector<at::Tensor>& inputs, at::IntArrayRef wanted,
                              bool or_number) const {
  at::Tensor result;
  try {
    result = run(inputs);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw RunError("the prior " + path_ + " failed on an image of " +
                   std::to_string(inputs[0].size(2)) + " x " + std::to_string(inputs[0].size(3)) +
                   ": " + reason_of(error));
  }
  if ((result.sizes() != wanted && !(or_number && result.dim() == 0)) ||
      result.scalar_type() != at::kFloat) {
    std::ostringstream out;
    out << "the prior " << path_ << " must give float32 of shape " << wanted << ", got "
        << result.scalar_type() << " of shape " << result.sizes();
    throw RunError(out.str());
  }
  if (!at::isfinite(result.detach()).all().item<bool>()) {
    throw RunError("the prior " + path_ + " must give finite numbers, got others of an image of " +
                   std::to_string(inputs[0].size(2)) + " x " + std::to_string(inputs[0].size(3)) +
                   (at::isfinite(inputs[0]).all().item<bool>() ? "" : " that has others too"));
  }
  return result;
}

at::Tensor Prior::denoised(const at::Tensor& x, double noise) const {
  return checked_run({x, at::full({x.size(0)}, noise, x.options())}, x.sizes(), false);
}

at::Tensor Prior::energy(const at::Tensor& x) const {
  at::Tensor result =
      checked_run({x}, {x.size(0), x.size(2), x.size(3)}, card_.receptive_field < 0);
  if (x.requires_grad() && !result.requires_grad()) {
    throw RunError("the prior " + path_ +
                   " must give an energy that torch can differentiate with respect to the image, "
                   "got one without a gradient");
  }
  return result;
}

std::unique_ptr<Prior> load_prior(const std::string& path, const at::Device& device) {
  std::error_code status;
  if (!std::filesystem::exists(path, status)) {
    throw ConfigError("must be a file, got " + path + ", which is not there");
  }
  if (std::filesystem::is_directory(path, status)) {
    throw ConfigError("must be a file, got the folder " + path);
  }
  // A pipe that nobody writes to would be waited for without end.
  if (!std::filesystem::is_regular_file(path, status)) {
    throw ConfigError("must be a regular file, got the pipe or device " + path);
  }
  try {
    caffe2::serialize::PyTorchStreamReader reader(path);
    const Format format = format_of(path, reader);
    PriorCard card = card_of(path, reader);
    if (format == Format::kTorchScript) {
      return std::make_unique<Scripted>(path, std::move(card), device);
    }
    return std::make_unique<Compiled>(path, std::move(card), device);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    const std::string reason = reason_of(error);
    refuse(path, "be TorchScript or a compiled .pt2",
           "something else (" + reason.substr(0, reason.find(". ")) + ")");
  }
}

}  // namespace ptyle::driver

// Learned priors in the program: files, cards, and the same answer on any tiles.
#include "driver/engine/priors.h"

#include <filesystem>
#include <fstream>
#include <unistd.h>

#include <torch/script.h>

#include "driver/errors.h"
#include "driver/memory.h"
#include "driver/priors/prior.h"
#include "tests/cpp/tiled.h"

namespace ptyle::driver {
namespace {

using namespace ptyle::driver::tests;

// Models of our own, as users write them: nonlinear, of a known receptive field.
class PriorFiles : public ::testing::Test {
 protected:
  PriorFiles()
      : folder_(std::filesystem::temp_directory_path() /
                ("ptyle_priors_" + std::to_string(getpid()) + "_" +
                 ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::create_directories(folder_);
    count_tensor_bytes();  // as the program does: models take memory by torch's allocator too
  }
  ~PriorFiles() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // radius 3: two layers of 3 x 3, the second with holes.
  std::string save(const std::string& name, const std::string& card, int64_t channels,
                   const std::string& body) const {
    torch::jit::Module module("prior");
    at::manual_seed(3);
    module.register_buffer("first", 0.2 * at::randn({4, channels, 3, 3}));
    module.register_buffer("second", 0.2 * at::randn({channels, 4, 3, 3}));
    module.define(body);
    torch::jit::ExtraFilesMap extra;
    if (!card.empty()) extra["ptyle_card.json"] = card;
    module.save(path(name), extra);
    return path(name);
  }
  std::string denoiser(const std::string& name, int64_t channels) const {
    return save(name, card("denoiser", channels, "3"), channels, R"(
def forward(self, x, noise):
    padded = torch.pad(x, [3, 3, 3, 3], "replicate")
    features = torch.tanh(torch.conv2d(padded, self.first))
    change = torch.conv2d(features, self.second, None, 1, 0, 2)
    return x - noise.view([-1, 1, 1, 1]) * change
)");
  }
  std::string regulariser(const std::string& name, int64_t channels, bool whole = false) const {
    return save(name, card("regulariser", channels, whole ? "null" : "3"), channels, std::string(R"(
def forward(self, x):
    padded = torch.pad(x, [3, 3, 3, 3], "replicate")
    features = torch.tanh(torch.conv2d(padded, self.first))
    energy = torch.conv2d(features, self.second, None, 1, 0, 2)
    return torch.sum(energy * energy, [1]))") + (whole ? ".sum()\n" : "\n"));
  }
  static std::string card(const std::string& kind, int64_t channels, const std::string& field) {
    return R"({"format": "ptyle.prior", "version": 1, "kind": ")" + kind + R"(", "channels": )" +
           (channels == 1 ? R"(["phase"])" : R"(["phase", "amplitude"])") +
           R"(, "receptive_field": )" + field +
           R"(, "noise": {"least": 0.001, "most": 0.5}, "smallest": [1, 1]})";
  }

 private:
  std::filesystem::path folder_;
};

Config with_prior(const std::string& file, const std::string& kind, const std::string& on) {
  Config config = config_of("descent", "double");
  config.reconstruct.momentum = 0.0;
  Config::Prior prior;
  prior.file = file;
  prior.kind = kind;
  prior.on = on;
  prior.strength = kind == "plug-and-play" ? 0.6 : 0.9;
  prior.noise = kind == "gradient" ? std::nullopt : std::optional<double>(0.1);
  prior.every_batches = 2;
  config.priors = {prior};
  return config;
}

TEST_F(PriorFiles, OnTilesIsThatOfTheWholeObject) {
  const Problem problem = make_problem(2, 16, 8, 1.5);
  const std::string one = denoiser("phase.pt", 1), both = denoiser("object.pt", 2);
  const std::string energy = regulariser("energy.pt", 2);
  for (const Config& config :
       {with_prior(one, "plug-and-play", "phase"), with_prior(both, "plug-and-play", "object"),
        with_prior(one, "red", "phase"), with_prior(both, "red", "object"),
        with_prior(energy, "gradient", "object")}) {
    SCOPED_TRACE(config.priors[0].kind + " on " + config.priors[0].on);
    Config without = config;
    without.priors.clear();
    const Answer whole = tiled(config, problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0}, 3);
    const Answer plain = tiled(without, problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0}, 3);
    EXPECT_GT(difference(whole, plain, problem), 1e-4);
    for (const std::string exchange : {"direct", "passes"}) {
      // 3 x 3, and tiles narrower than the receptive field
      for (const Pair grid : {Pair{3, 3}, Pair{9, 2}}) {
        const Answer cut = tiled(config, problem, 1, {grid, std::nullopt, exchange, 0}, 3);
        EXPECT_LT(difference(whole, cut, problem), 1e-6) << exchange << grid[0];
        for (const int64_t ranks : {2, 4}) {
          expect_same_bits(cut, tiled(config, problem, ranks, {grid, std::nullopt, exchange, 0}, 3,
                                      ranks == 4 ? 2 : 1));
        }
      }
    }
    const Answer reduced = tiled(config, problem, 2, {Pair{1, 2}, std::nullopt, "allreduce", 0}, 3);
    EXPECT_LT(difference(whole, reduced, problem), 1e-6);
  }
}

TEST_F(PriorFiles, AnEnergyOfTheWholeImageIsThatOfItsPixels) {
  const Problem problem = make_problem(1, 16, 6, 1.5);
  const DecompositionOptions one_tile{Pair{1, 1}, std::nullopt, "direct", 0};
  const Answer map =
      tiled(with_prior(regulariser("map.pt", 1), "gradient", "phase"), problem, 1, one_tile, 3);
  const Config whole = with_prior(regulariser("whole.pt", 1, true), "gradient", "phase");
  const Answer scalar = tiled(whole, problem, 1, one_tile, 3);
  EXPECT_LT(difference(map, scalar, problem), 1e-6);
  EXPECT_NEAR(map.loss.back(), scalar.loss.back(), 1e-6 * map.loss.back());
  const Decomposition cut = cut_up(problem, 1, {Pair{2, 1}, std::nullopt, "direct", 0});
  EXPECT_THROW(Priors(whole, problem, cut, Ranks(), at::kCPU), ConfigError);
}

// L-BFGS searches along lines of loss and energy together: the energy that joins has the slope that
// joins.
TEST_F(PriorFiles, EnergyAndSlopeBelongTogether) {
  const Problem problem = make_problem(1, 16, 6, 1.5);
  Config config = with_prior(regulariser("energy.pt", 1), "gradient", "phase");
  config.reconstruct.optimizer = "lbfgs";
  config.reconstruct.batches = 1;
  config.priors[0].every_batches = 1;
  const Answer one = tiled(config, problem, 1, {Pair{2, 2}, std::nullopt, "direct", 0}, 15);
  for (size_t k = 1; k < one.loss.size(); ++k) EXPECT_LE(one.loss[k], one.loss[k - 1] * 1.0001);
}

// A phase's slope is divided by the amplitude: where there is none, steps must have a bound.
TEST_F(PriorFiles, WhereAnAmplitudeVanishesNothingGrows) {
  const Problem problem = make_problem(1, 16, 6, 1.5);
  Config config = with_prior(denoiser("phase.pt", 1), "red", "phase");
  config.priors[0].every_batches = 1;
  const Decomposition cut = cut_up(problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0});
  const Ranks ranks;
  Priors priors(config, problem, cut, ranks, at::kCPU);
  const Rectangle size = cut.grid.object();
  torch::manual_seed(5);
  const at::Tensor phase = at::rand({1, size.rows, size.columns}, at::kDouble);
  const at::Tensor amplitude = at::pow(10.0, -8 * at::rand_like(phase));
  const auto slope_of = [&](const at::Tensor& amplitudes) {
    State state;
    state.unknowns["object"].parts = {at::polar(amplitudes, phase)};
    Evaluation at;
    Slopes& slopes = at.of["object"];
    slopes.gradients = {at::zeros_like(state.object(0))};
    slopes.illumination = {at::full_like(phase, 3.0)};
    Joined joined(1);
    priors.add(state, 1, at, joined);
    return slopes.gradients[0].abs();
  };
  const at::Tensor bright = slope_of(at::ones_like(phase)), faint = slope_of(amplitude);
  EXPECT_GT(bright.max().item<double>(), 0.01);
  EXPECT_TRUE((faint <= 2.001 * bright + 1e-9).all().item<bool>());
  const at::Tensor strong = amplitude > 0.5;
  EXPECT_GT(strong.sum().item<int64_t>(), 20);
  EXPECT_TRUE(at::allclose((faint * amplitude).masked_select(strong), bright.masked_select(strong),
                           1e-5, 1e-9));
}

TEST_F(PriorFiles, OnTheProbeIsTheSameOnAllRanks) {
  const Problem problem = make_problem(1, 16, 6, 1.5);
  std::string text = card("denoiser", 2, "3");
  text.replace(text.find(R"(["phase", "amplitude"])"), 22, R"(["real", "imaginary"])");
  const std::string file =
      save("probe.pt", text, 2, "def forward(self, x, noise):\n    return 0.9 * x\n");
  Config config = with_prior(file, "plug-and-play", "probe");
  const DecompositionOptions options{Pair{2, 2}, std::nullopt, "direct", 0};
  const Answer one = tiled(config, problem, 1, options, 2);
  expect_same_bits(one, tiled(config, problem, 3, options, 2));
  config.priors.clear();
  EXPECT_GT((tiled(config, problem, 1, options, 2).probe - one.probe).abs().max().item<double>(),
            0.0);
}

std::string refusal(const std::string& path) {
  try {
    load_prior(path, at::kCPU);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

TEST_F(PriorFiles, WhatDoesNotFitIsSaid) {
  const auto has = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  has(refusal(path("nothing.pt")), "which is not there");
  std::ofstream(path("text.pt")) << "no model";
  has(refusal(path("text.pt")), "must be TorchScript or a compiled .pt2");
  const std::string body = "def forward(self, x, noise):\n    return x\n";
  has(refusal(save("bare.pt", "", 1, body)), "model card");
  has(refusal(save("torn.pt", "{", 1, body)), "a JSON object");
  has(refusal(save("other.pt", R"({"format": "else", "version": 1})", 1, body)), "ptyle.prior");
  has(refusal(save("kind.pt", card("guess", 1, "3"), 1, body)), "\"guess\"");
  for (const char* reach : {"-2", "2.5", "\"3\"", "4611686018427387904"}) {
    has(refusal(save("reach.pt", card("denoiser", 1, reach), 1, body)),
        std::string("as receptive_field in its card, got ") + reach);
  }

  const Problem problem = make_problem(1, 16, 6, 1.5);
  const Decomposition cut = cut_up(problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0});
  const auto priors = [&](const Config& config) {
    try {
      Priors(config, problem, cut, Ranks(), at::kCPU).try_out({1, 16, 16});
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const std::string file = denoiser("phase.pt", 1);
  has(priors(with_prior(file, "gradient", "phase")), "prior[0].file: must hold a regulariser");
  has(priors(with_prior(file, "red", "object")), "phase, amplitude");
  Config loud = with_prior(file, "red", "phase");
  loud.priors[0].noise = 0.7;
  has(priors(loud), "prior[0].noise: must be what the model was trained with");
  EXPECT_EQ(priors(with_prior(file, "red", "phase")), "accepted");

  // Found out before the first update, on an image as large as those that come.
  const auto tried = [&](const std::string& lines, const char* kind = "red") {
    const bool energy = std::string(kind) == "gradient";
    const std::string arguments = energy ? "(self, x)" : "(self, x, noise)";
    return priors(with_prior(save("tried.pt", card(energy ? "regulariser" : "denoiser", 1, "3"), 1,
                                  "def forward" + arguments + ":\n    " + lines + "\n"),
                             kind, "phase"));
  };
  has(tried("return x[:, :, 1:]"), "must give float32 of shape [1, 1, 42, 42], got Float of shape");
  has(tried("return x.double()"), "got Double");
  has(tried("return x / 0 * 0"), "must give finite numbers");
  has(tried("return x.view([3, 1])"), "failed on an image of 42 x 42");
  has(tried("return x.sum()", "gradient"), "must give float32 of shape [1, 42, 42]");
  has(tried("return x.detach().sum(1)", "gradient"), "got one without a gradient");
  EXPECT_EQ(tried("return x * x.sum()"), "accepted");
  EXPECT_EQ(tried("return (x * x).sum(1)", "gradient"), "accepted");
}

}  // namespace
}  // namespace ptyle::driver

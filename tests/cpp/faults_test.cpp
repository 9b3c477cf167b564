// Every call that writes a file fails once: whatever fails and however, a run says it in one
// sentence, leaves no temporary file and no torn one, and goes on later to the bits that it would
// have had.
#include "tests/faults/faults.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

#include <CLI/CLI.hpp>  // what simulate.cpp needs of it
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <ATen/ATen.h>

#include "driver/config/config.h"
#include "driver/errors.h"
#include "driver/io/hdf5.h"
#include "driver/run/run.h"
#include "driver/simulate/simulate.h"
#include "tests/cpp/read_png.h"
#include "tests/cpp/vacuum.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;
using faults::Kind;

struct Fault {
  Kind kind;
  int error;
};
const std::vector<Fault> kFaults = {
    {Kind::kFull, ENOSPC}, {Kind::kGone, EDQUOT}, {Kind::kOnce, EIO}, {Kind::kOnce, ENOSPC}};

std::string name_of(const Fault& fault, long call) {
  return "kind " + std::to_string(static_cast<int>(fault.kind)) + ", " +
         std::strerror(fault.error) + ", at call " + std::to_string(call);
}

class Faults : public testing::Test {
 protected:
  void SetUp() override {
    // In memory where there is such a folder: a disk takes its time for thousands of syncs.
    const fs::path memory = "/dev/shm";
    const fs::path base = fs::is_directory(memory) ? memory : fs::temp_directory_path();
    std::string pattern = (base / "ptyle_faults_XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
    stderr_ = ::dup(STDERR_FILENO);  // a thousand logs
    const int nowhere = ::open("/dev/null", O_WRONLY);
    ::dup2(nowhere, STDERR_FILENO);
    ::close(nowhere);
    at::manual_seed(1);
    const auto [probe, counts] = tests::vacuum(9, 8);
    hdf5::write_atomically(
        root_ + "/data.h5", [&, probe = probe, counts = counts](hdf5::File& file) {
          file.write("data", counts);
          const at::Tensor line = at::arange(3, at::kDouble) * 2.0;
          file.write("positions", at::stack({line.repeat_interleave(3), line.repeat({3})}, 1));
          file.write("probe", probe);
        });
  }
  void TearDown() override {
    faults::plan("", Kind::kOnce, 0, 0);
    std::error_code ignored;
    fs::remove_all(root_, ignored);
    ::dup2(stderr_, STDERR_FILENO);
    ::close(stderr_);
  }

  std::string out() const { return root_ + "/out"; }
  Config config(int iterations, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> sets = {"reconstruct.iterations=" + std::to_string(iterations),
                                     "reconstruct.batches=3", "output.checkpoint_every=1",
                                     "output.folder=out"};
    sets.insert(sets.end(), more.begin(), more.end());
    return parse_config("data.file = \"data.h5\"\nprobe.file = \"data.h5\"\n", root_ + "/c.toml",
                        sets);
  }
  void fresh() const { fs::remove_all(out()); }

  // Nothing is left of what was not finished, and what is there is whole.
  void expect_whole(const std::string& folder) const {
    std::error_code none;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, none)) {
      const std::string name = entry.path().filename().string();
      EXPECT_EQ(name.find(".tmp."), std::string::npos) << name;
      if (name.ends_with(".h5")) {
        const hdf5::File file = hdf5::File::open(entry.path());
        for (const std::string& dataset : file.dataset_names()) file.read(dataset);
      }
      if (name.ends_with(".png")) {
        EXPECT_GT(tests::read_png(entry.path()).rows, 0);
      }
      // Where nothing can be changed any more a torn line cannot be cut off.
      if (name == "metrics.jsonl" && kind_ != Kind::kGone) metrics(folder);
      if (name == "config.toml") load_config(entry.path());
    }
  }
  // The iterations of its lines, each of them whole.
  static std::vector<int> metrics(const std::string& folder) {
    std::ifstream in(folder + "/metrics.jsonl");
    std::vector<int> iterations;
    for (std::string line; std::getline(in, line);) {
      const auto json = nlohmann::json::parse(line, nullptr, false);
      EXPECT_TRUE(json.is_object()) << "a torn line: " << line;
      if (json.is_object()) iterations.push_back(json["iteration"].get<int>());
    }
    return iterations;
  }
  struct Bits {
    at::Tensor object, probe, loss;
    bool operator==(const Bits& other) const {
      return at::equal(object, other.object) && at::equal(probe, other.probe) &&
             at::equal(loss, other.loss);
    }
  };
  static Bits bits(const std::string& folder) {
    const hdf5::File file = hdf5::File::open(folder + "/result.h5");
    return {file.read("object"), file.read("probe"), file.read("history/loss")};
  }

  // `work` with the n-th call of a kind of fault for n = 1, 2, ... up to the last call of an
  // undisturbed one; `before` each makes the folder, `after` looks at what is there. Returns the
  // number of calls.
  long at_every_call(const std::function<void()>& before, const std::function<void()>& work,
                     const std::function<void()>& after) {
    before();
    faults::plan(root_ + "/out", Kind::kOnce, 0, 0);
    work();
    const long calls = faults::calls();
    faults::plan("", Kind::kOnce, 0, 0);
    for (const Fault& fault : kFaults) {
      for (long n = 1; n <= calls; ++n) {
        SCOPED_TRACE(name_of(fault, n));
        before();
        kind_ = fault.kind;
        faults::plan(root_ + "/out", fault.kind, fault.error, n);
        std::optional<std::string> said;
        int code = 0;
        try {
          work();
        } catch (const Error& error) {
          said = error.what();
          code = error.exit_code();
        }
        const bool struck = faults::struck();
        faults::plan("", Kind::kOnce, 0, 0);
        EXPECT_EQ(said.has_value(), struck) << said.value_or("nothing was said");
        if (said) {
          EXPECT_EQ(code, 1) << *said;
          EXPECT_NE(said->find(std::strerror(fault.error)), std::string::npos) << *said;
          EXPECT_NE(said->find(root_ + "/out"), std::string::npos) << *said;
        }
        after();
        if (HasFailure()) return calls;
      }
    }
    // A call that writes less than it was asked for is no failure.
    for (long n = 1; n <= calls; ++n) {
      SCOPED_TRACE("a short write at call " + std::to_string(n));
      before();
      faults::plan(root_ + "/out", Kind::kShort, 0, n);
      EXPECT_NO_THROW(work());
      faults::plan("", Kind::kOnce, 0, 0);
      after();
      if (HasFailure()) return calls;
    }
    return calls;
  }

  // To the end, from what there is; after a failure before the first checkpoint anew.
  void finish(int iterations) const {
    const bool anew = !fs::exists(out() + "/checkpoint.h5");
    RunOptions options;
    options.resume = !anew;
    options.overwrite = anew;
    run(config(iterations), options);
  }

  std::string root_;
  int stderr_ = -1;
  Kind kind_ = Kind::kOnce;  // that was planned last
};

TEST_F(Faults, AnywhereInARunLeaveAUsableCheckpoint) {
  fresh();
  run(config(3), {});
  const Bits whole = bits(out());
  const long calls = at_every_call([&] { fresh(); }, [&] { run(config(3), {}); },
                                   [&] {
                                     expect_whole(out());
                                     finish(3);
                                     EXPECT_TRUE(bits(out()) == whole);
                                     EXPECT_EQ(metrics(out()), (std::vector<int>{1, 2, 3}));
                                     expect_whole(out());
                                   });
  EXPECT_GT(calls, 100) << "the faults were not in the way";
}

TEST_F(Faults, AnywhereInATraceLeaveTheResult) {
  RunOptions traced;
  traced.trace = root_ + "/out.json";
  at_every_call(
      [&] {
        fresh();
        fs::remove(traced.trace);
      },
      [&] { run(config(1), traced); },
      [&] {
        expect_whole(root_);
        expect_whole(out());
        if (fs::exists(traced.trace) && fs::file_size(traced.trace) > 0) {
          std::ifstream in(traced.trace);
          EXPECT_TRUE(nlohmann::json::accept(in)) << "a torn trace";
        }
        finish(1);
        EXPECT_EQ(bits(out()).loss.size(0), 1);
      });
}

TEST_F(Faults, AnywhereInARestartKeepWhatWasThere) {
  fresh();
  run(config(4), {});
  const Bits whole = bits(out());
  fresh();
  run(config(2), {});
  const Bits half = bits(out());
  fs::copy(out(), root_ + "/half", fs::copy_options::recursive);
  RunOptions resume;
  resume.resume = true;
  at_every_call(
      [&] {
        fresh();
        fs::copy(root_ + "/half", out(), fs::copy_options::recursive);
      },
      [&] { run(config(4), resume); },
      [&] {
        expect_whole(out());
        ASSERT_TRUE(fs::exists(out() + "/checkpoint.h5"));
        const std::int64_t done = bits(out()).loss.size(0);
        EXPECT_TRUE(done > 2 || bits(out()) == half);
        run(config(4), resume);
        EXPECT_TRUE(bits(out()) == whole);
        EXPECT_EQ(metrics(out()), (std::vector<int>{1, 2, 3, 4}));
      });
}

TEST_F(Faults, AnywhereInARunThatReplacesAnotherKeepOneOfThem) {
  fresh();
  run(config(2), {});
  const Bits earlier = bits(out());
  fs::copy(out(), root_ + "/earlier", fs::copy_options::recursive);
  const std::vector<std::string> other = {"reconstruct.step=0.5"};
  RunOptions overwrite;
  overwrite.overwrite = true;
  run(config(2, other), overwrite);
  const Bits later = bits(out());
  ASSERT_FALSE(earlier == later);
  at_every_call(
      [&] {
        fresh();
        fs::copy(root_ + "/earlier", out(), fs::copy_options::recursive);
      },
      [&] { run(config(2, other), overwrite); },
      [&] {
        expect_whole(out());
        // What is kept belongs together, if need be once the next start has brought it back.
        const auto is_new = [&](const std::string& file) {
          return hdf5::File::open(file).string_attribute("/", "config").find("\nstep = 0.5") !=
                 std::string::npos;
        };
        const std::string checkpoint = out() + "/checkpoint.h5";
        RunOptions resume;
        resume.resume = true;
        if (fs::exists(checkpoint) ? !is_new(checkpoint) : fs::exists(checkpoint + ".old")) {
          run(config(2), resume);
          EXPECT_TRUE(bits(out()) == earlier);
        } else {
          run(config(2, other), fs::exists(checkpoint) ? resume : overwrite);
          EXPECT_TRUE(bits(out()) == later);
        }
        for (const fs::directory_entry& entry : fs::directory_iterator(out())) {
          EXPECT_FALSE(entry.path().string().ends_with(".old")) << entry.path();
        }
      });
}

TEST_F(Faults, AnywhereInASimulationLeaveNoHalfOfIt) {
  SimulateOptions options;
  options.specimen = "SrTiO3";
  options.scan = {2, 2};
  options.window = 32;
  options.slices = 1;
  options.output = out() + "/s.h5";
  options.force = true;
  at_every_call(
      [&] {
        fresh();
        fs::create_directory(out());
      },
      [&] { simulate(options); }, [&] { expect_whole(out()); });
}

TEST_F(Faults, WhatCouldBeSavedIsSavedAndSaid) {
  fresh();
  faults::plan(out(), Kind::kOnce, 0, 0);
  run(config(1), {});
  const long calls = faults::calls();
  fresh();
  faults::plan(out(), Kind::kGone, ENOSPC, calls);  // the last one, of the last picture
  try {
    run(config(1), {});
    ADD_FAILURE() << "nothing was said";
  } catch (const RunError& error) {
    const std::string said = error.what();
    EXPECT_NE(said.find("probe.png: cannot be written: No space left"), std::string::npos) << said;
    EXPECT_NE(said.find("checkpoint.h5 and result.h5 of iteration 1 are saved"), std::string::npos)
        << said;
  }
  faults::plan("", Kind::kOnce, 0, 0);
  EXPECT_TRUE(fs::exists(out() + "/result.h5"));
}

}  // namespace
}  // namespace ptyle::driver

// HDF5 files, metrics, log and progress.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <ATen/ATen.h>

#include "driver/errors.h"
#include "driver/io/hdf5.h"
#include "driver/io/metrics.h"
#include "driver/log.h"
#include "driver/progress.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;
using hdf5::File;

class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "ptyle_io_XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }

 private:
  fs::path path_;
};

bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.numel() == 0 || std::memcmp(a.contiguous().data_ptr(), b.contiguous().data_ptr(),
                                        a.numel() * a.element_size()) == 0);
}

TEST(Hdf5, EveryTypeAndShapeComesBackBitByBit) {
  const Folder folder;
  const std::vector<at::ScalarType> types = {
      at::kByte, at::kChar,   at::kShort, at::kUInt16, at::kInt,          at::kUInt32,
      at::kLong, at::kUInt64, at::kFloat, at::kDouble, at::kComplexFloat, at::kComplexDouble};
  const std::vector<std::vector<std::int64_t>> shapes = {{},        {1}, {7, 3},
                                                         {5, 1, 3}, {0}, {3, 0, 2}};
  File file = File::create(folder / "types.h5");
  std::vector<at::Tensor> written;
  for (const at::ScalarType type : types) {
    for (const auto& shape : shapes) {
      at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(type));
      auto* bytes = static_cast<std::uint8_t*>(tensor.data_ptr());
      for (std::size_t i = 0; i < tensor.nbytes(); ++i) {
        // The exponents of floats stay small, so that none is a NaN whose bits may change.
        bytes[i] = static_cast<std::uint8_t>((i * 37 + 11) % 61);
      }
      const int gzip = static_cast<int>(written.size() % 3);
      file.write("group/t" + std::to_string(written.size()), tensor, {{}, gzip});
      written.push_back(tensor);
    }
  }
  file.close();
  const File again = File::open(folder / "types.h5");
  for (std::size_t i = 0; i < written.size(); ++i) {
    const std::string name = "/group/t" + std::to_string(i);
    EXPECT_TRUE(same(again.read(name), written[i])) << name;
    EXPECT_EQ(again.info(name).type, written[i].scalar_type());
  }
  EXPECT_EQ(again.dataset_names().size(), written.size());
  EXPECT_EQ(again.info("group/t2").stored_type, "uint8");
  EXPECT_EQ(again.info("group/t60").stored_type, "complex64");
}

TEST(Hdf5, PartsAreReadAlone) {
  const Folder folder;
  const at::Tensor all = at::arange(11 * 3 * 2).reshape({11, 3, 2}).to(at::kInt);
  File file = File::create(folder / "rows.h5");
  file.write("plain", all);
  file.write("chunked", all, {{2, 3, 2}, 4});
  file.create_dataset("by_rows", {11, 3, 2}, at::kInt, {{4, 3, 2}, 0});
  file.write_rows("by_rows", 0, all.narrow(0, 0, 5));
  file.write_rows("by_rows", 5, all.narrow(0, 5, 6));
  EXPECT_THROW(file.write_rows("by_rows", 6, all.narrow(0, 5, 6)), RunError);
  EXPECT_THROW(file.write_rows("by_rows", 0, all.to(at::kLong)), RunError);
  file.close();
  const File again = File::open(folder / "rows.h5");
  for (const std::string name : {"plain", "chunked", "by_rows"}) {
    EXPECT_TRUE(same(again.read(name), all));
    EXPECT_TRUE(same(again.read_area(name, {3, 0, 0}, {4, 3, 2}), all.narrow(0, 3, 4)));
    EXPECT_TRUE(same(again.read_area(name, {11, 0, 0}, {0, 3, 2}), all.narrow(0, 11, 0)));
    EXPECT_TRUE(same(again.read_area(name, {2, 1, 1}, {5, 2, 1}),
                     all.narrow(0, 2, 5).narrow(1, 1, 2).narrow(2, 1, 1)));
  }
  EXPECT_EQ(again.info("chunked").chunk, (std::vector<std::int64_t>{2, 3, 2}));
  EXPECT_EQ(again.info("chunked").filters.size(), 2U);
  EXPECT_TRUE(again.info("plain").chunk.empty());
  EXPECT_THROW(again.read_area("plain", {8, 0, 0}, {4, 3, 2}), DataError);
  EXPECT_THROW(again.read_area("plain", {-1, 0, 0}, {2, 3, 2}), DataError);
}

TEST(Hdf5, AttributesKeepTheirTypes) {
  const Folder folder;
  File file = File::create(folder / "attributes.h5");
  file.create_group("a/b");
  file.set_attribute("/", "text", "first");
  file.set_attribute("/", "text", std::string("second, longer"));
  file.set_attribute("/", "empty", "");
  file.set_attribute("a/b", "number", 0.1);
  file.set_attribute("a/b", "integer", std::int64_t{1} << 62);
  file.set_attribute("a/b", "numbers", std::vector<double>{1.5, -2.5});
  file.set_attribute("a/b", "integers", std::vector<std::int64_t>{3, 4, 5});
  file.close();
  const File again = File::open(folder / "attributes.h5");
  EXPECT_EQ(again.string_attribute("/", "text"), "second, longer");
  EXPECT_EQ(again.string_attribute("/", "empty"), "");
  EXPECT_EQ(again.number_attribute("a/b", "number"), 0.1);
  EXPECT_EQ(again.integer_attribute("a/b", "integer"), std::int64_t{1} << 62);
  EXPECT_EQ(again.numbers_attribute("a/b", "numbers"), (std::vector<double>{1.5, -2.5}));
  EXPECT_EQ(again.numbers_attribute("a/b", "integers"), (std::vector<double>{3, 4, 5}));
  EXPECT_TRUE(again.has_attribute("a/b", "number"));
  EXPECT_FALSE(again.has_attribute("a/b", "nothing"));
  EXPECT_FALSE(again.has_attribute("nowhere", "nothing"));
  EXPECT_THROW(again.number_attribute("a/b", "nothing"), DataError);
  EXPECT_THROW(again.number_attribute("a/b", "numbers"), DataError);
  EXPECT_THROW(again.string_attribute("a/b", "number"), DataError);
  EXPECT_TRUE(again.is_group("a/b"));
  EXPECT_FALSE(again.is_dataset("a/b"));
}

TEST(Hdf5, ErrorsNameFileAndDataset) {
  const Folder folder;
  EXPECT_THROW(File::open(folder / "none.h5"), DataError);
  EXPECT_THROW(File::create(folder / "no/such/folder.h5").require(), WriteError);
  std::ofstream(folder / "text.h5") << "this is not HDF5";
  try {
    File::open(folder / "text.h5");
    FAIL() << "opened";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("text.h5"), std::string::npos);
    EXPECT_EQ(error.exit_code(), 3);
  }
  hdf5::write_atomically(folder / "one.h5", [](File& file) { file.write("here", at::zeros({2})); });
  try {
    File::open(folder / "one.h5").read("there");
    FAIL() << "read";
  } catch (const DataError& error) {
    for (const char* word : {"one.h5", "\"there\"", "here"}) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  }
}

TEST(Hdf5, AFailedWriteLeavesTheOldFileAndNothingElse) {
  const Folder folder;
  const std::string path = folder / "state.h5";
  hdf5::write_atomically(path, [](File& file) { file.write("value", at::full({3}, 1.0)); });
  EXPECT_THROW(hdf5::write_atomically(path,
                                      [](File& file) {
                                        file.write("value", at::full({3}, 2.0));
                                        throw RunError("on purpose");
                                      }),
               RunError);
  EXPECT_EQ(File::open(path).read("value")[0].item<double>(), 1.0);
  hdf5::write_atomically(path, [](File& file) { file.write("value", at::full({3}, 3.0)); });
  EXPECT_EQ(File::open(path).read("value")[0].item<double>(), 3.0);
  EXPECT_EQ(folder.entries(), 1U);
}

TEST(Hdf5, TheMeasuredDataSetsCanBeRead) {
  const char* root = std::getenv("PTYLE_DATA");
  const std::string path =
      std::string(root == nullptr ? "" : root) + "/siemens-star/siemens-star-small.h5";
  if (root == nullptr || !fs::exists(path)) GTEST_SKIP() << "PTYLE_DATA does not hold siemens-star";
  const File file = File::open(path);
  EXPECT_EQ(file.info("data").stored_type, "uint16");
  EXPECT_EQ(file.read("probe").scalar_type(), at::kComplexFloat);
  EXPECT_EQ(file.read("positions").scalar_type(), at::kDouble);
}

TEST(Metrics, OneLineAnIterationAndAResumeKeepsTheFirst) {
  const Folder folder;
  const std::string path = folder / "metrics.jsonl";
  const auto lines = [&path]() {
    std::ifstream in(path);
    std::vector<nlohmann::json> result;
    for (std::string line; std::getline(in, line);) result.push_back(nlohmann::json::parse(line));
    return result;
  };
  {
    MetricsWriter writer(path);
    for (std::int64_t i = 1; i <= 5; ++i) {
      IterationMetrics metrics;
      metrics.iteration = i;
      metrics.loss = 1.0 / static_cast<double>(i);
      metrics.peak_bytes = 123456789;
      writer.write(metrics);
      EXPECT_EQ(lines().size(), static_cast<std::size_t>(i));  // readable at once
    }
  }
  std::ofstream(path, std::ios::app) << "{\"iteration\": 6, \"lo";  // a crash in a line
  {
    MetricsWriter writer(path, 3);
    IterationMetrics metrics;
    metrics.iteration = 4;
    metrics.loss = std::numeric_limits<double>::quiet_NaN();
    writer.write(metrics);
  }
  const auto all = lines();
  ASSERT_EQ(all.size(), 4U);
  for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i]["iteration"], i + 1);
  EXPECT_EQ(all[2]["loss"], 1.0 / 3.0);
  EXPECT_TRUE(all[3]["loss"].is_null());
  for (const char* key : {"iteration", "loss", "amplitude_error", "seconds", "positions_per_second",
                          "wait_seconds", "bytes_sent", "peak_bytes"}) {
    EXPECT_TRUE(all[0].contains(key)) << key;
  }
  { const MetricsWriter anew(path); }
  EXPECT_TRUE(lines().empty());
  EXPECT_THROW(MetricsWriter(folder / "no/folder"), RunError);
}

TEST(Log, LinesOfManyThreadsStayWhole) {
  testing::internal::CaptureStderr();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t]() {
      for (int i = 0; i < 50; ++i) log_info() << "thread " << t << " line " << i << " end";
    });
  }
  for (std::thread& thread : threads) thread.join();
  log_warning() << "shown";
  std::istringstream out(testing::internal::GetCapturedStderr());
  int lines = 0;
  for (std::string line; std::getline(out, line); ++lines) {
    EXPECT_EQ(line.front(), '[');
    EXPECT_TRUE(line.ends_with(" end") || line.ends_with("warning: shown")) << line;
  }
  EXPECT_EQ(lines, 201);
}

TEST(Progress, PlainLinesWithoutATerminalAndABarOnOne) {
  testing::internal::CaptureStderr();
  {
    Progress progress(0, 2, 100, false);
    progress.positions_done(50);
    progress.iteration_done(1, 0.25, 1234.0);
    progress.iteration_done(2, 0.125, 1234.0);
  }
  const std::string plain = testing::internal::GetCapturedStderr();
  EXPECT_NE(plain.find("iteration 1 of 2, amplitude error 0.25, 1234 positions/s"),
            std::string::npos)
      << plain;
  EXPECT_EQ(plain.find('\r'), std::string::npos);

  testing::internal::CaptureStderr();
  {
    Progress progress(0, 2, 100, true);
    progress.positions_done(50);
    progress.iteration_done(2, 0.125, 1234.0);
    log_info() << "in between";
  }
  const std::string bar = testing::internal::GetCapturedStderr();
  EXPECT_NE(bar.find("2/2  error 0.125"), std::string::npos) << bar;
  EXPECT_NE(bar.find("\r\x1b[K["), std::string::npos);
  EXPECT_EQ(format_duration(7.4), "7 s");
  EXPECT_EQ(format_duration(185), "3 min 05 s");
  EXPECT_EQ(format_duration(7800), "2 h 10 min");
  EXPECT_EQ(format_duration(-1.0), "?");
}

}  // namespace
}  // namespace ptyle::driver

// Values that are nowhere on the disk, and objects that cannot be opened: files are made with the
// HDF5 library itself.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>
#include <hdf5.h>

#include <ATen/ATen.h>

#include "driver/errors.h"
#include "driver/io/hdf5.h"
#include "driver/io/problem.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;
using hdf5::File;
using hdf5::Gaps;

constexpr hsize_t kFrames = 6, kRows = 4, kColumns = 5;

class StorageTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "ptyle_storage_XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    counts_ = at::randint(1, 50, {int64_t{kFrames}, int64_t{kRows}, int64_t{kColumns}}, at::kInt);
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // Patterns, positions and probe of which `frames` are written, one a chunk.
  void write_chunks(const std::string& name, const std::vector<hsize_t>& frames) {
    write_others(name);
    const hid_t file = H5Fopen(path(name).c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    const hsize_t shape[] = {kFrames, kRows, kColumns}, chunk[] = {1, kRows, kColumns};
    const hid_t space = H5Screate_simple(3, shape, nullptr);
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(properties, 3, chunk);
    H5Pset_deflate(properties, 1);
    const hid_t data =
        H5Dcreate2(file, "data", H5T_NATIVE_INT32, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    const hid_t memory = H5Screate_simple(3, chunk, nullptr);
    for (const hsize_t frame : frames) {
      const hsize_t start[] = {frame, 0, 0};
      H5Sselect_hyperslab(space, H5S_SELECT_SET, start, nullptr, chunk, nullptr);
      EXPECT_GE(H5Dwrite(data, H5T_NATIVE_INT32, memory, space, H5P_DEFAULT,
                         counts_.select(0, static_cast<int64_t>(frame)).data_ptr()),
                0);
    }
    H5Sclose(memory);
    H5Dclose(data);
    H5Pclose(properties);
    H5Sclose(space);
    H5Fclose(file);
  }

  void write_others(const std::string& name) const {
    File file = File::create(path(name));
    file.write("positions", 2 * at::arange(int64_t{2 * kFrames}, at::kDouble).reshape({-1, 2}));
    file.write("probe", at::ones({int64_t{kRows}, int64_t{kColumns}}, at::kComplexDouble));
    file.close();
  }

  // Two frames in each of part0.h5, part1.h5, part2.h5.
  void write_parts() const {
    for (int64_t k = 0; k < 3; ++k) {
      File file = File::create(path("part" + std::to_string(k) + ".h5"));
      file.write("frames", counts_.narrow(0, 2 * k, 2));
      file.close();
    }
  }

  struct Mapping {
    std::string file;
    hsize_t first, step, count;  // frames of the virtual dataset
  };
  void write_virtual(const std::string& name, const std::vector<Mapping>& mappings) const {
    write_others(name);
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    const hid_t file = H5Fopen(path(name).c_str(), H5F_ACC_RDWR, access);
    const hsize_t shape[] = {kFrames, kRows, kColumns};
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    const hid_t space = H5Screate_simple(3, shape, nullptr);
    for (const Mapping& mapping : mappings) {
      const hsize_t source[] = {mapping.count, kRows, kColumns};
      const hid_t there = H5Screate_simple(3, source, nullptr);
      const hsize_t start[] = {mapping.first, 0, 0}, stride[] = {mapping.step, 1, 1};
      H5Sselect_hyperslab(space, H5S_SELECT_SET, start, stride, source, nullptr);
      EXPECT_GE(H5Pset_virtual(properties, space, mapping.file.c_str(), "frames", there), 0);
      H5Sclose(there);
    }
    H5Sselect_all(space);
    const hid_t data =
        H5Dcreate2(file, "data", H5T_NATIVE_INT32, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    EXPECT_GE(data, 0);
    H5Dclose(data);
    H5Sclose(space);
    H5Pclose(properties);
    H5Fclose(file);
    H5Pclose(access);
  }

  std::vector<int64_t> missing(const std::string& name) const {
    const Gaps gaps = File::open(path(name)).gaps("data", 1);
    std::vector<int64_t> frames;
    for (size_t k = 0; k < gaps.reason_of.size(); ++k) {
      if (gaps.reason_of[k] != Gaps::kNone) frames.push_back(static_cast<int64_t>(k));
    }
    return frames;
  }

  // What the program says to the file.
  std::string refusal(const std::string& name, const std::string& more = "") const {
    try {
      load_problem(parse_config(
          "data.file = \"" + name + "\"\nprobe.file = \"" + name + "\"\n" + more, path("c.toml")));
    } catch (const DataError& error) {
      return error.what();
    } catch (const Error& error) {
      return "another error: " + std::string(error.what());
    }
    return "accepted";
  }

  fs::path folder_;
  at::Tensor counts_;
};

void expect_words(const std::string& message, const std::vector<std::string>& words) {
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  for (const std::string& word : words) {
    EXPECT_NE(message.find(word), std::string::npos)
        << "missing \"" << word << "\" in: " << message;
  }
}

TEST_F(StorageTest, ChunksThatWereNeverWrittenAreNamed) {
  write_chunks("whole.h5", {0, 1, 2, 3, 4, 5});
  EXPECT_TRUE(missing("whole.h5").empty());
  EXPECT_EQ(refusal("whole.h5"), "accepted");
  write_chunks("aborted.h5", {0, 2, 3});
  EXPECT_EQ(missing("aborted.h5"), (std::vector<int64_t>{1, 4, 5}));
  expect_words(refusal("aborted.h5"),
               {"aborted.h5", "\"data\"", "3 frames (1, 4, 5)", "never written"});
  EXPECT_THROW(File::open(path("aborted.h5")).read("data"), DataError);
  EXPECT_TRUE(at::equal(File::open(path("whole.h5")).read("data"), counts_));
}

TEST_F(StorageTest, ContiguousDataThatWereNeverWritten) {
  write_others("empty.h5");
  const hid_t file = H5Fopen(path("empty.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hsize_t shape[] = {kFrames, kRows, kColumns};
  const hid_t space = H5Screate_simple(3, shape, nullptr);
  H5Dclose(
      H5Dcreate2(file, "data", H5T_NATIVE_INT32, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  H5Sclose(space);
  H5Fclose(file);
  EXPECT_EQ(missing("empty.h5").size(), kFrames);
  expect_words(refusal("empty.h5"), {"empty.h5", "6 frames", "never written"});
}

TEST_F(StorageTest, VirtualDatasetsNameTheSourceThatIsGone) {
  write_parts();
  write_virtual("v.h5", {{"part0.h5", 0, 1, 2}, {"part1.h5", 2, 1, 2}, {"part2.h5", 4, 1, 2}});
  EXPECT_TRUE(missing("v.h5").empty());
  EXPECT_TRUE(at::equal(File::open(path("v.h5")).read("data"), counts_));
  fs::rename(path("part1.h5"), path("elsewhere.h5"));
  EXPECT_EQ(missing("v.h5"), (std::vector<int64_t>{2, 3}));
  expect_words(refusal("v.h5"), {"v.h5", "2 frames (2, 3)", "part1.h5", "there is no file"});
  expect_words(refusal("v.h5", "data.patterns = \"data\""), {"part1.h5"});

  // There, but without the dataset; and with too few frames.
  hdf5::write_atomically(path("part1.h5"), [&](File& file) { file.write("other", counts_); });
  expect_words(refusal("v.h5"), {"2 frames (2, 3)", "has no dataset \"frames\""});
  hdf5::write_atomically(path("part1.h5"),
                         [&](File& file) { file.write("frames", counts_.narrow(0, 0, 1)); });
  expect_words(refusal("v.h5"), {"2 frames (2, 3)", "has the shape [1, 4, 5]", "less than"});
  std::ofstream(path("part1.h5"), std::ios::trunc) << "no HDF5";
  expect_words(refusal("v.h5"), {"2 frames (2, 3)", "part1.h5 is not an HDF5 file"});
}

TEST_F(StorageTest, InterleavedSourcesAndFramesWithoutOne) {
  write_parts();
  write_virtual("v.h5", {{"part0.h5", 0, 3, 2}, {"gone.h5", 1, 3, 2}});
  EXPECT_EQ(missing("v.h5"), (std::vector<int64_t>{1, 2, 4, 5}));
  expect_words(refusal("v.h5"),
               {"2 frames (2, 5)", "names no source", "2 frames (1, 4)", "gone.h5"});
}

TEST_F(StorageTest, WhatASourceLacksIsLackingInTheVirtualDatasetToo) {
  write_chunks("source.h5", {0, 1, 3});
  const hid_t file = H5Fopen(path("source.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  H5Lmove(file, "data", file, "frames", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  write_virtual("v.h5", {{"source.h5", 0, 1, 6}});
  EXPECT_EQ(missing("v.h5"), (std::vector<int64_t>{2, 4, 5}));
  expect_words(refusal("v.h5"), {"3 frames (2, 4, 5)", "source.h5", "never written"});
}

TEST_F(StorageTest, RawFilesThatAreShortAreNotTakenForZeros) {
  write_others("raw.h5");
  const hid_t file = H5Fopen(path("raw.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hsize_t shape[] = {kFrames, kRows, kColumns};
  const hid_t space = H5Screate_simple(3, shape, nullptr);
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(properties, path("values.raw").c_str(), 0, counts_.nbytes());
  const hid_t data =
      H5Dcreate2(file, "data", H5T_NATIVE_INT32, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  H5Dwrite(data, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, counts_.data_ptr());
  H5Dclose(data);
  H5Pclose(properties);
  H5Sclose(space);
  H5Fclose(file);
  EXPECT_TRUE(missing("raw.h5").empty());
  EXPECT_EQ(refusal("raw.h5"), "accepted");
  fs::resize_file(path("values.raw"), kRows * kColumns * 4 * 3 + 1);
  EXPECT_EQ(missing("raw.h5"), (std::vector<int64_t>{3, 4, 5}));
  expect_words(refusal("raw.h5"), {"3 frames (3, 4, 5)", "values.raw", "too short"});
  fs::remove(path("values.raw"));
  expect_words(refusal("raw.h5"), {"6 frames", "values.raw", "not there"});
}

TEST_F(StorageTest, LinksAreListedAndFollowedAndToldWhereTheyDangle) {
  write_parts();
  write_others("links.h5");
  const hid_t file = H5Fopen(path("links.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hid_t group = H5Gcreate2(file, "entry", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external("part0.h5", "frames", group, "good", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external("gone.h5", "frames", group, "lost", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external("part0.h5", "nothing", group, "misnamed", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/positions", file, "alias", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/nowhere", file, "dangling", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/entry", group, "circle", H5P_DEFAULT, H5P_DEFAULT);
  H5Gclose(group);
  H5Fclose(file);

  const File read = File::open(path("links.h5"));
  EXPECT_EQ(read.dataset_names(),
            (std::vector<std::string>{"alias", "entry/good", "positions", "probe"}));
  expect_words(read.contents(), {"dangling (which cannot be opened)", "entry/lost (which"});
  EXPECT_TRUE(at::equal(read.read("entry/good"), counts_.narrow(0, 0, 2)));
  EXPECT_EQ(read.trouble("entry/good"), "");
  EXPECT_EQ(read.trouble("entry/absent"), "");
  expect_words(read.trouble("entry/lost"), {"a link", "\"gone.h5\"", "there is no file"});
  expect_words(read.trouble("entry/misnamed"), {"a link", "no dataset \"nothing\""});
  expect_words(read.trouble("dangling"), {"a link to \"/nowhere\"", "does not exist"});
  expect_words(read.trouble("dangling/deeper"), {"a link to \"/nowhere\""});
  expect_words(read.trouble("entry"), {"a group", "entry/good"});
  expect_words(refusal("links.h5", "data.patterns = \"entry/lost\"\n"),
               {"links.h5: data.patterns \"entry/lost\"", "cannot be opened", "gone.h5"});
  // A name that is not there and a group are the config's fault.
  expect_words(refusal("links.h5", "data.patterns = \"entry/absent\"\n"),
               {"another error", "must name a dataset", "entry/good"});
  expect_words(refusal("links.h5", "data.patterns = \"entry\"\n"),
               {"another error", "must name a dataset", "it is a group"});
}

TEST_F(StorageTest, LinksInACircleAreToldAsSuch) {
  write_others("circle.h5");
  const hid_t file = H5Fopen(path("circle.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  H5Lcreate_external("circle.h5", "outside", file, "outside", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/there", file, "here", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/here", file, "there", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("itself", file, "itself", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  const File read = File::open(path("circle.h5"));
  expect_words(read.trouble("outside"), {"a link to \"outside\"", "lead in a circle"});
  expect_words(read.trouble("here"), {"a link to \"/there\"", "lead in a circle"});
  expect_words(read.trouble("itself"), {"a link to \"itself\""});
  expect_words(read.contents(), {"outside (which cannot be opened)", "here (which"});
}

TEST_F(StorageTest, LinksMayLeadIntoAFileThatIsNamedToo) {
  write_chunks("raw.h5", {0, 1, 2, 3, 4, 5});
  const hid_t file = H5Fcreate(path("links.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  for (const char* name : {"data", "positions"}) {
    H5Lcreate_external("raw.h5", name, file, name, H5P_DEFAULT, H5P_DEFAULT);
  }
  H5Fclose(file);
  for (const char* first : {"links.h5", "raw.h5"}) {
    for (const char* positions : {"positions", "raw.h5:positions", "links.h5:positions"}) {
      const std::string config = std::string("data.file = \"") + first + "\"\ndata.positions = \"" +
                                 positions + "\"\nprobe.file = \"raw.h5\"\n";
      EXPECT_NO_THROW(load_problem(parse_config(config, path("c.toml")))) << config;
    }
  }
}

TEST_F(StorageTest, FilesThatCannotBeOpenedSayWhy) {
  write_chunks("d.h5", {0, 1, 2, 3, 4, 5});
  const auto why = [&](const std::string& name) {
    try {
      File::open(path(name));
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("opened");
  };
  fs::copy_file(path("d.h5"), path("cut.h5"));
  const auto size = fs::file_size(path("d.h5"));
  fs::resize_file(path("cut.h5"), size / 2);
  expect_words(why("cut.h5"), {"cut.h5", "is cut off",
                               std::to_string(size / 2) + " bytes of " + std::to_string(size)});
  std::ofstream(path("none.h5")).flush();
  expect_words(why("none.h5"), {"empty file"});
  fs::create_directory(path("folder.h5"));
  expect_words(why("folder.h5"), {"is a folder"});

  // A writer that is still at it, as the library marks it in the file.
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
  const hid_t writer = H5Fcreate(path("live.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
  H5Fflush(writer, H5F_SCOPE_GLOBAL);
  fs::copy_file(path("live.h5"), path("copy.h5"));
  const std::string message = why("copy.h5");
  expect_words(message, {"copy.h5", "being written", "wait"});
  EXPECT_EQ(message.find("clear"), std::string::npos) << message;
  H5Fclose(writer);
  H5Pclose(access);
  EXPECT_EQ(why("live.h5"), "opened");

  // A format of the future: the version of the dataset's object header is one that nobody knows.
  std::string bytes;
  {
    std::ifstream in(path("d.h5"), std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  bytes[8] = 9;  // of the superblock
  std::ofstream(path("newer.h5"), std::ios::binary) << bytes;
  expect_words(why("newer.h5"), {"newer HDF5 library", "h5repack"});
}

}  // namespace
}  // namespace ptyle::driver

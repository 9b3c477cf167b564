// Configs spoiled at random, thousands of them, also under sanitizers: each is understood, and then
// written and read again without a change, or refused in one line.
#include <algorithm>
#include <cstdint>
#include <exception>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "driver/config/config.h"
#include "driver/errors.h"

namespace ptyle::driver {
namespace {

const std::vector<std::string> kPieces = {"[data]\n",
                                          "[[prior]]\n",
                                          "[prior]\n",
                                          "[probe.aberrations]\n",
                                          "= ",
                                          "[",
                                          "]",
                                          "{",
                                          "}",
                                          "\"",
                                          "\"\"\"",
                                          "'",
                                          "\\u0000",
                                          "\\U0010FFFF",
                                          "\xff",
                                          std::string(1, '\0'),
                                          "#",
                                          "\r\n",
                                          ".",
                                          "1e999",
                                          "-9223372036854775808",
                                          "99999999999999999999",
                                          "nan",
                                          "-inf",
                                          "true",
                                          "1979-05-27",
                                          "0x7fffffffffffffff",
                                          "[[1, 2], [3]]",
                                          "file = 1\n",
                                          "crop = [9223372036854775807, 1]\n",
                                          "orientation = { transpose = 1 }\n",
                                          "C12_nm = inf\n",
                                          "power = \"x\"\n",
                                          "auto",
                                          "\"auto\"",
                                          "dark = \"a.h5:b\"\n",
                                          "raster = { shape = [1, 1], step = 0 }\n",
                                          "data.file.x = 2\n"};

std::string spoiled(std::string text, std::mt19937_64& random) {
  const auto below = [&](std::size_t n) {
    return static_cast<std::size_t>(random() % std::max<std::size_t>(1, n));
  };
  for (std::size_t step = 0, steps = 1 + below(4); step < steps; ++step) {
    const std::size_t at = below(text.size() + 1);
    switch (random() % 6) {
      case 0:
        text.insert(at, kPieces[below(kPieces.size())]);
        break;
      case 1:
        text.erase(at, 1 + below(12));
        break;
      case 2:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 3:
        text.insert(at, text.substr(below(text.size()), 1 + below(60)));
        break;
      case 4: {  // the value of a key
        const std::size_t equals = text.find(" = ", at);
        if (equals == std::string::npos) break;
        const std::size_t end = std::min(text.find('\n', equals), text.size());
        text.replace(equals + 3, end - equals - 3, kPieces[below(kPieces.size())]);
        break;
      }
      default:
        text.resize(at);
    }
  }
  return text;
}

// Words of a library, not of the program.
bool speaks_for_itself(const std::string& message) {
  for (const char* foreign : {"std::", "basic_string", "map::at", "bad_", "toml::"}) {
    if (message.find(foreign) != std::string::npos) return false;
  }
  return message.find('\n') == std::string::npos &&
         std::count(message.begin(), message.end(), ' ') > 2;
}

TEST(Config, SpoiledTextsAreUnderstoodOrRefusedInALine) {
  Config whole = parse_config(
      "[data]\nfile = \"a.h5\"\n[probe]\nfile = \"b.h5\"\n[[prior]]\nfile = \"c.pt\"\n",
      "/x/y.toml");
  whole.probe.aberrations["C30_nm"] = 3.0;
  const std::vector<std::string> sound = {
      "[data]\nfile = \"a.h5\"\n[probe]\nfile = \"b.h5\"\n", to_toml(whole),
      "data = { file = \"a\", raster = { shape = [3, 4], step = [1, 2.5] }, position_unit = "
      "\"pixel\" }\n"
      "detector = { crop = [1, 2, 3, 4], bin = 2, dark = \"d.h5:dark\" }\n"
      "probe = { file = \"\", semiangle_mrad = 3.0 }\nbeam = { energy_keV = 8 }\n"};
  std::mt19937_64 random(14);
  int understood = 0, refused = 0;
  for (int k = 0; k < 6000; ++k) {
    const std::string text = spoiled(sound[static_cast<std::size_t>(k) % sound.size()], random);
    std::vector<std::string> overrides;
    if (k % 4 == 0) {
      overrides.push_back(spoiled("reconstruct.step=0.5", random));
      std::replace(overrides[0].begin(), overrides[0].end(), '\n', ' ');
    }
    try {
      const Config config = parse_config(text, "/x/y.toml", overrides);
      const std::string written = to_toml(config);
      EXPECT_EQ(written, to_toml(parse_config(written, "/elsewhere/z.toml"))) << text;
      ++understood;
    } catch (const ConfigError& error) {
      EXPECT_TRUE(speaks_for_itself(error.what())) << error.what() << "\nof:\n" << text;
      ++refused;
    } catch (const std::exception& error) {
      ADD_FAILURE() << "no ConfigError: " << error.what() << "\nof:\n" << text;
    }
  }
  EXPECT_GT(understood, 20);
  EXPECT_GT(refused, 500);
}

// All texts of up to four of the characters that the grammar is made of.
TEST(Config, EveryShortTextIsRefusedInALine) {
  const std::string alphabet = "a1.,=-[]{}\"'# \n\\\xc3";
  std::set<std::string> words;
  for (int length = 1; length <= 4; ++length) {
    std::vector<std::size_t> digits(static_cast<std::size_t>(length), 0);
    for (std::size_t at = 0; at < digits.size();) {
      std::string text;
      for (const std::size_t digit : digits) text += alphabet[digit];
      try {
        parse_config(text, "/x/y.toml");
        ADD_FAILURE() << "accepted without any data: " << text;
      } catch (const ConfigError& error) {
        words.insert(error.what());
        EXPECT_TRUE(speaks_for_itself(error.what())) << error.what() << "\nof:\n" << text;
      } catch (const std::exception& error) {
        ADD_FAILURE() << "no ConfigError: " << error.what() << "\nof:\n" << text;
      }
      for (at = 0; at < digits.size() && ++digits[at] == alphabet.size(); ++at) digits[at] = 0;
    }
  }
  EXPECT_GT(words.size(), 20u);
}

}  // namespace
}  // namespace ptyle::driver

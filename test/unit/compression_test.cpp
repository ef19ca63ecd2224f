// core/compression: what goes in comes out again, in pieces of any size; what is damaged is said.
#include "core/compression.hpp"

#include <gtest/gtest.h>
#include <zstd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "temporary_folder.hpp"

namespace {

using core::Compression;
using test::content_of;
using test::error_of;
using test::put;

constexpr std::size_t kAny = std::size_t{1} << 20;

std::string compressed(
    Compression compression, std::string_view text,
    const std::function<std::size_t()>& piece = [] { return kAny; }) {
  std::string out;
  const core::ByteSink sink = [&out](std::string_view bytes) { out += bytes; };
  const auto compressor = core::make_compressor(compression);
  while (!text.empty()) {
    const std::size_t size = std::min(piece(), text.size());
    compressor->write(text.substr(0, size), sink);
    text.remove_prefix(size);
  }
  compressor->finish(sink);
  return out;
}

// Input and room of the sizes that are asked for, in memory of exactly those sizes.
std::string decompressed(
    Compression compression, std::string_view bytes,
    const std::function<std::size_t()>& piece = [] { return kAny; },
    const std::function<std::size_t()>& room = [] { return kAny; }) {
  std::string out;
  const auto decompressor = core::make_decompressor(compression);
  while (!bytes.empty()) {
    const std::size_t size = std::min(piece(), bytes.size());
    const auto exact = std::make_unique<char[]>(size);
    std::copy_n(bytes.begin(), size, exact.get());
    bytes.remove_prefix(size);
    std::string_view input(exact.get(), size);
    for (;;) {
      const std::size_t free = room();
      const auto to = std::make_unique<char[]>(free);
      const std::size_t made = decompressor->read(input, to.get(), free);
      if (made > free) {
        ADD_FAILURE() << made << " bytes where " << free << " were free";
        return out;
      }
      out.append(to.get(), made);
      if (made < free) {
        EXPECT_TRUE(input.empty()) << "with room left over the input is used up";
        break;
      }
    }
  }
  decompressor->finish();
  return out;
}

std::string some_text(std::mt19937& random, std::size_t size) {
  std::string text(size, ' ');
  const bool noise = random() % 2 == 0;
  for (std::size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>(noise ? random() : 'a' + i / 7 % 13);
  }
  return text;
}

class EachCompression : public testing::TestWithParam<Compression> {};
class RealCompression : public testing::TestWithParam<Compression> {};

std::string name_of_case(const testing::TestParamInfo<Compression>& info) {
  return core::name_of(info.param);
}

INSTANTIATE_TEST_SUITE_P(All, EachCompression,
                         testing::Values(Compression::kNone, Compression::kGzip,
                                         Compression::kZstd),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(All, RealCompression,
                         testing::Values(Compression::kGzip, Compression::kZstd), name_of_case);

TEST(CompressionNames, AreThreeAndNoOther) {
  EXPECT_EQ(core::parse_compression("none"), Compression::kNone);
  EXPECT_EQ(core::parse_compression("gzip"), Compression::kGzip);
  EXPECT_EQ(core::parse_compression("zstd"), Compression::kZstd);
  for (const char* other : {"", "GZIP", "gz", "zstd ", "lz4"}) {
    EXPECT_EQ(core::parse_compression(other), std::nullopt) << other;
  }
  EXPECT_STREQ(core::suffix_of(Compression::kNone), "");
  EXPECT_STREQ(core::suffix_of(Compression::kGzip), ".gz");
  EXPECT_STREQ(core::suffix_of(Compression::kZstd), ".zst");
}

TEST_P(EachCompression, BringsTextsOfAnySizeBack) {
  std::mt19937 random(7);
  std::vector<std::size_t> sizes = {0, 1, 2, 1000, 262'143, 262'144, 262'145, 3'000'000};
  for (int i = 0; i < 30; ++i) {
    sizes.push_back(random() % (std::size_t{1} << (random() % 20)));
  }
  for (const std::size_t size : sizes) {
    const std::string text = some_text(random, size);
    const auto any_size = [&] { return 1 + random() % (std::size_t{1} << (random() % 20)); };
    const std::string bytes = compressed(GetParam(), text, any_size);
    ASSERT_TRUE(decompressed(GetParam(), bytes, any_size, any_size) == text) << size;
  }
}

TEST_P(EachCompression, BringsBytesBackOneByOne) {
  std::mt19937 random(8);
  const auto one = [] { return std::size_t{1}; };
  for (const std::size_t size : {1U, 300U, 5000U}) {
    const std::string text = some_text(random, size);
    EXPECT_TRUE(decompressed(GetParam(), compressed(GetParam(), text, one), one, one) == text);
  }
}

TEST_P(EachCompression, GivesNothingWhereThereIsNoRoom) {
  const std::string bytes = compressed(GetParam(), "text");
  std::string_view input = bytes;
  char none = 'x';
  EXPECT_EQ(core::make_decompressor(GetParam())->read(input, &none, 0), 0U);
  EXPECT_EQ(none, 'x');
}

TEST_P(RealCompression, ReadsPartsThatFollowEachOther) {
  std::mt19937 random(9);
  std::string bytes;
  std::string text;
  for (const std::size_t size : {10U, 0U, 100'000U, 1U, 0U}) {
    const std::string part = some_text(random, size);
    text += part;
    bytes += compressed(GetParam(), part);
  }
  const auto one = [] { return std::size_t{1}; };
  EXPECT_TRUE(decompressed(GetParam(), bytes) == text);
  EXPECT_TRUE(decompressed(GetParam(), bytes, one, [] { return std::size_t{5000}; }) == text);
}

TEST_P(RealCompression, RefusesWhatIsCutOffAtAnyByte) {
  const std::string bytes = compressed(GetParam(), "{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n");
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const core::Error error =
        error_of([&] { decompressed(GetParam(), std::string_view(bytes).substr(0, size)); });
    EXPECT_STREQ(error.sqlstate(), "22P04") << size << " of " << bytes.size();
    EXPECT_NE(error.message().find(core::name_of(GetParam())), std::string::npos) << error.what();
    EXPECT_NE(error.hint(), "");
  }
}

// A few bits carry no meaning (the time in gzip's header): altered there, the text is the same.
TEST_P(RealCompression, NeverGivesAnotherTextForAlteredBytes) {
  const std::string text = "{\"id\":1,\"text\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}\n";
  const std::string bytes = compressed(GetParam(), text + text + text);
  int refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string altered = bytes;
      altered[at] = static_cast<char>(altered[at] ^ (1 << bit));
      std::string out;
      const core::Error error = error_of([&] { out = decompressed(GetParam(), altered); });
      if (std::string(error.sqlstate()) == "00000") {
        EXPECT_EQ(out, text + text + text) << "byte " << at << ", bit " << bit;
      } else {
        EXPECT_STREQ(error.sqlstate(), "22P04") << error.what();
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, static_cast<int>(bytes.size()) * 4);
}

TEST_P(RealCompression, RefusesWhatIsNoSuchData) {
  for (const std::string& bytes :
       {std::string("{\"id\":1}\n"), std::string(1000, '\0'),
        compressed(GetParam(), "text") + "and something else",
        compressed(GetParam() == Compression::kGzip ? Compression::kZstd : Compression::kGzip,
                   "text")}) {
    EXPECT_STREQ(error_of([&] { decompressed(GetParam(), bytes); }).sqlstate(), "22P04");
  }
}

TEST_P(RealCompression, GivesOutNoMoreThanThereIsRoomForHoweverMuchIsInside) {
  constexpr std::size_t kBomb = std::size_t{64} << 20;
  const std::string bytes = compressed(GetParam(), std::string(kBomb, '\0'));
  ASSERT_LT(bytes.size(), std::size_t{100'000});
  const auto decompressor = core::make_decompressor(GetParam());
  constexpr std::size_t kRoom = 10'000;
  const auto to = std::make_unique<char[]>(kRoom);
  std::string_view input = bytes;
  std::size_t all = 0;
  for (std::size_t made = kRoom; made == kRoom; all += made) {
    made = decompressor->read(input, to.get(), kRoom);
    ASSERT_LE(made, kRoom);
  }
  decompressor->finish();
  EXPECT_EQ(all, kBomb);
}

// Ours have a checksum at their end; those of other writers need not.
TEST(ZstdWithoutChecksum, IsReadToo) {
  std::mt19937 random(13);
  for (const std::size_t size : {1U, 5000U, 100'000U, 1'000'000U}) {
    const std::string text = some_text(random, size);
    std::string bytes(ZSTD_compressBound(size), '\0');
    const std::size_t written = ZSTD_compress(bytes.data(), bytes.size(), text.data(), size, 3);
    ASSERT_EQ(ZSTD_isError(written), 0U);
    bytes.resize(written);
    const auto small = [] { return std::size_t{777}; };
    EXPECT_TRUE(decompressed(
                    Compression::kZstd, bytes, [] { return kAny; }, small) == text)
        << size;
    EXPECT_TRUE(decompressed(Compression::kZstd, bytes, small, small) == text) << size;
  }
}

class CommandLine : public test::TemporaryFolder {
 protected:
  static bool have(const std::string& tool) {
    return std::system(("command -v " + tool + " >/dev/null 2>&1").c_str()) == 0;
  }
  void speaks(Compression compression, const std::string& tool) {
    std::mt19937 random(10);
    const std::string text = some_text(random, 1'000'000) + some_text(random, 777);
    put(path("ours"), compressed(compression, text));
    ASSERT_EQ(std::system((tool + " -dc <" + path("ours") + " >" + path("plain")).c_str()), 0);
    EXPECT_TRUE(content_of(path("plain")) == text);
    ASSERT_EQ(std::system((tool + " -c <" + path("plain") + " >" + path("theirs")).c_str()), 0);
    EXPECT_TRUE(decompressed(compression, content_of(path("theirs"))) == text);
  }
};

TEST_F(CommandLine, GzipAndWeUnderstandEachOther) { speaks(Compression::kGzip, "gzip"); }

TEST_F(CommandLine, ZstdAndWeUnderstandEachOther) {
  if (!have("zstd")) {
    GTEST_SKIP() << "the zstd command is not installed";
  }
  speaks(Compression::kZstd, "zstd -q");
}

}  // namespace

// core/artifact_reader: lines as they were written, within limits that errors name.
#include "core/artifact_reader.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"
#include "core/ndjson.hpp"
#include "temporary_folder.hpp"

namespace {

using core::ArtifactReader;
using core::Compression;
using test::error_of;

constexpr std::uint64_t kNoLimit = UINT64_MAX;
constexpr Compression kAll[] = {Compression::kNone, Compression::kGzip, Compression::kZstd};

core::Descriptor file_with(std::string_view bytes) {
  core::Descriptor file(::memfd_create("artifact", MFD_CLOEXEC));
  core::write_all(file.get(), bytes, "artifact");
  ::lseek(file.get(), 0, SEEK_SET);
  return file;
}

std::string compressed(Compression compression, std::string_view text) {
  std::string out;
  const core::ByteSink sink = [&out](std::string_view bytes) { out += bytes; };
  const auto compressor = core::make_compressor(compression);
  compressor->write(text, sink);
  compressor->finish(sink);
  return out;
}

// So many bytes of one letter, without holding them.
std::string compressed_letters(Compression compression, std::size_t count, std::string_view end) {
  std::string out;
  const core::ByteSink sink = [&out](std::string_view bytes) { out += bytes; };
  const auto compressor = core::make_compressor(compression);
  const std::string piece(std::size_t{1} << 20, 'x');
  for (; count > 0; count -= std::min(count, piece.size())) {
    compressor->write(std::string_view(piece).substr(0, count), sink);
  }
  compressor->write(end, sink);
  compressor->finish(sink);
  return out;
}

ArtifactReader reader_of(std::string_view bytes, Compression compression,
                         std::uint64_t max_bytes = kNoLimit) {
  return {file_with(bytes), "/where/x.ndjson", compression, max_bytes};
}

std::vector<std::string> lines_of(ArtifactReader& reader) {
  std::vector<std::string> lines;
  for (std::string_view line; reader.next_line(line);) {
    lines.emplace_back(line);
  }
  return lines;
}

// By the definition: each newline ends a line, and what follows the last one is one if it is not
// empty.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> lines;
  std::string line;
  for (const char c : text) {
    if (c == '\n') {
      lines.push_back(line);
      line.clear();
    } else {
      line += c;
    }
  }
  if (!line.empty()) {
    lines.push_back(line);
  }
  return lines;
}

void expect_read(const std::string& text) {
  const std::vector<std::string> expected = split(text);
  for (const Compression compression : kAll) {
    const std::string bytes = compressed(compression, text);
    ArtifactReader reader = reader_of(bytes, compression, text.size());
    ASSERT_TRUE(lines_of(reader) == expected) << core::name_of(compression) << " " << text.size();
    EXPECT_EQ(reader.lines(), expected.size());
    EXPECT_EQ(reader.ndjson_bytes(), text.size());
    EXPECT_EQ(reader.bytes(), bytes.size());
    EXPECT_EQ(reader.sha256(), core::sha256_hex(bytes));
    std::string_view more = "kept";
    EXPECT_FALSE(reader.next_line(more)) << "asked once more";
    EXPECT_EQ(reader.lines(), expected.size());
  }
}

TEST(ArtifactReaderLines, OfSmallFiles) {
  for (const char* text :
       {"", "\n", "\n\n", "a", "a\n", "a\nb", "a\nb\n", "a\n\nb\n", "\na", "a\r\nb\r\n"}) {
    SCOPED_TRACE(text);
    expect_read(text);
  }
}

TEST(ArtifactReaderLines, OfAnyLengthAcrossTheBordersOfPieces) {
  constexpr std::size_t kPiece = std::size_t{256} << 10;
  for (const std::size_t first :
       {kPiece - 2, kPiece - 1, kPiece, kPiece + 1, 2 * kPiece - 1, 2 * kPiece, 5 * kPiece + 3}) {
    for (const char* rest : {"", "\n", "\nb", "\nb\n", "\n\n"}) {
      expect_read(std::string(first, 'a') + rest);
    }
  }
}

TEST(ArtifactReaderLines, OfRandomLengths) {
  std::mt19937 random(11);
  for (int round = 0; round < 10; ++round) {
    std::string text;
    const std::size_t size = random() % 2'000'000;
    while (text.size() < size) {
      std::string line(random() % (std::size_t{1} << (random() % 19)), ' ');
      for (std::size_t i = 0; i < line.size(); i += 1 + random() % 16) {
        line[i] = static_cast<char>('a' + random() % 26);
      }
      text += line;
      text += '\n';
    }
    if (round % 2 == 0) {
      text.pop_back();
    }
    expect_read(text);
  }
}

TEST(ArtifactReaderLines, StayWithTheirNumbers) {
  ArtifactReader reader = reader_of("a\nb\nc", Compression::kNone);
  std::string_view line;
  for (std::uint64_t number = 1; number <= 3; ++number) {
    ASSERT_TRUE(reader.next_line(line));
    EXPECT_EQ(reader.lines(), number);
  }
  EXPECT_FALSE(reader.next_line(line));
  EXPECT_EQ(reader.lines(), 3U);
}

TEST(ArtifactReaderLimits, RefuseMoreThanTheManifestStates) {
  const std::string text(100'000, 'x');
  for (const Compression compression : kAll) {
    ArtifactReader reader = reader_of(compressed(compression, text), compression, 99'999);
    const core::Error error = error_of([&] { lines_of(reader); });
    EXPECT_STREQ(error.sqlstate(), "54000");
    EXPECT_NE(error.message().find("/where/x.ndjson"), std::string::npos) << error.what();
    EXPECT_NE(error.message().find("99999"), std::string::npos) << error.what();
  }
}

TEST(ArtifactReaderLimits, StopABombEarly) {
  const std::string bomb = compressed_letters(Compression::kZstd, std::size_t{2} << 30, "");
  ASSERT_LT(bomb.size(), std::size_t{1} << 20);
  ArtifactReader reader = reader_of(bomb, Compression::kZstd, 1000);
  EXPECT_STREQ(error_of([&] { lines_of(reader); }).sqlstate(), "54000");
  EXPECT_LE(reader.ndjson_bytes(), std::uint64_t{1} << 20);
}

TEST(ArtifactReaderLimits, RefuseALineThatIsTooLong) {
  const std::string end = "\n";
  for (const Compression compression : {Compression::kGzip, Compression::kZstd}) {
    // Two good lines before it, for the number: gzip members and zstd frames may follow each other.
    const std::string bytes = compressed(compression, "a\nb\n") +
                              compressed_letters(compression, std::size_t{1} << 30, end);
    ArtifactReader reader = reader_of(bytes, compression);
    const core::Error error = error_of([&] { lines_of(reader); });
    EXPECT_STREQ(error.sqlstate(), "54000");
    EXPECT_NE(error.message().find("line 3 "), std::string::npos) << error.what();
    EXPECT_NE(error.message().find("/where/x.ndjson"), std::string::npos) << error.what();
    EXPECT_NE(error.message().find("256 MB"), std::string::npos) << error.what();
    EXPECT_LE(reader.ndjson_bytes(), core::ndjson::kMaxLineBytes + (std::size_t{1} << 20))
        << "it does not read on";
  }
}

TEST(ArtifactReaderLimits, AllowALineOfExactlyTheLimit) {
  ArtifactReader reader =
      reader_of(compressed_letters(Compression::kZstd, core::ndjson::kMaxLineBytes, "\n{}\n"),
                Compression::kZstd);
  std::string_view line;
  ASSERT_TRUE(reader.next_line(line));
  EXPECT_EQ(line.size(), core::ndjson::kMaxLineBytes);
  ASSERT_TRUE(reader.next_line(line));
  EXPECT_EQ(line, "{}");
}

TEST(ArtifactReaderDamage, IsSaidAndNotTakenForTheEnd) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) {
    text += "{\"id\":" + std::to_string(i) + "}\n";
  }
  for (const Compression compression : {Compression::kGzip, Compression::kZstd}) {
    const std::string bytes = compressed(compression, text);
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{5}, bytes.size() / 2, bytes.size() - 1}) {
      ArtifactReader reader = reader_of(std::string_view(bytes).substr(0, size), compression);
      EXPECT_STREQ(error_of([&] { lines_of(reader); }).sqlstate(), "22P04") << size;
    }
  }
}

TEST(ArtifactReaderDamage, OfTheFileItselfNamesIt) {
  core::Descriptor directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ArtifactReader reader(std::move(directory), "/where/x.ndjson", Compression::kNone, kNoLimit);
  const core::Error error = error_of([&] { lines_of(reader); });
  EXPECT_TRUE(error.message().starts_with("could not read file \"/where/x.ndjson\""))
      << error.what();
}

}  // namespace

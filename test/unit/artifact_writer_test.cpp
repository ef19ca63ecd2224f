// core/artifact_writer: nothing is visible before it is whole, and nothing is left of what failed.
#include "core/artifact_writer.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>

#include "temporary_folder.hpp"

namespace {

namespace fs = std::filesystem;
using core::ArtifactFolder;
using core::ArtifactWriter;
using core::FreeSpace;
using test::content_of;
using test::error_of;
using test::Names;
using test::put;

constexpr std::size_t kMegabyte = std::size_t{1} << 20;

class Writer : public test::TemporaryFolder {
 protected:
  void SetUp() override {
    TemporaryFolder::SetUp();
    folder_ = std::make_unique<ArtifactFolder>(directory_);
  }
  std::string hidden(const std::string& name) const {
    return "." + name + "." + std::to_string(::getpid()) + ".tmp";
  }

  std::unique_ptr<ArtifactFolder> folder_;
};

TEST_F(Writer, HoldsTheBytesUnderTheNameAndTheirHash) {
  ArtifactWriter writer(*folder_, "x");
  writer.write("hello ");
  writer.write("");
  writer.write("world\n");
  writer.finish();
  EXPECT_EQ(writer.written(), 12U);
  EXPECT_EQ(writer.sha256(), core::sha256_hex("hello world\n"));
  EXPECT_TRUE(writer.publish("x"));
  EXPECT_EQ(content_of(path("x")), "hello world\n");
  EXPECT_EQ(test::mode_of(path("x")), 0600U);
}

TEST_F(Writer, HoldsNothingWhereNothingWasWritten) {
  ArtifactWriter writer(*folder_, "x");
  writer.finish();
  EXPECT_TRUE(writer.publish("x"));
  EXPECT_EQ(writer.written(), 0U);
  EXPECT_EQ(writer.sha256(), core::sha256_hex(""));
  EXPECT_EQ(fs::file_size(path("x")), 0U);
}

TEST_F(Writer, HoldsPiecesOfAnySizeInTheirOrder) {
  std::mt19937 random(1);
  ArtifactWriter writer(*folder_, "x");
  std::string all;
  for (const std::size_t size :
       {std::size_t{1}, kMegabyte / 4, kMegabyte - 1, std::size_t{1}, kMegabyte, kMegabyte + 1,
        kMegabyte / 4 - 1, 3 * kMegabyte, std::size_t{0}, std::size_t{5}, 20 * kMegabyte}) {
    std::string piece(size, static_cast<char>('a' + all.size() % 26));
    for (std::size_t i = 0; i < size; i += 97) {
      piece[i] = static_cast<char>(random());
    }
    writer.write(piece);
    all += piece;
    ASSERT_LE(writer.written(), all.size());
    ASSERT_LT(all.size() - writer.written(), kMegabyte) << "no more is held back in memory";
  }
  writer.finish();
  EXPECT_EQ(writer.written(), all.size());
  EXPECT_EQ(writer.sha256(), core::sha256_hex(all));
  ASSERT_TRUE(writer.publish("x"));
  EXPECT_TRUE(content_of(path("x")) == all);
}

TEST_F(Writer, LetsBeReadWhatItSaysIsWritten) {
  ArtifactWriter writer(*folder_, "x");
  std::string all;
  for (int i = 0; i < 40; ++i) {
    const std::string piece(100'000, static_cast<char>('a' + i % 26));
    writer.write(piece);
    all += piece;
    std::string read(writer.written(), '\0');
    ASSERT_EQ(::pread(writer.fd(), read.data(), read.size(), 0), static_cast<ssize_t>(read.size()));
    ASSERT_TRUE(read == all.substr(0, read.size()));
  }
  EXPECT_GT(writer.written(), 0U);
}

TEST_F(Writer, ShowsNothingBeforeItIsPublished) {
  ArtifactWriter writer(*folder_, "x");
  writer.write(std::string(3 * kMegabyte, 'a'));
  EXPECT_EQ(folder_->list(), std::vector<std::string>{});
  writer.finish();
  EXPECT_EQ(folder_->list(), std::vector<std::string>{});
  EXPECT_EQ(names(), Names{hidden("x")});
  EXPECT_TRUE(writer.publish("x"));
  EXPECT_EQ(folder_->list(), std::vector<std::string>{"x"});
}

TEST_F(Writer, NeverReplacesWhateverHasTheName) {
  put(path("file"), "old");
  fs::create_directories(path("directory"));
  fs::create_symlink(path("nowhere"), path("dangling"));
  fs::create_symlink(path("file"), path("link"));
  ArtifactWriter writer(*folder_, "x");
  writer.write("new");
  writer.finish();
  for (const char* name : {"file", "directory", "dangling", "link"}) {
    EXPECT_FALSE(writer.publish(name)) << name;
  }
  EXPECT_EQ(content_of(path("file")), "old");
  EXPECT_FALSE(fs::exists(path("nowhere")));
  EXPECT_TRUE(writer.publish("free")) << "another name can still be taken";
  EXPECT_EQ(content_of(path("free")), "new");
}

TEST_F(Writer, LeavesNothingWhereItWasNotPublished) {
  {
    ArtifactWriter unfinished(*folder_, "x");
    unfinished.write("abc");
    ArtifactWriter finished(*folder_, "y");
    finished.finish();
    EXPECT_EQ(names().size(), 2U);
  }
  EXPECT_EQ(names(), Names{});
}

TEST_F(Writer, LeavesTheNameAloneWhereItWas) {
  {
    ArtifactWriter writer(*folder_, "x");
    writer.write("abc");
    writer.finish();
    ASSERT_TRUE(writer.publish("x"));
  }
  EXPECT_EQ(names(), Names{"x"});
  EXPECT_EQ(content_of(path("x")), "abc");
}

// A process that was killed may have had our number, and its hidden name may be another name of a
// file that is whole.
TEST_F(Writer, DoesNotWriteThroughALeftoverOfItsNumber) {
  put(path("whole"), "the killed process's");
  fs::create_hard_link(path("whole"), path(hidden("x")));
  put(path("victim"), "untouched");
  fs::create_symlink(path("victim"), path(hidden("y")));
  for (const char* name : {"x", "y"}) {
    ArtifactWriter writer(*folder_, name);
    writer.write("new");
    writer.finish();
    EXPECT_TRUE(writer.publish(name));
    EXPECT_EQ(content_of(path(name)), "new");
  }
  EXPECT_EQ(content_of(path("whole")), "the killed process's");
  EXPECT_EQ(content_of(path("victim")), "untouched");
}

TEST_F(Writer, RefusesANameThatIsTooLong) {
  EXPECT_STRNE(error_of([&] { ArtifactWriter(*folder_, std::string(300, 'x')); }).sqlstate(),
               "00000");
  EXPECT_EQ(names(), Names{});
  ArtifactWriter writer(*folder_, std::string(200, 'x') + ".manifest.json");
  EXPECT_EQ(names().size(), 1U) << "the longest plain name and its manifest's do fit";
}

// --- space -----------------------------------------------------------------------------------

TEST_F(Writer, LooksForSpaceBeforeItBegins) {
  const core::Error error = error_of([&] {
    ArtifactWriter(*folder_, "x", [](int) {
      return FreeSpace{.available = 99 * kMegabyte, .reserve = 100 * kMegabyte};
    });
  });
  EXPECT_STREQ(error.sqlstate(), "53100");
  EXPECT_NE(error.message().find(directory_), std::string::npos) << error.what();
  EXPECT_NE(error.detail().find("99 MB"), std::string::npos) << error.detail();
  EXPECT_NE(error.detail().find("100 MB"), std::string::npos) << error.detail();
  EXPECT_NE(error.hint(), "");
  EXPECT_EQ(names(), Names{});
}

TEST_F(Writer, TakesWhatIsExactlyEnough) {
  ArtifactWriter writer(*folder_, "x",
                        [](int) { return FreeSpace{.available = 100, .reserve = 100}; });
  EXPECT_EQ(names(), Names{hidden("x")});
}

TEST_F(Writer, LooksForSpaceWhileItWrites) {
  for (const std::size_t piece : {std::size_t{1000}, std::size_t{300'000}, 40 * kMegabyte}) {
    int looks = 0;
    std::uint64_t written = 0;
    const core::Error error = error_of([&] {
      ArtifactWriter writer(*folder_, "x", [&](int fd) {
        struct stat status {};
        EXPECT_EQ(::fstat(fd, &status), 0) << "of the file's own file system";
        return FreeSpace{.available = ++looks < 3 ? 2U : 0U, .reserve = 1};
      });
      const std::string bytes(piece, 'x');
      for (std::size_t all = 0; all < 100 * kMegabyte; all += piece) {
        writer.write(bytes);
        written = writer.written();
      }
    });
    EXPECT_STREQ(error.sqlstate(), "53100") << piece;
    EXPECT_EQ(looks, 3) << piece;
    EXPECT_LE(written, 33 * kMegabyte) << "two looks, 16 MB apart";
    EXPECT_EQ(names(), Names{}) << piece;
  }
}

TEST(FreeSpaceOf, AFileSystemKeepsATwentiethButAGigabyteAtMost) {
  const core::Descriptor file(::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_TRUE(file.valid());
  const FreeSpace space = core::free_space(file.get());
  const fs::space_info info = fs::space("/tmp");
  EXPECT_EQ(space.reserve, std::min<std::uint64_t>(info.capacity / 20, 1024 * kMegabyte));
  EXPECT_LE(space.available, info.capacity);
}

TEST(FreeSpaceOf, WhatDoesNotTellIsEnough) {
  const FreeSpace space = core::free_space(-1);
  EXPECT_GE(space.available, space.reserve);
}

// --- writes that fail ------------------------------------------------------------------------

const auto kPlenty = [](int) { return FreeSpace{.available = 1, .reserve = 0}; };

std::string failure_of(const std::string& directory, const ArtifactWriter::SpaceProbe& probe) {
  const ArtifactFolder folder(directory);
  const core::Error error = error_of([&] {
    ArtifactWriter writer(folder, "x", probe);
    for (int i = 0; i < 40; ++i) {
      writer.write(std::string(kMegabyte, 'x'));
    }
    writer.finish();
    writer.publish("x");
  });
  if (!fs::is_empty(directory)) {
    return std::string("something is left after ") + error.what();
  }
  return std::string(error.sqlstate()) + " " + error.message() + " | " + error.hint();
}

TEST_F(Writer, SaysThatALimitForFilesWasReachedAndLeavesNothing) {
  const std::string answer = test::in_a_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{2 * kMegabyte + 5, 2 * kMegabyte + 5};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) {
      return std::string("could not limit the size of files");
    }
    return failure_of(directory_, kPlenty);
  });
  EXPECT_TRUE(answer.starts_with("58030 could not write")) << answer;
  EXPECT_NE(answer.find("File too large"), std::string::npos) << answer;
}

TEST_F(Writer, SaysThatTheDiskIsFullAndLeavesNothing) {
  const std::string answer = test::in_a_child([&] {
    if (!test::mount_small_disk(directory_, "size=4m")) {
      return std::string("skip");
    }
    return failure_of(directory_, kPlenty);
  });
  if (answer == "skip") {
    GTEST_SKIP() << "no file system can be mounted here";
  }
  EXPECT_TRUE(answer.starts_with("53100 could not write")) << answer;
  EXPECT_NE(answer.find("| Free space"), std::string::npos) << answer;
}

// The real figures of a real file system: it stops before the disk is full.
TEST_F(Writer, LeavesTheReserveOfARealFileSystem) {
  const std::string answer = test::in_a_child([&] {
    if (!test::mount_small_disk(directory_, "size=32m")) {
      return std::string("skip");
    }
    put(path("taken"), std::string(15 * kMegabyte + kMegabyte / 2, 'x'));
    const ArtifactFolder folder(directory_);
    const core::Error error = error_of([&] {
      ArtifactWriter writer(folder, "x");
      for (int i = 0; i < 40; ++i) {
        writer.write(std::string(kMegabyte, 'x'));
      }
    });
    return std::string(error.sqlstate()) + " " + error.message();
  });
  if (answer == "skip") {
    GTEST_SKIP() << "no file system can be mounted here";
  }
  EXPECT_TRUE(answer.starts_with("53100 not enough free space")) << answer;
}

}  // namespace

// core/artifact_folder: names that lead nowhere else, and what dead writers leave behind.
#include "core/artifact_folder.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/artifact_writer.hpp"
#include "core/manifest.hpp"
#include "temporary_folder.hpp"

namespace {

namespace fs = std::filesystem;
using core::ArtifactFolder;
using core::ArtifactWriter;
using test::content_of;
using test::error_of;
using test::mode_of;
using test::Names;
using test::names_in;
using test::put;

// --- names -----------------------------------------------------------------------------------

TEST(FolderName, LeavesWhatIsOnlyAName) {
  for (const char* name : {"postgres", "Grade-12_math.v2", "a..b", "مدرسة", "é"}) {
    EXPECT_EQ(core::folder_name(name), name);
  }
}

TEST(FolderName, EncodesWhatAFileSystemCouldTakeForMore) {
  EXPECT_EQ(core::folder_name("."), "%2E");
  EXPECT_EQ(core::folder_name(".."), "%2E.");
  EXPECT_EQ(core::folder_name(".hidden"), "%2Ehidden");
  EXPECT_EQ(core::folder_name("a/b"), "a%2Fb");
  EXPECT_EQ(core::folder_name("../x"), "%2E.%2Fx");
  EXPECT_EQ(core::folder_name("100%"), "100%25");
  EXPECT_EQ(core::folder_name("a b\n\"*\\"), "a%20b%0A%22%2A%5C");
  EXPECT_EQ(core::folder_name(std::string("\0\x7F", 2)), "%00%7F");
}

TEST(FolderName, IsDifferentForDifferentTexts) {
  std::vector<std::string> texts = {"%2E", "%2E.", "a%2Fb", "a/b", ".", "..", "%", "%25", "%2525"};
  for (int byte = 0; byte < 256; ++byte) {
    texts.emplace_back(1, static_cast<char>(byte));
    texts.push_back("x" + std::string(1, static_cast<char>(byte)));
  }
  std::ranges::sort(texts);
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  Names names;
  for (const std::string& text : texts) {
    names.insert(core::folder_name(text));
  }
  EXPECT_EQ(names.size(), texts.size());
}

TEST(ShortName, LeavesWhatIsShortEnough) {
  for (const std::string& name : {std::string(), std::string("chunks"), std::string(100, 'x')}) {
    EXPECT_EQ(core::short_name(name), name);
  }
}

TEST(ShortName, CutsWhatIsTooLongAndTellsItApart) {
  const std::string start(150, 'x');
  const std::string one = core::short_name(start + "1");
  EXPECT_LE(one.size(), 100U);
  EXPECT_TRUE(one.starts_with(start.substr(0, 80))) << one;
  EXPECT_EQ(core::short_name(start + "1"), one);
  EXPECT_NE(core::short_name(start + "2"), one);
}

// Whatever the place at which it falls.
TEST(ShortName, CutsNeitherCharactersNorWhatIsEncoded) {
  for (std::size_t before = 0; before < 6; ++before) {
    const std::string letters(before, 'x');
    std::string arabic = letters;
    std::string emoji = letters;
    std::string encoded = letters;
    for (int i = 0; i < 60; ++i) {
      arabic += "ع";
      emoji += "\xF0\x9F\x98\x80";
      encoded += "%2F";
    }
    for (const auto& [name, unit] :
         {std::pair(arabic, std::size_t{2}), std::pair(emoji, std::size_t{4}),
          std::pair(encoded, std::size_t{3})}) {
      const std::string cut = core::short_name(name);
      const std::size_t kept = cut.find('~');
      ASSERT_NE(kept, std::string::npos) << cut;
      EXPECT_EQ((kept - before) % unit, 0U) << cut;
      EXPECT_EQ(cut.substr(0, kept), name.substr(0, kept));
    }
  }
}

TEST(PlainFileName, IsVisibleAndWithoutAPath) {
  for (const std::string& name :
       {std::string("export.ndjson"), std::string("a"), std::string("a..b"), std::string("تصدير"),
        std::string("two words"), std::string(200, 'x')}) {
    EXPECT_TRUE(core::is_plain_file_name(name)) << name;
  }
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string(".hidden"),
        std::string("a/b"), std::string("/a"), std::string("a/"), std::string("a\\b"),
        std::string("a\nb"), std::string("\x1B[31m"), std::string("a\x7F"), std::string("a\0b", 3),
        std::string(201, 'x')}) {
    EXPECT_FALSE(core::is_plain_file_name(name)) << name;
  }
}

// --- the folder ------------------------------------------------------------------------------

class Folder : public test::TemporaryFolder {
 protected:
  ArtifactFolder make() const { return {path("root"), "db"}; }
  std::string inside(const std::string& name) const { return path("root/db/" + name); }
};

TEST_F(Folder, IsCreatedWithItsParentsForTheOwnerAlone) {
  const mode_t before = ::umask(0);
  const ArtifactFolder folder(path("a/b"), "db");
  ::umask(before);
  for (const char* part : {"a", "a/b", "a/b/db"}) {
    EXPECT_EQ(mode_of(path(part)), 0700U) << part;
  }
  EXPECT_EQ(folder.path(), path("a/b/db"));
  EXPECT_EQ(folder.path_of("x"), path("a/b/db/x"));
}

TEST_F(Folder, IsTakenAsItIsWhereItExists) {
  fs::create_directories(path("root/db"));
  put(inside("kept"), "content");
  ::chmod(path("root/db").c_str(), 0750);
  EXPECT_EQ(make().list(), std::vector<std::string>{"kept"});
  EXPECT_EQ(mode_of(path("root/db")), 0750U);
}

TEST_F(Folder, ThatIsASymbolicLinkIsRefused) {
  fs::create_directories(path("root"));
  fs::create_directories(path("elsewhere"));
  fs::create_directory_symlink(path("elsewhere"), path("root/db"));
  const core::Error error = error_of([&] { make(); });
  EXPECT_STREQ(error.sqlstate(), "42809") << error.what();
  EXPECT_NE(error.message().find(path("root/db")), std::string::npos) << error.what();
  EXPECT_NE(error.hint(), "");
  EXPECT_EQ(names_in(path("elsewhere")), Names{});
}

TEST_F(Folder, ThatIsAFileIsRefused) {
  fs::create_directories(path("root"));
  put(path("root/db"), "content");
  EXPECT_STREQ(error_of([&] { make(); }).sqlstate(), "42809");
  EXPECT_STREQ(error_of([&] { ArtifactFolder(path("root/db")); }).sqlstate(), "42809");
  EXPECT_EQ(content_of(path("root/db")), "content");
}

TEST_F(Folder, ThatIsNotThereIsNotCreatedWhereAPathIsGiven) {
  EXPECT_STREQ(error_of([&] { ArtifactFolder(path("absent")); }).sqlstate(), "58P01");
  EXPECT_EQ(names(), Names{});
}

TEST_F(Folder, StaysTheOneThatWasOpened) {
  const ArtifactFolder folder = make();
  put(inside("file"), "the right one");
  fs::rename(path("root/db"), path("root/moved"));
  fs::create_directories(path("root/db"));
  put(inside("file"), "another");
  put(inside("more"), "another");
  EXPECT_EQ(folder.list(), std::vector<std::string>{"file"});
  const core::Descriptor file = folder.open("file");
  char buffer[100];
  const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
  EXPECT_EQ(std::string(buffer, static_cast<std::size_t>(std::max<ssize_t>(got, 0))),
            "the right one");
  folder.remove("file");
  EXPECT_EQ(content_of(inside("file")), "another");
}

TEST_F(Folder, OpensRegularFilesOnly) {
  const ArtifactFolder folder = make();
  put(path("victim"), "secret");
  put(inside("file"), "content");
  fs::create_symlink(path("victim"), inside("link"));
  fs::create_symlink(path("nowhere"), inside("dangling"));
  fs::create_directories(inside("directory"));
  ASSERT_EQ(::mkfifo(inside("fifo").c_str(), 0600), 0);
  const core::Descriptor socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(inside("socket").size(), sizeof address.sun_path);
  std::strcpy(address.sun_path, inside("socket").c_str());
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);

  EXPECT_TRUE(folder.open("file").valid());
  for (const char* name : {"link", "dangling", "directory", "fifo", "socket"}) {
    const core::Error error = error_of([&] { folder.open(name); });
    EXPECT_STRNE(error.sqlstate(), "00000") << name;
    EXPECT_NE(error.message().find(inside(name)), std::string::npos) << error.what();
  }
  const core::Error error = error_of([&] { folder.open("absent"); });
  EXPECT_STREQ(error.sqlstate(), "58P01");
  EXPECT_NE(error.message().find("absent"), std::string::npos) << error.what();
}

TEST_F(Folder, KnowsWhatExistsWithoutFollowingLinks) {
  const ArtifactFolder folder = make();
  put(inside("file"), "");
  fs::create_symlink(path("nowhere"), inside("dangling"));
  EXPECT_TRUE(folder.exists("file"));
  EXPECT_TRUE(folder.exists("dangling")) << "the name is taken";
  EXPECT_FALSE(folder.exists("absent"));
}

TEST_F(Folder, RemovesAFileOrALinkButNotWhatItLeadsTo) {
  const ArtifactFolder folder = make();
  put(path("victim"), "untouched");
  put(inside("file"), "");
  fs::create_symlink(path("victim"), inside("link"));
  fs::create_directories(inside("directory"));
  folder.remove("file");
  folder.remove("link");
  folder.remove("absent");
  EXPECT_EQ(names_in(path("root/db")), Names{"directory"});
  EXPECT_EQ(content_of(path("victim")), "untouched");
  EXPECT_STRNE(error_of([&] { folder.remove("directory"); }).sqlstate(), "00000");
  EXPECT_TRUE(fs::is_directory(inside("directory")));
}

TEST_F(Folder, ListsVisibleNamesInOrderEachTimeAnew) {
  const ArtifactFolder folder = make();
  EXPECT_EQ(folder.list(), std::vector<std::string>{});
  for (const char* name : {"b", "a", "C", ".hidden", ".x.1.tmp", "ب"}) {
    put(inside(name), "");
  }
  const std::vector<std::string> expected = {"C", "a", "b", "ب"};
  EXPECT_EQ(folder.list(), expected);
  EXPECT_EQ(folder.list(), expected);
}

// --- sweeping --------------------------------------------------------------------------------

constexpr const char* kFile = "x.ndjson";

// A process that exports as jobs/export does, and is killed after so many steps.
class Sweep : public Folder {
 protected:
  void export_that_dies_after(int steps) const {
    const pid_t child = test::start_child([&] {
      const auto step = [&] {
        if (steps-- == 0) {
          ::raise(SIGKILL);
        }
      };
      const ArtifactFolder folder = make();
      auto data = std::make_unique<ArtifactWriter>(folder, kFile);
      data->write("{\"id\":1}\n");
      step();  // 0
      data->finish();
      step();  // 1
      auto manifest = std::make_unique<ArtifactWriter>(folder, core::manifest_name(kFile));
      manifest->write("manifest");
      manifest->finish();
      step();  // 2
      data->publish(kFile);
      step();  // 3
      manifest->publish(core::manifest_name(kFile));
      step();  // 4
      manifest.reset();
      step();  // 5
      data.reset();
      step();  // 6
    });
    const int status = test::status_of(child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  }
  std::size_t hidden() const {
    const Names names = names_in(path("root/db"));
    return static_cast<std::size_t>(
        std::ranges::count_if(names, [](const std::string& name) { return name[0] == '.'; }));
  }
  void expect_swept(int steps, int swept, const Names& left) const {
    export_that_dies_after(steps);
    EXPECT_EQ(hidden(), static_cast<std::size_t>(swept));
    const ArtifactFolder folder = make();
    EXPECT_EQ(folder.sweep(), swept);
    EXPECT_EQ(names_in(folder.path()), left);
    EXPECT_EQ(folder.sweep(), 0);
    EXPECT_EQ(names_in(folder.path()), left) << "after a second sweep";
  }
  static Names complete() { return {kFile, core::manifest_name(kFile)}; }
};

TEST_F(Sweep, RemovesAFileThatWasBeingWritten) { expect_swept(0, 1, {}); }
TEST_F(Sweep, RemovesAFileThatWasFinished) { expect_swept(1, 1, {}); }
TEST_F(Sweep, RemovesAFileAndItsManifestThatWereNotPublished) { expect_swept(2, 2, {}); }
TEST_F(Sweep, RemovesAFileThatWasPublishedWithoutItsManifest) { expect_swept(3, 2, {}); }
TEST_F(Sweep, LeavesWhatWasPublishedWithItsManifest) { expect_swept(4, 2, complete()); }
TEST_F(Sweep, LeavesItWhereOneHiddenNameIsLeft) { expect_swept(5, 1, complete()); }
TEST_F(Sweep, LeavesItWhereNoHiddenNameIsLeft) { expect_swept(6, 0, complete()); }

TEST_F(Sweep, LeavesWhatIsNoLeftover) {
  const ArtifactFolder folder = make();
  put(path("victim"), "untouched");
  fs::create_symlink(path("victim"), inside(".link.tmp"));
  fs::create_directories(inside(".directory.tmp"));
  ASSERT_EQ(::mkfifo(inside(".fifo.tmp").c_str(), 0600), 0);
  put(inside(".hidden"), "");
  put(inside("visible.tmp"), "");
  put(inside("without_manifest.ndjson"), "not ours to judge");
  const Names before = names_in(folder.path());
  EXPECT_EQ(folder.sweep(), 0);
  EXPECT_EQ(names_in(folder.path()), before);
  EXPECT_EQ(content_of(path("victim")), "untouched");
}

TEST_F(Sweep, LeavesTheFilesOfAWriterThatLives) {
  const ArtifactFolder folder = make();
  ArtifactWriter writer(folder, kFile);
  writer.write("{\"id\":1}\n");
  EXPECT_EQ(folder.sweep(), 0) << "our own";

  int go[2];
  int ready[2];
  ASSERT_EQ(::pipe2(go, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  // False where the other process has ended.
  const auto wait_for = [](int end) {
    char byte = 0;
    return ::read(end, &byte, 1) == 1;
  };
  const auto signal = [](int end) { return ::write(end, "x", 1) == 1; };
  const pid_t child = test::start_child([&] {
    ::close(go[1]);
    const ArtifactFolder same = make();
    ArtifactWriter other(same, "y.ndjson");
    other.write("{\"id\":2}\n");
    other.finish();
    other.publish("y.ndjson");
    if (!signal(ready[1]) || !wait_for(go[0])) {
      ::_exit(2);
    }
    ArtifactWriter manifest(same, core::manifest_name("y.ndjson"));
    manifest.finish();
    if (!manifest.publish(core::manifest_name("y.ndjson"))) {
      ::_exit(3);
    }
  });
  ::close(go[0]);
  ::close(ready[1]);
  EXPECT_TRUE(wait_for(ready[0]));
  EXPECT_EQ(folder.sweep(), 0) << "of another process, published and waiting for its manifest";
  EXPECT_TRUE(folder.exists("y.ndjson"));
  EXPECT_TRUE(signal(go[1]));
  EXPECT_EQ(test::status_of(child), 0);
  ::close(go[1]);
  ::close(ready[0]);
  writer.finish();
  EXPECT_TRUE(writer.publish(kFile));
  EXPECT_EQ(content_of(inside("y.ndjson")), "{\"id\":2}\n");
}

// Between the creation of a hidden file and its lock a sweep may come.
TEST_F(Sweep, ThatComesAtAnyMomentTakesNothingFromAWriter) {
  const ArtifactFolder folder = make();
  const pid_t parent = ::getpid();
  const pid_t sweeper = test::start_child([&] {
    const ArtifactFolder same = make();
    while (!same.exists("stop") && ::getppid() == parent) {
      same.sweep();
    }
  });
  for (int i = 0; i < 500; ++i) {
    const std::string name = "n" + std::to_string(i);
    ArtifactWriter manifest(folder, core::manifest_name(name));
    manifest.finish();
    ArtifactWriter writer(folder, name);
    writer.write(name);
    writer.finish();
    ASSERT_TRUE(writer.publish(name));
    ASSERT_TRUE(manifest.publish(core::manifest_name(name)));
    ASSERT_EQ(content_of(inside(name)), name);
  }
  put(inside("stop"), "");
  EXPECT_EQ(test::status_of(sweeper), 0);
  EXPECT_EQ(folder.list().size(), 1001U);
}

}  // namespace

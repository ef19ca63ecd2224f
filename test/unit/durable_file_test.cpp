// core/durable_file: files that are whole or not there, under names that nobody loses.
#include "core/durable_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace {

namespace fs = std::filesystem;

class DurableFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "bacmr_unit_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override {
    ::chmod(directory_.c_str(), 0700);
    fs::remove_all(directory_);
  }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  std::string write(const std::string& content) const {
    return core::write_new_file(directory_, "report", ".json", content);
  }

  std::set<std::string> names() const { return names_in(directory_); }
  static std::set<std::string> names_in(const std::string& directory) {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(directory)) {
      found.insert(entry.path().filename().string());
    }
    return found;
  }

  static std::string read(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void put(const std::string& file, const std::string& content) {
    std::ofstream(file, std::ios::binary) << content;
  }
  static unsigned mode(const std::string& file) {
    struct stat status {};
    EXPECT_EQ(::stat(file.c_str(), &status), 0) << file;
    return status.st_mode & 07777;
  }

  std::string directory_;
};

using Names = std::set<std::string>;

core::Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const core::Error& e) {
    return e;
  }
  return {"00000", "no error was thrown"};
}

TEST(UtcStamp, WritesTheMomentInUtcWhateverTheTimeZone) {
  const char* const before = std::getenv("TZ");
  const std::string kept = before != nullptr ? before : "";
  for (const char* zone : {"UTC", "Africa/Casablanca", "Asia/Kathmandu"}) {
    ::setenv("TZ", zone, 1);
    ::tzset();
    EXPECT_EQ(core::utc_stamp(0), "19700101_000000") << zone;
    EXPECT_EQ(core::utc_stamp(951'868'799), "20000229_235959") << zone;
  }
  if (before != nullptr) {
    ::setenv("TZ", kept.c_str(), 1);
  } else {
    ::unsetenv("TZ");
  }
  ::tzset();
}

TEST_F(DurableFile, HoldsTheContentUnderTheNameAskedFor) {
  EXPECT_EQ(write("{}\n"), path("report.json"));
  EXPECT_EQ(read(path("report.json")), "{}\n");
  EXPECT_EQ(names(), Names{"report.json"}) << "and nothing else is left";
}

TEST_F(DurableFile, HoldsAnyBytesAndAnyLength) {
  std::string bytes;
  for (int i = 0; i < 3'000'000; ++i) {
    bytes += static_cast<char>(i * 7);
  }
  EXPECT_EQ(read(write(bytes)), bytes);
  EXPECT_EQ(read(write("")), "");
  EXPECT_EQ(read(write(std::string("a\0b", 3))), std::string("a\0b", 3));
}

TEST_F(DurableFile, IsReadableByItsOwnerAlone) {
  const mode_t before = ::umask(0);
  const std::string file = write("secret");
  ::umask(before);
  EXPECT_EQ(mode(file), 0600U);
}

TEST_F(DurableFile, ATakenNameGetsANumber) {
  EXPECT_EQ(write("one"), path("report.json"));
  EXPECT_EQ(write("two"), path("report_2.json"));
  EXPECT_EQ(write("three"), path("report_3.json"));
  EXPECT_EQ(read(path("report.json")), "one");
  EXPECT_EQ(read(path("report_2.json")), "two");
  EXPECT_EQ(read(path("report_3.json")), "three");
  EXPECT_EQ(names().size(), 3U);
}

TEST_F(DurableFile, AFreeNumberInBetweenIsTaken) {
  put(path("report.json"), "one");
  put(path("report_3.json"), "three");
  EXPECT_EQ(write("two"), path("report_2.json"));
  EXPECT_EQ(write("four"), path("report_4.json"));
  EXPECT_EQ(read(path("report_3.json")), "three");
}

TEST_F(DurableFile, NeverReplacesWhateverHasTheName) {
  ASSERT_TRUE(fs::create_directory(path("report.json")));
  put(path("elsewhere"), "untouched");
  fs::create_symlink(path("elsewhere"), path("report_2.json"));
  fs::create_symlink(path("nowhere"), path("report_3.json"));
  EXPECT_EQ(write("new"), path("report_4.json"));
  EXPECT_TRUE(fs::is_directory(path("report.json")));
  EXPECT_EQ(read(path("elsewhere")), "untouched");
  EXPECT_FALSE(fs::exists(path("nowhere"))) << "a dangling link is not followed";
}

TEST_F(DurableFile, AFileWithoutWriteRightsIsNotReplacedEither) {
  put(path("report.json"), "old");
  ASSERT_EQ(::chmod(path("report.json").c_str(), 0400), 0);
  EXPECT_EQ(write("new"), path("report_2.json"));
  EXPECT_EQ(read(path("report.json")), "old");
}

// The temporary name holds stem and process number: a process that was killed between giving the
// file its name and removing the temporary one leaves two names of one file, and a later process
// may have the same number (in a container, soon).
TEST_F(DurableFile, ALeftoverOfAKilledProcessIsNotWrittenThrough) {
  put(path("report.json"), "the killed process's whole file");
  const std::string left = ".report." + std::to_string(::getpid()) + ".tmp";
  fs::create_hard_link(path("report.json"), path(left));
  EXPECT_EQ(write("new"), path("report_2.json"));
  EXPECT_EQ(read(path("report.json")), "the killed process's whole file");
  EXPECT_EQ(read(path("report_2.json")), "new");
}

TEST_F(DurableFile, ALinkPlantedUnderTheTemporaryNameIsNotFollowed) {
  put(path("victim"), "untouched");
  fs::create_symlink(path("victim"), path(".report." + std::to_string(::getpid()) + ".tmp"));
  try {
    write("new");
  } catch (const core::Error&) {
    // Refusing is as good as working around it.
  }
  EXPECT_EQ(read(path("victim")), "untouched");
}

TEST_F(DurableFile, WhenEveryNumberIsTakenItGivesUpAndLeavesNothing) {
  put(path("report.json"), "");
  for (int i = 2; i <= 1100; ++i) {
    fs::create_hard_link(path("report.json"), path("report_" + std::to_string(i) + ".json"));
  }
  const core::Error error = error_of([&] { write("new"); });
  EXPECT_STREQ(error.sqlstate(), "58P02") << error.what();
  EXPECT_EQ(names().size(), 1100U) << "no temporary file is left";
}

TEST_F(DurableFile, AMissingDirectoryIsSaidWithAHint) {
  const core::Error error =
      error_of([&] { core::write_new_file(path("absent"), "report", ".json", "x"); });
  EXPECT_STREQ(error.sqlstate(), "58P01");
  EXPECT_NE(error.message().find(path("absent")), std::string::npos) << error.what();
  EXPECT_NE(error.hint().find("bacmr.artifact_directory"), std::string::npos) << error.hint();
  EXPECT_EQ(names(), Names{});
}

// What errcode_for_file_access() of the server makes of ENOTDIR: wrong_object_type.
TEST_F(DurableFile, ADirectoryThatIsAFileIsSaidWithAHint) {
  put(path("file"), "content");
  for (const std::string& directory : {path("file"), path("file/below")}) {
    for (const core::Error& error :
         {error_of([&] { core::write_new_file(directory, "report", ".json", "x"); }),
          error_of([&] { core::make_private_directory(directory); })}) {
      EXPECT_STREQ(error.sqlstate(), "42809") << error.what();
      EXPECT_NE(error.message().find(path("file")), std::string::npos) << error.what();
      EXPECT_NE(error.hint().find("bacmr.artifact_directory"), std::string::npos);
    }
  }
  EXPECT_EQ(read(path("file")), "content");
}

// Root may write everywhere: for as long as this lives, root is nobody.
class NotRoot {
 public:
  NotRoot() {
    if (::geteuid() == 0 && ::seteuid(kNobody) != 0) {
      throw std::runtime_error("seteuid failed");
    }
  }
  NotRoot(const NotRoot&) = delete;
  NotRoot& operator=(const NotRoot&) = delete;
  ~NotRoot() {
    if (::getuid() == 0 && ::seteuid(0) != 0) {
      std::abort();
    }
  }

 private:
  static constexpr uid_t kNobody = 65534;
};

TEST_F(DurableFile, AnUnwritableDirectoryIsSaidWithAHint) {
  ASSERT_EQ(::chmod(directory_.c_str(), 0555), 0);
  const NotRoot not_root;
  for (const core::Error& error : {error_of([&] { write("x"); }), error_of([&] {
                                     core::make_private_directory(path("below"));
                                   })}) {
    EXPECT_STREQ(error.sqlstate(), "42501") << error.what();
    EXPECT_NE(error.hint().find("bacmr.artifact_directory"), std::string::npos);
  }
  EXPECT_EQ(names(), Names{});
}

TEST_F(DurableFile, ANameThatIsTooLongLeavesNothing) {
  const core::Error error = error_of(
      [&] { core::write_new_file(directory_, std::string(300, 'x'), ".json", "content"); });
  EXPECT_NE(std::string(error.sqlstate()), "00000");
  EXPECT_EQ(names(), Names{});
}

// Runs `check` in a process of its own, whose limits and mounts end with it. It returns '' when all
// is well; what it says otherwise, or "skip: …", comes back.
std::string in_a_child(const std::function<std::string()>& check) {
  int ends[2];
  if (::pipe(ends) != 0) {
    return "no pipe";
  }
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    std::string answer;
    try {
      answer = check();
    } catch (const std::exception& e) {
      answer = std::string("unexpected: ") + e.what();
    }
    answer += '.';
    const ssize_t written = ::write(ends[1], answer.data(), answer.size());
    ::_exit(written == static_cast<ssize_t>(answer.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string answer;
  char buffer[512];
  for (ssize_t n = 0; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    answer.append(buffer, static_cast<std::size_t>(n));
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (answer.empty() || status != 0) {
    return "the child ended with status " + std::to_string(status);
  }
  answer.pop_back();
  return answer;
}

std::string expect_failed_write(const std::string& directory, const std::string& sqlstate) {
  const core::Error error = error_of([&] {
    core::write_new_file(directory, "report", ".json", std::string(std::size_t{4} << 20, 'x'));
  });
  if (error.sqlstate() != sqlstate) {
    return std::string(error.sqlstate()) + " " + error.what();
  }
  if (!fs::is_empty(directory)) {
    return "something is left in the directory";
  }
  return sqlstate == "53100" && error.hint().empty() ? "no hint" : "";
}

TEST_F(DurableFile, AWriteThatFailsHalfwayLeavesNothing) {
  EXPECT_EQ(in_a_child([&] {
              ::signal(SIGXFSZ, SIG_IGN);
              const rlimit limit{1 << 20, 1 << 20};
              if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) {
                return std::string("could not limit the size of files");
              }
              return expect_failed_write(directory_, "58030");
            }),
            "");
}

// From here on this process's mounts are its own. Who is not root becomes it in a user namespace.
bool enter_mount_namespace() {
  const uid_t user = ::geteuid();
  const gid_t group = ::getegid();
  if (::unshare(CLONE_NEWNS | (user == 0 ? 0 : CLONE_NEWUSER)) != 0) {
    return false;
  }
  if (user != 0) {
    std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
    std::ofstream("/proc/self/setgroups") << "deny";
    std::ofstream("/proc/self/gid_map") << "0 " << group << " 1";
  }
  return ::geteuid() == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

TEST_F(DurableFile, AFullDiskIsSaidWithAHintAndLeavesNothing) {
  const std::string answer = in_a_child([&] {
    if (!enter_mount_namespace() ||
        ::mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=1m") != 0) {
      return std::string("skip: no file system can be mounted here");
    }
    return expect_failed_write(directory_, "53100");
  });
  if (answer.starts_with("skip: ")) {
    GTEST_SKIP() << answer.substr(6);
  }
  EXPECT_EQ(answer, "");
}

TEST_F(DurableFile, SeveralProcessesAtOnceEachGetAFileOfTheirOwn) {
  constexpr int kProcesses = 8;
  constexpr int kFiles = 20;
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    const pid_t child = ::fork();
    if (child == 0) {
      int status = 0;
      for (int i = 0; i < kFiles; ++i) {
        const std::string content = std::to_string(p) + "/" + std::to_string(i);
        try {
          status |= read(write(content)) == content ? 0 : 1;
        } catch (const core::Error&) {
          status = 1;
        }
      }
      ::_exit(status);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  std::set<std::string> contents;
  for (const std::string& name : names()) {
    contents.insert(read(path(name)));
  }
  EXPECT_EQ(names().size(), std::size_t{kProcesses * kFiles});
  EXPECT_EQ(contents.size(), std::size_t{kProcesses * kFiles}) << "no content was lost";
}

TEST_F(DurableFile, DirectoriesAreCreatedWithTheirParentsForTheOwnerAlone) {
  const mode_t before = ::umask(0);
  core::make_private_directory(path("a/b/c"));
  ::umask(before);
  for (const char* part : {"a", "a/b", "a/b/c"}) {
    EXPECT_EQ(mode(path(part)), 0700U) << part;
  }
  EXPECT_EQ(core::write_new_file(path("a/b/c"), "report", ".json", "x"), path("a/b/c/report.json"));
}

TEST_F(DurableFile, AnExistingDirectoryIsLeftAsItIs) {
  ASSERT_EQ(::mkdir(path("shared").c_str(), 0700), 0);
  ASSERT_EQ(::chmod(path("shared").c_str(), 0755), 0);
  put(path("shared/file"), "kept");
  core::make_private_directory(path("shared"));
  core::make_private_directory(path("shared/"));
  EXPECT_EQ(mode(path("shared")), 0755U);
  EXPECT_EQ(read(path("shared/file")), "kept");
}

TEST_F(DurableFile, ALinkToADirectoryWillDo) {
  ASSERT_EQ(::mkdir(path("real").c_str(), 0700), 0);
  fs::create_directory_symlink(path("real"), path("link"));
  core::make_private_directory(path("link"));
  core::make_private_directory(path("link/below"));
  EXPECT_EQ(names_in(path("real")), Names{"below"});
}

}  // namespace

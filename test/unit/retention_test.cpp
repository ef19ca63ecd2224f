// core/retention: what goes, and what never does.
#include "core/retention.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "core/manifest.hpp"

namespace {

using core::Retention;
using Files = std::vector<std::string>;

constexpr std::time_t kNow = 1'767'495'600;  // 2026-01-04 03:00:00 UTC
constexpr std::time_t kDay = 86'400;

std::string file(const std::string& stamp, const std::string& suffix = "") {
  return "dr_export_chunks_" + stamp + ".ndjson" + suffix;
}

Retention keep(std::size_t latest, std::time_t younger_than = 0,
               const std::set<std::string>& protected_names = {}) {
  return {.keep = latest, .younger_than = younger_than, .protected_names = protected_names};
}

Files with_manifests(const Files& files) {
  Files all = files;
  for (const std::string& each : files) {
    all.push_back(core::manifest_name(each));
  }
  return all;
}

Files expired(const Files& files, const Retention& retention, std::time_t now = kNow) {
  return core::expired_exports(with_manifests(files), "chunks", retention, now);
}

const std::string kA = file("20251207_030000");
const std::string kB = file("20251214_030000", ".gz");
const std::string kC = file("20251221_030000", ".zst");
const std::string kD = file("20251228_030000");
const Files kAll = {kC, kA, kD, kB};

TEST(ExpiredExports, KeepTheLatest) {
  EXPECT_EQ(expired(kAll, keep(1)), (Files{kA, kB, kC}));
  EXPECT_EQ(expired(kAll, keep(2)), (Files{kA, kB}));
  EXPECT_EQ(expired(kAll, keep(4)), Files{});
  EXPECT_EQ(expired(kAll, keep(400)), Files{});
  EXPECT_EQ(expired(kAll, keep(0)), (Files{kA, kB, kC, kD}));
  EXPECT_EQ(expired({}, keep(0)), Files{});
}

TEST(ExpiredExports, KeepTheYoung) {
  EXPECT_EQ(expired(kAll, keep(1, 14 * kDay + 1)), (Files{kA, kB}));
  EXPECT_EQ(expired(kAll, keep(1, 14 * kDay)), (Files{kA, kB, kC}))
      << "exactly that old is not younger";
  EXPECT_EQ(expired(kAll, keep(1, 365 * kDay)), Files{});
}

TEST(ExpiredExports, KeepWhatIsProtected) {
  EXPECT_EQ(expired(kAll, keep(1, 0, {kA})), (Files{kB, kC}));
  EXPECT_EQ(expired(kAll, keep(0, 0, {kA, kD})), (Files{kB, kC}));
}

TEST(ExpiredExports, AreOrderedByTimeAndNumber) {
  const std::string first = file("20251207_030000");
  const std::string second = file("20251207_030000_2");
  const std::string third = file("20251207_030000_3", ".gz");
  const std::string tenth = file("20251207_030000_10");
  const std::string later = file("20251207_030001");
  EXPECT_EQ(expired({later, tenth, third, second, first}, keep(1)),
            (Files{first, second, third, tenth}));
}

TEST(ExpiredExports, ReadTheStampInUtc) {
  EXPECT_EQ(expired({file("20260104_025959")}, keep(0, 1)), Files{file("20260104_025959")});
  EXPECT_EQ(expired({file("20260104_030000")}, keep(0, 1)), Files{});
  EXPECT_EQ(expired({file("20240229_235959")}, keep(0), 1'709'251'199),
            Files{file("20240229_235959")});
  EXPECT_EQ(expired({file("20240229_235959")}, keep(0, 1), 1'709'251'199), Files{});
}

// A clock that was put back must not cost the export of the future.
TEST(ExpiredExports, KeepWhatComesFromTheFuture) {
  const std::string future = file("20300101_000000");
  EXPECT_EQ(expired({future}, keep(0, 0)), Files{});
  EXPECT_EQ(expired({kA, kB, kC, kD, future}, keep(2)), (Files{kA, kB}))
      << "nor does it push out those that were made since";
}

TEST(ExpiredExports, AreCompleteOnes) {
  const Files files = {kA, core::manifest_name(kA), kB, kC, core::manifest_name(kC)};
  EXPECT_EQ(core::expired_exports(files, "chunks", keep(0), kNow), (Files{kA, kC}))
      << "one without its manifest is being written";
  EXPECT_EQ(core::expired_exports(files, "chunks", keep(1), kNow), Files{kA})
      << "and does not count among those that are kept";
}

TEST(ExpiredExports, AreThoseOfTheName) {
  const Files files = with_manifests({kA, "dr_export_chunks_v2_20251207_030000.ndjson",
                                      "dr_export_chunk_20251207_030000.ndjson",
                                      "dr_export_20251207_030000.ndjson"});
  EXPECT_EQ(core::expired_exports(files, "chunks", keep(0), kNow), Files{kA});
  EXPECT_EQ(core::expired_exports(files, "chunks_v2", keep(0), kNow),
            Files{"dr_export_chunks_v2_20251207_030000.ndjson"});
  EXPECT_EQ(core::expired_exports(files, "", keep(0), kNow), Files{});
}

TEST(ExpiredExports, AreNothingThatOnlyLooksLikeOne) {
  Files files;
  for (const char* stamp :
       {"", "20251207", "20251207_0300", "20251207-030000", "2025120x_030000", "20251207_03000x",
        "20251207_030000_", "20251207_030000_x", "20251207_030000_2x", "20251207_0300002",
        "20251207_030000.old", "_20251207_030000", "20251207_030000_-1", " 0251207_030000",
        "-0251207_030000"}) {
    files.push_back(file(stamp));
  }
  for (const char* suffix :
       {".bak", ".gz.bak", ".gzz", "x", ".ndjson", ".manifest.json", ".zst.gz"}) {
    files.push_back(file("20251207_030000", suffix));
  }
  files.emplace_back("x_dr_export_chunks_20251207_030000.ndjson");
  files.emplace_back("dr_export_chunks_20251207_030000.json");
  files.emplace_back("dr_export_chunks_");
  EXPECT_EQ(expired(files, keep(0)), Files{});
}

}  // namespace

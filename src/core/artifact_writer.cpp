#include "core/artifact_writer.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/error.hpp"

namespace core {
namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 20;
// How often the free space is looked at, and how much is handed to the disk at once.
constexpr std::uint64_t kSpaceStep = std::uint64_t{16} << 20;
constexpr std::uint64_t kWriteBackStep = std::uint64_t{8} << 20;
// How much of the file stays in the cache: an upload that keeps up finds its parts there.
constexpr std::uint64_t kCached = std::uint64_t{64} << 20;
constexpr std::uint64_t kLargestReserve = std::uint64_t{1} << 30;
constexpr std::uint64_t kReserveShare = 20;

std::string megabytes(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MB"; }

}  // namespace

FreeSpace free_space(int fd) {
  struct statvfs space {};
  if (::fstatvfs(fd, &space) != 0) {
    return {UINT64_MAX, 0};  // a file system that does not tell
  }
  const std::uint64_t all = std::uint64_t{space.f_blocks} * space.f_frsize;
  return {std::uint64_t{space.f_bavail} * space.f_frsize,
          std::min(kLargestReserve, all / kReserveShare)};
}

void require_space(const FreeSpace& space, const std::string& place) {
  if (space.available < space.reserve) {
    throw Error(sqlstate::kDiskFull, "not enough free space in \"" + place + "\" to go on writing",
                megabytes(space.available) + " are free, and " + megabytes(space.reserve) +
                    " are left for the server.",
                "Free some, compress the export, or write to another file system.");
  }
}

ArtifactWriter::ArtifactWriter(const ArtifactFolder& folder, const std::string& name,
                               SpaceProbe probe)
    : folder_(folder), probe_(std::move(probe)) {
  open(name);
  try {
    check_space();
  } catch (...) {
    ::unlinkat(folder_.fd(), temporary_.c_str(), 0);
    throw;
  }
}

ArtifactWriter::~ArtifactWriter() { ::unlinkat(folder_.fd(), temporary_.c_str(), 0); }

void ArtifactWriter::open(const std::string& name) {
  temporary_ = "." + name + "." + std::to_string(::getpid()) + ".tmp";
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  for (;;) {
    // What a killed process of the same number left may be another name of its finished file.
    ::unlinkat(folder_.fd(), temporary_.c_str(), 0);
    fd_ = Descriptor(::openat(folder_.fd(), temporary_.c_str(), kFlags, 0600));
    if (!fd_.valid()) {
      fail_io(errno, "create file", folder_.path_of(temporary_));
    }
    while (::flock(fd_.get(), LOCK_EX) != 0) {
      if (errno != EINTR) {
        fail_io(errno, "lock file", folder_.path_of(temporary_));
      }
    }
    // A sweep that came between the two took the new file for a leftover.
    struct stat status {};
    if (::fstat(fd_.get(), &status) == 0 && status.st_nlink > 0) {
      return;
    }
  }
}

void ArtifactWriter::check_space() const { require_space(probe_(fd_.get()), folder_.path()); }

void ArtifactWriter::write(std::string_view bytes) {
  if (buffer_.size() + bytes.size() < kBuffer) {
    buffer_.append(bytes);
    return;
  }
  flush();
  if (bytes.size() < kBuffer / 4) {
    buffer_.append(bytes);
  } else {
    put(bytes);
  }
}

void ArtifactWriter::flush() {
  put(buffer_.view());
  buffer_.clear();
}

void ArtifactWriter::put(std::string_view bytes) {
  for (; !bytes.empty(); bytes.remove_prefix(std::min(bytes.size(), kBuffer))) {
    const std::string_view piece = bytes.substr(0, kBuffer);
    hash_.update(piece.data(), piece.size());
    write_all(fd_.get(), piece, folder_.path_of(temporary_));
    written_ += piece.size();
    if (written_ - checked_ >= kSpaceStep) {
      checked_ = written_;
      check_space();
    }
    if (written_ - write_back_ >= kWriteBackStep) {
      write_back();
    }
  }
}

// Starts writing what is new to disk, and lets go of what has been written: an export must not push
// the tables out of the cache, and pages that are used again cost less than fresh ones. Only hints:
// the fsync at the end is what counts.
void ArtifactWriter::write_back() {
#ifdef SYNC_FILE_RANGE_WRITE
  const auto range = [this](std::uint64_t from, std::uint64_t to, unsigned flags) {
    ::sync_file_range(fd_.get(), static_cast<off_t>(from), static_cast<off_t>(to - from), flags);
  };
  range(write_back_, written_, SYNC_FILE_RANGE_WRITE);
  if (written_ > dropped_ + kCached) {
    const std::uint64_t end = written_ - kCached;
    range(dropped_, end,
          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    ::posix_fadvise(fd_.get(), static_cast<off_t>(dropped_), static_cast<off_t>(end - dropped_),
                    POSIX_FADV_DONTNEED);
    dropped_ = end;
  }
#endif
  write_back_ = written_;
}

void ArtifactWriter::finish() {
  flush();
  sync_file(fd_.get(), folder_.path_of(temporary_));
}

bool ArtifactWriter::publish(const std::string& name) {
  // link, unlike rename, refuses to replace a file.
  if (::linkat(folder_.fd(), temporary_.c_str(), folder_.fd(), name.c_str(), 0) != 0) {
    if (errno == EEXIST) {
      return false;
    }
    fail_io(errno, "create file", folder_.path_of(name));
  }
  folder_.sync();
  return true;
}

}  // namespace core

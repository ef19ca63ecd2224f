#include "pg/postgres.hpp"

#include "metrics/saved.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "core/metric_file.hpp"
#include "metrics/catalog.hpp"

extern "C" {
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
}

namespace metrics {
namespace {

constexpr const char* kFile = "pg_stat/bacmr_ops.metrics";
constexpr const char* kTemporary = "pg_stat/bacmr_ops.metrics.tmp";
constexpr const char* kDamaged = "pg_stat/bacmr_ops.metrics.damaged";

pg_crc32c checksum(const char* bytes, std::size_t size) {
  pg_crc32c crc;
  INIT_CRC32C(crc);
  COMP_CRC32C(crc, bytes, size);
  FIN_CRC32C(crc);
  return crc;
}

bool was_shut_down_cleanly() {
  bool good = false;
  ControlFileData* control = get_controlfile(DataDir, &good);
  const bool clean =
      good && (control->state == DB_SHUTDOWNED || control->state == DB_SHUTDOWNED_IN_RECOVERY);
  pfree(control);
  return clean;
}

// errno tells why it failed.
bool write_file(const std::string& bytes) {
  const int fd = ::open(kTemporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) {
    return false;
  }
  bool good = true;
  for (std::size_t done = 0; good && done < bytes.size();) {
    const ssize_t written = ::write(fd, bytes.data() + done, bytes.size() - done);
    good = written >= 0 || errno == EINTR;
    done += written > 0 ? static_cast<std::size_t>(written) : 0;
  }
  good = good && ::fsync(fd) == 0;
  const int error = errno;
  const bool closed = ::close(fd) == 0;
  if (!good) {
    errno = error;
  }
  return good && closed;
}

enum class Reading { kAbsent, kWhole, kFailed };

Reading read_file(std::string& bytes) {
  const int fd = ::open(kFile, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return errno == ENOENT ? Reading::kAbsent : Reading::kFailed;
  }
  char buffer[64 * 1024];
  ssize_t size = 0;
  while ((size = ::read(fd, buffer, sizeof buffer)) > 0 || (size < 0 && errno == EINTR)) {
    bytes.append(buffer, size > 0 ? static_cast<std::size_t>(size) : 0);
  }
  ::close(fd);
  return size == 0 ? Reading::kWhole : Reading::kFailed;
}

bool is_intact(std::string& bytes) {
  pg_crc32c stored = 0;
  if (bytes.size() < sizeof stored) {
    return false;
  }
  const std::size_t size = bytes.size() - sizeof stored;
  std::memcpy(&stored, bytes.data() + size, sizeof stored);
  bytes.resize(size);
  return EQ_CRC32C(stored, checksum(bytes.data(), size));
}

// No exception may leave: the callers are the postmaster's callbacks.
template <class Work>
bool without_exceptions(Work work) noexcept {
  try {
    return work();
  } catch (const std::exception& e) {
    ereport(LOG, errmsg("bacmr_ops: the saved metrics: %s", e.what()));
    return false;
  }
}

bool load_from(core::MetricStore& store) {
  std::string bytes;
  switch (read_file(bytes)) {
    case Reading::kAbsent:
      return true;
    case Reading::kFailed:
      ereport(WARNING, errcode_for_file_access(),
              errmsg("bacmr_ops could not read the saved metrics in \"%s\": %m", kFile),
              errhint("Counters begin at 0."));
      return true;
    case Reading::kWhole:
      break;
  }
  if (!was_shut_down_cleanly()) {
    ::unlink(kFile);
    return true;
  }
  if (is_intact(bytes) && core::load_metrics(store, bytes, catalog())) {
    ::unlink(kFile);
    return true;
  }
  ::rename(kFile, kDamaged);
  ereport(WARNING, errcode(ERRCODE_DATA_CORRUPTED),
          errmsg("bacmr_ops: the saved metrics are damaged; counters begin at 0"),
          errhint("The file was set aside as \"%s\".", kDamaged));
  return false;
}

}  // namespace

void save(const core::MetricStore& store) {
  without_exceptions([&] {
    std::string bytes = core::save_metrics(store, catalog());
    const pg_crc32c crc = checksum(bytes.data(), bytes.size());
    bytes.append(reinterpret_cast<const char*>(&crc), sizeof crc);
    if (!write_file(bytes)) {
      ereport(LOG, errcode_for_file_access(),
              errmsg("bacmr_ops could not save the metrics in \"%s\": %m", kTemporary),
              errhint("Counters will begin at 0."));
      ::unlink(kTemporary);
      return false;
    }
    return durable_rename(kTemporary, kFile, LOG) == 0;
  });
}

bool load(core::MetricStore& store) {
  return without_exceptions([&] { return load_from(store); });
}

}  // namespace metrics

#include "jobs/retention.hpp"

#include <ctime>

#include "core/manifest.hpp"
#include "core/retention.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

// The settings, and the file of each relation that was verified last.
core::Retention retention_of(const pg::Extension& extension, const std::string& own) {
  core::Retention retention;
  retention.keep = static_cast<std::size_t>(pg::settings::export_keep());
  retention.younger_than = pg::settings::export_keep_age_s();
  retention.protected_names.insert(own);
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows =
      spi.query("SELECT DISTINCT ON (detail->>'relation') detail->>'file' FROM " +
                extension.object("bacmr_job_run") +
                " WHERE job = 'verify' AND status = 'succeeded' AND detail ? 'file'"
                " ORDER BY detail->>'relation', run_id DESC");
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    retention.protected_names.insert(rows.text(i, 0));
  }
  return retention;
}

}  // namespace

int remove_old_exports(const pg::Extension& extension, const core::ArtifactFolder& folder,
                       const std::string& name, const std::string& own) {
  int removed = 0;
  for (const std::string& file : core::expired_exports(
           folder.list(), name, retention_of(extension, own), std::time(nullptr))) {
    folder.remove(core::manifest_name(file));
    folder.remove(file);
    ++removed;
  }
  return removed;
}

int remove_old_objects(const pg::Extension& extension, providers::BlobStore& store,
                       const std::string& prefix, const std::string& name, const std::string& own) {
  std::vector<std::string> names;
  for (const providers::ObjectInfo& object : store.list(prefix + "dr_export_" + name + "_")) {
    names.push_back(object.name.substr(prefix.size()));
  }
  int removed = 0;
  for (const std::string& file :
       core::expired_exports(names, name, retention_of(extension, own), std::time(nullptr))) {
    store.remove(prefix + core::manifest_name(file));
    store.remove(prefix + file);
    ++removed;
  }
  return removed;
}

}  // namespace jobs

#include "jobs/retention.hpp"

#include <ctime>
#include <functional>
#include <set>
#include <vector>

#include "core/error.hpp"
#include "core/retention.hpp"
#include "jobs/artifact_source.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

// The settings, and the file of each relation and namespace that was verified last.
core::Retention retention_of(const pg::Extension& extension, const core::Manifest& latest) {
  core::Retention retention;
  retention.keep = static_cast<std::size_t>(pg::settings::export_keep());
  retention.younger_than = pg::settings::export_keep_age_s();
  retention.protected_names.insert(latest.file);
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT DISTINCT ON (detail->>'relation', detail->>'namespace') detail->>'file' FROM " +
      extension.object("bacmr_job_run") +
      " WHERE job = 'verify' AND status = 'succeeded' AND detail ? 'file'"
      " ORDER BY detail->>'relation', detail->>'namespace', run_id DESC");
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    retention.protected_names.insert(rows.text(i, 0));
  }
  return retention;
}

// The names that may go. Tables of one name in two schemas, and exports of single namespaces, have
// names of one form: only the manifest tells them apart. One that cannot be read stays.
std::vector<std::string> expired(const pg::Extension& extension, std::vector<std::string> names,
                                 const std::string& name, const core::Manifest& latest,
                                 const std::function<std::string(const std::string&)>& read) {
  const std::set<std::string> all(names.begin(), names.end());
  std::erase_if(names, [&](const std::string& file) {
    const std::string manifest = core::manifest_name(file);
    if (!all.contains(manifest) || !file.starts_with("dr_export_" + name + "_")) {
      return false;
    }
    try {
      const core::Manifest found = core::parse_manifest(read(manifest), manifest);
      return found.relation != latest.relation ||
             found.exported_namespace != latest.exported_namespace;
    } catch (const core::Error& e) {
      const std::string_view code = e.sqlstate();
      if (code != core::sqlstate::kUndefinedFile && code != core::sqlstate::kBadFileFormat) {
        throw;
      }
      return true;
    }
  });
  return core::expired_exports(names, name, retention_of(extension, latest), std::time(nullptr));
}

}  // namespace

int remove_old_exports(const pg::Extension& extension, const core::ArtifactFolder& folder,
                       const std::string& name, const core::Manifest& latest) {
  const std::vector<std::string> old =
      expired(extension, folder.list(), name, latest,
              [&](const std::string& manifest) { return read_manifest(folder, manifest); });
  for (const std::string& file : old) {
    folder.remove(core::manifest_name(file));
    folder.remove(file);
  }
  return static_cast<int>(old.size());
}

int remove_old_objects(const pg::Extension& extension, providers::BlobStore& store,
                       const std::string& prefix, const std::string& name,
                       const core::Manifest& latest) {
  std::vector<std::string> names;
  for (const providers::ObjectInfo& object : store.list(prefix + "dr_export_" + name + "_")) {
    names.push_back(object.name.substr(prefix.size()));
  }
  const std::vector<std::string> old =
      expired(extension, std::move(names), name, latest,
              [&](const std::string& manifest) { return read_manifest(store, prefix + manifest); });
  for (const std::string& file : old) {
    store.remove(prefix + core::manifest_name(file));
    store.remove(prefix + file);
  }
  return static_cast<int>(old.size());
}

}  // namespace jobs

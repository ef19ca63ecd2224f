// Which exports are kept: of each relation, and of each namespace that was exported by itself, the
// latest bacmr.export_keep, all younger than bacmr.export_keep_age, and in any case the last one
// that was verified.
#pragma once

#include "pg/postgres.hpp"

#include "core/artifact_folder.hpp"
#include "core/manifest.hpp"
#include "pg/extension.hpp"
#include "providers/blob_store.hpp"

#include <string>

namespace jobs {

// `name`: of the table, in the file's name. `latest`: the manifest of the export that was made just
// now; only exports of the same kind are looked at, and it stays itself. Only files of the form
// dr_export_<name>_<stamp>… that have a manifest are ever removed, the manifest first. Returns how
// many exports went.
int remove_old_exports(const pg::Extension& extension, const core::ArtifactFolder& folder,
                       const std::string& name, const core::Manifest& latest);
int remove_old_objects(const pg::Extension& extension, providers::BlobStore& store,
                       const std::string& prefix, const std::string& name,
                       const core::Manifest& latest);

}  // namespace jobs

// Which exports are kept: the latest bacmr.export_keep of each name, all younger than
// bacmr.export_keep_age, and in any case the last one that was verified.
#pragma once

#include "pg/postgres.hpp"

#include "core/artifact_folder.hpp"
#include "pg/extension.hpp"
#include "providers/blob_store.hpp"

#include <cstdint>
#include <string>

namespace jobs {

// Only files of the form dr_export_<name>_<stamp>… that have a manifest are ever removed, the
// manifest first. Returns how many exports went.
int remove_old_exports(const pg::Extension& extension, const core::ArtifactFolder& folder,
                       const std::string& name, const std::string& own);
int remove_old_objects(const pg::Extension& extension, providers::BlobStore& store,
                       const std::string& prefix, const std::string& name, const std::string& own);

}  // namespace jobs

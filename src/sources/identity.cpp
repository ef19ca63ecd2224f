#include "pg/postgres.hpp"

#include "sources/identity.hpp"

#include <fstream>
#include <string_view>

#include "pg/guard.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "access/xlog.h"
#include "miscadmin.h"
}

namespace sources {
namespace {

// What stands after `key` in a line of the file that a started backup leaves behind; '' without
// one.
std::string backup_label(std::string_view key) {
  std::ifstream file(std::string(DataDir) + "/" + BACKUP_LABEL_OLD);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) {
      const std::string rest = line.substr(key.size());
      return rest.substr(0, rest.find(' '));
    }
  }
  return {};
}

// '' unless the cluster still runs on the timeline on which its backup was made.
std::string backup_start() {
  const std::string start = backup_label("START WAL LOCATION: ");
  if (start.empty()) {
    return {};
  }
  const TimeLineID now = pg::call([] { return GetWALInsertionTimeLine(); });
  return backup_label("START TIMELINE: ") == std::to_string(now) ? start : std::string();
}

std::string read_identity() {
  const std::string identifier = std::to_string(GetSystemIdentifier());
  const std::string start = backup_start();
  return start.empty() ? identifier : identifier + "@" + start;
}

}  // namespace

std::string cluster_identity() {
  if (pg::call([] { return RecoveryInProgress(); })) {
    return std::to_string(GetSystemIdentifier());
  }
  // Nothing changes it while the server runs.
  static const std::string identity = read_identity();
  return identity;
}

std::string written_elsewhere(const std::string& identity, const std::string& database) {
  return "(split_part(system_identifier, '@', 1) <> split_part(" + identity +
         ", '@', 1) OR database_oid <> " + database + " OR split_part(" + identity +
         ", '@', 2) NOT IN ('', split_part(system_identifier, '@', 2)))";
}

void settle_identity(const pg::Extension& extension) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const std::string sources = extension.object("bacmr_source");
  const pg::Param cluster = pg::Param::text(cluster_identity());
  const pg::Param database = pg::Param::oid(MyDatabaseId);
  // FOR UPDATE: of two who notice it at once, the second finds it settled.
  const pg::Rows elsewhere =
      spi.query("SELECT database_name, system_identifier FROM " + sources + " WHERE " +
                    written_elsewhere("$1", "$2") + " LIMIT 1 FOR UPDATE",
                {cluster, database});
  if (elsewhere.empty()) {
    return;
  }
  const std::string pauses = extension.object("bacmr_job_pause");
  spi.query("INSERT INTO " + pauses +
                " (job, reason, paused_by) SELECT job, 'this database was restored or cloned from"
                " database ' || quote_ident($1) || ' of cluster ' || $2 || ': make sure that the"
                " original is gone, then SELECT bacmr_unpause(' || quote_literal(job) || ')',"
                " 'bacmr_ops' FROM unnest('{expire,export,reindex}'::text[]) job"
                " WHERE NOT EXISTS (SELECT FROM " +
                pauses + " p WHERE p.job = job.job)",
            {pg::Param::text(elsewhere.text(0, 0)), pg::Param::text(elsewhere.text(0, 1))});
  spi.query("UPDATE " + sources +
                " SET system_identifier = $1, database_oid = $2, database_name ="
                " current_database()",
            {cluster, database});
  // The copy's tables stand for the original's, whoever owns them here.
  spi.query("UPDATE " + sources +
            " s SET relation_oid = c.oid, owner_name = pg_get_userbyid(c.relowner)"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = s.schema_name AND c.relname = s.relation_name");
}

}  // namespace sources

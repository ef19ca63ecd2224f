#include "pg/postgres.hpp"

#include "sources/identity.hpp"

#include "pg/security.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "access/xlog.h"
}

namespace sources {

void settle_identity(const pg::Extension& extension) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const std::string sources = extension.object("bacmr_source");
  const pg::Param cluster = pg::Param::text(std::to_string(GetSystemIdentifier()));
  const pg::Param database = pg::Param::oid(MyDatabaseId);
  // FOR UPDATE: of two who notice it at once, the second finds it settled.
  const pg::Rows elsewhere =
      spi.query("SELECT database_name, system_identifier FROM " + sources +
                    " WHERE system_identifier <> $1 OR database_oid <> $2 LIMIT 1 FOR UPDATE",
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

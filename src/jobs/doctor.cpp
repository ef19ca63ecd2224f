// bacmr_doctor: looks for what an operator would otherwise find out at night. Each check says what
// is wrong and which command mends it.
#include "pg/postgres.hpp"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "core/durable_file.hpp"
#include "core/error.hpp"
#include "jobs/pause.hpp"
#include "jobs/schedule.hpp"
#include "net/service.hpp"
#include "pg/entry.hpp"
#include "pg/library.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "providers/vector_index.hpp"
#include "providers/vector_table.hpp"
#include "sources/indexes.hpp"
#include "sources/source.hpp"

namespace jobs {
namespace {

// Nobody's ALTER TABLE may hold up the doctor.
constexpr const char* kLockTimeout = "1s";
// Below this a report, and soon the server itself, may fail to write.
constexpr std::uint64_t kLowSpaceBytes = std::uint64_t{1} << 30;

// So many vectors a search may read without an index of pgvector's.
constexpr std::int64_t kManyVectors = 10'000;

struct Finding {
  std::string check;
  std::string severity;  // error: something does not work; warning: it will not for long
  std::string finding;
  std::string fix;
};

class Doctor {
 public:
  explicit Doctor(const pg::Extension& extension)
      : extension_(extension), sources_(sources::Sources::load(extension)) {}

  std::vector<Finding> examine() {
    check_preload();
    check_schema();
    check_sources();
    check_indexes();
    check_table_owner_rights();
    check_triggers();
    check_capture();
    check_schedule();
    check_artifact_directory();
    check_exports();
    check_services();
    check_secret_files();
    check_subscriptions();
    check_pauses();
    check_runs();
    check_backlog();
    check_vector_indexes();
    return std::move(findings_);
  }

 private:
  void add(const char* check, const char* severity, std::string finding, std::string fix) {
    findings_.push_back({check, severity, std::move(finding), std::move(fix)});
  }

  // A query that returns findings and fixes.
  void add_rows(const char* check, const char* severity, const std::string& sql,
                std::initializer_list<pg::Param> params = {}) {
    pg::Spi spi;
    const pg::Rows rows = spi.query(sql, params);
    for (std::uint64_t i = 0; i < rows.size(); ++i) {
      add(check, severity, rows.text(i, 0), rows.text(i, 1));
    }
  }

  const sources::Source* usable(const char* source) const {
    const sources::Source* found = sources_.find(source);
    return found != nullptr && found->exists() && found->problem.empty() ? found : nullptr;
  }

  void check_preload() {
    if (!pg::preloaded()) {
      add("preload", "warning",
          "bacmr_ops is not in shared_preload_libraries: no worker expires reservations, and no "
          "metrics are kept",
          "ALTER SYSTEM SET shared_preload_libraries = ...,bacmr_ops (and restart), or SELECT "
          "bacmr_schedule() to expire by pg_cron");
      return;
    }
    add_rows("worker", "error",
             "SELECT 'the worker does not run: ' || coalesce(last_error, state),"
             " CASE WHEN state LIKE 'off%' THEN 'ALTER SYSTEM SET bacmr.worker_enabled = on, or"
             " add this database to bacmr.databases; SELECT pg_reload_conf()'"
             " ELSE 'ALTER SYSTEM SET max_worker_processes = 16, then restart' END FROM " +
                 extension_.object("bacmr_worker_status") +
                 "() WHERE worker = 'worker' AND pid IS NULL"
                 " AND (state <> 'starting' OR last_error IS NOT NULL)");
    add_rows("worker", "error",
             "SELECT 'the launcher, which starts the workers, does not run',"
             " 'look into the server''s log: it is started again after 5 seconds' FROM " +
                 extension_.object("bacmr_worker_status") +
                 "() WHERE worker = 'launcher' AND pid IS NULL");
  }

  // A function of our name with other arguments, there, may fit a call better than ours.
  void check_schema() {
    add_rows("schema", "warning",
             "SELECT format('everybody may create objects in the schema %I of the extension: a"
             " function of theirs may be called in place of one of its', nspname),"
             " format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', nspname)"
             " FROM pg_namespace WHERE nspname = $1 AND EXISTS (SELECT FROM aclexplode(nspacl) a"
             "  WHERE a.grantee = 0 AND a.privilege_type = 'CREATE')",
             {pg::Param::text(extension_.schema)});
  }

  void check_sources() {
    if (sources_.all().empty()) {
      add("sources", "error", "no table is attached",
          "SELECT * FROM bacmr_attach('your_schema'), or SELECT bacmr_create_tables()");
    }
    // Who has paused the expiry knows that it takes place elsewhere, or not now.
    const bool expires = !pause_reason(extension_, "expire");
    for (const sources::Source& source : sources_.all()) {
      const bool usable_here = source.exists() && source.problem.empty();
      if (const std::string status = source.status();
          status != "attached" && (expires || !usable_here)) {
        add("sources", "error",
            "the source " + source.source + " (" + source.sql_name() + ") is " + status,
            usable_here
                ? "expire where the rows are written (bacmr_expire_in() on each node, or the "
                  "publisher's worker), and SELECT bacmr_pause('expire') here; or mend the table"
                : "mend the table, or SELECT bacmr_detach('" + source.source + "')");
      }
    }
  }

  // Partitions by time, say, have no unique index but with the time in it.
  bool can_forbid_refunds(const sources::Source& ledger, bool with_user) {
    pg::Spi spi;
    return spi
        .query(
            "SELECT 1 FROM pg_partitioned_table, unnest(partattrs) a WHERE partrelid = $1"
            " AND a <> $2 AND NOT ($3 AND a = $4) LIMIT 1",
            {pg::Param::oid(ledger.oid),
             pg::Param::int2(ledger.columns.at("reservation_id").number),
             pg::Param::boolean(with_user), pg::Param::int2(ledger.columns.at("user_id").number)})
        .empty();
  }

  // Partitions are indexed through their parent, which cannot be done concurrently.
  static std::string create_index(const sources::Source& source, const char* unique = "") {
    return std::string("CREATE ") + unique + "INDEX " +
           (source.kind == RELKIND_PARTITIONED_TABLE ? "ON " : "CONCURRENTLY ON ") +
           source.sql_name() + " (";
  }

  void check_indexes() {
    const sources::Source* reservations = usable("reservations");
    const sources::Source* ledger = usable("wallet_ledger");
    if (reservations != nullptr && reservations->expiry_problem.empty() &&
        !sources::has_index(*reservations, "expires_at",
                            reservations->col("status") + " = 'reserved'")) {
      add("indexes", "warning",
          "each expiry tick reads all of " + reservations->sql_name() + ": no index begins with " +
              reservations->col("expires_at"),
          create_index(*reservations) + reservations->col("expires_at") + ", " +
              reservations->col("id") + ") WHERE " + reservations->col("status") + " = 'reserved'");
    }
    if (ledger == nullptr || !ledger->expiry_problem.empty()) {
      return;
    }
    if (!sources::has_index(*ledger, "user_id")) {
      add("indexes", "warning",
          "recheck_after reads all of " + ledger->sql_name() + ": no index begins with " +
              ledger->col("user_id"),
          create_index(*ledger) + ledger->col("user_id") + ")");
    }
    if (reservations != nullptr && reservations->refund && ledger->has("reservation_id") &&
        !sources::is_unique(*ledger, "reservation_id",
                            ledger->col("reason") + " = 'reservation_expired'",
                            reservations->id_with_user) &&
        can_forbid_refunds(*ledger, reservations->id_with_user)) {
      add("indexes", "warning",
          "nothing in " + ledger->sql_name() + " forbids a second refund of one reservation",
          create_index(*ledger, "UNIQUE ") + ledger->col("reservation_id") +
              (reservations->id_with_user ? ", " + ledger->col("user_id") : "") + ") WHERE " +
              ledger->col("reason") + " = 'reservation_expired'");
    }
  }

  // The worker acts as the owner of the reservations.
  void check_table_owner_rights() {
    const sources::Source* reservations = usable("reservations");
    if (reservations == nullptr || !reservations->refund) {
      return;
    }
    for (const auto& [name, privileges] :
         {std::pair("wallet", "SELECT, UPDATE"), std::pair("wallet_ledger", "SELECT, INSERT")}) {
      if (const sources::Source* source = usable(name)) {
        add_rows("privileges", "error",
                 "SELECT format('%s, who owns the reservations, lacks %s on %s', $1::regrole, p,"
                 " $2::regclass), format('GRANT %s ON %s TO %s', p, $2::regclass, $1::regrole)"
                 " FROM unnest(string_to_array($3, ', ')) p"
                 " WHERE NOT has_table_privilege($1, $2, p)",
                 {pg::Param::oid(reservations->owner), pg::Param::oid(source->oid),
                  pg::Param::text(privileges)});
      }
    }
  }

  // Expiry runs under search_path = pg_catalog, pg_temp, and so do the triggers that it fires.
  void check_triggers() {
    for (const char* name : {"wallet", "wallet_ledger", "reservations"}) {
      if (const sources::Source* source = usable(name)) {
        add_rows(
            "triggers", "warning",
            "SELECT format('trigger %I on %s calls %s, which has no search_path of its own:"
            " expiry fires it with pg_catalog only', t.tgname, t.tgrelid::regclass,"
            " t.tgfoid::regprocedure), format('ALTER FUNCTION %s SET search_path = %I,"
            " pg_temp', t.tgfoid::regprocedure, p.pronamespace::regnamespace::text)"
            " FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
            " JOIN pg_language l ON l.oid = p.prolang"
            " WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND l.lanname NOT IN ('c', 'internal')"
            " AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=%')",
            {pg::Param::oid(source->oid)});
      }
    }
  }

  // Each write to the chunks costs a second one as long as they are there.
  void check_capture() {
    add_rows("triggers", "warning",
             "SELECT format('trigger %I on %s notes changes of the chunks, though no reindex job"
             " needs them', tgname, tgrelid::regclass), format('DROP TRIGGER %I ON %s', tgname,"
             " tgrelid::regclass) FROM pg_trigger WHERE tgname IN ('bacmr_capture_change',"
             " 'bacmr_capture_truncate') AND NOT tgisinternal AND tgparentid = 0"
             " AND NOT EXISTS (SELECT FROM " +
                 extension_.object("bacmr_reindex_job") + " WHERE capturing)");
  }

  void check_schedule() {
    if (usable("wallet") == nullptr) {
      return;
    }
    if (const auto problem = schedule_problem()) {
      add("schedule", "warning", problem->finding, problem->fix);
    }
    add_rows("runs", "warning",
             "SELECT CASE WHEN last IS NULL THEN 'the wallets have never been reconciled'"
             " ELSE 'the last reconciliation ended ' || date_trunc('minute', clock_timestamp()"
             " - last) || ' ago' END, 'SELECT bacmr_reconcile(), and SELECT bacmr_schedule() for"
             " every night' FROM (SELECT max(finished_at) AS last FROM " +
                 extension_.object("bacmr_job_run") +
                 " WHERE job = 'reconcile' AND status IN ('succeeded', 'discrepancies')) r"
                 " WHERE EXISTS (SELECT FROM " +
                 extension_.object("bacmr_source") +
                 " WHERE source = 'wallet') AND (last IS NULL"
                 " OR last < clock_timestamp() - interval '2 days')");
  }

  void check_artifact_directory() {
    const std::string directory = pg::settings::artifact_directory();
    const std::string fix =
        "ALTER SYSTEM SET bacmr.artifact_directory = '/a/directory/the/server/may/write'; SELECT "
        "pg_reload_conf()";
    try {
      core::make_private_directory(directory);
    } catch (const core::Error& e) {
      add("artifact directory", "error", e.message(), fix);
      return;
    }
    if (::access(directory.c_str(), W_OK | X_OK) != 0) {
      add("artifact directory", "error", "the server may not write into " + directory, fix);
      return;
    }
    struct statvfs space {};
    if (::statvfs(directory.c_str(), &space) == 0 &&
        std::uint64_t{space.f_bavail} * space.f_frsize < kLowSpaceBytes) {
      add("free space", "warning", "less than 1 GB is free where " + directory + " lies",
          "free some, or set bacmr.artifact_directory to another file system");
    }
  }

  void check_exports() {
    const sources::Source* chunks = usable("chunks");
    if (chunks == nullptr) {
      return;
    }
    add_rows("runs", "warning",
             "SELECT CASE WHEN last IS NULL THEN 'the chunks have never been exported'"
             " ELSE 'the last export of the chunks ended ' || date_trunc('minute',"
             " clock_timestamp() - last) || ' ago' END, 'CALL bacmr_run_job(''export''), and SELECT"
             " bacmr_schedule() for every week' FROM (SELECT max(finished_at) AS last FROM " +
                 extension_.object("bacmr_job_run") +
                 " WHERE job = 'export' AND status = 'succeeded') r WHERE (last IS NULL OR"
                 " last < clock_timestamp() - interval '8 days')"
                 " AND (SELECT reltuples > 0 FROM pg_class WHERE oid = $1)",
             {pg::Param::oid(chunks->oid)});
    // Whoever loses the disk loses both.
    add_rows("artifact directory", "warning",
             "SELECT 'the latest export lies in the data directory only: ' || (detail->>'path'),"
             " 'CREATE SERVER dr FOREIGN DATA WRAPPER bacmr_blob_store OPTIONS (type ''s3'', ...),"
             " then ' || format('ALTER DATABASE %I SET bacmr.blob_store = %L',"
             " current_database(), 'dr') FROM (SELECT detail FROM " +
                 extension_.object("bacmr_job_run") +
                 " WHERE job = 'export' AND status = 'succeeded' ORDER BY run_id DESC LIMIT 1) r"
                 " WHERE starts_with(detail->>'path', $1) AND (detail->>'url' IS NULL"
                 " OR starts_with(detail->>'url', 'file://' || $1))",
             {pg::Param::text(std::string(DataDir) + "/")});
  }

  void check_services() {
    for (const auto& [kind, setting] :
         {std::pair(net::ServiceKind::kBlobStore, "bacmr.blob_store"),
          std::pair(net::ServiceKind::kEmbedder, "bacmr.embedder"),
          std::pair(net::ServiceKind::kVectorStore, "bacmr.vector_store")}) {
      const std::string fix = std::string("name a server that works: ALTER DATABASE ... SET ") +
                              setting + " = '...'; SELECT * FROM pg_foreign_server lists them";
      try {
        pg::Subtransaction attempt;
        net::load_service(kind, net::default_service(kind));
        attempt.commit();
      } catch (const core::Error& e) {
        add("services", "error", e.message(), fix);
      } catch (const pg::Error& e) {
        if (e.is_interrupt()) {
          throw;
        }
        add("services", "error", e.summary(), fix);
      }
    }
  }

  // The files that user mappings name: what others can read is no secret.
  void check_secret_files() {
    pg::Spi spi;
    const pg::Rows rows = spi.query(
        "SELECT s.srvname::text, substr(o, strpos(o, '=') + 1) FROM pg_user_mapping m"
        " JOIN pg_foreign_server s ON s.oid = m.umserver"
        " JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw, unnest(m.umoptions) o"
        " WHERE w.fdwname IN ('bacmr_embedder', 'bacmr_vector_store', 'bacmr_blob_store')"
        " AND split_part(o, '=', 1) LIKE '%\\_file' ORDER BY 1, 2");
    for (std::uint64_t i = 0; i < rows.size(); ++i) {
      const std::string path = rows.text(i, 1);
      const std::string file = "the secret file " + path + " of the server " + rows.text(i, 0);
      struct stat status {};
      if (::stat(path.c_str(), &status) != 0) {
        add("services", "error", file + " cannot be read",
            "put it there, readable for the server's operating-system user alone");
      } else if ((status.st_mode & S_IROTH) != 0) {
        add("services", "warning", file + " can be read by everybody", "chmod 600 " + path);
      }
    }
  }

  // The book-keeping of another database: its attachments make this one a copy, its run ids
  // collide.
  void check_subscriptions() {
    add_rows("replication", "error",
             "SELECT format('the subscription %I feeds %s, which is the extension''s own', subname,"
             " srrelid::regclass), 'let the publication name the application''s tables only, then"
             " ALTER SUBSCRIPTION ' || quote_ident(subname) || ' REFRESH PUBLICATION'"
             " FROM pg_subscription_rel JOIN pg_subscription s ON s.oid = srsubid"
             " WHERE EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid"
             "  WHERE d.classid = 'pg_class'::regclass AND d.objid = srrelid"
             "  AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'"
             "  AND e.extname = 'bacmr_ops') ORDER BY 1");
  }

  void check_pauses() {
    add_rows("paused", "warning",
             "SELECT format('the job %s is paused: %s', job, reason),"
             " format('SELECT bacmr_unpause(%L)', job) FROM " +
                 extension_.object("bacmr_job_pause") + " ORDER BY job");
  }

  void check_runs() {
    add_rows("runs", "error",
             "SELECT format('the last run of %s (%s) ended as %s%s', job, run_id, status,"
             " coalesce(': ' || error, '')), format('SELECT * FROM %s WHERE run_id = %s',"
             " CASE status WHEN 'discrepancies' THEN 'bacmr_discrepancy' ELSE 'bacmr_job_run' END,"
             " run_id) FROM (SELECT DISTINCT ON (job) * FROM " +
                 extension_.object("bacmr_job_run") +
                 " WHERE status <> 'skipped' ORDER BY job, run_id DESC) last"
                 " WHERE status IN ('discrepancies', 'failed') ORDER BY job");
  }

  // Searches of what is active read every vector of the namespace where there is no index. The
  // table is looked into as its owner.
  void check_vector_indexes() {
    if (usable("chunks") == nullptr) {
      return;
    }
    pg::Spi spi;
    const pg::Rows rows =
        spi.query("SELECT n.active_namespace, coalesce(n.dimensions, 0)::bigint FROM " +
                  extension_.object("bacmr_namespace") +
                  " n JOIN pg_foreign_server s ON s.srvname ="
                  " n.vector_store WHERE 'type=postgres' = ANY (s.srvoptions) AND n.dimensions > 0"
                  " ORDER BY 1");
    if (rows.empty()) {
      return;
    }
    try {
      const auto table = providers::find_vector_table();
      for (std::uint64_t i = 0; table && i < rows.size(); ++i) {
        check_vector_index(*table, rows.text(i, 0), static_cast<int>(rows.int8(i, 1)));
      }
    } catch (const core::Error& e) {
      add("vector index", "warning", e.message(), e.hint().empty() ? e.detail() : e.hint());
    }
  }

  void check_vector_index(const providers::VectorTable& table, const std::string& space,
                          int dimensions) {
    std::optional<std::string> sql;
    const std::string problem = as_owner(table.owner, [&] {
      sql = providers::missing_vector_index(table, space, dimensions, kManyVectors);
    });
    if (!problem.empty()) {
      add("vector index", "warning", "could not look into " + table.name + ": " + problem,
          "mend that (the owner of the table needs to read it), or ask again later");
    } else if (sql) {
      add("vector index", "warning",
          "the vectors of namespace \"" + space + "\" have no index, so a search reads all of them",
          *sql);
    }
  }

  // Reads a table as its owner, whose code may run meanwhile: the condition of an index is enough.
  // Restricted: what that defers would fire at the caller's commit, as the caller. Returns what
  // went wrong.
  template <class Action>
  static std::string as_owner(Oid role, Action action) {
    try {
      pg::Subtransaction attempt;
      {
        const pg::AsUser owner(role, SECURITY_RESTRICTED_OPERATION);
        pg::PinnedSettings settings;
        settings.set("lock_timeout", kLockTimeout);
        action();
      }
      attempt.commit();
      return {};
    } catch (const pg::Error& e) {
      if (e.is_interrupt()) {
        throw;
      }
      return e.summary();
    }
  }

  // Only of a plain table: a view's code would run, and the security context that the doctor runs
  // in must not be put to the test by everybody who may attach one.
  void check_backlog() {
    const sources::Source* reservations = usable("reservations");
    if (reservations == nullptr || !reservations->expiry_problem.empty()) {
      return;
    }
    const std::string expires = reservations->col("expires_at");
    const std::string query = "SELECT count(*), min(" + expires + ")::text FROM " +
                              reservations->sql_name() + " WHERE " + reservations->col("status") +
                              " = 'reserved' AND " + expires +
                              " < statement_timestamp() - interval '5 minutes'";
    std::int64_t due = 0;
    std::string oldest;
    const std::string problem = as_owner(reservations->owner, [&] {
      pg::Spi spi;
      const pg::Rows rows = spi.query(query);
      due = rows.int8(0, 0);
      oldest = rows.text(0, 1);
    });
    if (!problem.empty()) {
      add("backlog", "warning", "could not look for reservations that are due: " + problem,
          "mend that (the owner of the table needs to read it), or ask again later");
      return;
    }
    if (due > 0) {
      add("backlog", "warning",
          std::to_string(due) + (due == 1 ? " reservation is" : " reservations are") +
              " due for more than 5 minutes, the oldest since " + oldest,
          "SELECT * FROM bacmr_expire_reservations(), then look at the skipped ones: SELECT * FROM "
          "bacmr_reconcile()");
    }
  }

  const pg::Extension& extension_;
  sources::Sources sources_;
  std::vector<Finding> findings_;
};

Datum doctor_function(pg::Args args) {
  std::vector<Finding> findings;
  {
    const pg::Extension extension = pg::require_extension_of_any_version();
    const pg::AsExtensionOwner owner(extension.owner);
    // The other checks read tables that may not be what this library knows.
    if (const auto problem = pg::version_problem(extension)) {
      findings = {{"versions", "error", problem->finding,
                   problem->library_is_older ? problem->hint : "ALTER EXTENSION bacmr_ops UPDATE"}};
    } else {
      findings = Doctor(extension).examine();
    }
  }
  pg::ResultSet result(args);
  for (const Finding& finding : findings) {
    result.row({pg::Value::text(finding.check), pg::Value::text(finding.severity),
                pg::Value::text(finding.finding), pg::Value::text(finding.fix)});
  }
  return pg::void_result();
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_doctor, jobs::doctor_function);

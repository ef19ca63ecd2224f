#include "pg/security.hpp"

extern "C" {
#include "utils/acl.h"
#include "utils/guc.h"
}

namespace pg {

PinnedSettings::PinnedSettings() : nest_level_(NewGUCNestLevel()) {
  set("search_path", "pg_catalog, pg_temp");
  set("row_security", "off");
  set("DateStyle", "ISO, YMD");
}

PinnedSettings::~PinnedSettings() {
  if (!unwinding()) {
    cleanup([this] { AtEOXact_GUC(false, nest_level_); });
  }
}

void PinnedSettings::set(const char* name, const char* value) {
  call([&] {
    set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
  });
}

ExportSettings::ExportSettings() {
  set("TimeZone", "UTC");
  set("IntervalStyle", "postgres");
  set("bytea_output", "hex");
  set("extra_float_digits", "1");
  set("lc_monetary", "C");
  set("xmloption", "content");
  set("array_nulls", "on");
  set("quote_all_identifiers", "off");
}

void set_local(const char* name, const char* value) {
  call([&] {
    set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
  });
}

bool has_privileges_of(Oid role) {
  return call([role] { return has_privs_of_role(GetUserId(), role); });
}

std::string role_name(Oid role) {
  const char* name = call([role] { return GetUserNameFromId(role, true); });
  return name != nullptr ? name : std::to_string(role);
}

}  // namespace pg

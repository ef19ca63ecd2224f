// Postgres' headers for C++, in the order that they demand. Every file of the extension that talks
// to the server includes this one first; src/core never does.
#pragma once

extern "C" {
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
}

// libintl.h and port.h turn these into macros, which breaks the standard library's headers.
#undef printf
#undef fprintf
#undef sprintf
#undef snprintf
#undef vprintf
#undef vfprintf
#undef vsprintf
#undef vsnprintf
#undef strerror
#undef gettext
#undef dgettext
#undef ngettext
#undef dngettext

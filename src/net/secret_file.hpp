// A secret that lies in a file: what a `_file` option of a user mapping names. Errors name the path
// and never the content.
#pragma once

#include <string>

namespace net {

// Reads the file anew at each use, so that a rotated secret takes effect at once. `option` is for
// messages. Errors: 58P01 no such file, 42501 not readable for the server, 42809 no regular file,
// 22023 no path or no secret in it, 58030 anything else.
std::string read_secret_file(const std::string& option, const std::string& path);

}  // namespace net

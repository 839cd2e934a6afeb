// Compares two descriptions of what should be the same descriptor table.
#pragma once

#include <string>
#include <vector>

#include "proto/fd_table.pb.h"

namespace godwit {

// One line per difference, naming the descriptor, the field and both values. Left out is what may
// differ: inode numbers (who is whose peer counts), times that run on, TCP streams, modification
// times.
std::vector<std::string> compare_fd_tables(const proto::FdTable& expected,
                                           const proto::FdTable& found);

}  // namespace godwit
